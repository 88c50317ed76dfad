//! Parameters of global versions: the current and the previous one in memory, older ones read from their blobs.

use super::error::VersionError;
use crate::digest::Sha256Digest;
use crate::store::{BlobError, Store, StoreError, blocking};
use crate::wire::{self, BodyFormat, Parameters, Plan, ReadError, Schema};
use app::api::RunId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

/// See the module.
#[derive(Debug)]
pub(super) struct Loaded {
    run: RunId,
    store: Store,
    schema: Arc<Schema>,
    in_memory: RwLock<InMemory>,
    /// Older versions that somebody works with now, as in asynchronous runs.
    older: Mutex<HashMap<u64, Weak<Parameters>>>,
}

#[derive(Debug)]
struct InMemory {
    version: u64,
    /// Of an archived run no version is kept in memory.
    current: Option<Arc<Parameters>>,
    /// What the current version is sent as a difference to.
    previous: Option<Arc<Parameters>>,
}

impl Loaded {
    pub fn new(run: RunId, store: Store, version: u64, parameters: Arc<Parameters>) -> Self {
        let schema = parameters.schema().clone();
        let in_memory = RwLock::new(InMemory { version, current: Some(parameters), previous: None });
        Self { run, store, schema, in_memory, older: Mutex::default() }
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    pub fn version(&self) -> u64 {
        self.in_memory.read().unwrap_or_else(PoisonError::into_inner).version
    }

    pub fn release(&self) {
        let mut in_memory = self.in_memory.write().unwrap_or_else(PoisonError::into_inner);
        (in_memory.current, in_memory.previous) = (None, None);
    }

    pub fn install(&self, version: u64, parameters: Arc<Parameters>) {
        let mut in_memory = self.in_memory.write().unwrap_or_else(PoisonError::into_inner);
        let previous = in_memory.current.take();
        *in_memory = InMemory { version, current: Some(parameters), previous };
    }

    fn in_memory(&self, version: u64) -> Option<Arc<Parameters>> {
        let in_memory = self.in_memory.read().unwrap_or_else(PoisonError::into_inner);
        match in_memory.version.checked_sub(version) {
            Some(0) => in_memory.current.clone(),
            Some(1) => in_memory.previous.clone(),
            _ => None,
        }
    }

    pub async fn parameters(&self, version: u64) -> Result<Arc<Parameters>, VersionError> {
        if let Some(parameters) = self.in_memory(version) {
            return Ok(parameters);
        }
        let older = || self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parameters) = older().get(&version).and_then(Weak::upgrade) {
            return Ok(parameters);
        }
        let sha256 = self.store.model_version(&self.run, version).await?.ok_or(VersionError::NoVersion(version))?;
        let store = self.store.clone();
        let stored = blocking(move || from_blob(&store, &sha256)).await;
        let parameters = Arc::new(stored.map_err(|error| match error.is_passing() {
            true => StoreError::from(error).into(),
            false => VersionError::Unreadable { version, reason: error.to_string() },
        })?);
        let mut older = older();
        if let Some(parameters) = older.get(&version).and_then(Weak::upgrade) {
            return Ok(parameters); // another request has read it meanwhile: one copy suffices
        }
        older.retain(|_, held| held.strong_count() > 0);
        older.insert(version, Arc::downgrade(&parameters));
        Ok(parameters)
    }
}

/// Stores a global version without loss. Blocking.
pub(in crate::coordinator) fn to_blob(store: &Store, parameters: &Parameters) -> Result<Sha256Digest, BlobError> {
    store.put_model(|out| wire::write_f32(parameters, out))
}

/// Reads what [`to_blob`] has stored. Blocking.
pub(in crate::coordinator) fn from_blob(store: &Store, sha256: &Sha256Digest) -> Result<Parameters, BlobError> {
    let file = store.open_model(sha256)?;
    let plan = Plan::of_source(BodyFormat::Container, &file, file.bytes());
    plan.and_then(|plan| plan.load(&file, None)).map_err(|error| match error {
        ReadError::Source(error) => BlobError::Body(error),
        ReadError::Decode(error) => BlobError::NoModel { digest: *sha256, source: error.into() },
    })
}
