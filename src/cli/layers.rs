//! Lays settings file, environment and flags over each other.
//!
//! clap's definition of a subcommand is the only list of what can be set: a layer is a map from the long names of its
//! options to texts. Each text is checked by the option's own parser, so that every problem of every layer is found;
//! then the texts that win are joined to one command line, which clap parses.

use super::{Cli, Stop};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command, CommandFactory, Parser, value_parser};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::path::Path;

const PREFIX: &str = "FEDLEARN_";
/// Variables that others than this program read: `.ci/setup`.
const NOT_OURS: &[&str] = &["FEDLEARN_CACHE"];

/// Where the settings are listed.
const HELP: &str = "`fedlearn help serve` and `fedlearn help join` list the settings";

/// What one source says of one option.
struct Given {
    /// Names option and source, for a person.
    place: String,
    values: Vec<OsString>,
}

/// By the option's long name, or the id of a positional argument.
type Layer = BTreeMap<String, Given>;

pub(super) fn resolve(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    default_file: &Path,
) -> Result<Cli, Stop> {
    let command = Cli::command();
    let args = with_subcommand(args.into_iter().collect());
    let name = args.get(1).and_then(|name| name.to_str()).unwrap_or_default();
    let Some(subcommand) = command.find_subcommand(name) else {
        return Ok(Cli::try_parse_from(args)?); // help, version, or an unknown subcommand
    };

    let mut problems = Vec::new();
    let mut usage = None;
    let flags = match flags(&command, name, &args) {
        Ok(flags) => flags,
        // Asked again of the untouched definition, whose parsers know the possible values; -h is its compact form.
        Err(help) if !help.use_stderr() => return Ok(Cli::try_parse_from(["fedlearn", name, "-h"])?),
        Err(error) => {
            problems.push(reason(&error));
            usage = Some(error);
            Layer::new()
        }
    };
    let variables = environment(&command, variables, &mut problems);
    let named = flags.get("config").or_else(|| variables.get("config")).and_then(|given| given.values.first());
    let path = named.map_or(default_file, |path| Path::new(path));
    let file = if named.is_some() || path.exists() { file(&command, path, &mut problems) } else { Layer::new() };

    let mut merged = Layer::new();
    for (key, given) in file.into_iter().chain(variables).chain(flags) {
        let Some(arg) = subcommand.get_arguments().find(|arg| key_of(arg) == key) else {
            continue; // another subcommand's: file and environment may serve several
        };
        match check(arg, &given.values) {
            Ok(()) => drop(merged.insert(key, given)),
            Err(reason) => problems.push(format!("{}: {reason}", given.place)),
        }
    }
    match Cli::try_parse_from(command_line(name, subcommand, &merged)) {
        Ok(cli) => {
            problems.extend(cli.command.problems());
            if problems.is_empty() {
                return Ok(cli);
            }
        }
        // Something is missing: perhaps what was refused above.
        Err(error) if problems.is_empty() => return Err(error.into()),
        Err(_) => {}
    }
    match usage {
        Some(error) if problems.len() == 1 => Err(error.into()),
        _ => Err(Stop::Settings(problems)),
    }
}

/// The arguments, with `serve` put in where they begin with none or with one of its options.
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

fn key_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(arg.get_id().as_str())
}

/// Whether some subcommand has that option.
fn is_known(command: &Command, key: &str) -> bool {
    command.get_subcommands().flat_map(Command::get_arguments).any(|arg| key_of(arg) == key)
}

/// The flags, as texts: what clap refuses here is the form of the command line, not a value.
fn flags(command: &Command, name: &str, args: &[OsString]) -> Result<Layer, clap::Error> {
    let as_text = |arg: Arg| arg.value_parser(value_parser!(OsString)).required(false);
    let command = command.clone().mut_subcommand(name, |subcommand| subcommand.mut_args(as_text));
    let matches = command.clone().try_get_matches_from(args)?;
    let (Some((_, matches)), Some(subcommand)) = (matches.subcommand(), command.find_subcommand(name)) else {
        return Ok(Layer::new());
    };
    let mut layer = Layer::new();
    for arg in subcommand.get_arguments() {
        let id = arg.get_id().as_str();
        if matches.value_source(id) == Some(ValueSource::CommandLine) {
            let values = matches.get_many::<OsString>(id).into_iter().flatten().cloned().collect();
            let place = arg.get_long().map_or(id.to_uppercase(), |long| format!("--{long}"));
            layer.insert(key_of(arg).to_owned(), Given { place, values });
        }
    }
    Ok(layer)
}

fn environment(
    command: &Command,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<String>,
) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        let Some(key) = name.strip_prefix(PREFIX).map(|key| key.to_lowercase().replace('_', "-")) else { continue };
        if NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        if is_known(command, &key) && name == name.to_uppercase() {
            layer.insert(key, Given { place: name, values: vec![value] });
        } else {
            problems.push(format!("{name}: there is no such setting; {HELP}"));
        }
    }
    problems.sort(); // the environment has no order
    layer
}

fn file(command: &Command, path: &Path, problems: &mut Vec<String>) -> Layer {
    let shown = path.display();
    let mut layer = Layer::new();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("cannot read {shown}: {error}; name another settings file with --config"));
            return layer;
        }
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            // Not the excerpt that its Display shows: the line may hold a secret.
            let line =
                error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().matches('\n').count()) + 1;
            problems.push(format!("{shown}, line {line}: {}", error.message()));
            return layer;
        }
    };
    for (name, value) in table {
        let place = format!("{shown}: {name}");
        let key = name.replace('_', "-");
        if key == "config" || !is_known(command, &key) {
            problems.push(format!("{place}: there is no such setting; {HELP}"));
            continue;
        }
        let values = match value {
            toml::Value::Array(values) => values.iter().map(text_of).collect(),
            value => text_of(&value).map(|text| vec![text]),
        };
        let Some(values) = values else {
            problems.push(format!("{place}: it takes a text, a number, a boolean or a list of texts"));
            continue;
        };
        if layer.insert(key, Given { place: place.clone(), values }).is_some() {
            problems.push(format!("{place}: it is set twice, with '-' and with '_'"));
        }
    }
    layer
}

/// A scalar as it would stand on the command line.
fn text_of(value: &toml::Value) -> Option<OsString> {
    match value {
        toml::Value::String(text) => Some(text.into()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Some(value.to_string().into()),
        _ => None,
    }
}

/// Lets clap parse these values of that option alone.
fn check(arg: &Arg, values: &[OsString]) -> Result<(), String> {
    if values.len() != 1 && !matches!(arg.get_action(), ArgAction::Append) {
        return Err(format!("it takes one value, not {}", values.len()));
    }
    let alone = Command::new("fedlearn").no_binary_name(true).arg(arg.clone().required(false));
    let matches = alone.try_get_matches_from(values.iter().map(|value| argument(arg, value)));
    matches.map(drop).map_err(|error| reason(&error))
}

fn argument(arg: &Arg, value: &OsStr) -> OsString {
    let mut text = OsString::new();
    if let Some(long) = arg.get_long() {
        text.push(format!("--{long}="));
    }
    text.push(value);
    text
}

fn command_line(name: &str, subcommand: &Command, merged: &Layer) -> Vec<OsString> {
    let mut line = vec!["fedlearn".into(), name.into()];
    for arg in subcommand.get_arguments() {
        let values = merged.get(key_of(arg)).into_iter().flat_map(|given| &given.values);
        line.extend(values.map(|value| argument(arg, value)));
    }
    line
}

/// What clap found, without its usage lines: the words of the option's own parser where it has some.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    let text = error.render().to_string();
    let paragraph: Vec<_> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    paragraph.join(" ").trim_start_matches("error: ").to_owned()
}
