//! The versioned configuration of a run: what rounds ask of clients, and when they close.

use super::model::word;
use serde::{Deserialize, Serialize};

word!(
    /// Who may take part.
    Admission {
        /// Whoever registers.
        Open = "open",
        /// Whom the operator admits; until then a client is `pending`.
        Approval = "approval",
    }
);

word!(
    /// How rounds take the work of their clients.
    Mode {
        /// All of a round start from the same version; who is late is sent home.
        Sync = "sync",
        /// Buffered-asynchronous (FedBuff, Nguyen et al. 2022, arXiv:2106.06639): a round takes `buffer_size` updates,
        /// whichever come first; who still trains then goes on, and is counted in a later round with less weight.
        Async = "async",
    }
);

word!(
    /// What becomes of a round whose deadline comes with fewer than `min_clients` updates.
    BelowQuorum {
        /// It is void, and its clients start anew from the same version.
        Void = "void",
        /// Its deadline moves on by `deadline_s`, as often as it takes, while those who are there are enough.
        Extend = "extend",
    }
);

word!(
    /// How parameters travel in our container.
    Encoding {
        /// As they are: 4 bytes a value.
        F32 = "f32",
        /// Rounded to bf16 (to nearest, ties to even), byte planes, zstd.
        Bf16 = "bf16",
        /// The same values, told by their difference to a version that both sides hold.
        Bf16Delta = "bf16-delta",
        /// What changed, in multiples of a scale up to 127; what is lost is sent with the next update.
        Q8 = "q8",
        /// What changed, in multiples of a scale up to 7; what is lost is sent with the next update.
        Q4 = "q4",
        /// The largest changes alone; the others are sent once they have added up.
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
    /// That share of them, rounded up: 0 exclusive to 1 inclusive.
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

/// What a client does with the global model in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the client's own data.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 1_000))]
    pub local_epochs: u32,
    /// Images a step.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 65_536))]
    pub batch_size: u32,
    /// The local optimizer.
    pub optimizer: Optimizer,
    /// Its step size.
    #[cfg_attr(feature = "ssr", schema(exclusive_minimum = 0, maximum = 1_000))]
    pub learning_rate: f64,
    /// Momentum of `sgd`; `adam` ignores it.
    #[cfg_attr(feature = "ssr", schema(minimum = 0, maximum = 0.999_999))]
    pub momentum: f64,
    /// L2 penalty on the parameters.
    #[cfg_attr(feature = "ssr", schema(minimum = 0, maximum = 10))]
    pub weight_decay: f64,
    /// Random crops (padding 4) and horizontal flips.
    pub augment: bool,
    /// Seed of shuffling and augmentation; each client and round draws its own from it.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            local_epochs: 1,
            batch_size: 64,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.05,
            momentum: 0.9,
            weight_decay: 0.0,
            augment: false,
            seed: 0,
        }
    }
}

/// The configuration of a run. Versioned: each round records the version it ran under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Who may take part.
    pub admission: Admission,
    /// How many clients a round asks.
    pub cohort: CohortSize,
    /// Quorum: a round opens with at least so many eligible clients and is aggregated with at least so many updates.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 1_000_000))]
    pub min_clients: u32,
    /// Share of clients asked on top of the cohort, 0 to 10: the round closes once as many updates are in as without them,
    /// so that it need not wait for the slowest. Of `sync` only.
    #[cfg_attr(feature = "ssr", schema(minimum = 0, maximum = 10))]
    pub over_selection: f64,
    /// Seconds from a round's opening until it closes without the missing ones.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 604_800))]
    pub deadline_s: u32,
    /// What becomes of a round that has too few updates by then.
    pub below_quorum: BelowQuorum,
    /// How rounds take the work of their clients.
    pub mode: Mode,
    /// Of `async`: updates that close a round.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 1_000_000))]
    pub buffer_size: u32,
    /// Of `async`: how many versions the one that an update was trained from may be behind, 0 to 10.
    #[cfg_attr(feature = "ssr", schema(minimum = 0, maximum = 10))]
    pub max_staleness: u32,
    /// How parameters travel in our container.
    pub encoding: Encoding,
    /// Of the encoding `topk`: the share of a tensor's values that an update changes, 0.000001 to 1; of each at
    /// least 1,024.
    #[cfg_attr(feature = "ssr", schema(minimum = 0.000_001, maximum = 1))]
    pub topk_fraction: f64,
    /// The largest L2 norm of (update - base version) that is accepted. `None` means any finite one.
    #[cfg_attr(feature = "ssr", schema(exclusive_minimum = 0))]
    pub max_update_norm: Option<f64>,
    /// The largest norm relative to the median of the round's updates, at least 1. It is applied when the round closes; larger
    /// updates are left out, without a strike. `None` means no such bound.
    #[cfg_attr(feature = "ssr", schema(minimum = 1))]
    pub max_norm_ratio: Option<f64>,
    /// The largest share of a round's weight that one client has, 0.01 to 1: in rounds of three or more updates heavier weights
    /// are lowered to it. 1 switches this off: each update weighs what its samples say.
    pub max_weight_share: f64,
    /// The most images that a client may say it has.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 1_000_000_000_000_i64))]
    pub max_samples: u64,
    /// Updates of a client that may be refused until it is in quarantine.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 1_000_000))]
    pub max_strikes: u32,
    /// What clients do.
    pub train: TrainConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            admission: Admission::Open,
            cohort: CohortSize::Fraction(1.0),
            min_clients: 1,
            over_selection: 0.0,
            deadline_s: 600,
            below_quorum: BelowQuorum::Void,
            mode: Mode::Sync,
            buffer_size: 10,
            max_staleness: 5,
            encoding: Encoding::Bf16,
            topk_fraction: 0.01,
            max_update_norm: Some(1e6),
            max_norm_ratio: Some(20.0),
            max_weight_share: 0.5,
            max_samples: 10_000_000,
            max_strikes: 3,
            train: TrainConfig::default(),
        }
    }
}

impl RunConfig {
    /// The most versions that an update of an asynchronous run may be behind: so many are kept.
    pub const MOST_STALE: u32 = 10;

    /// What is out of bounds, each naming the field, its value and the bound; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |name: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                let from = if low == f64::MIN_POSITIVE { "above 0".to_owned() } else { low.to_string() };
                let to = if high == f64::MAX { "any finite number".to_owned() } else { high.to_string() };
                let value = if value.abs() < 1e15 { value.to_string() } else { format!("{value:e}") };
                problems.push(format!("{name} is {value}, allowed are {from} to {to}"));
            }
        };
        match self.cohort {
            CohortSize::Fraction(fraction) => check("cohort.fraction", fraction, f64::MIN_POSITIVE, 1.0),
            CohortSize::Size(size) => check("cohort.size", size.into(), 1.0, 1e6),
        }
        check("min_clients", self.min_clients.into(), 1.0, 1e6);
        check("over_selection", self.over_selection, 0.0, 10.0);
        check("deadline_s", self.deadline_s.into(), 1.0, 7.0 * 86_400.0);
        check("buffer_size", self.buffer_size.into(), 1.0, 1e6);
        check("max_staleness", self.max_staleness.into(), 0.0, Self::MOST_STALE.into());
        check("topk_fraction", self.topk_fraction, 1e-6, 1.0);
        if let Some(norm) = self.max_update_norm {
            check("max_update_norm", norm, f64::MIN_POSITIVE, f64::MAX);
        }
        if let Some(ratio) = self.max_norm_ratio {
            check("max_norm_ratio", ratio, 1.0, f64::MAX);
        }
        check("max_weight_share", self.max_weight_share, 0.01, 1.0);
        check("max_samples", self.max_samples as f64, 1.0, 1e12);
        check("max_strikes", self.max_strikes.into(), 1.0, 1e6);
        let train = &self.train;
        check("train.local_epochs", train.local_epochs.into(), 1.0, 1000.0);
        check("train.batch_size", train.batch_size.into(), 1.0, 65_536.0);
        check("train.learning_rate", train.learning_rate, f64::MIN_POSITIVE, 1000.0);
        check("train.momentum", train.momentum, 0.0, 0.999_999);
        check("train.weight_decay", train.weight_decay, 0.0, 10.0);
        if let CohortSize::Size(size) = self.cohort
            && size < self.min_clients
        {
            problems.push(format!("cohort.size is {size}, below min_clients, which is {}", self.min_clients));
        }
        problems
    }

    /// This configuration with a JSON merge patch (RFC 7396) laid over it. A bound that the patch takes away with `null` is
    /// none; any other field goes back to its default.
    ///
    /// # Errors
    /// Unknown or mistyped fields, or what [`Self::problems`] finds: all that is known to be wrong.
    pub fn patched(&self, patch: &serde_json::Value) -> Result<Self, Vec<String>> {
        let mut merged = serde_json::to_value(self).map_err(|e| vec![e.to_string()])?;
        merge(&mut merged, patch);
        // A field that is missing is read as its default, and the default of these is a bound.
        for name in ["max_update_norm", "max_norm_ratio"] {
            if patch.get(name).is_some_and(serde_json::Value::is_null) {
                merged[name] = serde_json::Value::Null;
            }
        }
        let Ok(config) = serde_json::from_value::<Self>(merged) else { return Err(self.unreadable(patch)) };
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

impl RunConfig {
    /// What of a patch cannot be read, field by field.
    fn unreadable(&self, patch: &serde_json::Value) -> Vec<String> {
        let fields = patch.as_object().into_iter().flatten();
        let problem = |(name, value): (&String, &serde_json::Value)| {
            let mut merged = serde_json::to_value(self).ok()?;
            merge(&mut merged, &serde_json::json!({ name: value }));
            let error = serde_json::from_value::<Self>(merged).err()?;
            Some(format!("{name}: {error}"))
        };
        fields.filter_map(problem).collect()
    }
}

fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    use serde_json::Value::Object;
    match (target, patch) {
        // An enum with one variant set: another variant replaces it, they do not add up.
        (Object(target), Object(patch)) if target.contains_key("fraction") || target.contains_key("size") => {
            *target = patch.clone();
        }
        (Object(target), Object(patch)) => {
            for (key, value) in patch {
                // A null for what there is not is kept, to be refused by name.
                if value.is_null() && target.contains_key(key) {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(serde_json::Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_is_within_bounds() {
        assert_eq!(RunConfig::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let patched = RunConfig::default().patched(&json!({"train": {"local_epochs": 3}, "cohort": {"size": 2}}));
        let mut want = RunConfig { cohort: CohortSize::Size(2), ..RunConfig::default() };
        want.train.local_epochs = 3;
        assert_eq!(patched, Ok(want));
    }

    #[test]
    fn null_takes_a_bound_away_and_sets_any_other_field_back() {
        let changed = RunConfig { deadline_s: 5, ..RunConfig::default() };
        let patched = changed.patched(&json!({"max_update_norm": null, "max_norm_ratio": null, "deadline_s": null}));
        assert_eq!(patched, Ok(RunConfig { max_update_norm: None, max_norm_ratio: None, ..RunConfig::default() }));
    }

    #[test]
    fn a_patch_with_an_unknown_field_is_refused_by_name() {
        let errors = RunConfig::default().patched(&json!({"train": {"epoch": 3}})).unwrap_err();
        assert!(errors[0].contains("epoch"), "{errors:?}");
    }

    #[test]
    fn a_null_for_an_unknown_field_is_refused_too() {
        let errors = RunConfig::default().patched(&json!({"max_update_nrm": null})).unwrap_err();
        assert!(errors[0].starts_with("max_update_nrm: unknown field"), "{errors:?}");
    }

    #[test]
    fn all_that_cannot_be_read_is_said_at_once_by_name() {
        let errors = RunConfig::default().patched(&json!({"min_clients": "2", "mode": "fast"})).unwrap_err();
        let starts = ["min_clients: invalid type", "mode: unknown variant"];
        assert!(errors.len() == 2 && errors.iter().zip(starts).all(|(e, start)| e.starts_with(start)), "{errors:?}");
    }

    #[test]
    fn all_that_is_out_of_bounds_is_said_at_once() {
        let errors = RunConfig::default().patched(&json!({"min_clients": 0, "deadline_s": 0})).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn bounds_are_said_so_that_they_can_be_read() {
        let patch = json!({"max_update_norm": 0, "max_norm_ratio": 0.5, "train": {"learning_rate": 1e300}});
        let errors = RunConfig::default().patched(&patch).unwrap_err();
        assert_eq!(
            errors,
            [
                "max_update_norm is 0, allowed are above 0 to any finite number",
                "max_norm_ratio is 0.5, allowed are 1 to any finite number",
                "train.learning_rate is 1e300, allowed are above 0 to 1000",
            ]
        );
    }

    #[test]
    fn a_cohort_is_rounded_up_and_never_above_the_eligible() {
        assert_eq!(CohortSize::Fraction(0.5).of(3), 2);
        assert_eq!(CohortSize::Fraction(1.0).of(3), 3);
        assert_eq!(CohortSize::Size(5).of(3), 3);
    }
}
