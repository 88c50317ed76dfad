//! The global versions of one run, and the bodies that clients receive: each is encoded once per version and format, and
//! shared by all requests for it.
//!
//! Bodies of the current version are kept. An older version is rarely asked for, so its body lives as long as it is being
//! sent, few are encoded at the same time, and no more are encoded while those being sent take much memory.
//!
//! Encoding that has begun is finished whether or not the request still waits: a client that disconnects and asks again finds
//! it under way.

mod error;
mod loaded;

pub use error::VersionError;
pub(super) use loaded::{from_blob, to_blob};

use crate::digest::Sha256Digest;
use crate::store::{Store, blocking};
use crate::wire::{self, Base, BodyFormat, ModelFormat, Parameters, Plan, Schema};
use app::api::RunId;
use bytes::Bytes;
use error::OLDER_AT_ONCE;
use loaded::Loaded;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a request for an older version waits until it can be encoded.
const PATIENCE: Duration = Duration::from_secs(10);
/// No more older versions are encoded while the bodies being sent take as much memory as that many of the largest body.
const OLDER_BODIES: u64 = 8;

/// A model, ready to be sent.
#[derive(Debug, Clone)]
pub struct EncodedModel {
    /// The body.
    pub bytes: Bytes,
    /// Identifies the body: the ETag.
    pub tag: Sha256Digest,
}

/// Version, format, and the version that it is a difference to.
type Key = (u64, ModelFormat, Option<u64>);

/// A body, once it is encoded.
#[derive(Debug, Default)]
struct Cell {
    made: OnceLock<EncodedModel>,
    /// Locked by the request that encodes it, or waits for a permit to.
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Cell {
    fn bytes(&self) -> &[u8] {
        self.made.get().map_or(&[], |model| &model.bytes)
    }
}

/// Bodies that are encoded or being encoded.
#[derive(Debug, Default)]
struct Encodings {
    /// Of all versions, as long as they are in use.
    shared: HashMap<Key, Weak<Cell>>,
    /// Of the current version.
    kept: HashMap<Key, Arc<Cell>>,
}

impl Encodings {
    fn cell(&mut self, key: Key) -> Arc<Cell> {
        self.shared.retain(|_, cell| cell.strong_count() > 0);
        let cell = self.shared.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        self.shared.insert(key, Arc::downgrade(&cell));
        cell
    }
}

/// A body that is shared as long as it is being sent.
struct Sent(Arc<Cell>);

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Versions {
    loaded: Loaded,
    encodings: Mutex<Encodings>,
    older_permits: Arc<Semaphore>,
    max_older_bytes: u64,
    patience: Duration,
}

impl Versions {
    pub(super) fn new(run: RunId, store: Store, version: u64, parameters: Arc<Parameters>) -> Self {
        Self {
            max_older_bytes: OLDER_BODIES * wire::max_body_bytes(parameters.schema()),
            loaded: Loaded::new(run, store, version, parameters),
            encodings: Mutex::default(),
            older_permits: Arc::new(Semaphore::new(OLDER_AT_ONCE)),
            patience: PATIENCE,
        }
    }

    /// The tensors of the model.
    pub fn schema(&self) -> &Arc<Schema> {
        self.loaded.schema()
    }

    /// The current version.
    pub fn version(&self) -> u64 {
        self.loaded.version()
    }

    /// A version's parameters.
    ///
    /// # Errors
    /// There is no such version, or it cannot be read.
    pub async fn parameters(&self, version: u64) -> Result<Arc<Parameters>, VersionError> {
        self.loaded.parameters(version).await
    }

    /// Keeps no version in memory: each is read when it is asked for.
    pub(super) fn release(&self) {
        self.loaded.release();
    }

    /// Makes this the current version.
    pub(super) fn install(&self, version: u64, parameters: Arc<Parameters>) {
        self.loaded.install(version, parameters);
        self.encodings().kept.retain(|(kept, ..), _| *kept == version);
    }

    fn encodings(&self) -> MutexGuard<'_, Encodings> {
        self.encodings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version in a format; `base` is the version that a difference refers to, for the formats that are one.
    ///
    /// # Errors
    /// There is no such version or base, it cannot be read, or it is an older one and too many are asked for.
    pub async fn get(
        self: &Arc<Self>,
        version: u64,
        format: ModelFormat,
        base: Option<u64>,
    ) -> Result<EncodedModel, VersionError> {
        let key = (version, format, base);
        let cell = self.encodings().cell(key);
        let tag = match cell.made.get() {
            Some(made) => made.tag,
            None => self.make(key, cell.clone()).await?,
        };
        Ok(EncodedModel { bytes: Bytes::from_owner(Sent(cell)), tag })
    }

    /// Encodes a body, unless another request does meanwhile.
    async fn make(self: &Arc<Self>, key: Key, cell: Arc<Cell>) -> Result<Sha256Digest, VersionError> {
        let until = Instant::now() + self.patience;
        let making = cell.making.clone().lock_owned().await;
        if let Some(made) = cell.made.get() {
            return Ok(made.tag);
        }
        let (version, ..) = key;
        let permit = if self.version() == version { None } else { Some(self.older_permit(version, until).await?) };
        let this = self.clone();
        // In a task of its own: this request ends when the client disconnects. Encoding would continue all the same, and if
        // its result were lost, one client could occupy every thread by asking and disconnecting repeatedly.
        let made = tokio::spawn(async move {
            let _making = making;
            let made = this.encode(key, permit).await?;
            let tag = cell.made.get_or_init(|| made).tag;
            let mut encodings = this.encodings();
            if this.version() == version {
                encodings.kept.insert(key, cell);
            }
            Ok(tag)
        });
        match made.await {
            Ok(made) => made,
            // Not cancelled, since nobody holds the handle: it panicked, and so does this request.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// The permit to encode an older version.
    async fn older_permit(&self, version: u64, until: Instant) -> Result<OwnedSemaphorePermit, VersionError> {
        let permit = tokio::time::timeout_at(until, self.older_permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(VersionError::Busy(version)) };
        let (held, limit) = (self.older_bytes(), self.max_older_bytes);
        if held >= limit { Err(VersionError::Full { version, held, limit }) } else { Ok(permit) }
    }

    /// Bytes of the bodies of older versions that are being sent.
    fn older_bytes(&self) -> u64 {
        let encodings = self.encodings();
        let current = self.version();
        let older = encodings.shared.iter().filter(|((version, ..), _)| *version != current);
        older.filter_map(|(_, cell)| cell.upgrade()).map(|cell| cell.bytes().len() as u64).sum()
    }

    async fn encode(
        &self,
        (version, format, base): Key,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<EncodedModel, VersionError> {
        let parameters = self.parameters(version).await?;
        let base = match base {
            Some(base) => Some((base, self.parameters(base).await?)),
            None => None,
        };
        blocking(move || {
            let _permit = permit;
            let base = base.as_ref().map(|(version, parameters)| Base { version: *version, parameters });
            let unwritable = |source| VersionError::Unwritable { version, format: format.content_type(), source };
            let bytes = format.write(&parameters, base).map_err(unwritable)?;
            // The head of a container has the checksums and lengths of all its blocks.
            let identified_by = match format {
                ModelFormat::Container(_) => Plan::head_bytes(BodyFormat::Container, &bytes).ok().flatten(),
                ModelFormat::Safetensors { .. } => None,
            };
            let tag = Sha256Digest::of(&bytes[..identified_by.unwrap_or(bytes.len())]);
            Ok(EncodedModel { bytes: bytes.into(), tag })
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, TensorSpec, Values};
    use futures::FutureExt;

    const FORMAT: ModelFormat = ModelFormat::Safetensors { zstd: false };

    /// A run at version 1.
    async fn versions() -> (tempfile::TempDir, Arc<Versions>) {
        versions_with(|_| {}).await
    }

    async fn versions_with(change: impl FnOnce(&mut Versions)) -> (tempfile::TempDir, Arc<Versions>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![6] };
        let schema = Arc::new(Schema::new(vec![spec]).unwrap());
        let full_of = |value| Arc::new(Parameters::new(schema.clone(), vec![Values::F32(vec![value; 6])]));
        let mut versions = Versions::new("r".parse().unwrap(), store, 0, full_of(0.0));
        versions.install(1, full_of(1.0));
        change(&mut versions);
        (folder, Arc::new(versions))
    }

    #[tokio::test]
    async fn a_client_that_disconnects_and_asks_again_finds_the_body_under_way() {
        let (_folder, versions) = versions().await;
        // Given a client that asks for the current version and disconnects at once,
        assert!(versions.get(1, FORMAT, None).now_or_never().is_none());
        // then the body is encoded all the same, for the next request,
        let under_way = versions.encodings().cell((1, FORMAT, None));
        assert!(under_way.making.try_lock().is_err());
        let body = versions.get(1, FORMAT, None).await.unwrap().bytes;
        assert_eq!(body.as_ptr(), under_way.bytes().as_ptr());
        // and kept.
        drop((under_way, body));
        assert_eq!(versions.encodings().kept.len(), 1);
    }

    #[tokio::test]
    async fn an_older_version_is_shared_as_long_as_it_is_being_sent() {
        let (_folder, versions) = versions().await;
        let (one, other) = (versions.get(0, FORMAT, None).await.unwrap(), versions.get(0, FORMAT, None).await.unwrap());
        assert_eq!(one.bytes.as_ptr(), other.bytes.as_ptr());
        drop((one, other));
        let current = versions.get(1, FORMAT, None).await.unwrap().bytes;
        let shared =
            |versions: &Versions| versions.encodings().shared.values().filter(|c| c.strong_count() > 0).count();
        assert_eq!(shared(&versions), 1, "nothing is left of the older one");
        let at = current.as_ptr();
        drop(current);
        assert_eq!(versions.get(1, FORMAT, None).await.unwrap().bytes.as_ptr(), at, "the current one is kept");
        let missing = versions.get(9, FORMAT, None).await;
        assert!(matches!(missing, Err(VersionError::NoVersion(9))) && shared(&versions) == 1);
    }

    #[tokio::test]
    async fn older_versions_are_encoded_two_at_a_time_and_the_current_one_at_any_time() {
        let (_folder, versions) = versions_with(|versions| versions.patience = Duration::from_millis(10)).await;
        let others = versions.older_permits.clone().acquire_many_owned(OLDER_AT_ONCE as u32).await.unwrap();
        assert!(matches!(versions.get(0, FORMAT, None).await, Err(VersionError::Busy(0))));
        versions.get(1, FORMAT, None).await.unwrap();
        // Once a permit is free, the request succeeds; and permits are held while encoding, not while sending.
        drop(others);
        let sent = versions.get(0, FORMAT, None).await.unwrap();
        let others = versions.older_permits.clone().acquire_many_owned(OLDER_AT_ONCE as u32).await.unwrap();
        assert_eq!(versions.get(0, FORMAT, None).await.unwrap().tag, sent.tag);
        drop(others);
    }

    #[tokio::test]
    async fn requests_for_the_same_older_version_share_one_permit() {
        let (_folder, versions) = versions().await;
        let (mut one, mut other) = (Box::pin(versions.get(0, FORMAT, None)), Box::pin(versions.get(0, FORMAT, None)));
        assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        assert_eq!(versions.older_permits.available_permits(), OLDER_AT_ONCE - 1);
        assert_eq!(one.await.unwrap().bytes.as_ptr(), other.await.unwrap().bytes.as_ptr());
    }

    #[tokio::test]
    async fn no_older_version_is_encoded_while_those_being_sent_take_much_memory() {
        let (_folder, versions) = versions_with(|versions| versions.max_older_bytes = 1).await;
        let zstd = ModelFormat::Safetensors { zstd: true };
        let current = versions.get(1, FORMAT, None).await.unwrap();
        let sent = versions.get(0, FORMAT, None).await.unwrap();
        let held = sent.bytes.len() as u64;
        let refused = versions.get(0, zstd, None).await.unwrap_err();
        assert!(
            matches!(refused, VersionError::Full { version: 0, held: found, limit: 1 } if found == held),
            "{refused}"
        );
        // An encoded body can be sent to others, and the current version can be sent at any time.
        assert_eq!(versions.get(0, FORMAT, None).await.unwrap().bytes.as_ptr(), sent.bytes.as_ptr());
        versions.get(1, zstd, None).await.unwrap();
        drop((sent, current));
        versions.get(0, zstd, None).await.unwrap();
    }
}
