//! The coordinator: hosts the runs, one task each, and carries out what their round machines decide.
//!
//! Decides in which order things become durable, visible and answered. Refuses to know of HTTP, and of the rules of
//! rounds, which are the round machine's.

mod aggregation;
mod clock;
mod evaluator;
mod handle;
mod incoming;
mod ledger;
mod lifecycle;
mod models;
mod parking;
mod published;
mod rejection;
mod restore;
mod run_task;
mod starting;
mod told;
mod trouble;
mod upload_limit;
mod uploads;
mod world;

pub use clock::Clock;
pub use handle::{Prior, RunError, RunHandle};
pub use incoming::{Body, CheckedUpdate, Incoming};
pub use ledger::save;
pub use lifecycle::LifecycleError;
pub use models::{EncodedModel, ModelError};
pub use parking::MAX_PARKED;
pub use published::Published;
pub use rejection::Rejection;
pub use restore::restored;
pub use told::{Told, View};
pub use uploads::{Turn, UploadKey, Uploads};

use crate::model::Device;
use crate::model::{self, Images, Network};
use crate::store::{BlobError, NewRun, Store, StoreError, StoredRun};
use crate::wire::{self, Parameters};
use app::api::{Dataset, ModelSpec, RunConfig, RunId, RunLine, RunSnapshot};
use models::{blocking, to_blob};
use parking::Parking;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a run could not be started or made.
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
    /// The stored global model, or an update of the open round that is there and whole for all that is known.
    #[error("run '{run}' cannot be read: {source}")]
    Unreadable {
        /// Which run.
        run: RunId,
        /// What is wrong.
        source: BlobError,
    },
    /// A run of that name is there.
    #[error("there is a run '{0}' already: choose another name")]
    Exists(RunId),
    /// As many runs are open as may be.
    #[error(
        "there are {open} open runs already, and the coordinator allows {most}: archive or delete one, or restart the \
         coordinator with a larger --max-runs"
    )]
    TooMany {
        /// Open runs, and those that cannot be read now.
        open: usize,
        /// How many there may be.
        most: usize,
    },
    /// Model and dataset do not go together, or a value is out of bounds.
    #[error("the run was rejected: {}", .0.join("; "))]
    Bad(Vec<String>),
}

/// Where a run begins.
#[derive(Debug, Clone)]
pub enum Origin {
    /// With a built-in network's seeded random parameters.
    BuiltIn {
        /// The network.
        model: ModelSpec,
        /// Whose test split to evaluate on.
        dataset: Option<Dataset>,
    },
    /// With somebody's own parameters; it cannot be evaluated here.
    Parameters(Parameters),
}

/// Hosts the runs.
#[derive(Debug)]
pub struct Coordinator {
    store: Store,
    clock: Clock,
    device: Device,
    dataset_paths: BTreeMap<Dataset, PathBuf>,
    max_upload_mb: u32,
    /// The most open runs: each takes the memory of a model.
    max_runs: usize,
    /// Open and archived ones.
    runs: RwLock<BTreeMap<RunId, RunHandle>>,
    /// Runs that cannot be read, and why: tried again from time to time.
    broken: RwLock<BTreeMap<RunId, String>>,
    /// Test splits that are in memory; also keeps two creations of a run from interleaving.
    test_splits: Mutex<HashMap<Dataset, Arc<Images>>>,
    parking: Arc<Parking>,
    /// Nothing new is begun any more.
    shutdown: CancellationToken,
    /// The runs stop where they are.
    halt: CancellationToken,
    tasks: TaskTracker,
}

impl Coordinator {
    /// Starts every run that the store holds. One that cannot be read does not keep the others from it: it is tried again
    /// until it can.
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
            broken: RwLock::default(),
            test_splits: Mutex::default(),
            parking: Arc::default(),
            shutdown,
            halt: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        this.start_stored(|_| true).await?;
        if !this.broken().is_empty() {
            this.tasks.spawn(Self::mend(this.clone()));
        }
        Ok(this)
    }

    /// What keeps some run, by name, from going on or from storing what is sent to it; none: nothing does.
    pub fn trouble(&self) -> Option<String> {
        let runs = self.runs.read().unwrap_or_else(PoisonError::into_inner);
        let unready = runs.values().find_map(|handle| {
            let why = handle.published().trouble(|trouble| trouble.unready().cloned())?;
            Some(format!("run '{}': {why}", handle.run()))
        });
        unready.or_else(|| self.broken().into_values().next())
    }

    /// Runs that cannot be read, and why.
    pub fn broken(&self) -> BTreeMap<RunId, String> {
        self.broken.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The clock that all runs go by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Cancelled once the coordinator is told to stop: nothing new is begun any more, what is under way may end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Stops every run where it is, and waits for that. What it was doing goes on at the next start.
    pub async fn stop(&self) {
        self.halt.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The run of that name.
    pub fn run(&self, run: &RunId) -> Option<RunHandle> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner).get(run).cloned()
    }

    /// Open runs, and those that cannot be read now, which take their memory once they can.
    fn open_runs(&self) -> usize {
        let runs = self.runs.read().unwrap_or_else(PoisonError::into_inner);
        runs.values().filter(|handle| !handle.is_archived()).count() + self.broken().len()
    }

    /// A line for each run, the archived ones included.
    pub fn lines(&self) -> Vec<RunLine> {
        let runs = self.runs.read().unwrap_or_else(PoisonError::into_inner);
        let line = |snapshot: &RunSnapshot| RunLine {
            run: snapshot.run.clone(),
            model: snapshot.model.clone(),
            phase: snapshot.phase,
            archived_ms: snapshot.archived_ms,
            version: snapshot.version,
            best: snapshot.best,
            clients: u32::try_from(snapshot.clients.len()).unwrap_or(u32::MAX),
        };
        runs.values().map(|handle| handle.published().read(line)).collect()
    }

    /// Makes a run and starts it.
    ///
    /// # Errors
    /// The name is taken, something is out of bounds, or it cannot be stored.
    pub async fn create_run(&self, run: RunId, origin: Origin, config: RunConfig) -> Result<(), StartError> {
        let mut splits = self.test_splits.lock().await;
        if self.run(&run).is_some() || self.broken().contains_key(&run) {
            return Err(StartError::Exists(run));
        }
        let (open, most) = (self.open_runs(), self.max_runs);
        if open >= most {
            return Err(StartError::TooMany { open, most });
        }
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
        if let Some(problem) = upload_limit::problem(parameters.schema(), &config, self.max_upload_mb) {
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
            config,
            config_version: 1,
            version: 0,
            sha256,
            best: None,
            autorun_rounds: 0,
            clients: Vec::new(),
            rounds: Vec::new(),
            last: None,
            norms: Vec::new(),
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
    async fn runs_that_cannot_be_read_are_counted_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let started = Coordinator::start(store, Device::Cpu, BTreeMap::new(), 1, 64, CancellationToken::new()).await;
        let coordinator = started.unwrap();
        // Given as many runs as there may be, of which none can be read,
        let broken = (0..64).map(|i| (format!("run-{i}").parse().unwrap(), "cannot be read".to_owned()));
        coordinator.broken.write().unwrap().extend(broken);
        // then there is no room for another one, which would be one too many once they can.
        let schema = Arc::new(crate::wire::Schema::new(Vec::new()).unwrap());
        let origin = Origin::Parameters(Parameters::new(schema, Vec::new()));
        let refused = coordinator.create_run("another".parse().unwrap(), origin, RunConfig::default()).await;
        assert!(matches!(refused, Err(StartError::TooMany { open: 64, most: 64 })), "{refused:?}");
    }
}
