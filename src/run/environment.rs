//! What a run needs from its surroundings.

use super::Ledger;
use crate::digest::Sha256Digest;
use crate::round::{Part, UnixMs};
use app::api::Change;
use std::ops::ControlFlow;

/// The surroundings of one run: a ledger, a clock, watchers, and somebody who aggregates. The coordinator's are real, those
/// of the simulator may crash between any two steps.
pub trait Environment: Ledger + Sized {
    /// The parameters of a global model.
    type Parameters: Send + Sync;

    /// Now, in Unix milliseconds that never run backwards.
    fn now_ms(&self) -> UnixMs;

    /// Waits before a write that has failed for the `attempt`-th time is repeated. `Break`: the run stops.
    fn backoff(&self, attempt: u32, error: &Self::Error) -> impl Future<Output = ControlFlow<()>> + Send;

    /// Shows to everybody why the run cannot continue; `None`: it can. Decisions that are not stored yet are not visible.
    fn set_blocked(&self, reason: Option<String>);

    /// Shows a change to everybody who watches the run.
    fn publish(&self, change: Change);

    /// Some client's task may have changed: pending requests for a task are answered anew.
    fn notify_tasks(&self);

    /// Starts to aggregate updates, all of which are stored, and to evaluate the result. The result is passed to
    /// [`super::Run::aggregated`].
    fn aggregate(&mut self, work: Aggregation);

    /// Makes stored parameters the current global version.
    fn install(&self, version: u64, parameters: Self::Parameters);

    /// Discards unfinished uploads for rounds before that one.
    fn discard_uploads_before(&self, round: u64);
}

/// Updates to be combined.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregation {
    /// The round that counts them.
    pub round: u64,
    /// The global version that the new one follows.
    pub base_version: u64,
    /// The updates, ordered by client.
    pub parts: Vec<Part>,
}

/// A new global model that is durable, but not yet the run's current version.
#[derive(Debug)]
pub struct Candidate<P> {
    /// Its parameters.
    pub parameters: P,
    /// Name of the blob that holds them.
    pub sha256: Sha256Digest,
    /// Loss on the test split.
    pub test_loss: Option<f64>,
    /// Accuracy on the test split: 0 to 1.
    pub test_accuracy: Option<f64>,
}
