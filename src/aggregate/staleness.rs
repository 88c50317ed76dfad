//! What updates weigh that were trained from different versions (FedBuff, Nguyen et al. 2022, arXiv:2106.06639).

use std::collections::BTreeMap;

/// The weights of one round's aggregate.
///
/// The new version is the current one plus the mean of what the updates change, each by its own base, where an update of
/// `n` samples that is `t` versions behind counts `n / sqrt(1 + t)` towards a sum that is divided by all samples: what is
/// stale moves the model less, it does not leave its weight to the others. With nothing stale that is the mean of the
/// updates themselves, weighted by samples.
///
/// All weights are scaled by one power of two, which changes no digit of the result, so that those of one sign add up to
/// less than 1: values of any finite size, from however many samples, then have a finite sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Of each update, in the order given.
    pub updates: Vec<f64>,
    /// Of the versions that they were trained from and of the current one, which make up for the rest; none that is 0.
    pub versions: BTreeMap<u64, f64>,
}

impl Weights {
    /// Of updates given as samples and the version that each was trained from, none above `current`.
    pub fn new(current: u64, updates: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut this = Self { updates: Vec::new(), versions: BTreeMap::new() };
        let updates: Vec<_> = updates.into_iter().collect();
        // Of what is stale the samples count twice: by its update, and by the current version.
        let all: f64 = updates.iter().map(|(samples, _)| 2.0 * *samples as f64).sum();
        let scale = (-all.max(1.0).log2().ceil()).exp2();
        for (samples, version) in updates {
            let samples = samples as f64 * scale; // counts of images are far below 2^53
            let staleness = current.saturating_sub(version) as f64;
            let weight = samples / (1.0 + staleness).sqrt();
            this.updates.push(weight);
            if version < current {
                *this.versions.entry(version).or_default() -= weight;
                *this.versions.entry(current).or_default() += samples;
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_nothing_stale_an_update_weighs_its_samples() {
        let weights = Weights::new(7, [(10, 7), (30, 7)]);
        assert_eq!(weights, Weights { updates: vec![10.0 / 128.0, 30.0 / 128.0], versions: BTreeMap::new() });
    }

    #[test]
    fn a_stale_update_adds_what_it_changes_by_a_lower_weight() {
        // One of 3 versions behind, hence of half its weight: new = current + (10 (a - current) + 40/2 (b - old)) / 50.
        let weights = Weights::new(7, [(10, 7), (40, 4)]);
        assert_eq!(weights.updates, [10.0 / 128.0, 20.0 / 128.0]);
        assert_eq!(weights.versions, BTreeMap::from([(4, -20.0 / 128.0), (7, 40.0 / 128.0)]));
        let sum: f64 = weights.updates.iter().chain(weights.versions.values()).sum();
        assert_eq!(sum, 50.0 / 128.0, "all that is folded is divided by all samples");
    }

    #[test]
    fn what_is_folded_by_them_stays_within_the_range_of_its_values() {
        for updates in [vec![(1, 7)], vec![(1, 7), (1, 7), (1, 3)], vec![(u64::MAX, 0), (1, 7), (10_000_000, 7)]] {
            let weights = Weights::new(7, updates);
            let of_one_sign = weights.updates.iter().chain(weights.versions.values()).filter(|weight| **weight > 0.0);
            assert!(of_one_sign.sum::<f64>() <= 1.0);
        }
        assert!(Weights::new(7, []).updates.is_empty());
    }
}
