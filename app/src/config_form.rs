//! The form of a run's configuration: its fields, and what of them goes into a patch.
//!
//! One table, which the page draws: an input each, written out, would cost the WASM more. Left out is what few ever change
//! (weight decay, the seed, the share of `topk`, the cap on samples): the REST API takes all. Knows no bounds: the
//! coordinator checks a configuration whole, and says all that is wrong with it.

use crate::api::{Admission, BelowQuorum, CohortSize, Encoding, Mode, Optimizer, RunConfig};

/// What goes together.
pub struct Group {
    pub title: &'static str,
    pub fields: &'static [Field],
}

/// One input.
pub struct Field {
    /// As the API and its refusals name it: `train.local_epochs`.
    pub path: &'static str,
    pub label: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub hint: &'static str,
    /// Takes effect in the open round too, not only with the next.
    pub is_at_once: bool,
    /// Shown only while the field of that path holds that word.
    pub when: Option<(&'static str, &'static str)>,
    /// What it holds in that configuration.
    pub text: fn(&RunConfig) -> String,
}

/// What can be in a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of these words.
    Word(&'static [&'static str]),
    /// How the size of a cohort is told; `share` and `number` have a field of their own.
    Cohort,
    /// `on` or `off`.
    Switch,
    Whole,
    Number,
    /// A number, or nothing: no bound.
    Bound,
}

impl Kind {
    /// What there is to choose from; empty where it is typed.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Word(words) => words,
            Self::Cohort => &["all", "share", "number"],
            Self::Switch => &["on", "off"],
            _ => &[],
        }
    }

    /// As JSON, or in words what is wanted instead.
    ///
    /// A number goes as it was typed: to read and write it anew would cost the WASM 20 kB of tables.
    fn read(self, text: &str) -> Result<String, &'static str> {
        let is_json = match self {
            Self::Word(_) | Self::Cohort => return Ok(format!("\"{text}\"")),
            Self::Switch => return Ok((text == "on").to_string()),
            Self::Bound if text.is_empty() => return Ok("null".to_owned()),
            Self::Whole => serde_json::from_str::<u64>(text).is_ok(),
            Self::Number | Self::Bound => serde_json::from_str::<f64>(text).is_ok(),
        };
        match self {
            _ if is_json => Ok(text.to_owned()),
            Self::Whole => Err("a whole number"),
            _ => Err("a number, such as 0.05"),
        }
    }
}

impl Field {
    const fn new(path: &'static str, label: &'static str, kind: Kind, text: fn(&RunConfig) -> String) -> Self {
        Self { path, label, kind, unit: "", hint: "", is_at_once: false, when: None, text }
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    const fn at_once(mut self) -> Self {
        self.is_at_once = true;
        self
    }

    const fn when(mut self, path: &'static str, word: &'static str) -> Self {
        self.when = Some((path, word));
        self
    }

    /// Whether that problem, in the server's words or ours, is this field's: both begin with its path.
    pub fn has(&self, problem: &str) -> bool {
        problem.strip_prefix(self.path).is_some_and(|rest| rest.starts_with(' '))
    }

    /// Whether it matters, with what is typed into all fields.
    pub fn is_shown(&self, typed: &[String]) -> bool {
        let holds = |(path, word)| fields().zip(typed).any(|(field, text)| field.path == path && text == word);
        self.when.is_none_or(holds)
    }

    /// What it holds once the configuration has become another: what was typed stays.
    pub fn follow(&self, typed: String, before: &RunConfig, now: &RunConfig) -> String {
        if typed == (self.text)(before) { (self.text)(now) } else { typed }
    }
}

/// All fields, in the order of their tabs.
pub static GROUPS: &[Group] = &[
    Group {
        title: "Who takes part",
        fields: &[
            Field::new("admission", "Admission", Kind::Word(Admission::WORDS), |c| c.admission.to_string())
                .hint("open: whoever registers. approval: whom you admit.")
                .at_once(),
            Field::new("min_clients", "Quorum", Kind::Whole, |c| c.min_clients.to_string())
                .unit("clients")
                .hint("The fewest to open a round, the fewest to count."),
            Field::new("cohort", "Clients asked", Kind::Cohort, |c| match c.cohort {
                CohortSize::Fraction(share) if share >= 1.0 => "all".to_owned(),
                CohortSize::Fraction(_) => "share".to_owned(),
                CohortSize::Size(_) => "number".to_owned(),
            })
            .hint("Who was asked least of late goes first."),
            Field::new("cohort.fraction", "Share asked", Kind::Number, |c| match c.cohort {
                CohortSize::Fraction(share) if share < 1.0 => number(share),
                _ => String::new(),
            })
            .hint("0.5 asks every second client.")
            .when("cohort", "share"),
            Field::new("cohort.size", "Number asked", Kind::Whole, |c| match c.cohort {
                CohortSize::Size(size) => size.to_string(),
                CohortSize::Fraction(_) => String::new(),
            })
            .unit("clients")
            .when("cohort", "number"),
            Field::new("over_selection", "Over-selection", Kind::Number, |c| number(c.over_selection))
                .hint("0.2 asks a fifth more, and does not wait for the slowest.")
                .when("mode", "sync"),
        ],
    },
    Group {
        title: "Rounds",
        fields: &[
            Field::new("deadline_s", "Deadline", Kind::Whole, |c| c.deadline_s.to_string()).unit("seconds").at_once(),
            Field::new("below_quorum", "Below quorum", Kind::Word(BelowQuorum::WORDS), |c| c.below_quorum.to_string())
                .hint("At the deadline. void: start anew. extend: wait as long again.")
                .at_once(),
            Field::new("mode", "Mode", Kind::Word(Mode::WORDS), |c| c.mode.to_string())
                .hint("sync: all train the same version. async: whichever updates come first."),
            Field::new("buffer_size", "Buffer", Kind::Whole, |c| c.buffer_size.to_string())
                .unit("updates")
                .hint("So many close a round.")
                .when("mode", "async"),
            Field::new("max_staleness", "Staleness", Kind::Whole, |c| c.max_staleness.to_string())
                .unit("versions")
                .hint("An update may be so far behind.")
                .when("mode", "async"),
            Field::new("max_weight_share", "Largest weight", Kind::Number, |c| number(c.max_weight_share))
                .unit("of a round")
                .hint("Of one client among three or more. 1: by samples alone."),
        ],
    },
    Group {
        title: "Which updates are refused",
        fields: &[
            Field::new("max_update_norm", "Largest change", Kind::Bound, |c| bound(c.max_update_norm))
                .hint("L2 norm. Empty: no bound.")
                .at_once(),
            Field::new("max_norm_ratio", "Against the median", Kind::Bound, |c| bound(c.max_norm_ratio))
                .unit("times")
                .hint("Of the round's norms. Empty: no bound.")
                .at_once(),
            Field::new("max_strikes", "Strikes", Kind::Whole, |c| c.max_strikes.to_string())
                .unit("updates")
                .hint("Refused until a client is in quarantine.")
                .at_once(),
        ],
    },
    Group {
        title: "What clients do",
        fields: &[
            Field::new("train.local_epochs", "Local epochs", Kind::Whole, |c| c.train.local_epochs.to_string()),
            Field::new("train.batch_size", "Batch", Kind::Whole, |c| c.train.batch_size.to_string()).unit("images"),
            Field::new("train.optimizer", "Optimizer", Kind::Word(Optimizer::WORDS), |c| c.train.optimizer.to_string()),
            Field::new("train.learning_rate", "Learning rate", Kind::Number, |c| number(c.train.learning_rate)),
            Field::new("train.momentum", "Momentum", Kind::Number, |c| number(c.train.momentum))
                .when("train.optimizer", "sgd"),
            Field::new("train.augment", "Augmentation", Kind::Switch, |c| {
                if c.train.augment { "on" } else { "off" }.to_owned()
            })
            .hint("Random crops and flips."),
            Field::new("encoding", "Encoding", Kind::Word(Encoding::WORDS), |c| c.encoding.to_string())
                .hint("How parameters travel."),
        ],
    },
];

/// The fields of all groups: what is typed is kept in this order.
pub fn fields() -> impl Iterator<Item = &'static Field> {
    GROUPS.iter().flat_map(|group| group.fields)
}

/// The JSON merge patch that makes of `present` what is typed, of the fields that are shown; none if nothing is changed.
///
/// # Errors
/// What cannot be read, a line each, beginning with the path.
pub fn patch(present: &RunConfig, typed: &[String]) -> Result<Option<String>, Vec<String>> {
    let (mut changes, mut problems) = (Vec::new(), Vec::new());
    for (field, text) in fields().zip(typed) {
        let text = text.trim();
        // Of a cohort just told in another way, the field that goes with it is empty as before, and must not be.
        let is_missing = text.is_empty() && field.kind != Kind::Bound;
        if !field.is_shown(typed) || (text == (field.text)(present) && !is_missing) {
            continue;
        }
        match field.kind.read(text) {
            Ok(_) if field.kind == Kind::Cohort => {
                if text == "all" {
                    changes.push(("cohort.fraction", "1.0".to_owned()));
                }
            }
            Ok(json) => changes.push((field.path, json)),
            Err(wanted) if is_missing => problems.push(format!("{} is empty, wanted is {wanted}", field.path)),
            Err(wanted) => problems.push(format!("{} is '{text}', wanted is {wanted}", field.path)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(if changes.is_empty() { None } else { Some(object(&changes)) })
}

/// A JSON object of members at such paths. Those of one inner object follow one another.
fn object(members: &[(&'static str, String)]) -> String {
    let (mut json, mut inside) = ("{".to_owned(), "");
    for (i, (path, value)) in members.iter().enumerate() {
        let (outer, name) = path.split_once('.').unwrap_or(("", path));
        if outer != inside && !inside.is_empty() {
            json.push('}');
        }
        if i > 0 {
            json.push(',');
        }
        if outer != inside && !outer.is_empty() {
            json += &format!("\"{outer}\":{{");
        }
        json += &format!("\"{name}\":{value}");
        inside = outer;
    }
    json.push_str(if inside.is_empty() { "}" } else { "}}" });
    json
}

/// The shortest that reads back as the same.
fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-4..1e9).contains(&size) => value.to_string(),
        _ => format!("{value:e}"),
    }
}

fn bound(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
}

#[cfg(test)]
mod tests;
