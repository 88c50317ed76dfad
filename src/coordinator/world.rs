//! The real world of a run: SQLite and files, the page and the event streams, libtorch.

use super::aggregation::{self, AggregationError, NewModel};
use super::clock::Clock;
use super::evaluator::Evaluator;
use super::handle::Message;
use super::incoming::Body;
use super::ledger;
use super::models::blocking;
use super::published::Published;
use super::trouble::Sent;
use crate::conductor::{Aggregation, Made, Record, Update, World};
use crate::digest::Sha256Digest;
use crate::model::Device;
use crate::round::{UnixMs, time};
use crate::store::{BlobError, Store, StoreError, StoredUpdate};
use app::api::{Change, ClientId, RunId};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Global versions whose blobs are kept behind the current one, the best one aside: as far as the base of an asynchronous
/// run's update may be behind.
const KEEP_VERSIONS: u64 = app::api::RunConfig::MOST_STALE as u64;
/// The first pause before a write is tried again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Bytes that tell whether the body of an update can be stored: not so few that a disk which is full still takes them.
const A_BODY: usize = 64 << 10;

/// What one run's task works with.
#[derive(Debug, Clone)]
pub(super) struct Real {
    pub(super) run: RunId,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) device: Device,
    pub(super) published: Arc<Published>,
    pub(super) max_upload_mb: u32,
    pub(super) evaluator: Option<Arc<Evaluator>>,
    /// Ends the run.
    pub(super) halt: CancellationToken,
    /// To the run's task, from work that runs beside it.
    pub(super) outbox: mpsc::WeakSender<Message>,
    /// The run's task, and what works beside it.
    pub(super) tasks: TaskTracker,
}

impl World for Real {
    type Body = Body;
    type Model = Box<NewModel>;
    type Error = StoreError;

    fn now_ms(&self) -> UnixMs {
        self.clock.now_ms()
    }

    async fn save(&self, record: Record<'_, Self>) -> Result<(), StoreError> {
        let saved = self.write(record).await;
        match &saved {
            Ok(()) => self.stored(Sent::Words),
            Err(error) => self.not_stored(Sent::Words, error),
        }
        saved
    }

    async fn contribution(&self, client: &ClientId, round: u64) -> Result<Option<Sha256Digest>, StoreError> {
        self.store.contribution(&self.run, round, client).await
    }

    async fn pause(&self, attempt: u32, error: &StoreError) -> ControlFlow<()> {
        tracing::error!(run = %self.run, %error, "cannot store; trying again");
        self.wait(attempt).await
    }

    fn stuck(&self, why: Option<String>) {
        self.published.trouble(|trouble| trouble.decided = why);
    }

    fn publish(&self, change: Change) {
        self.published.publish(change);
    }

    fn wake(&self) {
        self.published.wake_clients();
    }

    /// Starts the heavy part beside the run's task, which stays responsive; its result comes back as a message. What may
    /// pass, such as a full disk, delays it.
    fn aggregate(&self, work: Aggregation) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let (round, mut attempt) = (work.round, 0);
            let result = loop {
                match this.combined(&work).await {
                    Ok(made) => break Ok(made),
                    Err(error) if error.is_passing() => {
                        attempt += 1;
                        tracing::error!(run = %this.run, round, %error, "cannot make a model; trying again");
                        let why = format!("Cannot make the new model, trying again: {error}");
                        this.published.trouble(|trouble| trouble.combining = Some(why));
                        if this.wait(attempt).await.is_break() {
                            return; // the round goes on after the restart
                        }
                    }
                    Err(error) => {
                        tracing::error!(run = %this.run, round, %error, "a round could not be aggregated");
                        break Err(error.to_string());
                    }
                }
            };
            this.published.trouble(|trouble| trouble.combining = None);
            // Without an outbox the run has ended: nobody is left to tell.
            if let Some(outbox) = this.outbox.upgrade() {
                let _ = outbox.send(Message::Aggregated(round, result)).await;
            }
        });
    }

    fn adopt(&self, version: u64, model: Box<NewModel>) {
        self.published.models.swap(version, Arc::new(model.parameters));
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = this.store.prune_models(&this.run, KEEP_VERSIONS).await {
                tracing::warn!(run = %this.run, %error, "cannot remove old models");
            }
        });
    }

    fn forget(&self, before_round: u64) {
        self.published.uploads.clear(before_round);
    }
}

impl Real {
    /// Stores one thing, see [`World::save`].
    async fn write(&self, record: Record<'_, Self>) -> Result<(), StoreError> {
        if let Record::Event { kind, client, round, detail, .. } = &record {
            let (run, client) = (&self.run, client.map(tracing::field::display));
            tracing::info!(%run, client, round, detail, "{kind}");
        }
        ledger::save(&self.store, &self.run, &record, stored_update, |model| model.sha256).await?;
        if let Record::Update { update, .. } = record {
            update.body.spool.keep();
        }
        Ok(())
    }

    /// Combines updates. A panic over that is a failure like others: the round would wait for its end for ever.
    async fn combined(&self, work: &Aggregation) -> Result<Made<Box<NewModel>>, AggregationError> {
        let (this, work) = (self.clone(), work.clone());
        let combining = tokio::spawn(async move { aggregation::run(&this, &work).await });
        combining.await.unwrap_or_else(|error| Err(AggregationError::BrokenDown(error.to_string())))
    }

    /// Says that what is sent can be stored.
    pub(super) fn stored(&self, sent: Sent) {
        self.published.trouble(|trouble| *trouble.unstored(sent) = None);
    }

    /// Says that what is sent cannot be stored, until it can.
    pub(super) fn not_stored(&self, sent: Sent, error: &StoreError) {
        let (since, none) = (time::of_day(self.now_ms()), sent.none());
        let why = format!("Since {since} {none} can be stored ({error}), clients are told to try again.");
        let is_first = self.published.trouble(|trouble| {
            let unstored = trouble.unstored(sent);
            let is_first = unstored.is_none();
            unstored.get_or_insert_with(|| why.clone());
            is_first
        });
        if is_first {
            self.tasks.spawn(self.clone().until_stored(sent, why));
        }
    }

    /// Tries to store something of that kind until that succeeds: if nobody sends anything more, nothing else would tell that
    /// it can be.
    async fn until_stored(self, sent: Sent, why: String) {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let is_stopped = self.wait(attempt).await.is_break();
            if is_stopped || self.published.trouble(|trouble| trouble.unstored(sent).is_none()) {
                return;
            }
            let tried = match sent {
                // For people: that it was so.
                Sent::Words => {
                    self.store.log_event(&self.run, self.now_ms(), "could not store", None, None, &why).await
                }
                Sent::Bodies => self.store_a_body().await.map_err(StoreError::from),
            };
            if tried.is_ok() {
                return self.stored(sent);
            }
        }
    }

    /// What is done with the body of an update, with one that nobody has sent.
    async fn store_a_body(&self) -> Result<(), BlobError> {
        let mut spool = self.store.spool().await?;
        spool.append(Bytes::from_static(&[0; A_BODY])).await?;
        spool.flush().await?;
        let store = self.store.clone();
        blocking(move || spool.sync().and_then(|()| store.sync_names())).await
    }

    async fn wait(&self, attempt: u32) -> ControlFlow<()> {
        let pause = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
        tokio::select! {
            () = self.halt.cancelled() => ControlFlow::Break(()),
            () = tokio::time::sleep(pause) => ControlFlow::Continue(()),
        }
    }
}

fn stored_update(update: &Update<Body>) -> StoredUpdate {
    StoredUpdate {
        sha256: update.sha256,
        file: update.body.spool.name(),
        format: update.body.format.as_str().to_owned(),
        bytes: update.bytes,
        samples: update.samples,
        loss: update.loss,
        norm: update.norm,
    }
}
