//! Archives, unarchives, renames and deletes runs.
//!
//! Each first ends the run's actor, as a stop of the coordinator does; then the store changes in one transaction; then the run
//! is hosted again as it is stored, unless it is deleted. The last step is done even if the one before fails.

use super::{Coordinator, Hosted, RunError, StartError};
use crate::round::Reject;
use crate::run::Refusal;
use crate::store::StoreError;
use app::api::RunId;
use std::sync::Arc;

/// Why a run was not archived, unarchived, renamed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// There is no run of that name.
    #[error("there is no run '{0}'")]
    NoRun(RunId),
    /// Its clients train.
    #[error(
        "clients of run '{run}' are at work on round {round}: wait until it ends, cancel it, or force this change \
         (?force=true in the API, --force on the command line)"
    )]
    InWork {
        /// Which run.
        run: RunId,
        /// Which round.
        round: u64,
    },
    /// Its task could not be asked.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no place or name for it, or it could not be hosted again.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Coordinator {
    /// Archives a run: it takes no clients and opens no rounds, its name stays taken, and it can still be read. A round that
    /// is open resumes once the run is unarchived. Archiving an archived run changes nothing.
    ///
    /// # Errors
    /// Its clients are at work, and `force` is false; or the store.
    pub async fn archive_run(self: &Arc<Self>, run: &RunId, force: bool) -> Result<(), LifecycleError> {
        let splits = self.test_splits.lock().await;
        if self.run(run).is_some_and(|handle| handle.is_archived()) {
            return Ok(());
        }
        self.end_actor(run, force, format!("the operator has archived run '{run}'")).await?;
        let stored = self.store.set_archived(run, Some(self.clock.now_ms())).await;
        drop(splits);
        self.host_again(run, stored).await?;
        tracing::info!(%run, "run archived");
        Ok(())
    }

    /// Takes a run out of the archive: a round that was open resumes.
    ///
    /// # Errors
    /// As many runs are open as may be; or the store.
    pub async fn unarchive_run(self: &Arc<Self>, run: &RunId) -> Result<(), LifecycleError> {
        let splits = self.test_splits.lock().await;
        let handle = self.run(run).ok_or_else(|| LifecycleError::NoRun(run.clone()))?;
        if !handle.is_archived() {
            return Ok(());
        }
        self.check_open_runs()?;
        let stored = self.store.set_archived(run, None).await;
        if stored.is_ok() {
            self.forget(run);
        }
        drop(splits);
        let hosted = self.host_again(run, stored).await;
        if let Err(LifecycleError::Start(_)) = &hosted {
            // It cannot be started, for example because its test split is missing: as an archived run it can be read.
            self.store.set_archived(run, handle.feed().read(|run| run.archived_ms)).await?;
            self.host_again(run, Ok(())).await?;
        }
        hosted.inspect(|()| tracing::info!(%run, "run unarchived"))
    }

    /// Gives a run another name. Its clients must register again, or use the new name.
    ///
    /// # Errors
    /// There is a run of that name, its clients are at work and `force` is false, or the store.
    pub async fn rename_run(self: &Arc<Self>, run: &RunId, to: &RunId, force: bool) -> Result<(), LifecycleError> {
        let splits = self.test_splits.lock().await;
        if run == to {
            return self.run(run).map(drop).ok_or_else(|| LifecycleError::NoRun(run.clone()));
        }
        if self.hosted(to).is_some() {
            return Err(StartError::Exists(to.clone()).into());
        }
        self.end_actor(run, force, format!("the operator has renamed run '{run}' to '{to}': join run '{to}'")).await?;
        let renamed = self.store.rename_run(run, to).await;
        drop(splits);
        match renamed {
            Ok(true) => {
                self.forget(run);
                tracing::info!(%run, %to, "run renamed");
                self.host_again(to, Ok(())).await
            }
            Ok(false) => {
                self.host_again(run, Ok(())).await?;
                Err(StartError::Exists(to.clone()).into())
            }
            Err(error) => self.host_again(run, Err(error)).await,
        }
    }

    /// Deletes a run with everything that is stored of it.
    ///
    /// # Errors
    /// Its clients are at work, and `force` is false; or the store, then it is as it was.
    pub async fn delete_run(self: &Arc<Self>, run: &RunId, force: bool) -> Result<(), LifecycleError> {
        let splits = self.test_splits.lock().await;
        if !matches!(self.hosted(run), Some(Hosted::Unreadable(_))) {
            self.end_actor(run, force, format!("the operator has deleted run '{run}'")).await?;
        }
        let deleted = self.store.delete_run(run).await;
        drop(splits);
        match deleted {
            Ok(()) => {
                self.forget(run);
                tracing::info!(%run, "run deleted");
                Ok(())
            }
            Err(error) => self.host_again(run, Err(error)).await,
        }
    }

    /// Ends a run's actor with the work beside it. Clients that ask for a task receive `stop` with the reason, until the run is
    /// hosted again or forgotten.
    async fn end_actor(&self, run: &RunId, force: bool, reason: String) -> Result<(), LifecycleError> {
        let handle = self.run(run).ok_or_else(|| LifecycleError::NoRun(run.clone()))?;
        if !handle.is_archived() {
            match handle.retire(force, reason).await {
                Ok(()) => {}
                Err(RunError::Refusal(Refusal::Reject(Reject::RoundInWork { round }))) => {
                    return Err(LifecycleError::InWork { run: run.clone(), round });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn forget(&self, run: &RunId) {
        self.runs_mut().remove(run);
    }

    /// Hosts a run as it is stored, unless its actor still works, and returns the answer of the store.
    async fn host_again(self: &Arc<Self>, run: &RunId, stored: Result<(), StoreError>) -> Result<(), LifecycleError> {
        if self.run(run).is_none_or(|handle| handle.is_retired()) {
            self.start_stored(|stored| stored == run).await?;
            if let Some(Hosted::Unreadable(_)) = self.hosted(run) {
                self.tasks.spawn(Self::retry_unreadable(self.clone()));
            }
        }
        Ok(stored?)
    }
}
