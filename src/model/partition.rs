//! Splits a dataset among clients, as experiments do that simulate clients with data of their own.
//!
//! A split depends only on the labels, the number of parts and a seed: agents on different machines that agree on these agree on
//! the split without communicating. Pixels and files are not needed.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};
use std::fmt::{self, Write};
use std::str::FromStr;

type Rng = ChaCha8Rng;

/// How images are dealt to clients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Partitioner {
    /// Shuffled and dealt equally: sizes differ by at most one image.
    Iid,
    /// Shuffled, the sizes drawn from a symmetric Dirichlet distribution ("quantity skew" of Li, Diao, Chen and He 2021,
    /// arXiv:2102.02079): each client has all classes, some have few images.
    DirichletQuantity {
        /// Concentration: small is uneven, large is even.
        alpha: f64,
    },
    /// For each class the clients' shares are drawn from a symmetric Dirichlet distribution (Hsu, Qi and Brown 2019,
    /// arXiv:1909.06335, in the per-class form of Li et al. 2021): clients differ in classes and in size.
    DirichletLabel {
        /// Concentration: small means few classes a client.
        alpha: f64,
    },
    /// Sorted by label, cut into equal shards, so many dealt to each client at random (McMahan et al. 2017,
    /// arXiv:1602.05629, section 3, with 2): each client has few classes.
    Shards {
        /// Shards a client.
        per_client: u32,
    },
}

impl Partitioner {
    /// The smallest and the largest concentration.
    pub const ALPHA: (f64, f64) = (0.001, 1_000_000.0);
    /// The most shards a client.
    pub const MAX_SHARDS: u32 = 1_000;

    /// The indices of each part's images, ascending. Every image is in exactly one part, no part is empty, and the
    /// same arguments give the same parts.
    ///
    /// Where a draw leaves a part without images, it takes one from the largest part: the sources draw again and again
    /// instead, which for small concentrations and many clients need not end.
    ///
    /// # Errors
    /// See [`PartitionError`].
    pub fn partition(
        &self,
        labels: &[u8],
        classes: usize,
        parts: usize,
        seed: u64,
    ) -> Result<Vec<Vec<usize>>, PartitionError> {
        let per_part = match self {
            Self::Shards { per_client } => *per_client as usize,
            _ => 1,
        };
        let needed = parts.checked_mul(per_part).filter(|&n| n > 0 && n <= labels.len());
        let needed = needed.ok_or(PartitionError::TooFewImages { images: labels.len(), parts, per_part })?;
        if let Some((index, &label)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= classes) {
            return Err(PartitionError::Label { index, label, classes });
        }

        let mut rng = Rng::seed_from_u64(seed);
        let mut result = match *self {
            Self::Iid => cut(&shuffled(0..labels.len(), &mut rng), &vec![1.0; parts]),
            Self::DirichletQuantity { alpha } => {
                let indices = shuffled(0..labels.len(), &mut rng);
                cut(&indices, &dirichlet(alpha, parts, &mut rng))
            }
            Self::DirichletLabel { alpha } => by_label_shares(labels, classes, alpha, parts, &mut rng),
            Self::Shards { per_client } => by_shards(labels, needed, per_client as usize, &mut rng),
        };
        fill_empty(&mut result);
        for part in &mut result {
            part.sort_unstable();
        }
        Ok(result)
    }
}

/// Why there is no such split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// No part may be empty, and there must be one.
    #[error(
        "{images} images cannot be split into {parts} parts of at least {per_part} each: choose fewer parts with --partition, or another --split"
    )]
    TooFewImages {
        /// How many there are.
        images: usize,
        /// How many parts are wanted.
        parts: usize,
        /// Images or shards that each part needs.
        per_part: usize,
    },
    /// A label names no class.
    #[error("the label of image {index} is {label}, expected 0 to {}", .classes.saturating_sub(1))]
    Label {
        /// Which image.
        index: usize,
        /// Its label.
        label: u8,
        /// How many classes there are.
        classes: usize,
    },
}

fn shuffled(indices: impl IntoIterator<Item = usize>, rng: &mut Rng) -> Vec<usize> {
    let mut indices: Vec<_> = indices.into_iter().collect();
    indices.shuffle(rng);
    indices
}

/// Cuts a list into consecutive pieces in proportion to the weights. Borders are rounded, not sizes, so that the pieces
/// cover the list whatever the rounding does; equal weights give sizes that differ by at most one.
fn cut(indices: &[usize], weights: &[f64]) -> Vec<Vec<usize>> {
    let total: f64 = weights.iter().sum();
    let (mut sum, mut start) = (0.0, 0);
    let mut pieces: Vec<Vec<usize>> = weights
        .iter()
        .map(|weight| {
            sum += weight;
            // A float's cast saturates; `clamp` keeps the borders in order.
            let end = ((sum / total * indices.len() as f64).round() as usize).clamp(start, indices.len());
            let piece = indices[start..end].to_vec();
            start = end;
            piece
        })
        .collect();
    if let Some(last) = pieces.last_mut() {
        last.extend_from_slice(&indices[start..]);
    }
    pieces
}

fn by_label_shares(labels: &[u8], classes: usize, alpha: f64, parts: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut of_class = vec![Vec::new(); classes];
    for (i, &label) in labels.iter().enumerate() {
        of_class[usize::from(label)].push(i);
    }
    let mut result = vec![Vec::new(); parts];
    for indices in of_class {
        let indices = shuffled(indices, rng);
        for (part, piece) in result.iter_mut().zip(cut(&indices, &dirichlet(alpha, parts, rng))) {
            part.extend(piece);
        }
    }
    result
}

fn by_shards(labels: &[u8], shards: usize, per_client: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut sorted: Vec<_> = (0..labels.len()).collect();
    sorted.sort_by_key(|&i| labels[i]); // stable: the order within a class is the dataset's own
    let mut shards = cut(&sorted, &vec![1.0; shards]);
    shards.shuffle(rng);
    shards.chunks(per_client).map(|chunk| chunk.concat()).collect()
}

/// One draw from a symmetric Dirichlet distribution, up to a common factor.
///
/// Independent Gamma(alpha, 1) variables, divided by their sum, are Dirichlet distributed (Devroye 1986, chapter XI.4).
/// For small alpha they all underflow to zero, so their logarithms are drawn: Gamma(alpha) is
/// Gamma(alpha + 1) * U^(1/alpha) (Marsaglia and Tsang 2000, section 6), and -ln U is exponential. The largest weight
/// becomes 1.
fn dirichlet(alpha: f64, parts: usize, rng: &mut Rng) -> Vec<f64> {
    let gamma = Gamma::new(alpha + 1.0, 1.0).expect("alpha + 1 is positive and finite within Partitioner::ALPHA");
    let logs: Vec<f64> = (0..parts)
        .map(|_| {
            let exponential: f64 = Exp1.sample(rng);
            gamma.sample(rng).ln() - exponential / alpha
        })
        .collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter().map(|log| (log - largest).exp()).collect()
}

/// Gives each empty part one image of the part that is then the largest (the first of equals).
fn fill_empty(parts: &mut [Vec<usize>]) {
    for empty in 0..parts.len() {
        if parts[empty].is_empty() {
            let largest = (0..parts.len()).rev().max_by_key(|&i| parts[i].len());
            let image = largest.and_then(|i| parts[i].pop());
            parts[empty].extend(image);
        }
    }
}

impl fmt::Display for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iid => f.write_str("iid"),
            Self::DirichletQuantity { alpha } => write!(f, "dirichlet-quantity:{alpha:?}"),
            Self::DirichletLabel { alpha } => write!(f, "dirichlet-label:{alpha:?}"),
            Self::Shards { per_client } => write!(f, "shards:{per_client}"),
        }
    }
}

/// Why a text names no [`Partitioner`] or [`PartitionChoice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No such partitioner.
    #[error("'{0}' is none of iid, dirichlet-quantity:ALPHA, dirichlet-label:ALPHA, shards:NUMBER")]
    Unknown(String),
    /// Not a concentration, or out of bounds.
    #[error("alpha is '{0}', allowed are {low} to {high}", low = Partitioner::ALPHA.0, high = Partitioner::ALPHA.1)]
    Alpha(String),
    /// Not a number of shards, or out of bounds.
    #[error("shards a client is '{0}', allowed are 1 to {max}", max = Partitioner::MAX_SHARDS)]
    Shards(String),
    /// Not of the form `2/3`, or out of bounds.
    #[error("'{0}' is not a part: 2/3 is the second of three, allowed are 1/1 to {max}/{max}", max = PartitionChoice::MAX_PARTS)]
    Choice(String),
}

impl FromStr for Partitioner {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let alpha = |text: &str| {
            let (low, high) = Self::ALPHA;
            let alpha = text.parse().ok().filter(|alpha| (low..=high).contains(alpha));
            alpha.ok_or_else(|| ParseError::Alpha(text.to_owned()))
        };
        match text.split_once(':') {
            None if text == "iid" => Ok(Self::Iid),
            Some(("dirichlet-quantity", number)) => Ok(Self::DirichletQuantity { alpha: alpha(number)? }),
            Some(("dirichlet-label", number)) => Ok(Self::DirichletLabel { alpha: alpha(number)? }),
            Some(("shards", number)) => {
                let per_client = number.parse().ok().filter(|n| (1..=Self::MAX_SHARDS).contains(n));
                Ok(Self::Shards { per_client: per_client.ok_or_else(|| ParseError::Shards(number.to_owned()))? })
            }
            _ => Err(ParseError::Unknown(text.to_owned())),
        }
    }
}

/// Which part of how many: `2/3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionChoice {
    /// From 1 to `of`.
    pub part: usize,
    /// How many parts there are.
    pub of: usize,
}

impl PartitionChoice {
    /// The most parts.
    pub const MAX_PARTS: usize = 1_000_000;
}

impl fmt::Display for PartitionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

impl FromStr for PartitionChoice {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parsed = text.split_once('/').and_then(|(part, of)| {
            let choice = Self { part: part.parse().ok()?, of: of.parse().ok()? };
            (1..=choice.of.min(Self::MAX_PARTS)).contains(&choice.part).then_some(choice)
        });
        parsed.filter(|choice| choice.of <= Self::MAX_PARTS).ok_or_else(|| ParseError::Choice(text.to_owned()))
    }
}

/// How many images of each class are among those indices.
pub fn class_counts(part: &[usize], labels: &[u8], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in part.iter().filter_map(|&i| labels.get(i)) {
        if let Some(count) = counts.get_mut(usize::from(*label)) {
            *count += 1;
        }
    }
    counts
}

/// One line a part, for logs: its number, its images, its images of each class.
pub fn describe(parts: &[Vec<usize>], labels: &[u8], classes: usize) -> String {
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        let line = format!("part {}/{}: {} images, by class", i + 1, parts.len(), part.len());
        let counts: String = class_counts(part, labels, classes).iter().map(|n| format!(" {n}")).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}{counts}");
    }
    text
}
