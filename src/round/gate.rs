//! The ingest gate: what of a sound, finite update is implausible. Its bounds are the newest configuration's.

use super::RoundMachine;
use app::api::ClientId;

impl RoundMachine {
    /// Why an update of that many images, at that L2 distance from its base version, is not to be taken; none: it may be.
    ///
    /// The norm is held against the run's absolute bound, and against a multiple of the median: of what the last complete
    /// round counted, or of what is counted in this one once that is at least 3 updates and half of those that are wanted,
    /// whichever is larger. Less would let the first few, who send next to nothing, have all others refused.
    pub fn fault(&self, id: &ClientId, samples: u64, norm: f64) -> Option<String> {
        let config = &self.config;
        let registered = self.roster.get(id).map_or(0, |client| client.samples);
        let most = registered.min(config.max_samples);
        if samples > most {
            return Some(format!("samples is {samples}, this client has at most {most}"));
        }
        // Comparisons with NaN are false.
        if !norm.is_finite() {
            return Some(format!("its distance from the base version is {norm}"));
        }
        if let Some(limit) = config.max_update_norm
            && norm > limit
        {
            return Some(format!("its distance from the base version is {norm:.4}, max_update_norm is {limit}"));
        }
        let here = self.round.as_ref().filter(|round| round.is_half_full()).and_then(|round| round.typical_norm());
        let typical = here.into_iter().chain(self.typical_norm).reduce(f64::max);
        // Of clients that send the model back as it is the median is 0, which says nothing of the others.
        if let (Some(ratio), Some(typical)) = (config.max_norm_ratio, typical.filter(|norm| *norm > 0.0))
            && norm > ratio * typical
        {
            return Some(format!(
                "its distance from the base version is {norm:.4}, more than {ratio} (max_norm_ratio) times the median, \
                 which is {typical:.4}"
            ));
        }
        None
    }
}
