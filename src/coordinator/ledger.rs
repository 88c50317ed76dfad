//! How a run's task writes down what happened: until it is written, or the coordinator stops.

use super::clock::Clock;
use crate::store::{Store, StoreError};
use app::api::{ClientView, RunId};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The first pause before a write is tried again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The store, for one run.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) run: RunId,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) shutdown: CancellationToken,
}

impl Ledger {
    /// Tries until it is stored or the coordinator stops: a full disk delays a run, it does not make it forget.
    pub(super) async fn persist<F>(&self, write: impl Fn(Store, RunId) -> F)
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = write(self.store.clone(), self.run.clone()).await {
            tracing::error!(run = %self.run, %error, "cannot store; trying again");
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// Notes what happened, in the log and in the database. The latter is for people: a failure is only logged.
    pub(super) async fn note(&self, kind: &str, client: Option<&ClientView>, round: Option<u64>, detail: &str) {
        let id = client.map(|c| &c.id);
        tracing::info!(run = %self.run, client = id.map(tracing::field::display), round, detail, "{kind}");
        if let Err(error) = self.store.log_event(&self.run, self.clock.now_ms(), kind, id, round, detail).await {
            tracing::warn!(run = %self.run, %error, "cannot note an event");
        }
    }
}
