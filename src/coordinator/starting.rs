//! How runs come to be at work: as they are made, at the start of the coordinator, or once what they need can be read.
//!
//! Decides what is kept from starting by what. Refuses to know what a run consists of, which is the store's.

use super::evaluator::Evaluator;
use super::handle::{Retired, RunHandle};
use super::models::{Models, blocking, from_blob};
use super::published::Published;
use super::run_task::RunTask;
use super::uploads::Uploads;
use super::world::Real;
use super::{Coordinator, StartError, restore, upload_limit};
use crate::conductor::Conductor;
use crate::model::{self, Images};
use crate::round::RoundMachine;
use crate::store::StoredRun;
use app::api::{Dataset, Phase, RunId, RunSnapshot};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Messages that a run's task may be behind by; more are refused as busy.
const INBOX: usize = 8_192;

/// How often a run that cannot be read is tried again.
const MEND_EVERY: Duration = Duration::from_secs(5);

/// What an archived run waits for.
const ARCHIVED: &str = "Archived: the run takes no clients and opens no rounds until it is unarchived.";

impl Coordinator {
    /// Starts those runs that the store holds and that are wanted; notes which of them cannot be read.
    pub(super) async fn start_stored(&self, is_wanted: impl Fn(&RunId) -> bool + Send) -> Result<(), StartError> {
        let mut splits = self.test_splits.lock().await;
        for stored in self.store.load_runs(is_wanted).await? {
            let run = stored.run.clone();
            match self.start_run(stored, &mut splits).await {
                // Of one that is tried again, whatever the next reason is: a coordinator that is at work stays so.
                Err(error) if matches!(error, StartError::Unreadable { .. }) || self.broken().contains_key(&run) => {
                    tracing::error!(run = %run, "{error}");
                    self.broken.write().unwrap_or_else(PoisonError::into_inner).insert(run, error.to_string());
                }
                started => {
                    started?;
                    self.broken.write().unwrap_or_else(PoisonError::into_inner).remove(&run);
                }
            }
        }
        Ok(())
    }

    /// Tries again to start the runs that cannot be read, until all can: somebody may bring the file back.
    pub(super) async fn mend(self: Arc<Self>) {
        while !self.broken().is_empty() {
            tokio::select! {
                () = self.halt.cancelled() => return,
                () = tokio::time::sleep(MEND_EVERY) => {}
            }
            let broken = self.broken();
            if let Err(error) = self.start_stored(|run| broken.contains_key(run)).await {
                tracing::error!("{error}");
            }
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// What it needs cannot be read.
    pub(super) async fn start_run(
        &self,
        stored: StoredRun,
        splits: &mut HashMap<Dataset, Arc<Images>>,
    ) -> Result<(), StartError> {
        let run = stored.run.clone();
        // First what may not be readable: where that is so, it is tried again and again.
        let parameters = {
            let (store, sha256) = (self.store.clone(), stored.sha256);
            let stored = blocking(move || from_blob(&store, &sha256)).await;
            stored.map_err(|source| StartError::Unreadable { run: run.clone(), source })?
        };
        let stored = restore::without_damaged(&self.store, stored).await?;
        let archived_ms = stored.archived_ms;
        let evaluator = if archived_ms.is_none() { self.evaluator(&stored, splits).await? } else { None };
        let machine = RoundMachine::new(restore::restored(&stored, self.clock.now_ms()));
        let snapshot = RunSnapshot {
            seq: 0,
            run: run.clone(),
            created_ms: stored.created_ms,
            archived_ms,
            model: stored.model,
            parameters: parameters.schema().values(),
            dataset: stored.dataset.filter(|_| evaluator.is_some() || archived_ms.is_some()),
            config: stored.config,
            config_version: stored.config_version,
            phase: if archived_ms.is_none() { machine.phase() } else { Phase::Idle },
            waiting: if archived_ms.is_none() { machine.waiting() } else { ARCHIVED.to_owned() },
            autorun: machine.autorun(),
            version: stored.version,
            best: stored.best,
            round: machine.open_round().filter(|_| archived_ms.is_none()).cloned(),
            clients: machine.clients().cloned().collect(),
            rounds: stored.rounds,
        };
        let models = Models::new(run.clone(), self.store.clone(), stored.version, Arc::new(parameters));
        let problem = upload_limit::problem(models.schema(), &snapshot.config, self.max_upload_mb);
        let published = Arc::new(Published::new(snapshot, models, Uploads::new(self.parking.clone())));
        if let Some(problem) = &problem {
            tracing::error!(%run, "updates may be rejected: {problem}");
        }
        published.trouble(|trouble| trouble.too_large = problem);
        let (sender, inbox) = mpsc::channel(INBOX);
        let world = Real {
            run: run.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            device: self.device,
            published,
            max_upload_mb: self.max_upload_mb,
            evaluator,
            halt: self.halt.child_token(),
            outbox: sender.downgrade(),
            tasks: TaskTracker::new(),
        };
        let handle = RunHandle::new(sender, Arc::new(world.clone()));
        if archived_ms.is_some() {
            let reason =
                format!("run '{run}' is archived: it takes no clients and opens no rounds until it is unarchived");
            world.published.retire(Retired { reason, is_archived: true });
            world.published.models.release();
        } else {
            let tasks = world.tasks.clone();
            let task = RunTask { conductor: Conductor::new(world, machine, stored.best), inbox };
            self.tasks.spawn(tasks.track_future(task.run()));
        }
        self.runs.write().unwrap_or_else(PoisonError::into_inner).insert(run, handle);
        Ok(())
    }

    async fn evaluator(
        &self,
        stored: &StoredRun,
        splits: &mut HashMap<Dataset, Arc<Images>>,
    ) -> Result<Option<Arc<Evaluator>>, StartError> {
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
        Ok(Some(Arc::new(evaluator)))
    }
}
