//! What each update of a round weighs: by its samples, less where it is stale (FedBuff, Nguyen et al. 2022, arXiv:2106.06639),
//! and within the share of the round that one client may have.

/// The bound on a share acts in rounds of at least that many updates. Two clients of 100 and 50 samples would have to be equal
/// under a bound of 0.5, which no honest run wants.
const FEWEST_BOUNDED: usize = 3;

/// What the updates of a round weigh, each list in the order of the updates.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    /// By samples and staleness alone.
    pub claimed: Vec<f64>,
    /// The same, none above its share of their sum.
    pub weights: Vec<f64>,
    /// The factor of each update's change: the new version is the current one plus the sum of the changes, each from its own
    /// base, times this. An update of `n` samples that is `t` versions behind has `n / sqrt(1 + t)` of all samples: a stale
    /// update moves the model less, and does not leave its weight to the others. Where none is stale, these add up to 1.
    pub shares: Vec<f64>,
}

impl Weights {
    /// Of updates, given as samples and the number of versions that each is behind, of which none may have more than
    /// `max_share` of the sum of the weights. A bound below one part in their number makes all of them equal.
    pub fn of(updates: &[(u64, u64)], max_share: f64) -> Self {
        let discount = |staleness: u64| (1.0 + staleness as f64).sqrt(); // counts and versions are far below 2^53
        let weight = |(samples, staleness): &(u64, u64)| *samples as f64 / discount(*staleness);
        let claimed: Vec<f64> = updates.iter().map(weight).collect();
        let cap = cap(&claimed, max_share);
        let weights: Vec<f64> = claimed.iter().map(|weight| weight.min(cap)).collect();
        let each = || updates.iter().zip(&claimed);
        let samples: Vec<f64> = each()
            .map(|((samples, staleness), claimed)| match *claimed > cap {
                true => cap * discount(*staleness),
                false => *samples as f64,
            })
            .collect();
        let all: f64 = samples.iter().sum();
        let share = |(samples, (_, staleness)): (f64, &(u64, u64))| samples / all.max(1.0) / discount(*staleness);
        let shares = samples.into_iter().zip(updates).map(share).collect();
        Self { claimed, weights, shares }
    }

    /// The updates whose weight was lowered, the heaviest claim first; of equal ones in their order.
    pub fn lowered(&self) -> Vec<usize> {
        let is_lowered = |i: &usize| self.weights[*i] < self.claimed[*i];
        let mut lowered: Vec<_> = (0..self.claimed.len()).filter(is_lowered).collect();
        lowered.sort_by(|a, b| self.claimed[*b].total_cmp(&self.claimed[*a]));
        lowered
    }
}

/// The largest weight that is no more than `max_share` of the sum once all heavier ones are lowered to it; infinite if none is
/// heavier.
fn cap(weights: &[f64], max_share: f64) -> f64 {
    if weights.len() < FEWEST_BOUNDED || max_share >= 1.0 {
        return f64::INFINITY;
    }
    let mut lightest_first = weights.to_vec();
    lightest_first.sort_by(f64::total_cmp);
    // The sum of each weight and all lighter ones: not by subtraction, which would lose light ones beside a huge one.
    let sums = lightest_first.iter().scan(0.0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    let sums: Vec<f64> = sums.collect();
    let mut heavier = f64::INFINITY;
    for (lowered, (weight, rest)) in lightest_first.iter().zip(sums).rev().enumerate() {
        // With that many at the cap: cap = max_share * (lowered * cap + rest).
        let left = 1.0 - lowered as f64 * max_share;
        let cap = max_share * rest / left;
        if left > 0.0 && *weight <= cap {
            return if lowered == 0 { f64::INFINITY } else { cap.min(heavier) };
        }
        heavier = *weight;
    }
    heavier // the lightest: there are too few for such a bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fresh(samples: &[u64]) -> Vec<(u64, u64)> {
        samples.iter().map(|samples| (*samples, 0)).collect()
    }

    #[test]
    fn with_nothing_stale_an_update_has_its_share_of_the_samples() {
        assert_eq!(Weights::of(&[(10, 0), (30, 0)], 1.0).shares, [0.25, 0.75]);
        assert!(Weights::of(&[], 0.5).shares.is_empty());
    }

    #[test]
    fn a_stale_update_has_less_and_the_others_no_more() {
        // 3 versions behind: half of it.
        assert_eq!(Weights::of(&[(10, 0), (40, 3)], 1.0).shares, [0.2, 0.4]);
    }

    #[test]
    fn a_client_that_claims_ten_million_samples_has_half_of_a_round_of_three() {
        let weights = Weights::of(&fresh(&[100, 10_000_000, 100]), 0.5);
        assert_eq!((weights.weights.as_slice(), weights.lowered()), (&[100.0, 200.0, 100.0][..], vec![1]));
        assert_eq!(weights.shares, [0.25, 0.5, 0.25]);
    }

    #[test]
    fn all_that_exceed_the_bound_are_lowered_to_the_same_weight_the_heaviest_claim_first() {
        let weights = Weights::of(&fresh(&[1_000, 1, 5_000, 1, 1]), 0.375);
        assert_eq!((weights.weights.as_slice(), weights.lowered()), (&[4.5, 1.0, 4.5, 1.0, 1.0][..], vec![2, 0]));
    }

    #[test]
    fn a_bound_below_one_part_in_the_number_of_clients_makes_them_equal() {
        assert_eq!(Weights::of(&fresh(&[7, 1, 3]), 0.1).weights, [1.0; 3]);
    }

    #[test]
    fn the_bound_acts_from_three_updates_on() {
        for updates in [fresh(&[100]), fresh(&[100, 50])] {
            let weights = Weights::of(&updates, 0.5);
            assert_eq!((weights.lowered(), weights.shares), (vec![], Weights::of(&updates, 1.0).shares));
        }
    }

    #[test]
    fn a_fresh_update_is_bounded_beside_stale_ones() {
        // Given two updates that are 3 versions behind, of half their weight, and a fresh one that claims everything
        let weights = Weights::of(&[(100, 3), (100, 3), (10_000_000, 0)], 0.5);
        assert_eq!(weights.weights, [50.0, 50.0, 100.0]);
        // then 100 samples count for the last one: its share is half of what moves the model.
        assert_eq!(weights.shares, [100.0 / 300.0 / 2.0, 100.0 / 300.0 / 2.0, 100.0 / 300.0]);
    }

    proptest! {
        #[test]
        fn no_weight_exceeds_its_share_and_none_is_lowered_in_vain(
            updates in prop::collection::vec((1..=1_000_000_000_000u64, 0..=10u64), 3..40), max_share in 0.01..1.0f64,
        ) {
            let of = Weights::of(&updates, max_share);
            let (sum, all): (f64, f64) = (of.weights.iter().sum(), of.shares.iter().sum());
            let is_possible = max_share * updates.len() as f64 >= 1.0;
            let most = if is_possible { max_share } else { 1.0 / updates.len() as f64 };
            for (i, weight) in of.weights.iter().enumerate() {
                prop_assert!(weight / sum <= most * (1.0 + 1e-9), "{} of {}", weight, sum);
                prop_assert!(of.shares[i] <= most * (1.0 + 1e-9) && (of.shares[i] / all - weight / sum).abs() < 1e-9);
                let is_lowered = *weight < of.claimed[i];
                prop_assert!(!is_lowered || weight / sum >= most * (1.0 - 1e-9), "{} of {}", weight, sum);
            }
            prop_assert!(all <= 1.0 + 1e-9);
        }

        #[test]
        fn a_heavier_claim_never_weighs_less(
            updates in prop::collection::vec((1..=1_000_000_000_000u64, 0..=10u64), 1..40), max_share in 0.01..=1.0f64,
        ) {
            let of = Weights::of(&updates, max_share);
            let mut by_claim: Vec<usize> = (0..updates.len()).collect();
            by_claim.sort_by(|a, b| of.claimed[*a].total_cmp(&of.claimed[*b]));
            prop_assert!(by_claim.is_sorted_by(|a, b| of.weights[*a] <= of.weights[*b]));
        }

        #[test]
        fn without_the_bound_or_within_it_each_has_exactly_its_part(
            updates in prop::collection::vec((1..=1_000_000_000_000u64, 0..=10u64), 1..40), max_share in 0.01..=1.0f64,
        ) {
            let all: f64 = updates.iter().map(|(samples, _)| *samples as f64).sum();
            let part = |(samples, behind): &(u64, u64)| *samples as f64 / all / (1.0 + *behind as f64).sqrt();
            let exact: Vec<f64> = updates.iter().map(part).collect();
            prop_assert_eq!(&Weights::of(&updates, 1.0).shares, &exact);
            let bounded = Weights::of(&updates, max_share);
            prop_assert!(!bounded.lowered().is_empty() || bounded.shares == exact);
        }
    }
}
