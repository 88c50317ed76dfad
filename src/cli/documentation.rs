//! docs/configuration.md, generated from the definitions of the settings.

use super::{Cli, Command, sources};
use app::api::{RunConfig, Setting, format_value};
use clap::{Arg, CommandFactory};
use std::path::Path;

const UPDATE: &str = "UPDATE_DOCS=1 cargo test --lib documentation";

const INTRODUCTION: &str = "\
# Configuration

This page is generated from the program's definitions; a test fails if it is out of date.

A setting comes from a flag, from an environment variable, from the settings file, or from its default. A flag overrides a
variable, and a variable overrides the file. The file is `fedlearn.toml` in the current folder, or the one named by
`--config`. Unknown settings and values out of bounds are rejected, with the name as it was written.

```toml
listen = \"0.0.0.0:3000\"
dataset_path = [\"cifar10=/data/cifar-10-batches-bin\"]
min_clients = 3
cohort.size = 10

[train]
local_epochs = 2
learning_rate = 0.01
```

";

const OF_A_RUN: &str = "\
## Settings of a run

One definition, `RunConfig`, serves all of these:

| where | how |
|---|---|
| flag of `fedlearn serve` | `--set train.learning_rate=0.01`; `--min-clients`, `--deadline-s` and `--encoding` also have a flag of their own |
| environment | `FEDLEARN_TRAIN_LEARNING_RATE=0.01` |
| settings file | `train.learning_rate = 0.01` |
| REST API | `PATCH /api/v1/runs/default` with `{\"train\": {\"learning_rate\": 0.01}}`, `POST /api/v1/runs` |
| dashboard | **Edit** in the card **Configuration** |

Flags, environment and file apply to the run `default` when the first start creates it. Later starts report in the log which of
them have no effect, because the run exists with another value. A change applies from the next round on, or to the open round as
well where the table says \"at once\".

A limit is removed by `none` in flags, environment and file, and by `null` in JSON. In a PATCH, `null` resets any other setting to
its default.

";

#[test]
fn the_documented_settings_are_those_of_the_program() {
    let mut text = INTRODUCTION.to_owned() + OF_A_RUN;
    text += "| setting | type and bounds | default | applies | meaning |\n|---|---|---|---|---|\n";
    RunConfig::settings().iter().for_each(|setting| text += &of_run(setting));
    for (name, title) in [
        ("serve", "The coordinator: `fedlearn serve`"),
        ("join", "A client: `fedlearn join URL`"),
        ("demo", "A demonstration: `fedlearn demo`"),
        ("runs", "Management of runs: `fedlearn runs ACTION`"),
    ] {
        text += &format!("\n## {title}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n");
        let command = Cli::command();
        let options = command.find_subcommand(name).unwrap().get_arguments();
        options.filter(|arg| !arg.is_positional()).for_each(|arg| text += &option(arg));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(present == text, "docs/configuration.md is out of date; update it with `{UPDATE}`");
}

#[test]
fn the_example_of_a_settings_file_is_accepted() {
    let example = INTRODUCTION.split("```").nth(1).unwrap().trim_start_matches("toml");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fedlearn.toml");
    std::fs::write(&file, example).unwrap();
    let Command::Serve(settings) = sources::resolve([], [], &file).unwrap().command else { panic!() };
    let config = settings.first_run.create().unwrap().config;
    assert_eq!((config.min_clients, config.train.learning_rate), (3, 0.01));
}

fn of_run(setting: &Setting) -> String {
    let default = RunConfig::default().get(&setting.path).map(|value| format!("`{}`", format_value(&value)));
    let applies = if setting.is_at_once { "at once" } else { "next round" };
    let only = setting.only_with.map(|(path, word)| format!(" Only with `{path}` `{word}`.")).unwrap_or_default();
    row(&[
        &format!("`{}`", setting.path),
        &setting.allowed(),
        &default.unwrap_or_default(),
        applies,
        &format!("{}{only}", setting.meaning),
    ])
}

fn option(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    let value = arg.get_value_names().map(|names| format!(" {}", names.join(" "))).unwrap_or_default();
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let variable = match long {
        "set" => String::new(),
        _ => format!("`{}`", sources::variable(&long.replace('-', "_"))),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    row(&[&format!("`--{long}{value}`"), &variable, &defaults.join(", "), &help])
}

fn row(cells: &[&str]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    format!("| {} |\n", cells.join(" | "))
}
