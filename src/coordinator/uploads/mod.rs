//! Uploads of one run that are being received or were interrupted: one a client.
//!
//! An upload that its client identifies by SHA-256 outlives its request, because then it is certain that the rest belongs to
//! what is stored. It is kept until its round is over, the client begins another one, or the limits of [`InterruptedUploads`]
//! are exceeded.

mod error;
mod incoming;
mod interrupted;
pub(super) mod limits;
mod places;
mod rejection;

pub use error::UploadError;
pub use interrupted::{InterruptedUploads, MAX_INTERRUPTED};
pub use limits::SizeLimit;
pub use places::{MAX_UPLOADS, Places};
pub use rejection::Rejection;

pub(super) use incoming::CheckedUpdate;
pub(super) use places::Place;

use super::versions::Versions;
use crate::digest::Sha256Digest;
use crate::store::Store;
use crate::wire::BodyFormat;
use app::api::ClientId;
use bytes::Bytes;
use incoming::Incoming;
use interrupted::Ticket;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// Identifies an upload: it can be resumed only if all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadKey {
    /// The round that the update is for.
    pub round: u64,
    /// SHA-256 of the whole body, as the client announced it.
    pub sha256: Sha256Digest,
    /// The format of the body.
    pub format: BodyFormat,
}

/// See the module.
#[derive(Debug)]
pub struct Uploads {
    store: Store,
    versions: Arc<Versions>,
    slots: Mutex<Slots>,
    interrupted: Arc<InterruptedUploads>,
}

#[derive(Debug, Default)]
struct Slots {
    by_client: HashMap<ClientId, Arc<Slot>>,
    /// Nothing is kept for rounds before this one, even if a transfer was running when they ended.
    first_round: u64,
}

#[derive(Debug)]
struct Slot {
    key: Option<UploadKey>,
    /// Received bytes, as shown to others.
    shown_bytes: Arc<AtomicU64>,
    /// What earlier requests have left: `None` before the first byte, and once the upload is rejected or complete. Locked
    /// by the request that receives.
    rest: Arc<tokio::sync::Mutex<Option<Ticket>>>,
    /// Cancelled when a later request takes over.
    superseded: Mutex<CancellationToken>,
}

impl Slot {
    fn new(key: Option<UploadKey>) -> Arc<Self> {
        Arc::new(Self { key, shown_bytes: Arc::default(), rest: Arc::default(), superseded: Mutex::default() })
    }
}

impl Uploads {
    pub(super) fn new(store: Store, versions: Arc<Versions>, interrupted: Arc<InterruptedUploads>) -> Self {
        Self { store, versions, slots: Mutex::default(), interrupted }
    }

    /// The right to receive an upload, trained from `version`, from `offset` on. An earlier request that still receives the
    /// same upload, most likely on a connection that is dead without anybody having noticed, is cancelled and waited for.
    ///
    /// # Errors
    /// There are fewer than `offset` bytes of that upload; the version that it was trained from cannot be read; the file
    /// system; or a later request has taken over meanwhile.
    pub(super) async fn transfer(
        &self,
        client: &ClientId,
        key: Option<UploadKey>,
        (format, version): (BodyFormat, u64),
        offset: u64,
    ) -> Result<Transfer, UploadError> {
        let slot = self.slot(client, key, offset)?;
        let superseded = CancellationToken::new();
        let earlier = {
            let mut current = slot.superseded.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, superseded.clone())
        };
        earlier.cancel();
        let mut rest = slot.rest.clone().lock_owned().await;
        if superseded.is_cancelled() {
            return Err(UploadError::Superseded);
        }
        let mut incoming = None;
        if offset == 0 {
            let base = self.versions.parameters(version).await?;
            incoming = Some(Incoming::new(self.store.spool().await?, format, (version, base)));
        } else if let Some(ticket) = rest.as_ref() {
            let base = self.versions.parameters(ticket.version()).await?; // if this fails, the upload is still kept
            incoming = ticket.redeem().map(|upload| upload.resume(base));
        }
        *rest = None;
        let transfer = Transfer { slot, incoming, rest, superseded, interrupted: self.interrupted.clone(), skip: 0 };
        transfer.starting_at(offset)
    }

    fn slot(&self, client: &ClientId, key: Option<UploadKey>, offset: u64) -> Result<Arc<Slot>, UploadError> {
        let Some(key) = key else { return Ok(Slot::new(None)) };
        let mut slots = self.lock();
        match slots.by_client.get(client).filter(|slot| slot.key.as_ref() == Some(&key)) {
            Some(slot) => Ok(slot.clone()),
            // Another upload of the client can still be resumed.
            None if offset > 0 => Err(UploadError::Offset { offset, stored: 0 }),
            None => {
                let is_kept = key.round >= slots.first_round;
                let slot = Slot::new(Some(key));
                if is_kept {
                    slots.by_client.insert(client.clone(), slot.clone());
                }
                Ok(slot)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's upload that can be resumed, and the number of bytes that are stored.
    pub fn resumable(&self, client: &ClientId) -> Option<(UploadKey, u64)> {
        let slot = self.lock().by_client.get(client)?.clone();
        let bytes = slot.shown_bytes.load(Ordering::Relaxed);
        slot.key.clone().filter(|_| bytes > 0).map(|key| (key, bytes))
    }

    /// Discards uploads for rounds before that one; with `u64::MAX` all of them.
    pub(super) fn discard_before(&self, first_round: u64) {
        let mut slots = self.lock();
        slots.first_round = first_round;
        slots.by_client.retain(|_, slot| slot.key.as_ref().is_some_and(|key| key.round >= first_round));
    }
}

/// One request's exclusive right to receive an upload. Dropped before the upload is complete, for whatever reason, it leaves
/// what is received for a later request.
#[derive(Debug)]
pub(super) struct Transfer {
    slot: Arc<Slot>,
    incoming: Option<Incoming>,
    rest: OwnedMutexGuard<Option<Ticket>>,
    superseded: CancellationToken,
    interrupted: Arc<InterruptedUploads>,
    /// Bytes of this request that an earlier one has stored already.
    skip: u64,
}

impl Transfer {
    fn starting_at(mut self, offset: u64) -> Result<Self, UploadError> {
        let stored = self.bytes();
        match self.incoming {
            Some(_) if offset <= stored => self.skip = stored - offset,
            _ => return Err(UploadError::Offset { offset, stored }),
        }
        self.show();
        Ok(self)
    }

    /// Returns when another request resumes the upload.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Bytes that are stored, of all requests.
    pub fn bytes(&self) -> u64 {
        self.incoming.as_ref().map_or(0, Incoming::bytes)
    }

    fn show(&self) {
        self.slot.shown_bytes.store(self.bytes(), Ordering::Relaxed);
    }

    /// Appends the next bytes of the request.
    ///
    /// # Errors
    /// The body exceeds the limit, or the update is rejected whatever the remaining bytes are: it is discarded; or the file
    /// system.
    pub async fn append(&mut self, mut chunk: Bytes, limit: SizeLimit) -> Result<(), UploadError> {
        let skipped = chunk.split_to(self.skip.min(chunk.len() as u64) as usize); // at most the chunk's length
        self.skip -= skipped.len() as u64;
        let appended = match (limit.check(self.bytes() + chunk.len() as u64), &mut self.incoming) {
            (Ok(()), Some(incoming)) => incoming.append(chunk).await,
            (too_large, _) => too_large,
        };
        if appended.is_err() {
            self.incoming = None;
        }
        self.show();
        appended
    }

    /// Checks the remaining blocks of a complete upload and makes it durable. Later requests wait until the transfer is
    /// dropped.
    ///
    /// # Errors
    /// The update is rejected and discarded; or the file system.
    pub async fn finish(&mut self, store: &Store) -> Result<CheckedUpdate, UploadError> {
        let incoming = self.incoming.take().ok_or(UploadError::Offset { offset: 0, stored: 0 })?;
        if let Some(UploadKey { sha256, .. }) = self.slot.key
            && sha256 != incoming.digest()
        {
            let found = incoming.digest();
            return Err(Rejection::mistake(format!("its SHA-256 is {found}, it should be {sha256}")).into());
        }
        incoming.finish(store).await
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.show(); // also if an append was cancelled
        // An upload that no request can find, because it has no key or its slot was replaced, must not displace another one.
        if let Some(incoming) = self.incoming.take().filter(|_| Arc::strong_count(&self.slot) > 1) {
            *self.rest = Some(self.interrupted.keep(incoming, self.slot.shown_bytes.clone()));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, ModelFormat, Parameters, Schema, TensorSpec, Values};

    const SAFETENSORS: BodyFormat = BodyFormat::Safetensors { zstd: false };

    /// A store, the uploads of a run of which `max_uploads` are kept when they are interrupted, and the run's model.
    async fn uploads(max_uploads: usize) -> (tempfile::TempDir, Store, Uploads, Arc<Parameters>) {
        uploads_within(InterruptedUploads::new(max_uploads, u64::MAX)).await
    }

    async fn uploads_within(interrupted: InterruptedUploads) -> (tempfile::TempDir, Store, Uploads, Arc<Parameters>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![6] };
        let schema = Arc::new(Schema::new(vec![spec]).unwrap());
        let model = Arc::new(Parameters::new(schema, vec![Values::F32(vec![1.0; 6])]));
        let versions = Arc::new(Versions::new("r".parse().unwrap(), store.clone(), 0, model.clone()));
        let uploads = Uploads::new(store.clone(), versions, Arc::new(interrupted));
        (folder, store, uploads, model)
    }

    fn body(model: &Parameters) -> Vec<u8> {
        ModelFormat::Safetensors { zstd: false }.write(model, None).unwrap()
    }

    fn key(body: &[u8]) -> Option<UploadKey> {
        Some(UploadKey { round: 1, sha256: Sha256Digest::of(body), format: SAFETENSORS })
    }

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    async fn transfer(
        uploads: &Uploads,
        name: &str,
        key: Option<UploadKey>,
        offset: u64,
    ) -> Result<Transfer, UploadError> {
        uploads.transfer(&client(name), key, (SAFETENSORS, 0), offset).await
    }

    async fn append(transfer: &mut Transfer, bytes: &[u8]) {
        transfer.append(Bytes::copy_from_slice(bytes), SizeLimit::new(1)).await.unwrap();
    }

    /// Sends the first bytes of a body; then the connection breaks.
    async fn interrupted(uploads: &Uploads, model: &Parameters, name: &str, bytes: usize) {
        let body = body(model);
        append(&mut transfer(uploads, name, key(&body), 0).await.unwrap(), &body[..bytes]).await;
    }

    fn files(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("incoming")).unwrap().count()
    }

    #[tokio::test]
    async fn the_oldest_interrupted_upload_is_removed_first() {
        let (folder, store, uploads, model) = uploads(2).await;
        let body = body(&model);
        // Given two interrupted uploads, of which the first was resumed and interrupted again,
        for name in ["first", "second"] {
            interrupted(&uploads, &model, name, 20).await;
        }
        append(&mut transfer(&uploads, "first", key(&body), 20).await.unwrap(), &body[20..30]).await;
        // when a third is interrupted, then the second is removed, with its file, and is not shown any more,
        interrupted(&uploads, &model, "third", 10).await;
        let stored = |name| uploads.resumable(&client(name)).map(|(_, bytes)| bytes);
        assert_eq!((stored("first"), stored("second"), stored("third"), files(&folder)), (Some(30), None, Some(10), 2));
        let second = transfer(&uploads, "second", key(&body), 20).await;
        assert!(matches!(second, Err(UploadError::Offset { offset: 20, stored: 0 })));
        // and the first can be completed.
        let mut first = transfer(&uploads, "first", key(&body), 25).await.unwrap();
        append(&mut first, &body[25..]).await;
        assert_eq!(first.finish(&store).await.unwrap().norm, 0.0);
    }

    #[tokio::test]
    async fn a_large_interrupted_upload_displaces_several_and_none_keeps_a_model_in_memory() {
        let (folder, _store, uploads, model) = uploads_within(InterruptedUploads::new(9, 50)).await;
        let held = Arc::strong_count(&model);
        for (name, bytes) in [("first", 20), ("second", 20), ("third", 10)] {
            interrupted(&uploads, &model, name, bytes).await;
        }
        let names = ["first", "second", "third", "large"];
        let stored = || names.map(|name| uploads.resumable(&client(name)).map(|(_, bytes)| bytes));
        assert_eq!((stored(), files(&folder)), ([Some(20), Some(20), Some(10), None], 3));
        assert_eq!(Arc::strong_count(&model), held);
        interrupted(&uploads, &model, "large", 40).await;
        assert_eq!((stored(), files(&folder)), ([None, None, Some(10), Some(40)], 2));
    }

    #[tokio::test]
    async fn an_upload_that_cannot_be_resumed_is_not_kept() {
        let (folder, _store, uploads, model) = uploads(1).await;
        interrupted(&uploads, &model, "known", 20).await;
        // An upload without a key is not kept, nor one whose round ends while it is received.
        drop(transfer(&uploads, "without-key", None, 0).await.unwrap());
        assert_eq!((uploads.resumable(&client("known")).map(|(_, bytes)| bytes), files(&folder)), (Some(20), 1));
        let known = transfer(&uploads, "known", key(&body(&model)), 20).await.unwrap();
        uploads.discard_before(2);
        drop(known);
        assert_eq!(files(&folder), 0);
    }

    #[tokio::test]
    async fn an_upload_can_be_interrupted_at_every_byte() {
        let (_folder, store, uploads, model) = uploads(1).await;
        let body = body(&model);
        interrupted(&uploads, &model, "client", 1).await;
        for at in 1..body.len() {
            let mut transfer = transfer(&uploads, "client", key(&body), at as u64).await.unwrap();
            append(&mut transfer, &body[at..=at]).await;
        }
        let mut transfer = transfer(&uploads, "client", key(&body), body.len() as u64).await.unwrap();
        assert_eq!(transfer.finish(&store).await.unwrap().body.bytes, body.len() as u64);
    }
}
