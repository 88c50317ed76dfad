//! The settings of each subcommand: their names, bounds and defaults.
//!
//! Decides what may be set and what fits together. Refuses to know where a value came from: [`crate::cli`] lays file,
//! variables and flags over each other. The doc comments below are also the text of `--help`.

mod runs;
mod values;

pub use runs::{RunsAction, RunsSettings};
pub use values::{BasePath, DatasetPath, Network, Secret, TestDataset};

use crate::model::DeviceChoice;

use crate::model::dataset::default_path;
use crate::model::partition::{PartitionChoice, Partitioner};
use app::api::{
    Admission, Architecture, Autorun, BelowQuorum, CohortSize, CreateRun, Dataset, Encoding, Mode, ModelSpec,
    Optimizer, RegisterRequest, RunConfig, RunId, Stem, TrainConfig,
};
use clap::{Args, ValueEnum, value_parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use values::{base_url, client_name, cohort, listen_address, log_filter, share, words};

/// Settings that every subcommand has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings and logs")]
pub struct CommonSettings {
    /// Settings file (TOML) [default: fedlearn.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: a level, or a filter such as info,fedlearn::http=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// How to log: human, or json with one object a line
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
    /// Address of API and dashboard; 0.0.0.0:3000 to be reached from other machines
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Path under which a proxy serves this, such as /fl; only for a proxy that passes the path on, or for cookies of its own
    #[arg(long, value_name = "PATH", default_value = "/", hide_default_value = true)]
    pub base_path: BasePath,
    /// Proxy whose X-Forwarded-For names the client, as an address or network; repeatable
    #[arg(long = "trusted-proxy", value_name = "ADDRESS", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// Folder for database and models; made if missing
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    pub data_dir: PathBuf,
    /// Where a dataset lies, as in cifar10=/data/cifar-10-batches-bin; repeatable
    #[arg(long = "dataset-path", value_name = "DATASET=PATH", value_delimiter = ',')]
    pub dataset_paths: Vec<DatasetPath>,
    /// What clients must know to register; best given as FEDLEARN_JOIN_SECRET, which other users cannot see
    #[arg(long, value_name = "SECRET")]
    pub join_secret: Option<Secret>,
    /// Where to evaluate: auto, cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Largest body taken, in MB: an update, or the initial parameters of a run
    #[arg(long, value_name = "MB", default_value = "1024", value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_upload_mb: u32,
    /// Open runs at once: each takes the memory of a model; archived runs are not counted
    #[arg(long, value_name = "RUNS", default_value = "64", value_parser = value_parser!(u32).range(1..=10_000))]
    pub max_runs: u32,
    /// Seconds within which a body must have come
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = value_parser!(u32).range(1..=86_400))]
    pub body_timeout_s: u32,
    /// Seconds within which the head of a request must have come, and that a connection may be idle
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = value_parser!(u32).range(1..=3_600))]
    pub head_timeout_s: u32,
    /// Connections taken at once; the limit of open files may leave fewer
    #[arg(long, value_name = "CONNECTIONS", default_value = "10000", value_parser = value_parser!(u32).range(4..=1_000_000))]
    pub max_connections: u32,
    /// The run to make.
    #[command(flatten)]
    pub first_run: FirstRun,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}

/// The run `default`, which the first start makes. Later starts find it, with what was changed on the dashboard.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Run 'default' (used when it is made, at the first start)")]
pub struct FirstRun {
    /// Network
    #[arg(long, value_name = "NETWORK", default_value = "cnn", value_parser = words(Architecture::ALL))]
    pub architecture: Architecture,
    /// How a ResNet begins: cifar for small images
    #[arg(long, default_value = "cifar", value_parser = words(Stem::ALL))]
    pub stem: Stem,
    /// Whose test split to evaluate on: fashion-mnist, mnist, cifar10, cifar100, or none
    #[arg(long, default_value = "fashion-mnist")]
    pub dataset: TestDataset,
    /// Channels of the images [default: the dataset's]
    #[arg(long)]
    pub channels: Option<u32>,
    /// Classes told apart [default: the dataset's]
    #[arg(long)]
    pub classes: Option<u32>,
    /// Seed of the initial parameters and of the clients' shuffling
    #[arg(long, default_value = "0")]
    pub seed: u64,
    /// Who may take part: whoever registers, or whom you admit
    #[arg(long, default_value = "open", value_parser = words(Admission::ALL))]
    pub admission: Admission,
    /// Clients asked a round: all, a share such as 0.5, or a number such as 10
    #[arg(long, default_value = "all", value_parser = cohort)]
    pub cohort: CohortSize,
    /// Quorum: a round needs so many clients to open and so many updates to count
    #[arg(long, value_name = "CLIENTS", default_value = "1")]
    pub min_clients: u32,
    /// Share of clients asked on top of the cohort, so that a round need not wait for the slowest
    #[arg(long, value_name = "SHARE", default_value = "0")]
    pub over_selection: f64,
    /// Seconds until a round closes without the missing updates
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    pub deadline_s: u32,
    /// What becomes of a round that has fewer updates than the quorum by then
    #[arg(long, default_value = "void", value_parser = words(BelowQuorum::ALL))]
    pub below_quorum: BelowQuorum,
    /// Rounds that all start from the same version, or that take updates as they come (FedBuff)
    #[arg(long, default_value = "sync", value_parser = words(Mode::ALL))]
    pub mode: Mode,
    /// Of mode async: updates that close a round
    #[arg(long, value_name = "UPDATES", default_value = "10")]
    pub buffer_size: u32,
    /// Of mode async: versions that an update may be behind, 10 at most
    #[arg(long, value_name = "VERSIONS", default_value = "5")]
    pub max_staleness: u32,
    /// Largest share of a round's weight that one client has, in rounds of three or more updates; 1: by samples alone
    #[arg(long, value_name = "SHARE", default_value = "0.5")]
    pub max_weight_share: f64,
    /// How parameters travel
    #[arg(long, default_value = "bf16", value_parser = words(Encoding::ALL))]
    pub encoding: Encoding,
    /// Of the encoding topk: the share of a tensor's values that an update changes (at least 1,024)
    #[arg(long, value_name = "SHARE", default_value = "0.01")]
    pub topk_fraction: f64,
    /// Passes over a client's own data in a round
    #[arg(long, value_name = "EPOCHS", default_value = "1")]
    pub local_epochs: u32,
    /// Images a step
    #[arg(long, value_name = "IMAGES", default_value = "64")]
    pub batch_size: u32,
    /// Local optimizer
    #[arg(long, default_value = "sgd", value_parser = words(Optimizer::ALL))]
    pub optimizer: Optimizer,
    /// Its step size
    #[arg(long, value_name = "RATE", default_value = "0.05")]
    pub learning_rate: f64,
    /// Random crops and horizontal flips while training
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub augment: bool,
}

impl FirstRun {
    /// The run to make, or all that is wrong with it.
    ///
    /// # Errors
    /// Sentences for a person, each naming a setting and its bounds.
    pub fn create(&self) -> Result<CreateRun, Vec<String>> {
        let mut problems = Vec::new();
        let dataset = self.dataset.0;
        let mut dimension = |name: &str, given: Option<u32>, of_dataset: Option<u32>| match (given, of_dataset) {
            (Some(given), Some(expected)) if given != expected => {
                problems.push(format!("{name} is {given}, but the images of dataset {} have {expected}", self.dataset));
                given
            }
            (Some(given), _) => given,
            (None, Some(expected)) => expected,
            (None, None) => {
                problems.push(format!("{name} is missing: without a dataset, give it with --{name}"));
                2 // within bounds, so that it adds no second problem
            }
        };
        let channels = dimension("channels", self.channels, dataset.map(|d| d.image_shape().0));
        let classes = dimension("classes", self.classes, dataset.map(Dataset::classes));
        let model = ModelSpec { architecture: self.architecture, stem: self.stem, channels, classes, seed: self.seed };
        let train = TrainConfig {
            local_epochs: self.local_epochs,
            batch_size: self.batch_size,
            optimizer: self.optimizer,
            learning_rate: self.learning_rate,
            augment: self.augment,
            seed: self.seed,
            ..TrainConfig::default()
        };
        let config = RunConfig {
            admission: self.admission,
            cohort: self.cohort,
            min_clients: self.min_clients,
            over_selection: self.over_selection,
            deadline_s: self.deadline_s,
            below_quorum: self.below_quorum,
            mode: self.mode,
            buffer_size: self.buffer_size,
            max_staleness: self.max_staleness,
            max_weight_share: self.max_weight_share,
            encoding: self.encoding,
            topk_fraction: self.topk_fraction,
            train,
            ..RunConfig::default()
        };
        problems.extend(model.problems());
        // Here these settings are flat.
        problems.extend(config.problems().iter().map(|p| p.trim_start_matches("train.").to_owned()));
        let run = RunId::from_str("default").expect("it is of the alphabet");
        if problems.is_empty() { Ok(CreateRun { run, model, dataset, config }) } else { Err(problems) }
    }
}

impl ServeSettings {
    /// What does not fit together.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.first_run.create().err().unwrap_or_default();
        for (i, path) in self.dataset_paths.iter().enumerate() {
            if self.dataset_paths.iter().take(i).any(|earlier| earlier.dataset == path.dataset) {
                problems.push(format!("dataset-path names {} twice", path.dataset));
            }
        }
        problems
    }

    /// Where that dataset lies: as set, or in a place known by default.
    pub fn dataset_path(&self, dataset: Dataset) -> Option<PathBuf> {
        let set = self.dataset_paths.iter().find(|path| path.dataset == dataset).map(|path| path.path.clone());
        set.or_else(|| default_path(dataset))
    }
}

/// Settings of `fedlearn join`.
#[derive(Debug, Clone, Args)]
pub struct JoinSettings {
    /// The coordinator, as in http://127.0.0.1:3000
    #[arg(required = true, value_parser = base_url)]
    pub url: String,
    /// Run to take part in
    #[arg(long, default_value = "default")]
    pub run: RunId,
    /// Shown to the operator [default: this machine's name]
    #[arg(long, value_parser = client_name)]
    pub name: Option<String>,
    /// What the coordinator asks for; best given as FEDLEARN_JOIN_SECRET, which other users cannot see
    #[arg(long, value_name = "SECRET")]
    pub join_secret: Option<Secret>,
    /// PEM file of certificate authorities to trust beside those of this machine, for https:// addresses
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// File that keeps who this client is, with its token: after a crash it goes on as the same one
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Where to train: auto, cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// How to send updates: f32, bf16, bf16-delta, q8, q4 or topk [default: as the run asks]
    #[arg(long, value_parser = words(Encoding::ALL), hide_possible_values = true)]
    pub encoding: Option<Encoding>,
    /// Threads of a CPU [default: all cores]
    #[arg(long, value_parser = value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Do not train: add noise of that share of each tensor's size, to try out the exchange alone
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub noise: Option<f32>,
    /// The data.
    #[command(flatten)]
    pub data: DataSettings,
    /// File and logs.
    #[command(flatten)]
    pub common: CommonSettings,
}

/// What a client trains on.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Data")]
pub struct DataSettings {
    /// Dataset [default: the run's]
    #[arg(long, value_parser = words(Dataset::ALL))]
    pub dataset: Option<Dataset>,
    /// Its folder or archive [default: where `make setup` or Debian puts it]
    #[arg(long = "data", value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Take one part of it: 2/3 is the second of three [default: all]
    #[arg(long, value_name = "PART/PARTS")]
    pub partition: Option<PartitionChoice>,
    /// How parts are made: iid, dirichlet-quantity:1.0, dirichlet-label:0.3 or shards:2
    #[arg(long, value_name = "METHOD", default_value = "iid")]
    pub split: Partitioner,
    /// Seed of the split; the same for all clients
    #[arg(long, default_value = "0")]
    pub seed: u64,
    /// Keep only so many images, for trying out
    #[arg(long, value_name = "IMAGES", value_parser = value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

impl JoinSettings {
    /// What does not fit together.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.data.partition.is_none() && self.data.split != Partitioner::Iid {
            problems.push(format!("split is {}, but partition does not say which part to take", self.data.split));
        }
        problems
    }

    /// The name to register under: as set, or this machine's, cut to what the coordinator takes.
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
