//! Norms of earlier updates, for rounds that have too few of their own.

use app::api::ClientId;
use std::collections::VecDeque;

/// Norms of earlier rounds that are kept, one a client.
pub const RECENT_NORMS: usize = 9;

/// The last norm of each of the clients that sent one most recently, newest first. They help to judge a round of one or two
/// updates, and are forgotten when the configuration changes: another learning rate makes other norms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecentNorms(VecDeque<(ClientId, f64)>);

impl RecentNorms {
    /// Takes in an update's norm, newer than all that are here.
    pub fn push(&mut self, client: &ClientId, norm: f64) {
        self.0.retain(|(id, _)| id != client);
        self.0.push_front((client.clone(), norm));
        self.0.truncate(RECENT_NORMS);
    }

    /// Newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(ClientId, f64)> {
        self.0.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
