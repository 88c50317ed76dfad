//! The sources of settings: file, then environment, then flags; the later wins.
//!
//! clap's definition of a subcommand is the only list of its options, and [`RunConfig`] of the run's settings. An option
//! from file or environment becomes an argument in front of those that the user typed, unless the user typed the same
//! option. Settings of the run go to [`FirstRun`](crate::config::FirstRun), which checks them.

use super::{Cli, Stop};
use crate::config::{Assignment, Given};
use app::api::RunConfig;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser};
use serde_json::Value;
use std::error::Error;
use std::ffi::OsString;
use std::path::Path;

const PREFIX: &str = "FEDLEARN_";
/// Variables that other programs read: `.ci/setup`.
const NOT_OURS: &[&str] = &["FEDLEARN_CACHE"];

/// Where the settings are listed.
const HELP: &str = "`fedlearn help serve` and `fedlearn help join` list the settings";

pub(super) fn resolve(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    default_file: &Path,
) -> Result<Cli, Stop> {
    let args = with_subcommand(args.into_iter().collect());
    // Ends here with help, the version, or what is wrong with the flags.
    let flags = Cli::command().try_get_matches_from(&args)?;
    let command = Cli::command();
    let subcommand = flags.subcommand().and_then(|(name, flags)| Some((name, command.find_subcommand(name)?, flags)));
    let Some((name, subcommand, flags)) = subcommand else { return Ok(Cli::try_parse_from(args)?) };

    let mut problems = Vec::new();
    let typed: Vec<Given> = subcommand.get_arguments().flat_map(|arg| typed(arg, flags)).collect();
    let variables = environment(&command, variables, &mut problems);
    let is_config = |given: &&Given| given.key == "config";
    let file = typed.iter().find(is_config).or_else(|| variables.iter().find(is_config));
    let file = match file.and_then(|given| given.value.as_str()) {
        Some(path) => read_file(&command, Path::new(path), &mut problems),
        None if default_file.exists() => read_file(&command, default_file, &mut problems),
        None => Vec::new(),
    };

    let is_of_run = |given: &Given| name == "serve" && RunConfig::setting(&given.key).is_some();
    let mut given: Vec<Given> = Vec::new();
    let mut options = Vec::new();
    for next in file.into_iter().chain(variables) {
        given.retain(|earlier| earlier.key != next.key);
        given.push(next);
    }
    given.retain(|given| !typed.iter().any(|typed| typed.key == given.key));
    for given in given.iter().filter(|given| !is_of_run(given)) {
        // A file and an environment may serve several subcommands.
        let Some(arg) = subcommand.get_arguments().find(|arg| key_of(arg).as_ref() == Some(&given.key)) else {
            continue;
        };
        match arguments(arg, &given.value) {
            Ok(arguments) => options.push((arg.get_long(), &given.place, arguments)),
            Err(problem) => problems.push(format!("{}: {problem}", given.place)),
        }
    }
    let matches = loop {
        let (first, rest) = args.split_at(2);
        let inserted = options.iter().flat_map(|(_, _, arguments)| arguments);
        match Cli::command().try_get_matches_from(first.iter().chain(inserted).chain(rest)) {
            Ok(matches) => break matches,
            Err(error) => {
                // It is not about what the user typed: that was accepted above. `--listen <ADDRESS>`, `--force[=<BOOL>]`
                let wrong = error.get(ContextKind::InvalidArg).map(ContextValue::to_string).unwrap_or_default();
                let wrong = wrong.trim_start_matches('-').split([' ', '[', '=']).next();
                let Some(i) = options.iter().position(|(long, ..)| *long == wrong) else { return Err(error.into()) };
                let (_, place, _) = options.remove(i);
                problems.push(format!("{place}: {}", reason(&error)));
            }
        }
    };
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.command.set_given(given.into_iter().chain(typed));
    problems.extend(cli.command.problems());
    if problems.is_empty() { Ok(cli) } else { Err(Stop::Settings(problems)) }
}

/// The arguments, with `serve` inserted if they begin with no subcommand.
fn with_subcommand(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.is_empty() {
        args.push("fedlearn".into());
    }
    let of_program = ["-h", "--help", "-V", "--version"];
    let first = args.get(1).map(|first| first.to_string_lossy().into_owned()).unwrap_or_default();
    if first.is_empty() || (first.starts_with('-') && !of_program.contains(&first.as_str())) {
        args.insert(1, "serve".into());
    }
    args
}

/// The name of an option in the file: `data_dir`. A positional argument has none, and neither has `--set`.
fn key_of(arg: &Arg) -> Option<String> {
    arg.get_long().filter(|long| *long != "set").map(|long| long.replace('-', "_"))
}

/// Every key of a file: the options of all subcommands, and the settings of a run.
fn keys(command: &Command) -> impl Iterator<Item = String> {
    let options = command.get_subcommands().flat_map(Command::get_arguments).filter_map(key_of);
    options.chain(RunConfig::settings().iter().map(|setting| setting.path.clone()))
}

/// The name of a setting in the environment: `FEDLEARN_DATA_DIR`, `FEDLEARN_TRAIN_LEARNING_RATE`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// What the user typed for that option.
fn typed(arg: &Arg, flags: &ArgMatches) -> Vec<Given> {
    let id = arg.get_id().as_str();
    let Some(long) = arg.get_long().filter(|_| flags.value_source(id) == Some(ValueSource::CommandLine)) else {
        return Vec::new();
    };
    let given = |key: String, value: &str, place| Given { key, value: value.into(), place };
    match key_of(arg) {
        Some(key) => {
            let values = flags.get_raw(id).into_iter().flatten();
            values.map(|value| given(key.clone(), &value.to_string_lossy(), format!("--{long}"))).collect()
        }
        None => {
            let assignments = flags.get_many::<Assignment>(id).into_iter().flatten();
            assignments.map(|set| given(set.key.clone(), &set.value, format!("--{long} {}", set.key))).collect()
        }
    }
}

fn environment(
    command: &Command,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<String>,
) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in variables {
        let place = name.to_string_lossy().into_owned();
        if !place.starts_with(PREFIX) || NOT_OURS.contains(&place.as_str()) {
            continue;
        }
        match (keys(command).find(|key| variable(key) == place), value.into_string()) {
            (None, _) => problems.push(format!("{place}: unknown setting; {HELP}")),
            (_, Err(_)) => problems.push(format!("{place}: must be UTF-8; give it as a flag")),
            (Some(key), Ok(value)) => given.push(Given { key, value: value.into(), place }),
        }
    }
    // The environment has no order.
    problems.sort();
    given.sort_by(|a, b| a.key.cmp(&b.key));
    given
}

fn read_file(command: &Command, path: &Path, problems: &mut Vec<String>) -> Vec<Given> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("cannot read {shown}: {error}; name another settings file with --config"));
            return Vec::new();
        }
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            // Not the excerpt that its Display shows: the line may hold a secret.
            let line =
                error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().matches('\n').count()) + 1;
            problems.push(format!("{shown}, line {line}: {}", error.message()));
            return Vec::new();
        }
    };
    let mut values = Vec::new();
    flatten("", table, &mut values);
    let mut given: Vec<Given> = Vec::new();
    for (name, value) in values {
        let (place, key) = (format!("{shown}: {name}"), name.replace('-', "_"));
        if key == "config" || !keys(command).any(|known| known == key) {
            problems.push(format!("{place}: unknown setting; {HELP}"));
        } else if given.iter().any(|earlier| earlier.key == key) {
            problems.push(format!("{place}: set twice, with '-' and with '_'"));
        } else {
            given.push(Given { key, value, place });
        }
    }
    given
}

/// The values of a table and of the tables in it, each by its path: `train.learning_rate`.
fn flatten(path: &str, table: toml::Table, values: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let name = if path.is_empty() { name } else { format!("{path}.{name}") };
        match value {
            toml::Value::Table(table) => flatten(&name, table, values),
            value => values.push((name, json(value))),
        }
    }
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(is_on) => is_on.into(),
        toml::Value::Float(number) if number.is_finite() => number.into(),
        value => value.to_string().into(), // what JSON lacks: `inf`, `nan`, times, tables in lists
    }
}

/// The value as arguments: `--key=value`.
fn arguments(arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    if values.len() != 1 && !matches!(arg.get_action(), ArgAction::Append) {
        return Err(format!("must be one value, got {}", values.len()));
    }
    let long = arg.get_long().unwrap_or_default();
    let argument = |value: &Value| match value {
        Value::String(text) => format!("--{long}={text}").into(),
        value => format!("--{long}={value}").into(),
    };
    Ok(values.iter().map(argument).collect())
}

/// What clap found, without its usage lines: the message of the option's own parser if it has one.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    let text = error.render().to_string();
    let paragraph: Vec<_> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    paragraph.join(" ").trim_start_matches("error: ").to_owned()
}
