//! Updates that are on their way in: at most one of each client, so that one whose connection broke is completed, not
//! repeated.
//!
//! Only an upload that was announced by its SHA-256 outlives its request: nothing else would tell whether what follows
//! belongs to what has come. It is kept until its round is over, or the client begins another one.

use super::handle::RunError;
use super::incoming::{CheckedUpdate, Incoming};
use crate::digest::Sha256Digest;
use crate::store::Store;
use crate::wire::BodyFormat;
use app::api::ClientId;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

/// What an upload is an upload of: all that must be the same for it to be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadKey {
    /// The round that it is for.
    pub round: u64,
    /// SHA-256 of the whole body, as the client says.
    pub sha256: Sha256Digest,
    /// How the body is written.
    pub format: BodyFormat,
}

/// The uploads of one run.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    by_client: HashMap<ClientId, Arc<Slot>>,
    /// Rounds before this one take nothing any more: nothing is kept for them, also of who was on the way when they ended.
    first_round: u64,
}

#[derive(Debug)]
struct Slot {
    key: Option<UploadKey>,
    bytes: AtomicU64,
    /// Held by the request that receives; none before the first byte, and once it is refused or complete.
    incoming: Arc<tokio::sync::Mutex<Option<Incoming>>>,
    /// Of the latest request: the one before it is told to let go.
    turn: Mutex<CancellationToken>,
}

impl Slot {
    fn new(key: Option<UploadKey>) -> Arc<Self> {
        Arc::new(Self { key, bytes: AtomicU64::new(0), incoming: Arc::default(), turn: Mutex::default() })
    }
}

impl Uploads {
    /// A request's turn to receive, from `offset` on. An earlier request that still goes on with the same upload, most
    /// likely over a connection that nobody noticed to be dead, is told to let go, and waited for.
    ///
    /// # Errors
    /// Nothing of that upload is here, and `offset` is not 0; or a later request has come in the meantime.
    pub async fn turn(&self, client: &ClientId, key: Option<UploadKey>, offset: u64) -> Result<Turn, RunError> {
        let slot = self.slot(client, key, offset)?;
        let superseded = CancellationToken::new();
        let before = {
            let mut turn = slot.turn.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *turn, superseded.clone())
        };
        before.cancel();
        let incoming = slot.incoming.clone().lock_owned().await;
        let turn = Turn { slot, incoming, superseded };
        if turn.superseded.is_cancelled() { Err(RunError::Superseded) } else { Ok(turn) }
    }

    fn slot(&self, client: &ClientId, key: Option<UploadKey>, offset: u64) -> Result<Arc<Slot>, RunError> {
        let Some(key) = key else { return Ok(Slot::new(None)) };
        let mut slots = self.lock();
        match slots.by_client.get(client).filter(|slot| slot.key.as_ref() == Some(&key)) {
            Some(slot) => Ok(slot.clone()),
            // What is here of another one stays, for who asks for it.
            None if offset > 0 => Err(RunError::Offset { offset, have: 0 }),
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come of the client's latest upload that can be gone on with.
    pub fn of(&self, client: &ClientId) -> Option<(UploadKey, u64)> {
        let slot = self.lock().by_client.get(client)?.clone();
        let bytes = slot.bytes.load(Ordering::Relaxed);
        slot.key.clone().filter(|_| bytes > 0).map(|key| (key, bytes))
    }

    /// Forgets what came for rounds before that one; with `u64::MAX`, all: the coordinator stops.
    pub(super) fn clear(&self, first_round: u64) {
        let mut slots = self.lock();
        slots.first_round = first_round;
        slots.by_client.retain(|_, slot| slot.key.as_ref().is_some_and(|key| key.round >= first_round));
    }
}

/// A request's turn to receive an upload. Dropped in the middle, however that comes, what has arrived stays for the next
/// one.
#[derive(Debug)]
pub struct Turn {
    slot: Arc<Slot>,
    incoming: OwnedMutexGuard<Option<Incoming>>,
    superseded: CancellationToken,
}

impl Turn {
    /// Begins the upload, anew if something of it has come before.
    pub fn begin(&mut self, incoming: Incoming) {
        *self.incoming = Some(incoming);
        self.tell();
    }

    /// Goes on with an upload, with the bytes from `offset` on. Returns how many of them are here already, to be skipped.
    ///
    /// # Errors
    /// The bytes before `offset` are not here.
    pub fn go_on(&self, offset: u64) -> Result<u64, RunError> {
        let have = self.bytes();
        if self.incoming.is_some() && offset <= have {
            Ok(have - offset)
        } else {
            Err(RunError::Offset { offset, have })
        }
    }

    /// Ends when another request goes on with the upload: this one must let go.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Bytes that have come, over all requests.
    pub fn bytes(&self) -> u64 {
        self.incoming.as_ref().map_or(0, Incoming::bytes)
    }

    /// Shows to others how many bytes have come.
    fn tell(&self) {
        self.slot.bytes.store(self.bytes(), Ordering::Relaxed);
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The update cannot be accepted, whatever else comes, and is dropped; or the file system.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), RunError> {
        let incoming = self.incoming.as_mut().ok_or(RunError::Offset { offset: 0, have: 0 })?;
        let appended = incoming.append(chunk).await;
        if appended.is_err() {
            self.discard();
        }
        self.tell();
        appended
    }

    /// Forgets what has come: it is not acceptable.
    pub fn discard(&mut self) {
        *self.incoming = None;
    }

    /// All has come. Checks what is left to check. Until the turn is dropped, who comes after waits.
    ///
    /// # Errors
    /// The update cannot be accepted, and is dropped; or the file system.
    pub async fn finish(&mut self, store: &Store) -> Result<CheckedUpdate, RunError> {
        let incoming = self.incoming.take().ok_or(RunError::Offset { offset: 0, have: 0 })?;
        if let Some(UploadKey { sha256, .. }) = self.slot.key
            && sha256 != incoming.digest()
        {
            let found = incoming.digest();
            return Err(RunError::BadUpdate(format!("its SHA-256 is {found}, it should be {sha256}")));
        }
        incoming.finish(store).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.tell(); // also where an append was broken off
    }
}
