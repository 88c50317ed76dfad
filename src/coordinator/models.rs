//! The global model as clients fetch it: encoded once per version and format, shared by all who ask.

use crate::store::{Sha256Digest, Store, StoreError};
use crate::wire::{self, ModelFormat, Parameters, Schema};
use app::api::{Encoding, RunId};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::OnceCell;

/// Versions whose encoded bytes are kept in memory: the current one, and the one before for late comers.
const VERSIONS_IN_MEMORY: u64 = 2;

/// Why a model could not be handed out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The run has no such version, or it was pruned.
    #[error("there is no version {0} of this model, or it is no longer kept")]
    NoVersion(u64),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored bytes are no model of this run.
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
    /// SHA-256 of the body: the ETag.
    pub sha256: Sha256Digest,
}

type Cell = Arc<OnceCell<EncodedModel>>;

/// The global versions of one run.
#[derive(Debug)]
pub struct Models {
    run: RunId,
    store: Store,
    schema: Arc<Schema>,
    current: RwLock<(u64, Arc<Parameters>)>,
    encoded: Mutex<HashMap<(u64, ModelFormat), Cell>>,
}

impl Models {
    pub(super) fn new(run: RunId, store: Store, version: u64, parameters: Arc<Parameters>) -> Self {
        Self {
            run,
            store,
            schema: parameters.schema().clone(),
            current: RwLock::new((version, parameters)),
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
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (version, parameters);
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.retain(|(kept, _), _| *kept + VERSIONS_IN_MEMORY > version);
    }

    /// A version in a format.
    ///
    /// # Errors
    /// There is no such version, or it cannot be read.
    pub async fn get(&self, version: u64, format: ModelFormat) -> Result<EncodedModel, ModelError> {
        let cell = {
            let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            let (current, _) = self.current();
            if current.checked_sub(version).is_some_and(|behind| behind < VERSIONS_IN_MEMORY) {
                encoded.entry((version, format)).or_default().clone()
            } else {
                Cell::default() // rarely asked for: not worth the memory
            }
        };
        cell.get_or_try_init(|| self.encode(version, format)).await.cloned()
    }

    async fn encode(&self, version: u64, format: ModelFormat) -> Result<EncodedModel, ModelError> {
        let parameters = self.parameters(version).await?;
        let unreadable = move |reason: String| ModelError::Unreadable { version, reason };
        blocking(move || {
            let bytes = format.write(&parameters, Some(version)).map_err(|e| unreadable(e.to_string()))?;
            let sha256 = Sha256Digest::of(&bytes);
            Ok(EncodedModel { bytes: bytes.into(), sha256 })
        })
        .await
    }

    async fn parameters(&self, version: u64) -> Result<Arc<Parameters>, ModelError> {
        let (current, parameters) = self.current();
        if version == current {
            return Ok(parameters);
        }
        let sha256 = self.store.model_version(&self.run, version).await?.ok_or(ModelError::NoVersion(version))?;
        let (store, schema) = (self.store.clone(), self.schema.clone());
        blocking(move || {
            let bytes = store.get_model(&sha256).map_err(StoreError::from)?;
            let parameters =
                wire::decode(&bytes, &schema).map_err(|e| ModelError::Unreadable { version, reason: e.to_string() })?;
            Ok(Arc::new(parameters))
        })
        .await
    }
}

/// How a global version is stored: without loss.
pub(super) fn to_blob(parameters: &Parameters, version: u64) -> Result<Vec<u8>, String> {
    wire::encode(parameters, Encoding::F32, Some(version)).map_err(|e| e.to_string())
}

/// Runs heavy work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Not cancelled: nobody holds the handle. So it panicked, and the panic goes on where it was asked for.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
