//! Whom a round asks. Fair and repeatable: nothing here depends on arrival, speed or luck.

use app::api::ClientId;
use sha2::{Digest, Sha256};

/// Picks `size` of the candidates (round they were last asked in, id), sorted by id.
///
/// Least recently asked first; those who waited equally long in an order drawn from seed and round, so that no client
/// is favoured for its id.
pub(super) fn choose(
    seed: u64,
    round: u64,
    size: usize,
    candidates: impl Iterator<Item = (u64, ClientId)>,
) -> Vec<ClientId> {
    let mut ranked: Vec<_> = candidates.map(|(asked, id)| (asked, lot(seed, round, &id), id)).collect();
    ranked.sort_unstable();
    let mut cohort: Vec<_> = ranked.into_iter().take(size).map(|(_, _, id)| id).collect();
    cohort.sort_unstable();
    cohort
}

/// The client's lot of this round. SHA-256, so that it is the same on every platform and in every version.
fn lot(seed: u64, round: u64, id: &ClientId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(round.to_le_bytes());
    hash.update(id.as_str());
    hash.finalize().into()
}
