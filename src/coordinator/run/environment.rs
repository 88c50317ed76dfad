//! The real environment of a run: SQLite and files, event streams, libtorch.

use super::health::Storage;
use super::parts::Parts;
use crate::coordinator::aggregation::Aggregator;
use crate::digest::Sha256Digest;
use crate::round::{Restored, UnixMs};
use crate::run::{Aggregation, Candidate, Environment, Ledger, Record};
use crate::store::{RunLedger, StoreError};
use crate::wire::Parameters;
use app::api::{Change, ClientId, RunConfig};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Global versions that are kept behind the current one, beside the best one: an update of an asynchronous run may have been
/// trained from any of them.
const KEEP_VERSIONS: u64 = RunConfig::MOST_STALE as u64;
/// The pause before a failed write is repeated: it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The round of an aggregation, and its result; `None` if the run stops first.
type Aggregated = (u64, Option<Result<Candidate<Arc<Parameters>>, String>>);

/// See the module.
#[derive(Debug)]
pub(in crate::coordinator) struct LiveEnvironment {
    pub parts: Arc<Parts>,
    pub ledger: RunLedger,
    pub aggregator: Arc<Aggregator>,
    /// At most one: the next round opens after it.
    pub aggregations: JoinSet<Aggregated>,
}

impl Ledger for LiveEnvironment {
    type Error = StoreError;

    async fn save(&self, record: &Record<'_>) -> Result<(), StoreError> {
        if let Record::Event { kind, client, round, detail, .. } = record {
            let (run, client) = (&self.parts.run, client.map(tracing::field::display));
            tracing::info!(%run, client, round, detail, "{kind}");
        }
        let saved = self.ledger.save(record).await;
        match &saved {
            Ok(()) => self.parts.feed.stored(Storage::Ledger),
            Err(error) => self.parts.feed.not_stored(Storage::Ledger, self.parts.clock.now_ms(), error),
        }
        match (&saved, record) {
            (Ok(()), Record::Joined { client, token }) => self.parts.tokens.insert(client.id.clone(), *token),
            (Ok(()), Record::Left { client }) => self.parts.tokens.remove(client),
            _ => {}
        }
        saved
    }

    async fn contribution(&self, client: &ClientId, round: u64) -> Result<Option<Sha256Digest>, StoreError> {
        self.ledger.contribution(client, round).await
    }

    async fn load(&self) -> Result<Restored, StoreError> {
        self.ledger.load().await
    }
}

impl Environment for LiveEnvironment {
    type Parameters = Arc<Parameters>;

    fn now_ms(&self) -> UnixMs {
        self.parts.clock.now_ms()
    }

    async fn backoff(&self, attempt: u32, error: &StoreError) -> ControlFlow<()> {
        tracing::error!(run = %self.parts.run, %error, "cannot store; trying again");
        pause(&self.parts.halt, attempt).await
    }

    fn set_blocked(&self, reason: Option<String>) {
        self.parts.feed.health(|health| health.blocked = reason);
    }

    fn publish(&self, change: Change) {
        self.parts.feed.publish(change);
    }

    fn notify_tasks(&self) {
        self.parts.feed.notify_tasks();
    }

    /// Aggregates beside the actor, which stays responsive. A failure that may pass, such as a full disk, delays the result.
    fn aggregate(&mut self, work: Aggregation) {
        let (aggregator, feed, halt) = (self.aggregator.clone(), self.parts.feed.clone(), self.parts.halt.clone());
        self.aggregations.spawn(async move {
            let (run, round, mut attempt) = (&aggregator.run, work.round, 0);
            let result = loop {
                match aggregator.run(&work).await {
                    Ok(candidate) => break Ok(candidate),
                    Err(error) if error.is_passing() => {
                        attempt += 1;
                        tracing::error!(%run, round, %error, "cannot make a model; trying again");
                        let reason = format!("Cannot make the new model, trying again: {error}");
                        feed.health(|health| health.blocked = Some(reason));
                        if pause(&halt, attempt).await.is_break() {
                            return (round, None);
                        }
                    }
                    Err(error) => {
                        tracing::error!(%run, round, %error, "a round could not be aggregated");
                        break Err(error.to_string());
                    }
                }
            };
            feed.health(|health| health.blocked = None);
            (round, Some(result))
        });
    }

    fn install(&self, version: u64, parameters: Arc<Parameters>) {
        self.parts.versions.install(version, parameters);
        let (store, run) = (self.parts.store.clone(), self.parts.run.clone());
        self.parts.tasks.spawn(async move {
            if let Err(error) = store.prune_models(&run, KEEP_VERSIONS).await {
                tracing::warn!(%run, %error, "cannot remove old models");
            }
        });
    }

    fn discard_uploads_before(&self, round: u64) {
        self.parts.uploads.discard_before(round);
    }
}

impl LiveEnvironment {
    /// The next aggregation that has ended. Never returns while there is none.
    pub async fn aggregated(&mut self) -> Result<Aggregated, JoinError> {
        match self.aggregations.join_next().await {
            Some(aggregated) => aggregated,
            None => std::future::pending().await,
        }
    }
}

/// Waits before the next attempt. `Break`: the run stops.
async fn pause(halt: &CancellationToken, attempt: u32) -> ControlFlow<()> {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(MAX_PAUSE);
    match tokio::time::timeout(pause, halt.cancelled()).await {
        Ok(()) => ControlFlow::Break(()),
        Err(_) => ControlFlow::Continue(()),
    }
}
