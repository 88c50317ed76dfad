//! The run that the first start creates.

use super::TestDataset;
use super::values::words;
use app::api::{Architecture, CreateRun, Dataset, ModelSpec, RunConfig, Stem, TrainConfig, format_value, parse_value};
use clap::Args;
use serde_json::Value;
use std::str::FromStr;

/// The run `default`, which the first start creates. Later starts load it, with the changes made on the dashboard.
///
/// Its [`RunConfig`] has no flags of its own, except for the few that people type: `--set` takes every setting.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Run 'default' (used when it is created, at the first start)")]
pub struct FirstRun {
    /// Network
    #[arg(long, value_name = "NETWORK", default_value = "cnn", value_parser = words(Architecture::ALL))]
    pub architecture: Architecture,
    /// First layers of a ResNet: cifar for small images
    #[arg(long, default_value = "cifar", value_parser = words(Stem::ALL))]
    pub stem: Stem,
    /// Dataset whose test split is evaluated: fashion-mnist, mnist, cifar10, cifar100, or none
    #[arg(long, default_value = "fashion-mnist")]
    pub dataset: TestDataset,
    /// Channels of the images [default: the dataset's]
    #[arg(long)]
    pub channels: Option<u32>,
    /// Number of classes [default: the dataset's]
    #[arg(long)]
    pub classes: Option<u32>,
    /// Seed of the initial parameters and of the clients' shuffling
    #[arg(long, default_value = "0")]
    pub seed: u64,
    /// The fewest clients that open a round, and the fewest updates that are aggregated [default: 1]
    #[arg(long, value_name = "CLIENTS")]
    pub min_clients: Option<String>,
    /// Seconds until a round closes without the missing updates [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub deadline_s: Option<String>,
    /// Encoding of parameters: f32, bf16, bf16-delta, q8, q4 or topk [default: bf16]
    #[arg(long, value_name = "ENCODING")]
    pub encoding: Option<String>,
    /// Any setting of the run, as in train.learning_rate=0.01; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Assignment>,
    /// The settings above that were given, those of the configuration among them; filled by [`crate::cli::parse`].
    #[arg(skip)]
    pub given: Vec<Given>,
}

/// A setting, its value, and where it was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// `data_dir`, `train.learning_rate`.
    pub key: String,
    /// A text from environment or flags is still a text.
    pub value: Value,
    /// As the user wrote it: `fedlearn.toml: data_dir`, `FEDLEARN_DATA_DIR`, `--data-dir`.
    pub place: String,
}

/// `KEY=VALUE` of `--set`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// `train.learning_rate`.
    pub key: String,
    /// `0.01`.
    pub value: String,
}

impl FromStr for Assignment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' must have the form KEY=VALUE"))?;
        match RunConfig::setting(key) {
            Some(_) => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            None => Err(format!("'{key}' is not a setting of a run; `fedlearn help serve` lists them")),
        }
    }
}

impl FirstRun {
    /// Keys of what is no part of [`RunConfig`].
    const MODEL: [&str; 6] = ["architecture", "stem", "dataset", "channels", "classes", "seed"];

    /// Whether the run has a setting of that name.
    pub fn has(key: &str) -> bool {
        Self::MODEL.contains(&key) || RunConfig::setting(key).is_some()
    }

    /// The run to create.
    ///
    /// # Errors
    /// Everything that is wrong with it, by the names that the user wrote.
    pub fn create(&self) -> Result<CreateRun, Vec<String>> {
        let mut problems = Vec::new();
        let place = |key: &str| {
            let given = self.given.iter().rfind(|given| given.key == key);
            given.map_or(key, |given| &given.place).to_owned()
        };
        let dataset = self.dataset.0;
        let mut dimension = |key: &str, given: Option<u32>, of_dataset: Option<u32>| match (given, of_dataset) {
            (Some(given), Some(expected)) if given != expected => {
                problems.push(format!(
                    "{} must be {expected}, as in the images of dataset {}, got {given}",
                    place(key),
                    self.dataset
                ));
                given
            }
            (Some(given), _) => given,
            (None, Some(expected)) => expected,
            (None, None) => {
                problems.push(format!("--{key} is required without a dataset"));
                2 // within bounds, so that it adds no second problem
            }
        };
        let channels = dimension("channels", self.channels, dataset.map(|d| d.image_shape().0));
        let classes = dimension("classes", self.classes, dataset.map(Dataset::classes));
        let model = ModelSpec { architecture: self.architecture, stem: self.stem, channels, classes, seed: self.seed };
        problems.extend(model.problems().iter().map(|problem| match problem.split_once(' ') {
            Some((key, message)) => format!("{} {message}", place(key)),
            None => problem.clone(),
        }));
        let train = TrainConfig { seed: self.seed, ..TrainConfig::default() };
        let mut config = RunConfig { train, ..RunConfig::default() };
        let settings = self.given.iter().filter(|given| !Self::MODEL.contains(&given.key.as_str()));
        let wrong: Vec<_> = settings.filter_map(|given| config.set(&given.key, &given.parsed()).err()).collect();
        let wrong = if wrong.is_empty() { config.check() } else { wrong };
        problems.extend(wrong.iter().map(|problem| format!("{} {}", place(&problem.path), problem.message)));
        let run = "default".parse().expect("it is of the alphabet");
        if problems.is_empty() { Ok(CreateRun { run, model, dataset, config }) } else { Err(problems) }
    }

    /// A sentence for each setting that was given but has no effect, because the run exists with another value, or existed
    /// once.
    pub fn without_effect(&self, existing: Option<(Option<&ModelSpec>, Option<Dataset>, &RunConfig)>) -> Vec<String> {
        let Ok(wanted) = self.create() else { return Vec::new() };
        let wanted = values(Some(&wanted.model), wanted.dataset, &wanted.config);
        let existing = existing.map(|(model, dataset, config)| values(model, dataset, config));
        let sentence = |given: &Given| {
            let pointer = format!("/{}", given.key.replace('.', "/"));
            let read = |all: &Value| all.pointer(&pointer).map_or("none".to_owned(), format_value);
            let is_fixed = Self::MODEL.contains(&given.key.as_str());
            let advice = if is_fixed { "create another run for it" } else { "change it on the dashboard or by PATCH" };
            let reason = match existing.as_ref().map(read) {
                Some(stored) if stored == read(&wanted) => return None,
                Some(stored) => format!("run 'default' already exists with {} {stored}; {advice}", given.key),
                None => "run 'default' is created at the first start only".to_owned(),
            };
            Some(format!("{} {} has no effect: {reason}", given.place, format_value(&given.value)))
        };
        self.given.iter().filter_map(sentence).collect()
    }
}

impl Given {
    /// The value as that of a [`RunConfig`].
    fn parsed(&self) -> Value {
        match &self.value {
            Value::String(text) => parse_value(text),
            value => value.clone(),
        }
    }
}

/// Every setting of a run by its key.
fn values(model: Option<&ModelSpec>, dataset: Option<Dataset>, config: &RunConfig) -> Value {
    let json = |value| serde_json::to_value(value).unwrap_or_default();
    let mut all = serde_json::to_value(config).unwrap_or_default();
    for key in FirstRun::MODEL {
        all[key] = json(model)[key].clone();
    }
    all["dataset"] = serde_json::to_value(dataset).unwrap_or_default();
    all
}
