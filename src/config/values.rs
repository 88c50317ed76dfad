//! The types of single settings, and how each reads from a text.

use app::api::{Dataset, RegisterRequest};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A text that appears in no log and no error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromStr for Secret {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=256 => Ok(Self(text.to_owned())),
            len => Err(format!("must have between 1 and 256 bytes, got {len}")),
        }
    }
}

/// Where one dataset lies: `cifar10=/data/cifar10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPath {
    /// Which dataset.
    pub dataset: Dataset,
    /// Folder or archive, see [`crate::model::dataset::load`].
    pub path: PathBuf,
}

impl FromStr for DatasetPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (dataset, path) =
            text.split_once('=').ok_or_else(|| format!("'{text}' must have the form DATASET=PATH"))?;
        if path.is_empty() {
            return Err(format!("'{text}' names no path"));
        }
        Ok(Self { dataset: dataset.parse()?, path: path.into() })
    }
}

/// The path under which a proxy serves the coordinator: `/fl`, or empty for the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    /// Without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BasePath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let is_plain = |part: &str| {
            let is_name = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c));
            is_name && !matches!(part, "" | "." | "..")
        };
        match path.strip_prefix('/') {
            Some(parts) if parts.split('/').all(is_plain) => Ok(Self(path.to_owned())),
            None if text == "/" => Ok(Self::default()),
            _ => Err(format!("'{text}' is not a path such as /fl")),
        }
    }
}

/// Addresses of one machine or network: `10.0.0.7` or `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether the address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differing = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        differing >= self.bits
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("'{text}' is neither an address nor a network such as 10.0.0.0/8");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| problem())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| problem())?;
        if bits > most { Err(problem()) } else { Ok(Self { address, bits }) }
    }
}

/// The dataset whose test split the coordinator evaluates, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestDataset(pub Option<Dataset>);

impl FromStr for TestDataset {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => text.parse().map(|dataset| Self(Some(dataset))).map_err(|e| format!("{e}, none")),
        }
    }
}

impl fmt::Display for TestDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.map_or("none", Dataset::as_str))
    }
}

/// One of the words of an `app::api` enum; `--help` lists them.
pub(super) fn words<T>(all: &'static [T]) -> impl TypedValueParser<Value = T>
where
    T: Copy + fmt::Display + FromStr<Err = String> + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(T::to_string)).try_map(|word| word.parse::<T>())
}

pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "'{text}' is not an IP address with a port: 127.0.0.1:3000 accepts connections from this machine, 0.0.0.0:3000 \
             from others as well"
        )
    })
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = tracing_subscriber::EnvFilter::builder().parse(text);
    filter.map(|_| text.to_owned()).map_err(|e| format!("'{text}' is not a log filter: {e}"))
}

pub(super) fn base_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest.map(|rest| rest.trim_end_matches('/')) {
        Some(rest) if !rest.is_empty() && !rest.contains(['?', '#', ' ']) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(format!("'{text}' is not an address such as http://127.0.0.1:3000")),
    }
}

pub(super) fn client_name(text: &str) -> Result<String, String> {
    let request = RegisterRequest { name: text.to_owned(), samples: 1, device: String::new(), join_secret: None };
    request.problems().into_iter().next().map_or_else(|| Ok(text.to_owned()), Err)
}

pub(super) fn share(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("'{text}' must be a number above 0 and at most 1"))
}
