//! One setting of a run: how it is named, which values it accepts, what it means.
//!
//! The macro `settings!` defines a configuration and describes it in one place. The description serves the settings file,
//! the environment, flags, PATCH, the form of the page, `--help` and docs/configuration.md.

use serde_json::Value;
use std::fmt;

/// A setting of [`RunConfig`](super::RunConfig).
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its name everywhere: `train.local_epochs`.
    pub path: String,
    /// The settings that it is shown with.
    pub group: &'static str,
    /// Its name on the page.
    pub label: &'static str,
    /// What a number counts, for people; empty if it counts nothing.
    pub unit: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// The limits of a number.
    pub bounds: Bounds,
    /// A change applies to the open round too, not only from the next one on.
    pub is_at_once: bool,
    /// It matters only while the setting of that path has that value.
    pub only_with: Option<(&'static str, &'static str)>,
    /// It and its neighbours exclude each other: setting one removes the others.
    pub is_alternative: bool,
}

/// The type of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number.
    Whole,
    /// A number.
    Number,
    /// A number, or `null` for no limit.
    Limit,
}

/// The values that a number may have. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bounds {
    /// The smallest value.
    pub minimum: Option<f64>,
    /// The limit that every value is above.
    pub exclusive_minimum: Option<f64>,
    /// The largest value.
    pub maximum: Option<f64>,
}

/// What is wrong with one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting: `train.local_epochs`.
    pub path: String,
    /// What it must be, and what it is.
    pub message: String,
}

impl Problem {
    pub(super) fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.message)
    }
}

impl Setting {
    pub(super) const fn root() -> Self {
        Self {
            path: String::new(),
            group: "",
            label: "",
            unit: "",
            meaning: "",
            kind: Kind::Switch,
            bounds: Bounds { minimum: None, exclusive_minimum: None, maximum: None },
            is_at_once: false,
            only_with: None,
            is_alternative: false,
        }
    }

    /// The description of a field of this one.
    pub(super) fn field(&self, name: &str, group: &'static str, meaning: &'static str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, group, meaning: meaning.trim_start(), ..Self::root() }
    }

    /// The words to choose from; empty if the value is typed.
    pub fn words(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Word(words) => words,
            Kind::Switch => &["true", "false"],
            _ => &[],
        }
    }

    /// The type of its value, in words.
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Switch | Kind::Word(_) => format!("one of {}", self.words().join(", ")),
            Kind::Whole => "a whole number".to_owned(),
            Kind::Number => "a number".to_owned(),
            Kind::Limit => "a number or null".to_owned(),
        }
    }

    /// Its type and bounds, in words.
    pub fn allowed(&self) -> String {
        match self.bounds.to_string() {
            bounds if bounds.is_empty() => self.expected(),
            bounds => format!("{}, {bounds}", self.expected()),
        }
    }

    /// Whether the value has the right type and is within bounds.
    pub(super) fn check(&self, value: &Value) -> Result<(), Problem> {
        let number = match (self.kind, value) {
            (Kind::Switch, Value::Bool(_)) | (Kind::Limit, Value::Null) => return Ok(()),
            (Kind::Word(words), Value::String(word)) if words.contains(&word.as_str()) => return Ok(()),
            (Kind::Whole, Value::Number(number)) if number.is_u64() || number.is_i64() => number.as_f64(),
            (Kind::Number | Kind::Limit, Value::Number(number)) => number.as_f64(),
            _ => None,
        };
        match number {
            Some(number) if self.bounds.contain(number) => Ok(()),
            Some(_) => Err(Problem::new(&self.path, format!("must be {}, got {value}", self.bounds))),
            None => Err(Problem::new(&self.path, format!("must be {}, got {value}", self.expected()))),
        }
    }
}

impl Bounds {
    fn contain(&self, number: f64) -> bool {
        self.minimum.is_none_or(|minimum| number >= minimum)
            && self.exclusive_minimum.is_none_or(|minimum| number > minimum)
            && self.maximum.is_none_or(|maximum| number <= maximum)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.minimum, self.exclusive_minimum, self.maximum) {
            (Some(minimum), _, Some(maximum)) => write!(f, "between {minimum} and {maximum}"),
            (None, Some(minimum), Some(maximum)) => write!(f, "above {minimum} and at most {maximum}"),
            (Some(minimum), _, None) => write!(f, "at least {minimum}"),
            (None, Some(minimum), None) => write!(f, "above {minimum}"),
            (None, None, Some(maximum)) => write!(f, "at most {maximum}"),
            (None, None, None) => Ok(()),
        }
    }
}

/// A type that a configuration is made of.
pub(super) trait Part {
    /// Appends the settings that it consists of: usually `own` alone.
    fn describe(own: Setting, all: &mut Vec<Setting>);
}

macro_rules! kinds {
    ($($type:ty: $kind:expr),+ $(,)?) => {
        $(impl Part for $type {
            fn describe(own: Setting, all: &mut Vec<Setting>) {
                all.push(Setting { kind: $kind, ..own });
            }
        })+
    };
}
pub(super) use kinds;

kinds!(bool: Kind::Switch, u32: Kind::Whole, u64: Kind::Whole, f64: Kind::Number, Option<f64>: Kind::Limit);

/// Defines a struct of settings: documented fields with default, bounds and what [`Setting`] has beside them, in groups.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($group:literal {
                $(
                    $(#[doc = $meaning:literal])+
                    $field:ident: $type:ty = $default:expr
                    $(, [$($bound:ident = $limit:tt),+])?
                    $(, $attribute:ident: $value:expr)*;
                )+
            })+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(
                $(#[doc = $meaning])+
                $(#[cfg_attr(feature = "ssr", schema($($bound = $limit),+))])?
                pub $field: $type,
            )+)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($($field: $default,)+)+ }
            }
        }

        impl Part for $name {
            fn describe(own: Setting, all: &mut Vec<Setting>) {
                $($(
                    let bounds = Bounds { $($($bound: Some($limit as f64),)+)? ..Bounds::default() };
                    let field = own.field(stringify!($field), $group, concat!($($meaning),+));
                    <$type>::describe(Setting { bounds, $($attribute: $value,)* ..field }, all);
                )+)+
            }
        }
    };
}
pub(super) use settings;
