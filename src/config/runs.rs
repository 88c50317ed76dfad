//! The settings of `fedlearn runs`.

use super::values::base_url;
use super::{CommonSettings, Secret};
use app::api::RunId;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What `fedlearn runs` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunsAction {
    /// Print all runs: name, state, version, clients, best accuracy
    List,
    /// Make a run read-only: it accepts no clients, opens no rounds, and is not counted by --max-runs
    Archive,
    /// Open an archived run again
    Unarchive,
    /// Give a run another name
    Rename,
    /// Delete a run with its clients, rounds and models
    Delete,
}

impl RunsAction {
    /// As the operator writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Archive => "archive",
            Self::Unarchive => "unarchive",
            Self::Rename => "rename",
            Self::Delete => "delete",
        }
    }
}

/// Settings of `fedlearn runs`.
#[derive(Debug, Clone, Args)]
pub struct RunsSettings {
    /// What to do
    #[arg(required = true)]
    pub action: RunsAction,
    /// The run, for all but list
    #[arg(value_name = "RUN")]
    pub target_run: Option<RunId>,
    /// Its new name, for rename
    #[arg(value_name = "NEW-NAME")]
    pub new_name: Option<RunId>,
    /// Address of the coordinator
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3000", value_parser = base_url)]
    pub url: String,
    /// The coordinator's admin token; better set as FEDLEARN_ADMIN_TOKEN, which other users cannot see
    #[arg(long, value_name = "TOKEN")]
    pub admin_token: Option<Secret>,
    /// PEM file of certificate authorities to trust in addition to those of this machine, for https:// addresses
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Archive, rename or delete even while clients work on a round
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub force: bool,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}
