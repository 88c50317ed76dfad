//! Starts runs: those that are created, those that are stored, and unreadable ones once they can be read.

use super::aggregation::{Aggregator, Evaluator};
use super::run::{Actor, LiveEnvironment, MAILBOX, Parts};
use super::run::{Feed, Retired, RunHandle, Tokens};
use super::uploads::{Uploads, limits};
use super::versions::{Versions, from_blob};
use super::{Coordinator, Hosted, StartError};
use crate::model::{self, Images};
use crate::round::RoundMachine;
use crate::run::Run;
use crate::store::{Store, StoredRun, blocking};
use app::api::{Dataset, Phase, RunId, RunSnapshot};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// How often an unreadable run is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What an archived run waits for.
const ARCHIVED: &str = "Archived: the run takes no clients and opens no rounds until it is unarchived.";

impl Coordinator {
    /// Starts the stored runs that are wanted; hosts those that cannot be read as unreadable.
    pub(super) async fn start_stored(&self, is_wanted: impl Fn(&RunId) -> bool + Send) -> Result<(), StartError> {
        let mut splits = self.test_splits.lock().await;
        for stored in self.store.load_runs(is_wanted).await? {
            let run = stored.run.clone();
            match self.start_run(stored, &mut splits).await {
                // A run that is tried again stays unreadable whatever the next reason is: the coordinator works on.
                Err(error) if matches!(error, StartError::Unreadable { .. }) || self.hosted(&run).is_some() => {
                    tracing::error!(run = %run, "{error}");
                    self.runs_mut().insert(run, Hosted::Unreadable(error.to_string()));
                }
                started => started?,
            }
        }
        Ok(())
    }

    /// Tries again to start unreadable runs, until all are started: somebody may restore the file.
    pub(super) async fn retry_unreadable(self: Arc<Self>) {
        while self.has_unreadable() {
            tokio::select! {
                () = self.halt.cancelled() => return,
                () = tokio::time::sleep(RETRY_EVERY) => {}
            }
            let is_unreadable = |run: &RunId| matches!(self.hosted(run), Some(Hosted::Unreadable(_)));
            if let Err(error) = self.start_stored(is_unreadable).await {
                tracing::error!("{error}");
            }
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// Its model, test split or an update cannot be read.
    pub(super) async fn start_run(
        &self,
        stored: StoredRun,
        splits: &mut HashMap<Dataset, Arc<Images>>,
    ) -> Result<(), StartError> {
        let run = stored.run.clone();
        let parameters = {
            let (store, sha256) = (self.store.clone(), stored.sha256);
            let stored = blocking(move || from_blob(&store, &sha256)).await;
            stored.map_err(|source| StartError::Unreadable { run: run.clone(), source })?
        };
        let stored = without_damaged_updates(&self.store, stored).await?;
        let archived_ms = stored.archived_ms;
        let evaluator = if archived_ms.is_none() { self.evaluator(&stored, splits).await? } else { None };
        let machine = RoundMachine::new(self.clock.now_ms(), stored.restored);
        let snapshot = RunSnapshot {
            seq: 0,
            run: run.clone(),
            created_ms: stored.created_ms,
            archived_ms,
            model: stored.model,
            parameters: parameters.schema().values(),
            dataset: stored.dataset.filter(|_| evaluator.is_some() || archived_ms.is_some()),
            config: machine.config().clone(),
            config_version: machine.config_version(),
            phase: if archived_ms.is_none() { machine.phase() } else { Phase::Idle },
            waiting: if archived_ms.is_none() { machine.waiting() } else { ARCHIVED.to_owned() },
            autorun: machine.autorun(),
            version: machine.version(),
            best: stored.best,
            round: machine.open_round().filter(|_| archived_ms.is_none()).cloned(),
            clients: machine.clients().cloned().collect(),
            rounds: stored.rounds,
        };
        let store = self.store.clone();
        let versions = Arc::new(Versions::new(run.clone(), store.clone(), machine.version(), Arc::new(parameters)));
        let uploads = Arc::new(Uploads::new(store.clone(), versions.clone(), self.interrupted.clone()));
        let problem = limits::problem(versions.schema(), &snapshot.config, self.max_upload_mb);
        if let Some(problem) = &problem {
            tracing::error!(%run, "updates may be rejected: {problem}");
        }
        let feed = Arc::new(Feed::new(snapshot));
        feed.health(|health| health.too_large = problem);
        let tokens = Arc::new(Tokens::new(store.client_tokens(&run).await?));
        let parts = Arc::new(Parts {
            run: run.clone(),
            store: store.clone(),
            clock: self.clock.clone(),
            feed,
            tokens,
            versions: versions.clone(),
            uploads,
            places: self.places.clone(),
            max_upload_mb: self.max_upload_mb,
            halt: self.halt.child_token(),
            tasks: TaskTracker::new(),
        });
        let (sender, inbox) = mpsc::channel(MAILBOX);
        let handle = RunHandle::new(sender, parts.clone());
        if archived_ms.is_some() {
            let reason =
                format!("run '{run}' is archived: it takes no clients and opens no rounds until it is unarchived");
            parts.feed.retire(Retired { reason, is_archived: true });
            parts.versions.release();
        } else {
            let ledger = store.ledger(run.clone());
            let aggregator = Aggregator { run: run.clone(), store, versions, device: self.device, evaluator };
            let (tasks, aggregator) = (parts.tasks.clone(), Arc::new(aggregator));
            let environment = LiveEnvironment { parts, ledger, aggregator, aggregations: JoinSet::new() };
            let actor = Actor::new(Run::new(environment, machine, stored.best), inbox);
            self.tasks.spawn(tasks.track_future(actor.run()));
        }
        self.runs_mut().insert(run, Hosted::Running(handle));
        Ok(())
    }

    async fn evaluator(
        &self,
        stored: &StoredRun,
        splits: &mut HashMap<Dataset, Arc<Images>>,
    ) -> Result<Option<Evaluator>, StartError> {
        let (Some(spec), Some(dataset)) = (stored.model.clone(), stored.dataset) else { return Ok(None) };
        let Some(path) = self.dataset_paths.get(&dataset).cloned() else {
            tracing::warn!(run = %stored.run, %dataset, "no path to this dataset: rounds will not be evaluated");
            return Ok(None);
        };
        let images = match splits.get(&dataset) {
            Some(images) => images.clone(),
            None => {
                let load = move || model::dataset::load(dataset, &path, model::dataset::Split::Test);
                let loaded =
                    blocking(load).await.map_err(|source| StartError::Dataset { run: stored.run.clone(), source })?;
                splits.entry(dataset).or_insert(Arc::new(loaded)).clone()
            }
        };
        let device = self.device;
        let evaluator = blocking(move || Evaluator::new(&spec, device, images))
            .await
            .map_err(|source| StartError::Model { run: stored.run.clone(), source })?;
        Ok(Some(evaluator))
    }
}

/// Checks the updates of the open round. One that is damaged or missing is dropped, so that its client is asked again.
///
/// # Errors
/// A file cannot be read now, which does not mean that it is damaged; or the database.
async fn without_damaged_updates(store: &Store, mut stored: StoredRun) -> Result<StoredRun, StartError> {
    let Some(round) = &mut stored.restored.round else { return Ok(stored) };
    for (client, received) in round.received.clone() {
        let checking = store.clone();
        let checked = blocking(move || checking.check_received(&received.body.file, &received.body.sha256)).await;
        if let Err(error) = checked {
            if error.is_passing() {
                return Err(StartError::Unreadable { run: stored.run, source: error });
            }
            tracing::error!(run = %stored.run, %client, %error, "an update is lost");
            store.drop_contribution(&stored.run, round.open.number, &client, true).await?;
            round.received.remove(&client);
            round.closed = None;
        }
    }
    Ok(stored)
}
