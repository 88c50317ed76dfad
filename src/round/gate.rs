//! The ingest gate: which sound, finite updates are implausible.
//!
//! An update is checked by itself when it arrives. Whether its norm is in proportion is decided when its round closes, by the
//! updates of that very round: what its majority agrees on is never rejected for an older number.

use super::current::CurrentRound;
use super::words::{counted, significant};
use super::{Reject, RoundMachine};
use app::api::{ClientId, Mode};
use std::collections::BTreeMap;

/// A median of fewer norms means nothing: an attacker could be half of them.
pub(super) const ENOUGH: usize = 3;

impl RoundMachine {
    /// Why an update of that many images, at that L2 distance from its base version, is rejected when it arrives; `None` if
    /// it is accepted. The bounds are the newest configuration's.
    pub fn fault(&self, id: &ClientId, samples: u64, norm: f64) -> Option<String> {
        let config = &self.config;
        let registered = self.roster.get(id).map_or(0, |client| client.samples);
        if samples > config.max_samples {
            return Some(Reject::TooManySamples { samples, max_samples: config.max_samples }.to_string());
        }
        if samples > registered {
            return Some(format!(
                "samples must be at most {registered}, the number that client {id} has given, got {samples}: if it has more \
                 now, send PATCH .../clients/{id} with {{\"samples\": {samples}}}, then the update again"
            ));
        }
        // Comparisons with NaN are false.
        if !norm.is_finite() {
            return Some(format!(
                "its norm (the distance from the base version) is {norm}: training has diverged, a smaller learning_rate \
                 can help"
            ));
        }
        match config.max_update_norm {
            Some(limit) if norm > limit => Some(format!(
                "its norm (the distance from the base version) is {}, max_update_norm is {limit}; if it is honest, the \
                 operator can raise max_update_norm",
                significant(norm)
            )),
            _ => None,
        }
    }

    /// The updates of a round that is about to close whose norm is more than `max_norm_ratio` times the median, and why each
    /// is rejected.
    pub(super) fn out_of_proportion(&self, round: &CurrentRound) -> BTreeMap<ClientId, String> {
        let Some(ratio) = self.config.max_norm_ratio else { return BTreeMap::new() };
        let norms: BTreeMap<_, _> = round.cohort.counted().map(|(id, update)| (id, update.received.norm)).collect();
        let Some((median, sample)) = self.measure(&norms) else { return BTreeMap::new() };
        let too_large = norms.into_iter().filter(|(_, norm)| *norm > ratio * median);
        let reason = |norm| {
            format!(
                "its norm (the distance from the base version) is {}, more than {ratio} times the median of {sample}, which \
                 is {}; if it is honest, the operator can raise max_norm_ratio ({ratio})",
                significant(norm),
                significant(median)
            )
        };
        too_large.map(|(id, norm)| (id.clone(), reason(norm))).collect()
    }

    /// The median to judge by, and what it is the median of. `None`: there is nothing to compare with.
    ///
    /// The lower median, so that of two updates the smaller is the measure, and of an even number no attacker in the minority.
    /// Norms of 0 say nothing: clients that send the model back as it is would have all others rejected. A round of fewer than
    /// three updates is judged together with the recent norms of the other clients, but never more strictly than by itself.
    fn measure(&self, norms: &BTreeMap<&ClientId, f64>) -> Option<(f64, String)> {
        let own: Vec<f64> = norms.values().copied().filter(|norm| *norm > 0.0).collect();
        let count = own.len();
        let by_itself = || Some((lower_median(own.clone())?, format!("this round's {}", counted(count, "update"))));
        if count >= ENOUGH {
            return by_itself();
        }
        let others = self.recent_norms.iter().filter(|(id, norm)| !norms.contains_key(id) && *norm > 0.0);
        let together: Vec<f64> = own.iter().copied().chain(others.map(|(_, norm)| *norm)).collect();
        let what = format!("this round's and recent updates ({})", together.len());
        let together = lower_median(together).map(|median| (median, what));
        let by_itself = by_itself().filter(|_| count > 1);
        [by_itself, together].into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// How many updates an asynchronous round needs before it may close, so that it can be judged: until there are three
    /// norms to compare with, three updates, or one of each client that is there.
    pub(super) fn needed_to_judge(&self, round: &CurrentRound) -> usize {
        let is_blind = self.config.max_norm_ratio.is_some() && self.recent_norms.len() < ENOUGH;
        if is_blind && round.config.mode == Mode::Async { ENOUGH.min(self.roster.eligible()) } else { 0 }
    }

    /// Remembers the norms of a round that is over.
    pub(super) fn remember_norms(&mut self, round: &CurrentRound) {
        if round.open.config_version == self.config_version {
            for (id, update) in round.cohort.counted() {
                self.recent_norms.push(id, update.received.norm);
            }
        }
    }
}

fn lower_median(mut norms: Vec<f64>) -> Option<f64> {
    norms.sort_by(f64::total_cmp);
    norms.get(norms.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_median_of_an_even_number_is_the_smaller_of_the_two_in_the_middle() {
        assert_eq!(lower_median(vec![]), None);
        assert_eq!(lower_median(vec![3.0, 1.0]), Some(1.0));
        assert_eq!(lower_median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(lower_median(vec![4.0, 3.0, 2.0, 1.0]), Some(2.0));
    }
}
