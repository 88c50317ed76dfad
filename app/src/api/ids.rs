//! Names of runs and clients: checked once, where they enter.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadId {
    /// What the text was to name: `run` or `client`.
    pub kind: &'static str,
    /// The most bytes such an id may have.
    pub max_len: usize,
}

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} id is 1 to {} characters of a-z, 0-9 and '-'", self.kind, self.max_len)
    }
}

impl std::error::Error for BadId {}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max_len:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "ssr", derive(utoipa::ToSchema), schema(value_type = String, pattern = $pattern))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if (1..=$max_len).contains(&text.len()) && text.bytes().all(legal) {
                    Ok(Self(text))
                } else {
                    Err(BadId { kind: $kind, max_len: $max_len })
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Names a run; chosen by the operator. `default` is made at first start.
    RunId, "run", 64, "^[a-z0-9-]{1,64}$"
);
id!(
    /// Names a client within its run: random, says nothing of who it is.
    ClientId, "client", 32, "^[a-z0-9-]{1,32}$"
);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_takes_its_alphabet_and_nothing_else() {
        assert!("default".parse::<RunId>().is_ok());
        for bad in ["", "Upper", "a b", "../x", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<RunId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_cannot_smuggle_in_a_bad_id() {
        assert!(serde_json::from_str::<ClientId>("\"a/b\"").is_err());
    }
}
