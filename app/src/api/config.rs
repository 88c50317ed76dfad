//! The versioned configuration of a run: what rounds ask of clients, and when they close.

mod setting;

pub use setting::{Bounds, Kind, Problem, Setting};

use super::model::word;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use setting::{Part, kinds, settings};
use std::sync::LazyLock;

word!(
    /// Who may take part.
    Admission {
        /// Every client that registers.
        Open = "open",
        /// The clients that the operator admits; until then a client is `pending`.
        Approval = "approval",
    }
);

word!(
    /// When a round closes, and what its clients train from.
    Mode {
        /// All clients of a round start from the same version; late updates are rejected.
        Sync = "sync",
        /// Buffered-asynchronous (FedBuff, Nguyen et al. 2022, arXiv:2106.06639): a round takes the first `buffer_size`
        /// updates. Clients that still train continue; their updates count in a later round, with less weight.
        Async = "async",
    }
);

word!(
    /// What happens to a round that has fewer than `min_clients` updates at its deadline.
    BelowQuorum {
        /// It is void; the next round starts from the same version.
        Void = "void",
        /// Its deadline is extended by `deadline_s`, repeatedly, while enough clients are present.
        Extend = "extend",
    }
);

word!(
    /// How parameters are encoded in the container format.
    Encoding {
        /// Unchanged: 4 bytes a value.
        F32 = "f32",
        /// Rounded to bf16 (to nearest, ties to even), byte planes, zstd.
        Bf16 = "bf16",
        /// The same values, as the difference to a version that both sides hold.
        Bf16Delta = "bf16-delta",
        /// The change, in multiples of a scale up to 127; the rounding error is sent with the next update.
        Q8 = "q8",
        /// The change, in multiples of a scale up to 7; the rounding error is sent with the next update.
        Q4 = "q4",
        /// The largest changes only; the others are sent once they have added up.
        TopK = "topk",
    }
);

word!(
    /// The local optimizer of the clients.
    Optimizer {
        /// Stochastic gradient descent with momentum.
        Sgd = "sgd",
        /// Adam (Kingma and Ba 2014, arXiv:1412.6980) with its usual betas 0.9 and 0.999.
        Adam = "adam",
    }
);

/// How many of the eligible clients a round asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CohortSize {
    /// That share of them, rounded up.
    Fraction(f64),
    /// At most that many.
    Size(u32),
}

impl CohortSize {
    /// How many of `eligible` clients to ask.
    pub fn of(self, eligible: usize) -> usize {
        match self {
            // At most `eligible`, so the cast back is exact enough: rosters are far below 2^52.
            Self::Fraction(fraction) => ((eligible as f64 * fraction).ceil() as usize).min(eligible),
            Self::Size(size) => eligible.min(size as usize),
        }
    }
}

kinds!(
    Admission: Kind::Word(Self::WORDS),
    Mode: Kind::Word(Self::WORDS),
    BelowQuorum: Kind::Word(Self::WORDS),
    Encoding: Kind::Word(Self::WORDS),
    Optimizer: Kind::Word(Self::WORDS),
);

impl Part for CohortSize {
    fn describe(own: Setting, all: &mut Vec<Setting>) {
        all.push(Setting {
            kind: Kind::Number,
            bounds: Bounds { exclusive_minimum: Some(0.0), maximum: Some(1.0), ..Bounds::default() },
            label: "Share of clients",
            is_alternative: true,
            ..own.field(
                "fraction",
                own.group,
                "Share of the eligible clients that a round asks, rounded up. Replaces `cohort.size`.",
            )
        });
        all.push(Setting {
            kind: Kind::Whole,
            bounds: Bounds { minimum: Some(1.0), maximum: Some(1e6), ..Bounds::default() },
            label: "Number of clients",
            unit: "clients",
            is_alternative: true,
            ..own.field("size", own.group, "The most clients that a round asks. Replaces `cohort.fraction`.")
        });
    }
}

settings!(
    /// What a client does with the global model in one round.
    TrainConfig {
        "What clients do" {
            /// Passes over the client's own data.
            local_epochs: u32 = 1, [minimum = 1, maximum = 1_000], label: "Local epochs";
            /// Images in a training step.
            batch_size: u32 = 64, [minimum = 1, maximum = 65_536], label: "Batch", unit: "images";
            /// The local optimizer.
            optimizer: Optimizer = Optimizer::Sgd, label: "Optimizer";
            /// Step size of the local optimizer.
            learning_rate: f64 = 0.05, [exclusive_minimum = 0, maximum = 1_000], label: "Learning rate";
            /// Momentum of `sgd`.
            momentum: f64 = 0.9, [minimum = 0, maximum = 0.999_999],
                label: "Momentum", only_with: Some(("train.optimizer", "sgd"));
            /// L2 penalty on the parameters.
            weight_decay: f64 = 0.0, [minimum = 0, maximum = 10], label: "Weight decay";
            /// Random crops (padding 4) and horizontal flips.
            augment: bool = false, label: "Augmentation";
            /// Seed of shuffling and augmentation; each client derives its own for each round.
            seed: u64 = 0, [minimum = 0], label: "Seed";
        }
    }
);

settings!(
    /// The configuration of a run. Versioned: each round records the version it ran under.
    RunConfig {
        "Who takes part" {
            /// Who may take part: every client that registers, or the clients that the operator admits.
            admission: Admission = Admission::Open, label: "Admission", is_at_once: true;
            /// Quorum: the fewest eligible clients that open a round, and the fewest updates that are aggregated.
            min_clients: u32 = 1, [minimum = 1, maximum = 1_000_000], label: "Quorum", unit: "clients";
            /// How many clients a round asks; the clients that were asked least recently come first.
            cohort: CohortSize = CohortSize::Fraction(1.0);
            /// Share of clients asked on top of the cohort. The round closes once it has as many updates as without them, so
            /// that it does not wait for the slowest.
            over_selection: f64 = 0.0, [minimum = 0, maximum = 10],
                label: "Over-selection", only_with: Some(("mode", "sync"));
        }
        "Rounds" {
            /// Seconds from the opening of a round until it closes without the missing updates.
            deadline_s: u32 = 600, [minimum = 1, maximum = 604_800],
                label: "Deadline", unit: "seconds", is_at_once: true;
            /// What happens at the deadline with fewer updates than the quorum: the round is void, or its deadline is
            /// extended by `deadline_s`.
            below_quorum: BelowQuorum = BelowQuorum::Void, label: "Below quorum", is_at_once: true;
            /// Whether all clients of a round train the same version (`sync`), or a round takes the first updates that come
            /// (`async`, FedBuff).
            mode: Mode = Mode::Sync, label: "Mode";
            /// Updates that close a round.
            buffer_size: u32 = 10, [minimum = 1, maximum = 1_000_000],
                label: "Buffer", unit: "updates", only_with: Some(("mode", "async"));
            /// The most versions that may lie between the version an update was trained from and the current one.
            max_staleness: u32 = 5, [minimum = 0, maximum = 10],
                label: "Staleness", unit: "versions", only_with: Some(("mode", "async"));
            /// The largest share of a round's weight that one client has: in rounds of three or more updates, heavier weights
            /// are lowered to it. 1 switches this off.
            max_weight_share: f64 = 0.5, [minimum = 0.01, maximum = 1], label: "Largest weight", unit: "of a round";
        }
        "Which updates are rejected" {
            /// The largest L2 norm of (update - base version) that is accepted. Without a value there is no limit.
            max_update_norm: Option<f64> = Some(1e6), [exclusive_minimum = 0],
                label: "Largest change", is_at_once: true;
            /// The largest norm relative to the median of the round's updates. Checked when the round closes: larger
            /// updates are left out, without a strike. Without a value there is no limit.
            max_norm_ratio: Option<f64> = Some(20.0), [minimum = 1],
                label: "Against the median", unit: "times", is_at_once: true;
            /// The largest number of images that a client may report.
            max_samples: u64 = 10_000_000, [minimum = 1, maximum = 1_000_000_000_000_i64],
                label: "Samples", unit: "images", is_at_once: true;
            /// Rejected updates after which a client is in quarantine.
            max_strikes: u32 = 3, [minimum = 1, maximum = 1_000_000],
                label: "Strikes", unit: "updates", is_at_once: true;
        }
        "What clients do" {
            /// What a client does in a round.
            train: TrainConfig = TrainConfig::default();
            /// How parameters are encoded.
            encoding: Encoding = Encoding::Bf16, label: "Encoding";
            /// The share of a tensor's values that an update changes; at least 1,024 of each tensor.
            topk_fraction: f64 = 0.01, [minimum = 0.000_001, maximum = 1],
                label: "Share of values", only_with: Some(("encoding", "topk"));
        }
    }
);

impl RunConfig {
    /// The largest value of `max_staleness`: that many earlier versions are kept.
    pub const MOST_STALE: u32 = 10;

    /// Every setting, in the order of the form and the documentation.
    pub fn settings() -> &'static [Setting] {
        static ALL: LazyLock<Vec<Setting>> = LazyLock::new(|| {
            let mut all = Vec::new();
            RunConfig::describe(Setting::root(), &mut all);
            all
        });
        &ALL
    }

    /// The setting of that path.
    pub fn setting(path: &str) -> Option<&'static Setting> {
        Self::settings().iter().find(|setting| setting.path == path)
    }

    /// The value of that setting; `None` if there is no such setting, or if an alternative to it is set.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.to_json().pointer(&pointer(path)).cloned()
    }

    /// Changes one setting. [`Self::check`] finds values that do not fit together.
    ///
    /// # Errors
    /// There is no such setting, or the value has the wrong type or is out of bounds.
    pub fn set(&mut self, path: &str, value: &Value) -> Result<(), Problem> {
        let setting = Self::setting(path).ok_or_else(|| Problem::new(path, "is not a setting of a run"))?;
        setting.check(value)?;
        let mut json = self.to_json();
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        if let Some(Value::Object(parent)) = json.pointer_mut(&pointer(parent)) {
            if setting.is_alternative {
                parent.clear();
            }
            parent.insert(name.to_owned(), value.clone());
        }
        *self = serde_json::from_value(json).map_err(|error| Problem::new(path, format!("is invalid: {error}")))?;
        Ok(())
    }

    /// What is out of bounds or does not fit together; empty if the configuration is valid.
    pub fn check(&self) -> Vec<Problem> {
        let json = self.to_json();
        let problem = |setting: &Setting| setting.check(json.pointer(&pointer(&setting.path))?).err();
        let mut problems: Vec<_> = Self::settings().iter().filter_map(problem).collect();
        if let CohortSize::Size(size) = self.cohort
            && size < self.min_clients
        {
            let message = format!("must be at least min_clients, which is {}, got {size}", self.min_clients);
            problems.push(Problem::new("cohort.size", message));
        }
        problems
    }

    /// This configuration with a JSON merge patch (RFC 7396) applied. `null` removes a limit and resets any other setting to
    /// its default.
    ///
    /// # Errors
    /// All unknown settings, wrong types and values out of bounds; if there are none, what does not fit together.
    pub fn patch(&self, patch: &Value) -> Result<Self, Vec<Problem>> {
        let (mut patched, mut problems) = (self.clone(), Vec::new());
        patched.apply("", patch, &mut problems);
        if problems.is_empty() {
            problems = patched.check();
        }
        if problems.is_empty() { Ok(patched) } else { Err(problems) }
    }

    /// The merge patch that makes `to` of this configuration.
    pub fn difference(&self, to: &Self) -> Value {
        let mut patch = Value::Object(Map::new());
        for Setting { path, .. } in Self::settings() {
            if let Some(value) = to.get(path).filter(|value| self.get(path).as_ref() != Some(value)) {
                insert(&mut patch, path, value);
            }
        }
        patch
    }

    /// As [`Self::check`], in sentences.
    pub fn problems(&self) -> Vec<String> {
        self.check().iter().map(Problem::to_string).collect()
    }

    /// As [`Self::patch`], with problems in sentences.
    ///
    /// # Errors
    /// See [`Self::patch`].
    pub fn patched(&self, patch: &Value) -> Result<Self, Vec<String>> {
        self.patch(patch).map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    fn apply(&mut self, path: &str, patch: &Value, problems: &mut Vec<Problem>) {
        let is_inside = |setting: &&Setting| {
            path.is_empty() || setting.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
        };
        let members: Vec<_> = Self::settings().iter().filter(is_inside).collect();
        let is_limit = Self::setting(path).is_some_and(|setting| setting.kind == Kind::Limit);
        let reset = (patch.is_null() && !is_limit).then(|| Self::default().get(path)).flatten();
        let result = match reset.as_ref().unwrap_or(patch) {
            value if members.is_empty() => self.set(path, value),
            Value::Object(fields) if fields.len() != 1 && members.iter().all(|setting| setting.is_alternative) => {
                let paths: Vec<_> = members.iter().map(|setting| setting.path.as_str()).collect();
                Err(Problem::new(path, format!("must have exactly one of {}, got {patch}", paths.join(", "))))
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.apply(&path, value, problems);
                }
                Ok(())
            }
            value => Err(Problem::new(path, format!("must be an object, got {value}"))),
        };
        problems.extend(result.err());
    }

    fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a struct of plain values serializes")
    }
}

/// A setting's value as a person writes it on a command line or in a form: a JSON scalar, a word, or `none` for `null`.
pub fn parse_value(text: &str) -> Value {
    match text.trim() {
        "none" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

/// The inverse of [`parse_value`].
pub fn format_value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(word) => word.clone(),
        value => {
            let text = value.to_string();
            text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
        }
    }
}

/// Puts a value into nested objects at that path.
pub fn insert(target: &mut Value, path: &str, value: Value) {
    let place = path.split('.').fold(target, |object, name| &mut object[name]);
    *place = value;
}

/// The path as a JSON pointer (RFC 6901).
fn pointer(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("/{}", path.replace('.', "/")) }
}

#[cfg(test)]
mod tests;
