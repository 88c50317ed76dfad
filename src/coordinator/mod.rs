//! The coordinator hosts runs: it starts, creates, archives and stops them.
//!
//! Each run has an actor (`run/`) that does one thing after the other; uploads, global versions and aggregation work beside
//! it. HTTP is not known here, and the rules of a round are those of the round machine.

mod aggregation;
mod clock;
mod lifecycle;
mod run;
mod startup;
mod uploads;
mod versions;

pub use clock::Clock;
pub use lifecycle::LifecycleError;
pub use run::{Announced, CachedView, Feed, RunError, RunHandle, Upload, View};
pub use uploads::{MAX_INTERRUPTED, MAX_UPLOADS, Rejection, SizeLimit, UploadError};
pub use versions::{EncodedModel, VersionError};

use crate::model::Device;
use crate::model::{self, Images, Network};
use crate::round::Restored;
use crate::store::{BlobError, NewRun, Store, StoreError, StoredRun, blocking};
use crate::wire::{self, Parameters};
use app::api::{Dataset, ModelSpec, RunConfig, RunId, RunLine, RunSnapshot};
use run::Storage;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uploads::{InterruptedUploads, Places, limits};
use versions::to_blob;

/// Why a run could not be started or created.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network or its evaluation.
    #[error("run '{run}': {source}")]
    Model {
        /// Which run.
        run: RunId,
        /// What is wrong.
        source: model::ModelError,
    },
    /// The test split.
    #[error("run '{run}': {source}")]
    Dataset {
        /// Which run.
        run: RunId,
        /// What is wrong.
        source: model::DatasetError,
    },
    /// The stored global model, or an update of the open round that may be intact.
    #[error("run '{run}' cannot be read: {source}")]
    Unreadable {
        /// Which run.
        run: RunId,
        /// What is wrong.
        source: BlobError,
    },
    /// The name is taken.
    #[error("there is a run '{0}' already: choose another name")]
    Exists(RunId),
    /// There are too many open runs.
    #[error(
        "there are {open} open runs already, and the coordinator allows {limit}: archive or delete one, or restart the \
         coordinator with a larger --max-runs"
    )]
    TooMany {
        /// Open runs, including those that cannot be read now.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// Model and dataset do not go together, or a value is out of bounds.
    #[error("the run was rejected: {}", .0.join("; "))]
    Bad(Vec<String>),
}

/// The initial model of a run.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A built-in network with seeded random parameters.
    BuiltIn {
        /// The network.
        model: ModelSpec,
        /// Whose test split to evaluate on.
        dataset: Option<Dataset>,
    },
    /// Uploaded parameters, which the coordinator cannot evaluate.
    Parameters(Parameters),
}

/// A run that the coordinator hosts.
#[derive(Debug, Clone)]
pub enum Hosted {
    /// It is open or archived.
    Running(RunHandle),
    /// It cannot be read, for that reason. This is tried again from time to time.
    Unreadable(String),
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    store: Store,
    clock: Clock,
    device: Device,
    dataset_paths: BTreeMap<Dataset, PathBuf>,
    max_upload_mb: u32,
    /// The limit of open runs, each of which takes the memory of a model.
    max_runs: usize,
    runs: RwLock<BTreeMap<RunId, Hosted>>,
    /// Test splits that are in memory. Locked while a run is created or changed, so that this is done one at a time.
    test_splits: Mutex<HashMap<Dataset, Arc<Images>>>,
    interrupted: Arc<InterruptedUploads>,
    places: Arc<Places>,
    /// Cancelled when the coordinator begins to stop.
    shutdown: CancellationToken,
    /// Cancelled when its runs stop.
    halt: CancellationToken,
    tasks: TaskTracker,
}

impl Coordinator {
    /// Starts every stored run. A run that cannot be read does not affect the others, and is tried again until it can.
    ///
    /// # Errors
    /// The store, or a run's network or test split.
    pub async fn start(
        store: Store,
        device: Device,
        dataset_paths: BTreeMap<Dataset, PathBuf>,
        max_upload_mb: u32,
        max_runs: usize,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StartError> {
        let this = Arc::new(Self {
            store,
            clock: Clock::start(),
            device,
            dataset_paths,
            max_upload_mb,
            max_runs,
            runs: RwLock::default(),
            test_splits: Mutex::default(),
            interrupted: Arc::default(),
            places: Arc::default(),
            shutdown,
            halt: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        this.start_stored(|_| true).await?;
        if this.has_unreadable() {
            this.tasks.spawn(Self::retry_unreadable(this.clone()));
        }
        Ok(this)
    }

    /// Why the coordinator cannot store what it is sent, or why some run, by name, cannot be read or continue; `None` if
    /// everything works. After a failed write, tries whether that works again.
    pub async fn not_ready(&self) -> Option<String> {
        if let Err(error) = self.store.ping().await {
            return Some(error.to_string());
        }
        for handle in self.handles() {
            self.probe(&handle).await;
            if let Some(reason) = handle.feed().health(|health| health.not_ready().cloned()) {
                return Some(format!("run '{}': {reason}", handle.run()));
            }
        }
        let runs = self.runs();
        runs.values().find_map(|hosted| match hosted {
            Hosted::Unreadable(reason) => Some(reason.clone()),
            Hosted::Running(_) => None,
        })
    }

    /// Tries again what a run could not store last.
    async fn probe(&self, handle: &RunHandle) {
        let failed = |storage| handle.feed().health(|health| health.unstored(storage).clone());
        if failed(Storage::Files).is_some() && self.store.probe_files().await.is_ok() {
            handle.feed().stored(Storage::Files);
        }
        if let Some(reason) = failed(Storage::Ledger) {
            let now_ms = self.clock.now_ms();
            let logged = self.store.log_event(handle.run(), now_ms, "could not store", None, None, &reason).await;
            if logged.is_ok() {
                handle.feed().stored(Storage::Ledger);
            }
        }
    }

    fn runs(&self) -> RwLockReadGuard<'_, BTreeMap<RunId, Hosted>> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<RunId, Hosted>> {
        self.runs.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_unreadable(&self) -> bool {
        self.runs().values().any(|hosted| matches!(hosted, Hosted::Unreadable(_)))
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The clock of all runs.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Cancelled when the coordinator begins to stop: it begins nothing new, but running requests may end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Stops every run and waits for that. Runs continue at the next start.
    pub async fn stop(&self) {
        self.halt.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The run of that name, readable or not.
    pub fn hosted(&self, run: &RunId) -> Option<Hosted> {
        self.runs().get(run).cloned()
    }

    /// The run of that name, if it can be read.
    pub fn run(&self, run: &RunId) -> Option<RunHandle> {
        match self.hosted(run)? {
            Hosted::Running(handle) => Some(handle),
            Hosted::Unreadable(_) => None,
        }
    }

    /// All runs that can be read, by name.
    pub fn handles(&self) -> impl Iterator<Item = RunHandle> + use<> {
        let handle = |hosted: &Hosted| match hosted {
            Hosted::Running(handle) => Some(handle.clone()),
            Hosted::Unreadable(_) => None,
        };
        self.runs().values().filter_map(handle).collect::<Vec<_>>().into_iter()
    }

    /// Checks that another run may be open. Unreadable runs count: they take memory once they can be read.
    fn check_open_runs(&self) -> Result<(), StartError> {
        let is_archived = |hosted: &Hosted| matches!(hosted, Hosted::Running(handle) if handle.is_archived());
        let open = self.runs().values().filter(|hosted| !is_archived(hosted)).count();
        let limit = self.max_runs;
        if open < limit { Ok(()) } else { Err(StartError::TooMany { open, limit }) }
    }

    /// A line for each run, the archived ones included.
    pub fn lines(&self) -> Vec<RunLine> {
        let line = |snapshot: &RunSnapshot| RunLine {
            run: snapshot.run.clone(),
            model: snapshot.model.clone(),
            phase: snapshot.phase,
            archived_ms: snapshot.archived_ms,
            version: snapshot.version,
            best: snapshot.best,
            clients: u32::try_from(snapshot.clients.len()).unwrap_or(u32::MAX),
        };
        self.handles().map(|handle| handle.feed().read(line)).collect()
    }

    /// Creates a run and starts it.
    ///
    /// # Errors
    /// The name is taken, something is out of bounds, or it cannot be stored.
    pub async fn create_run(&self, run: RunId, origin: Origin, config: RunConfig) -> Result<(), StartError> {
        let mut splits = self.test_splits.lock().await;
        if self.hosted(&run).is_some() {
            return Err(StartError::Exists(run));
        }
        self.check_open_runs()?;
        let problems = problems(&origin, &config);
        if !problems.is_empty() {
            return Err(StartError::Bad(problems));
        }
        let (model, dataset, parameters) = match origin {
            Origin::Parameters(parameters) => (None, None, parameters),
            Origin::BuiltIn { model, dataset } => {
                let spec = model.clone();
                let parameters = blocking(move || Network::new(&spec, Device::Cpu)?.parameters())
                    .await
                    .map_err(|source| StartError::Model { run: run.clone(), source })?;
                (Some(model), dataset, parameters)
            }
        };
        if let Some(problem) = limits::problem(parameters.schema(), &config, self.max_upload_mb) {
            return Err(StartError::Bad(vec![problem]));
        }
        let (store, encoding) = (self.store.clone(), config.encoding);
        let stored = blocking(move || {
            wire::check_model(&parameters, encoding).map_err(|error| StartError::Bad(vec![error.to_string()]))?;
            Ok::<_, StartError>(to_blob(&store, &parameters).map_err(StoreError::from)?)
        });
        let sha256 = stored.await?;
        let created_ms = self.clock.now_ms();
        let new = NewRun { run: run.clone(), model, dataset, config, sha256, created_ms };
        if !self.store.create_run(&new).await? {
            return Err(StartError::Exists(run));
        }
        let NewRun { run, model, dataset, config, sha256, created_ms } = new;
        tracing::info!(%run, "run created");
        let stored = StoredRun {
            run,
            created_ms,
            archived_ms: None,
            model,
            dataset,
            sha256,
            best: None,
            rounds: Vec::new(),
            restored: Restored::fresh(config),
        };
        self.start_run(stored, &mut splits).await
    }
}

fn problems(origin: &Origin, config: &RunConfig) -> Vec<String> {
    let mut problems = config.problems();
    if let Origin::Parameters(parameters) = origin
        && parameters.schema().values() == 0
    {
        problems.push(
            "the model has no values: send a safetensors file with at least one tensor that is not empty".to_owned(),
        );
    }
    if let Origin::BuiltIn { model, dataset } = origin {
        problems.extend(model.problems());
        if let Some(dataset) = dataset {
            let (channels, _, _) = dataset.image_shape();
            if model.channels != channels || model.classes != dataset.classes() {
                problems.push(format!(
                    "the model takes {} channels and tells {} classes apart, {dataset} has {channels} and {}",
                    model.channels,
                    model.classes,
                    dataset.classes()
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unreadable_runs_count_as_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let started = Coordinator::start(store, Device::Cpu, BTreeMap::new(), 1, 64, CancellationToken::new()).await;
        let coordinator = started.unwrap();
        // Given as many unreadable runs as there may be open ones,
        let unreadable = |i| (format!("run-{i}").parse().unwrap(), Hosted::Unreadable("damaged".to_owned()));
        coordinator.runs_mut().extend((0..64).map(unreadable));
        // then no other run can be created: it would be one too many once they can be read.
        let schema = Arc::new(crate::wire::Schema::new(Vec::new()).unwrap());
        let origin = Origin::Parameters(Parameters::new(schema, Vec::new()));
        let refused = coordinator.create_run("another".parse().unwrap(), origin, RunConfig::default()).await;
        assert!(matches!(refused, Err(StartError::TooMany { open: 64, limit: 64 })), "{refused:?}");
    }
}
