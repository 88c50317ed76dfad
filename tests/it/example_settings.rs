//! `fedlearn.example.toml` against the program.

use app::api::RunConfig;
use clap::CommandFactory;
use fedlearn::cli::{self, Cli, Command};
use std::path::Path;

const EXAMPLE: &str = include_str!("../../fedlearn.example.toml");

/// The settings of the coordinator with that text as the settings file.
fn settings(file: &Path, text: &str) -> String {
    std::fs::write(file, text).unwrap();
    let args = ["fedlearn", "serve", "--config", file.to_str().unwrap()];
    match cli::parse(args.map(Into::into), []) {
        Ok(Cli { command: Command::Serve(mut settings) }) => {
            let run = settings.first_run.create().unwrap();
            settings.first_run.given.clear();
            format!("{settings:?} {run:?}")
        }
        other => panic!("{other:?}"),
    }
}

/// The name of the setting that a line of the example shows.
fn shown(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("# ")?.split_once(" = ")?;
    name.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b)).then_some(name)
}

#[test]
fn the_example_shows_every_default() {
    // Given the example as it is, and with all of its settings in force,
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fedlearn.toml");
    let in_force: Vec<_> = EXAMPLE.lines().map(|line| if shown(line).is_some() { &line[2..] } else { line }).collect();
    // then both mean the same,
    assert_eq!(settings(&file, EXAMPLE), settings(&file, &in_force.join("\n")));
    // and no setting with a default is missing.
    let names: Vec<_> = EXAMPLE.lines().filter_map(shown).map(|name| name.replace('_', "-")).collect();
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap().get_arguments();
    let defaults = serve.filter(|arg| !arg.get_default_values().is_empty()).filter_map(|arg| arg.get_long());
    let default = RunConfig::default();
    let of_run = RunConfig::settings().iter().map(|setting| &setting.path).filter(|path| default.get(path).is_some());
    let of_run = of_run.map(|path| path.replace('_', "-"));
    let defaults = defaults.map(str::to_owned).chain(of_run);
    let missing: Vec<_> = defaults.filter(|name| !names.contains(name)).collect();
    assert!(missing.is_empty(), "fedlearn.example.toml lacks {missing:?}");
}
