//! What updates weigh that were trained from different versions (FedBuff, Nguyen et al. 2022, arXiv:2106.06639).

/// The share of each update, given as samples and the version that it was trained from, none above `current`.
///
/// The new version is the current one plus the sum of what the updates change, each from its own base, times its share: an
/// update of `n` samples that is `t` versions behind has `n / sqrt(1 + t)` of all samples. So a stale update moves the model
/// less, and does not leave its weight to the others. Where no update is stale, the shares add up to 1.
pub fn shares(current: u64, updates: impl IntoIterator<Item = (u64, u64)>) -> Vec<f64> {
    let updates: Vec<_> = updates.into_iter().collect();
    let all: f64 = updates.iter().map(|(samples, _)| *samples as f64).sum(); // counts of images are far below 2^53
    let share = |(samples, version): (u64, u64)| {
        let staleness = current.saturating_sub(version) as f64;
        samples as f64 / all.max(1.0) / (1.0 + staleness).sqrt()
    };
    updates.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_nothing_stale_an_update_has_its_share_of_the_samples() {
        assert_eq!(shares(7, [(10, 7), (30, 7)]), [0.25, 0.75]);
        assert!(shares(7, []).is_empty());
    }

    #[test]
    fn a_stale_update_has_less_and_the_others_no_more() {
        // 3 versions behind: half of it.
        assert_eq!(shares(7, [(10, 7), (40, 4)]), [0.2, 0.4]);
    }

    #[test]
    fn shares_add_up_to_at_most_1_for_any_samples() {
        for updates in [vec![(1, 7)], vec![(1, 7), (1, 7), (1, 3)], vec![(u64::MAX, 0), (1, 7), (10_000_000, 7)]] {
            assert!(shares(7, updates).iter().sum::<f64>() <= 1.0);
        }
    }
}
