//! The global model as clients fetch it: encoded once per version and format, shared by all who ask.
//!
//! What the current version is told by is kept. An older one is rarely asked for, which is not worth the memory; so what it
//! is told by is shared as long as somebody is being sent it, only so many are encoded at once, and no more are begun while
//! those that are being sent take much memory.
//!
//! What is begun is finished, whether or not who asked waits for it: who hangs up and asks again finds it under way.

pub(super) use crate::store::blocking;

use crate::digest::Sha256Digest;
use crate::store::{BlobError, Store, StoreError};
use crate::wire::{self, Base, BodyFormat, EncodeError, ModelFormat, Parameters, Plan, ReadError, Schema};
use app::api::RunId;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bodies of older versions that are encoded at once, of one run.
const OLDER_AT_ONCE: usize = 2;
/// How long who asks for another one waits for that.
const PATIENCE: Duration = Duration::from_secs(10);
/// While bodies of older versions are being sent that take as much memory as so many of the largest that the model can be
/// told by, no more of them are begun.
const OLDER_BODIES: u64 = 8;

/// Why a model could not be handed out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The run has no such version, or it was pruned.
    #[error("there is no version {0} of this model, or it is no longer kept: models/latest is the current one")]
    NoVersion(u64),
    /// Others ask for older versions, too.
    #[error("version {0} is not the current one, and {OLDER_AT_ONCE} of those are being encoded, the most at once")]
    Busy(u64),
    /// Others are being sent older versions, and read them slowly.
    #[error("version {version} is not the current one, and of those {held} bytes are being sent, of at most {most}")]
    Full {
        /// The version asked for.
        version: u64,
        /// Bytes of all bodies of older versions.
        held: u64,
        /// With how many no more are begun.
        most: u64,
    },
    /// The store, which may do better another time.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob is damaged or gone.
    #[error("the stored version {version} cannot be read: {reason}")]
    Unreadable {
        /// Which version.
        version: u64,
        /// Why not.
        reason: String,
    },
    /// It cannot be written as it is asked for.
    #[error("version {version} cannot be sent as {format}: {source}")]
    Unwritable {
        /// Which version.
        version: u64,
        /// The media type, with the encoding where it has one.
        format: &'static str,
        /// Why not.
        source: EncodeError,
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

/// A body, once it is made.
#[derive(Debug, Default)]
struct Cell {
    made: OnceLock<EncodedModel>,
    /// Held by who makes it, or waits for room to.
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Cell {
    fn bytes(&self) -> &[u8] {
        self.made.get().map_or(&[], |model| &model.bytes)
    }
}

/// Bodies that are there or being made.
#[derive(Debug, Default)]
struct Encodings {
    /// Of any version, as long as somebody holds them.
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

/// The global versions of one run.
#[derive(Debug)]
pub struct Models {
    run: RunId,
    store: Store,
    schema: Arc<Schema>,
    /// Not kept in memory where the run is archived.
    current: RwLock<(u64, Option<Arc<Parameters>>)>,
    /// What the current version is told by to all who took part in the last round.
    previous: RwLock<Option<Arc<Parameters>>>,
    /// Older versions that somebody works with now, as in asynchronous runs.
    older: Mutex<HashMap<u64, Weak<Parameters>>>,
    encodings: Mutex<Encodings>,
    room_for_older: Arc<Semaphore>,
    most_older_bytes: u64,
    patience: Duration,
}

impl Models {
    pub(super) fn new(run: RunId, store: Store, version: u64, parameters: Arc<Parameters>) -> Self {
        Self {
            run,
            store,
            most_older_bytes: OLDER_BODIES * wire::max_body_bytes(parameters.schema()),
            schema: parameters.schema().clone(),
            current: RwLock::new((version, Some(parameters))),
            previous: RwLock::default(),
            older: Mutex::default(),
            encodings: Mutex::default(),
            room_for_older: Arc::new(Semaphore::new(OLDER_AT_ONCE)),
            patience: PATIENCE,
        }
    }

    /// What the model consists of.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The current version.
    pub fn version(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Keeps no version in memory: each is read when somebody asks for it.
    pub(super) fn release(&self) {
        self.current.write().unwrap_or_else(PoisonError::into_inner).1 = None;
    }

    pub(super) fn swap(&self, version: u64, parameters: Arc<Parameters>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let (_, previous) = std::mem::replace(&mut *current, (version, Some(parameters)));
        *self.previous.write().unwrap_or_else(PoisonError::into_inner) = previous;
        drop(current);
        self.encodings().kept.retain(|(kept, ..), _| *kept == version);
    }

    fn encodings(&self) -> MutexGuard<'_, Encodings> {
        self.encodings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version in a format; `base`: the version that it is to be a difference to, for those formats that are one.
    ///
    /// # Errors
    /// There is no such version, or no such base, or it cannot be read; or it is an older one, and too many are asked for.
    pub async fn get(
        self: &Arc<Self>,
        version: u64,
        format: ModelFormat,
        base: Option<u64>,
    ) -> Result<EncodedModel, ModelError> {
        let key = (version, format, base);
        let cell = self.encodings().cell(key);
        let tag = match cell.made.get() {
            Some(made) => made.tag,
            None => self.make(key, cell.clone()).await?,
        };
        Ok(EncodedModel { bytes: Bytes::from_owner(Sent(cell)), tag })
    }

    /// Makes a body, unless somebody else does meanwhile.
    async fn make(self: &Arc<Self>, key: Key, cell: Arc<Cell>) -> Result<Sha256Digest, ModelError> {
        let until = Instant::now() + self.patience;
        let making = cell.making.clone().lock_owned().await;
        if let Some(made) = cell.made.get() {
            return Ok(made.tag);
        }
        let (version, ..) = key;
        let room = if self.version() == version { None } else { Some(self.room_for(version, until).await?) };
        let this = self.clone();
        // By itself: this request ends when the client hangs up. Encoding would go on all the same, and if what comes of it
        // were lost, one client could have every thread encode, by asking and hanging up again and again.
        let made = tokio::spawn(async move {
            let _making = making;
            let made = this.encode(key, room).await?;
            let tag = cell.made.get_or_init(|| made).tag;
            let mut encodings = this.encodings();
            if this.version() == version {
                encodings.kept.insert(key, cell);
            }
            Ok(tag)
        });
        match made.await {
            Ok(made) => made,
            // Not cancelled: nobody holds the handle. So it panicked, and the panic goes on where it was asked for.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Room to encode a version that is not the current one.
    async fn room_for(&self, version: u64, until: Instant) -> Result<OwnedSemaphorePermit, ModelError> {
        let room = tokio::time::timeout_at(until, self.room_for_older.clone().acquire_owned()).await;
        let Ok(Ok(room)) = room else { return Err(ModelError::Busy(version)) };
        let (held, most) = (self.older_bytes(), self.most_older_bytes);
        if held >= most { Err(ModelError::Full { version, held, most }) } else { Ok(room) }
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
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<EncodedModel, ModelError> {
        let parameters = self.parameters(version).await?;
        let base = match base {
            Some(base) => Some((base, self.parameters(base).await?)),
            None => None,
        };
        blocking(move || {
            let _room = room;
            let base = base.as_ref().map(|(version, parameters)| Base { version: *version, parameters });
            let unwritable = |source| ModelError::Unwritable { version, format: format.content_type(), source };
            let bytes = format.write(&parameters, base).map_err(unwritable)?;
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
            return current.1.clone();
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
        if let Some(parameters) = older.get(&version).and_then(Weak::upgrade) {
            return Ok(parameters); // read by somebody else meanwhile: one copy is enough for all
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, TensorSpec, Values};
    use futures::FutureExt;

    const FORMAT: ModelFormat = ModelFormat::Safetensors { zstd: false };

    /// A run at version 1.
    async fn models() -> (tempfile::TempDir, Arc<Models>) {
        models_with(|_| {}).await
    }

    async fn models_with(change: impl FnOnce(&mut Models)) -> (tempfile::TempDir, Arc<Models>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![6] };
        let schema = Arc::new(Schema::new(vec![spec]).unwrap());
        let full_of = |value| Arc::new(Parameters::new(schema.clone(), vec![Values::F32(vec![value; 6])]));
        let mut models = Models::new("r".parse().unwrap(), store, 0, full_of(0.0));
        models.swap(1, full_of(1.0));
        change(&mut models);
        (folder, Arc::new(models))
    }

    #[tokio::test]
    async fn who_hangs_up_and_asks_again_finds_the_body_under_way() {
        let (_folder, models) = models().await;
        // Given somebody who asks for the current version, and hangs up at once,
        assert!(models.get(1, FORMAT, None).now_or_never().is_none());
        // then it is being made all the same, for whoever is the next one to ask,
        let under_way = models.encodings().cell((1, FORMAT, None));
        assert!(under_way.making.try_lock().is_err());
        let body = models.get(1, FORMAT, None).await.unwrap().bytes;
        assert_eq!(body.as_ptr(), under_way.bytes().as_ptr());
        // and kept.
        drop((under_way, body));
        assert_eq!(models.encodings().kept.len(), 1);
    }

    #[tokio::test]
    async fn an_older_version_is_shared_as_long_as_somebody_is_sent_it() {
        let (_folder, models) = models().await;
        let (one, other) = (models.get(0, FORMAT, None).await.unwrap(), models.get(0, FORMAT, None).await.unwrap());
        assert_eq!(one.bytes.as_ptr(), other.bytes.as_ptr());
        drop((one, other));
        let current = models.get(1, FORMAT, None).await.unwrap().bytes;
        let shared = |models: &Models| models.encodings().shared.values().filter(|c| c.strong_count() > 0).count();
        assert_eq!(shared(&models), 1, "of the older one nothing is left");
        let at = current.as_ptr();
        drop(current);
        assert_eq!(models.get(1, FORMAT, None).await.unwrap().bytes.as_ptr(), at, "the current one is kept");
        let missing = models.get(9, FORMAT, None).await;
        assert!(matches!(missing, Err(ModelError::NoVersion(9))) && shared(&models) == 1);
    }

    #[tokio::test]
    async fn only_so_many_older_versions_are_encoded_at_once_and_the_current_one_in_any_case() {
        let (_folder, models) = models_with(|models| models.patience = Duration::from_millis(10)).await;
        let others = models.room_for_older.clone().acquire_many_owned(OLDER_AT_ONCE as u32).await.unwrap();
        assert!(matches!(models.get(0, FORMAT, None).await, Err(ModelError::Busy(0))));
        models.get(1, FORMAT, None).await.unwrap();
        // Once there is room, whoever comes back has it; and room is taken by encoding, not by being sent.
        drop(others);
        let sent = models.get(0, FORMAT, None).await.unwrap();
        let others = models.room_for_older.clone().acquire_many_owned(OLDER_AT_ONCE as u32).await.unwrap();
        assert_eq!(models.get(0, FORMAT, None).await.unwrap().tag, sent.tag);
        drop(others);
    }

    #[tokio::test]
    async fn who_asks_for_the_same_older_version_takes_no_more_room_for_it() {
        let (_folder, models) = models().await;
        let (mut one, mut other) = (Box::pin(models.get(0, FORMAT, None)), Box::pin(models.get(0, FORMAT, None)));
        assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        assert_eq!(models.room_for_older.available_permits(), OLDER_AT_ONCE - 1);
        assert_eq!(one.await.unwrap().bytes.as_ptr(), other.await.unwrap().bytes.as_ptr());
    }

    #[tokio::test]
    async fn while_older_versions_that_are_being_sent_take_much_memory_no_more_are_begun() {
        let (_folder, models) = models_with(|models| models.most_older_bytes = 1).await;
        let zstd = ModelFormat::Safetensors { zstd: true };
        let current = models.get(1, FORMAT, None).await.unwrap();
        let sent = models.get(0, FORMAT, None).await.unwrap();
        let held = sent.bytes.len() as u64;
        let refused = models.get(0, zstd, None).await.unwrap_err();
        assert!(matches!(refused, ModelError::Full { version: 0, held: found, most: 1 } if found == held), "{refused}");
        // What is there already can be sent to others, and the current one is sent in any case.
        assert_eq!(models.get(0, FORMAT, None).await.unwrap().bytes.as_ptr(), sent.bytes.as_ptr());
        models.get(1, zstd, None).await.unwrap();
        drop((sent, current));
        models.get(0, zstd, None).await.unwrap();
    }
}
