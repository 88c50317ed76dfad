//! The command line: subcommands, where their settings come from, exit codes, logs.
//!
//! Decides precedence (file, then `FEDLEARN_*` variables, then flags; the later wins) and rejects unknown settings. What
//! the subcommands do is decided in [`crate::commands`].

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod documentation;
mod sources;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use crate::config::{CommonSettings, Given, JoinSettings, LogFormat, RunsSettings};
#[cfg(feature = "server")]
use crate::config::{DemoSettings, FirstRun, ServeSettings, TokenSettings};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

/// The settings file that is read if none is named.
const DEFAULT_FILE: &str = "fedlearn.toml";

const EXAMPLES: &str = "\
Examples:
  fedlearn                                        the coordinator, on http://127.0.0.1:3000
  fedlearn demo                                   coordinator and three clients on this machine
  fedlearn join http://127.0.0.1:3000 --partition 1/3 --split dirichlet-label:0.3

Every long option and every setting of the first run can also be set in the settings file (listen = \"0.0.0.0:3000\") or
in the environment (FEDLEARN_LISTEN=0.0.0.0:3000). A flag overrides a variable, and a variable overrides the file. Unknown
settings are rejected. docs/configuration.md lists all of them.

Exit codes:
  0    done; for a coordinator, an orderly stop after Ctrl-C or SIGTERM
  1    failed
  2    wrong arguments or settings
  3    rejected by the coordinator: removed, unknown run, wrong secret
  130  interrupted by Ctrl-C before the work was done";

/// Federated learning over plain REST: a coordinator with a live dashboard, and agents that come and go.
#[derive(Debug, Clone, Parser)]
#[command(name = "fedlearn", version, override_usage = "fedlearn [COMMAND]", after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    /// What to do; `serve` if none is named.
    #[command(subcommand)]
    pub command: Command,
}

/// The settings of the first run, below the options of `serve`.
#[cfg(feature = "server")]
fn run_settings() -> String {
    let default = app::api::RunConfig::default();
    let mut text = "Example: fedlearn serve --listen 0.0.0.0:3000 --min-clients 3 --set train.local_epochs=2\n\n\
                    Settings of run 'default' with their defaults, for --set, file and environment:\n"
        .to_owned();
    for setting in app::api::RunConfig::settings() {
        let value = default.get(&setting.path).map(|value| app::api::format_value(&value)).unwrap_or_default();
        text += format!("  {:22} {value:9} {}\n", setting.path, setting.allowed()).trim_end();
        text.push('\n');
    }
    text + "\ndocs/configuration.md describes each. Once the run exists, change them on the dashboard."
}

/// The subcommands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the coordinator: API, dashboard, aggregation (the default)
    #[command(after_help = run_settings())]
    #[cfg(feature = "server")]
    Serve(Box<ServeSettings>),
    /// Take part in a run as a client
    #[command(after_help = "Example: fedlearn join http://10.0.0.5:3000 --dataset cifar10 --data /data/cifar10")]
    Join(Box<JoinSettings>),
    /// Run a coordinator and clients on this machine, to look at
    #[command(after_help = "Example: fedlearn demo --clients 5 --rounds 20")]
    #[cfg(feature = "server")]
    Demo(DemoSettings),
    /// List, archive, unarchive, rename and delete the runs of a coordinator that is running
    #[command(after_help = "Example: FEDLEARN_ADMIN_TOKEN=... fedlearn runs delete old-test")]
    Runs(RunsSettings),
    /// Make a new admin token in place of a lost one; it is shown once
    #[cfg(feature = "server")]
    Token(TokenSettings),
}

impl Command {
    /// File and logs.
    pub fn common(&self) -> &CommonSettings {
        match self {
            Self::Join(settings) => &settings.common,
            #[cfg(feature = "server")]
            Self::Serve(settings) => &settings.common,
            #[cfg(feature = "server")]
            Self::Demo(settings) => &settings.common,
            Self::Runs(settings) => &settings.common,
            #[cfg(feature = "server")]
            Self::Token(settings) => &settings.common,
        }
    }

    /// Passes on what was given and where, for the settings that are checked later.
    fn set_given(&mut self, given: impl Iterator<Item = Given>) {
        match self {
            #[cfg(feature = "server")]
            Self::Serve(settings) => {
                settings.first_run.given = given.filter(|given| FirstRun::has(&given.key)).collect();
            }
            _ => {}
        }
    }

    fn problems(&self) -> Vec<String> {
        match self {
            Self::Join(settings) => settings.problems(),
            Self::Runs(_) => Vec::new(),
            #[cfg(feature = "server")]
            Self::Serve(settings) => settings.problems(),
            #[cfg(feature = "server")]
            Self::Demo(_) | Self::Token(_) => Vec::new(),
        }
    }
}

/// How the program ends; `--help` explains each code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Done = 0,
    /// 1.
    Failed = 1,
    /// 2, which is also clap's.
    Usage = 2,
    /// 3.
    Refused = 3,
    /// 130: 128 + SIGINT, as shells have it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why no subcommand runs.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Help or version was requested, or the flags are wrong.
    #[error("{0}")]
    Clap(#[from] clap::Error),
    /// Everything that is wrong with the settings, by the names that the user wrote.
    #[error("{}", list(.0))]
    Settings(Vec<String>),
}

impl Stop {
    /// Prints it; returns the exit code.
    pub fn report(&self) -> Exit {
        match self {
            Self::Clap(error) => {
                // It fails if the terminal is gone; then nobody reads it.
                let _ = error.print();
                if error.use_stderr() { Exit::Usage } else { Exit::Done }
            }
            Self::Settings(_) => {
                eprintln!("error: {self}");
                Exit::Usage
            }
        }
    }
}

fn list(problems: &[String]) -> String {
    match problems {
        [problem] => problem.clone(),
        _ => format!("{} problems with the settings\n  - {}", problems.len(), problems.join("\n  - ")),
    }
}

/// Reads the command line, the variables of the environment and the settings file.
///
/// # Errors
/// See [`Stop`].
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Cli, Stop> {
    sources::resolve(args, variables, Path::new(DEFAULT_FILE))
}

/// Sends the log to standard error. Call it once, before anything logs.
pub fn init_logging(settings: &CommonSettings) {
    let filter = tracing_subscriber::EnvFilter::new(&settings.log);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A failed write to a closed pipe would be reported on standard error, and panic because that is closed, too.
    let log = log.log_internal_errors(false);
    match settings.log_format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
