//! The settings of each subcommand: their names, bounds and defaults.
//!
//! Decides what may be set and what fits together. Where values come from (file, environment, flags) is decided by
//! [`crate::cli`]. The doc comments below are also the text of `--help`.

mod first_run;
mod runs;
mod values;

pub use first_run::{Assignment, FirstRun, Given};
pub use runs::{RunsAction, RunsSettings};
pub use values::{BasePath, DatasetPath, Network, Secret, TestDataset};

use crate::model::DeviceChoice;
use crate::model::dataset::default_path;
use crate::model::partition::{PartitionChoice, Partitioner};
use app::api::{Autorun, Dataset, Encoding, RegisterRequest, RunId};
use clap::{Args, ValueEnum, value_parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use values::{base_url, client_name, listen_address, log_filter, share, words};

/// Settings of every subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings and logs")]
pub struct CommonSettings {
    /// Settings file (TOML) [default: fedlearn.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log level, or a filter such as info,fedlearn::http=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// Log format: human, or json with one object a line
    #[arg(long, value_name = "FORMAT", default_value = "human", hide_possible_values = true)]
    pub log_format: LogFormat,
}

/// How log lines are written, always to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

/// Settings of `fedlearn serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeSettings {
    /// Address of API and dashboard; 0.0.0.0:3000 accepts connections from other machines
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Path under which a proxy serves the coordinator, such as /fl; needed if the proxy forwards the path
    #[arg(long, value_name = "PATH", default_value = "/", hide_default_value = true)]
    pub base_path: BasePath,
    /// Proxy whose X-Forwarded-For names the client, as an address or network; repeatable
    #[arg(long = "trusted-proxy", value_name = "ADDRESS", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Folder for database and models; created if missing
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    pub data_dir: PathBuf,
    /// Path of a dataset, as in cifar10=/data/cifar-10-batches-bin; repeatable
    #[arg(long = "dataset-path", value_name = "DATASET=PATH", value_delimiter = ',')]
    pub dataset_paths: Vec<DatasetPath>,
    /// Secret that clients need to register; better set as FEDLEARN_JOIN_SECRET, which other users cannot see
    #[arg(long, value_name = "SECRET")]
    pub join_secret: Option<Secret>,
    /// Device for evaluation: auto, cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Largest request body in MB: an update, or the initial parameters of a run
    #[arg(long, value_name = "MB", default_value = "1024", value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_upload_mb: u32,
    /// Most open runs: each uses the memory of a model; archived runs are not counted
    #[arg(long, value_name = "RUNS", default_value = "64", value_parser = value_parser!(u32).range(1..=10_000))]
    pub max_runs: u32,
    /// Seconds until a request body must be complete
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = value_parser!(u32).range(1..=86_400))]
    pub body_timeout_s: u32,
    /// Seconds until the head of a request must be complete, and until an idle connection is closed
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = value_parser!(u32).range(1..=3_600))]
    pub head_timeout_s: u32,
    /// Most connections at once; the limit of open files may allow fewer
    #[arg(long, value_name = "CONNECTIONS", default_value = "10000", value_parser = value_parser!(u32).range(4..=1_000_000))]
    pub max_connections: u32,
    /// The run to create.
    #[command(flatten)]
    pub first_run: FirstRun,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}

impl ServeSettings {
    /// What does not fit together.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.first_run.create().err().unwrap_or_default();
        for (i, path) in self.dataset_paths.iter().enumerate() {
            if self.dataset_paths.iter().take(i).any(|earlier| earlier.dataset == path.dataset) {
                problems.push(format!("dataset_path must name each dataset once, got {} twice", path.dataset));
            }
        }
        problems
    }

    /// The path of that dataset: as set, or the default one.
    pub fn dataset_path(&self, dataset: Dataset) -> Option<PathBuf> {
        let set = self.dataset_paths.iter().find(|path| path.dataset == dataset).map(|path| path.path.clone());
        set.or_else(|| default_path(dataset))
    }
}

/// Settings of `fedlearn join`.
#[derive(Debug, Clone, Args)]
pub struct JoinSettings {
    /// URL of the coordinator, as in http://127.0.0.1:3000
    #[arg(required = true, value_parser = base_url)]
    pub url: String,
    /// Run to join
    #[arg(long, default_value = "default")]
    pub run: RunId,
    /// Name shown to the operator [default: this machine's name]
    #[arg(long, value_parser = client_name)]
    pub name: Option<String>,
    /// Join secret of the coordinator; better set as FEDLEARN_JOIN_SECRET, which other users cannot see
    #[arg(long, value_name = "SECRET")]
    pub join_secret: Option<Secret>,
    /// PEM file of certificate authorities to trust in addition to those of this machine, for https:// addresses
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// File that stores the identity of this client with its token, so that it resumes as the same client after a crash
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Device for training: auto, cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Encoding of updates: f32, bf16, bf16-delta, q8, q4 or topk [default: the run's]
    #[arg(long, value_parser = words(Encoding::ALL), hide_possible_values = true)]
    pub encoding: Option<Encoding>,
    /// CPU threads [default: all cores]
    #[arg(long, value_parser = value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Instead of training, add noise of that share of each tensor's root mean square, to test the exchange
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub noise: Option<f32>,
    /// The data.
    #[command(flatten)]
    pub data: DataSettings,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}

/// The data of a client.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// Dataset [default: the run's]
    #[arg(long, value_parser = words(Dataset::ALL))]
    pub dataset: Option<Dataset>,
    /// Folder or archive of the dataset [default: where `make setup` or Debian puts it]
    #[arg(long = "data", value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Train on one part: 2/3 is the second of three [default: all]
    #[arg(long, value_name = "PART/PARTS")]
    pub partition: Option<PartitionChoice>,
    /// Method of the split: iid, dirichlet-quantity:1.0, dirichlet-label:0.3 or shards:2
    #[arg(long, value_name = "METHOD", default_value = "iid")]
    pub split: Partitioner,
    /// Seed of the split; the same for all clients
    #[arg(long, default_value = "0")]
    pub seed: u64,
    /// Train on that many images only, for tests
    #[arg(long, value_name = "IMAGES", value_parser = value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

impl JoinSettings {
    /// What does not fit together.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.data.partition.is_none() && self.data.split != Partitioner::Iid {
            problems.push(format!("split {} requires a part: set it with --partition", self.data.split));
        }
        problems
    }

    /// The name to register under: as set, or this machine's, cut to the length that the coordinator accepts.
    pub fn client_name(&self) -> String {
        let hostname = || {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            client_name(&name.trim().chars().take(RegisterRequest::MAX_TEXT_CHARS).collect::<String>())
        };
        self.name.clone().or_else(|| hostname().ok()).unwrap_or_else(|| "client".to_owned())
    }
}

/// Settings of `fedlearn token`.
#[derive(Debug, Clone, Args)]
pub struct TokenSettings {
    /// Folder of the coordinator's database
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    pub data_dir: PathBuf,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}

/// Settings of `fedlearn demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoSettings {
    /// Clients to start
    #[arg(long, default_value = "3", value_parser = value_parser!(u32).range(1..=64))]
    pub clients: u32,
    /// Rounds to run
    #[arg(long, default_value = "10", value_parser = value_parser!(u32).range(1..=i64::from(Autorun::MAX_ROUNDS)))]
    pub rounds: u32,
    /// Address of API and dashboard
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}
