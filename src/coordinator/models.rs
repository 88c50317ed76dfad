//! The global model as clients fetch it: encoded once per version and format, shared by all who ask.

pub(super) use crate::store::blocking;

use crate::digest::Sha256Digest;
use crate::store::{BlobError, Store, StoreError};
use crate::wire::{self, Base, BodyFormat, ModelFormat, Parameters, Plan, ReadError, Schema};
use app::api::RunId;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use tokio::sync::OnceCell;

/// Why a model could not be handed out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The run has no such version, or it was pruned.
    #[error("there is no version {0} of this model, or it is no longer kept")]
    NoVersion(u64),
    /// The store, which may do better another time.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored is damaged or gone, or cannot be written as it is asked for.
    #[error("the stored version {version} cannot be read: {reason}")]
    Unreadable {
        /// Which version.
        version: u64,
        /// Why not.
        reason: String,
    },
}

/// A model, ready to be sent.
#[derive(Debug, Clone)]
pub struct EncodedModel {
    /// The body.
    pub bytes: Bytes,
    /// Tells it from every other body: the ETag.
    pub tag: Sha256Digest,
}

/// Version, format, and the version that it is a difference to.
type Key = (u64, ModelFormat, Option<u64>);
type Cell = Arc<OnceCell<EncodedModel>>;

/// The global versions of one run.
#[derive(Debug)]
pub struct Models {
    run: RunId,
    store: Store,
    schema: Arc<Schema>,
    current: RwLock<(u64, Arc<Parameters>)>,
    /// What the current version is told by to all who took part in the last round.
    previous: RwLock<Option<Arc<Parameters>>>,
    /// Older versions that somebody works with now, as in asynchronous runs.
    older: Mutex<HashMap<u64, Weak<Parameters>>>,
    /// Of the current version.
    encoded: Mutex<HashMap<Key, Cell>>,
}

impl Models {
    pub(super) fn new(run: RunId, store: Store, version: u64, parameters: Arc<Parameters>) -> Self {
        Self {
            run,
            store,
            schema: parameters.schema().clone(),
            current: RwLock::new((version, parameters)),
            previous: RwLock::default(),
            older: Mutex::default(),
            encoded: Mutex::default(),
        }
    }

    /// What the model consists of.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The current version and its parameters.
    pub fn current(&self) -> (u64, Arc<Parameters>) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn swap(&self, version: u64, parameters: Arc<Parameters>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let (_, previous) = std::mem::replace(&mut *current, (version, parameters));
        *self.previous.write().unwrap_or_else(PoisonError::into_inner) = Some(previous);
        drop(current);
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.retain(|(kept, ..), _| *kept == version);
    }

    /// A version in a format; `base`: the version that it is to be a difference to, for those formats that are one.
    ///
    /// # Errors
    /// There is no such version, or no such base, or it cannot be read.
    pub async fn get(&self, version: u64, format: ModelFormat, base: Option<u64>) -> Result<EncodedModel, ModelError> {
        let cell = {
            let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            let (current, _) = self.current();
            if current == version {
                encoded.entry((version, format, base)).or_default().clone()
            } else {
                Cell::default() // rarely asked for: not worth the memory
            }
        };
        let made = cell.get_or_try_init(|| self.encode(version, format, base)).await.cloned();
        drop(cell);
        if made.is_err() {
            // Whoever asks for what there is not shall not fill the memory with that.
            let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            encoded.retain(|_, cell| cell.initialized() || Arc::strong_count(cell) > 1);
        }
        made
    }

    async fn encode(&self, version: u64, format: ModelFormat, base: Option<u64>) -> Result<EncodedModel, ModelError> {
        let parameters = self.parameters(version).await?;
        let base = match base {
            Some(base) => Some((base, self.parameters(base).await?)),
            None => None,
        };
        let unreadable = move |reason: String| ModelError::Unreadable { version, reason };
        blocking(move || {
            let base = base.as_ref().map(|(version, parameters)| Base { version: *version, parameters });
            let bytes = format.write(&parameters, base).map_err(|e| unreadable(e.to_string()))?;
            // The head of a container has the checksums and lengths of all its blocks.
            let told_by = match format {
                ModelFormat::Container(_) => Plan::head_bytes(BodyFormat::Container, &bytes).ok().flatten(),
                ModelFormat::Safetensors { .. } => None,
            };
            let tag = Sha256Digest::of(&bytes[..told_by.unwrap_or(bytes.len())]);
            Ok(EncodedModel { bytes: bytes.into(), tag })
        })
        .await
    }

    /// The current version and the one before it; read together, or a swap in between would pass one off as the other.
    fn in_memory(&self, version: u64) -> Option<Arc<Parameters>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.0 == version {
            return Some(current.1.clone());
        }
        let previous = self.previous.read().unwrap_or_else(PoisonError::into_inner);
        previous.clone().filter(|_| current.0.checked_sub(1) == Some(version))
    }

    /// A version's parameters.
    ///
    /// # Errors
    /// There is no such version, or it cannot be read.
    pub async fn parameters(&self, version: u64) -> Result<Arc<Parameters>, ModelError> {
        if let Some(parameters) = self.in_memory(version) {
            return Ok(parameters);
        }
        let older = || self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parameters) = older().get(&version).and_then(Weak::upgrade) {
            return Ok(parameters);
        }
        let sha256 = self.store.model_version(&self.run, version).await?.ok_or(ModelError::NoVersion(version))?;
        let store = self.store.clone();
        let stored = blocking(move || from_blob(&store, &sha256)).await;
        let parameters = Arc::new(stored.map_err(|error| match error.is_passing() {
            true => StoreError::from(error).into(),
            false => ModelError::Unreadable { version, reason: error.to_string() },
        })?);
        let mut older = older();
        older.retain(|_, held| held.strong_count() > 0);
        older.insert(version, Arc::downgrade(&parameters));
        Ok(parameters)
    }
}

/// Stores a global version, without loss. Blocking.
pub(super) fn to_blob(store: &Store, parameters: &Parameters) -> Result<Sha256Digest, BlobError> {
    store.put_model(|out| wire::write_f32(parameters, out))
}

/// Reads what [`to_blob`] has stored. Blocking.
pub(super) fn from_blob(store: &Store, sha256: &Sha256Digest) -> Result<Parameters, BlobError> {
    let file = store.open_model(sha256)?;
    let plan = Plan::of_source(BodyFormat::Container, &file, file.bytes());
    plan.and_then(|plan| plan.load(&file, None)).map_err(|error| match error {
        ReadError::Source(error) => BlobError::Body(error),
        ReadError::Decode(error) => BlobError::NoModel { digest: *sha256, source: error.into() },
    })
}
