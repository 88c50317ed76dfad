//! Updates that are on their way in: at most one of each client, so that one whose connection broke is completed, not
//! repeated.
//!
//! Only an upload that was announced by its SHA-256 outlives its request: nothing else would tell whether what follows
//! belongs to what has come. It is kept until its round is over, the client begins another one, or too many are kept, or too
//! many bytes.

use super::handle::RunError;
use super::incoming::{CheckedUpdate, Incoming};
use super::models::Models;
use super::parking::{Parking, Ticket};
use super::rejection::Rejection;
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
#[derive(Debug)]
pub struct Uploads {
    slots: Mutex<Slots>,
    parking: Arc<Parking>,
    /// Where the versions are read that uploads which are gone on with are trained from.
    models: Option<Arc<Models>>,
}

#[derive(Debug, Default)]
struct Slots {
    by_client: HashMap<ClientId, Arc<Slot>>,
    /// Rounds before this one take nothing any more: nothing is kept for them, also of who was on the way when they ended.
    first_round: u64,
}

#[derive(Debug)]
struct Slot {
    key: Option<UploadKey>,
    /// How many bytes are shown to be here.
    shown: Arc<AtomicU64>,
    /// Held by the request that receives. What an earlier one has left; none before the first byte, and once it is refused
    /// or complete.
    left: Arc<tokio::sync::Mutex<Option<Ticket>>>,
    /// Of the latest request: the one before it is told to let go.
    turn: Mutex<CancellationToken>,
}

impl Slot {
    fn new(key: Option<UploadKey>) -> Arc<Self> {
        Arc::new(Self { key, shown: Arc::default(), left: Arc::default(), turn: Mutex::default() })
    }
}

impl Uploads {
    /// None has come yet. What is broken off waits in that parking, which runs share.
    pub(super) fn new(parking: Arc<Parking>) -> Self {
        Self { slots: Mutex::default(), parking, models: None }
    }

    /// Of a run with these versions. Without, what is broken off must be begun anew.
    pub(super) fn with(self, models: Arc<Models>) -> Self {
        Self { models: Some(models), ..self }
    }

    /// A request's turn to receive, from `offset` on. An earlier request that still goes on with the same upload, most
    /// likely over a connection that nobody noticed to be dead, is told to let go, and waited for.
    ///
    /// # Errors
    /// Nothing of that upload is here, and `offset` is not 0; or what it is trained from cannot be read; or a later request has
    /// come in the meantime.
    pub async fn turn(&self, client: &ClientId, key: Option<UploadKey>, offset: u64) -> Result<Turn, RunError> {
        let slot = self.slot(client, key, offset)?;
        let superseded = CancellationToken::new();
        let before = {
            let mut turn = slot.turn.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *turn, superseded.clone())
        };
        before.cancel();
        let mut left = slot.left.clone().lock_owned().await;
        if superseded.is_cancelled() {
            return Err(RunError::Superseded);
        }
        let mut incoming = None;
        if let (Some(models), Some(ticket)) = (&self.models, left.as_ref().filter(|_| offset > 0)) {
            let base = models.parameters(ticket.version()).await?; // broken off or in vain, it stays parked
            incoming = ticket.redeem().map(|resting| resting.go_on(base));
        }
        *left = None; // what is begun anew
        Ok(Turn { slot, incoming, left, superseded, parking: self.parking.clone() })
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
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come of the client's latest upload that can be gone on with.
    pub fn of(&self, client: &ClientId) -> Option<(UploadKey, u64)> {
        let slot = self.lock().by_client.get(client)?.clone();
        let bytes = slot.shown.load(Ordering::Relaxed);
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
    incoming: Option<Incoming>,
    left: OwnedMutexGuard<Option<Ticket>>,
    superseded: CancellationToken,
    parking: Arc<Parking>,
}

impl Turn {
    /// Begins the upload, anew if something of it has come before.
    pub fn begin(&mut self, incoming: Incoming) {
        self.incoming = Some(incoming);
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
        self.slot.shown.store(self.bytes(), Ordering::Relaxed);
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
        self.incoming = None;
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
            return Err(Rejection::mistake(format!("its SHA-256 is {found}, it should be {sha256}")).into());
        }
        incoming.finish(store).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.tell(); // also where an append was broken off
        // One that nobody can find any more, because it has no name or its place was taken, must not cost another its own.
        if let Some(incoming) = self.incoming.take().filter(|_| Arc::strong_count(&self.slot) > 1) {
            *self.left = Some(self.parking.park(incoming, self.slot.shown.clone()));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, ModelFormat, Parameters, Schema, TensorSpec, Values};

    const SAFETENSORS: BodyFormat = BodyFormat::Safetensors { zstd: false };

    /// A store, the uploads of a run of which so many may be parked, and the model that they are updates of.
    async fn uploads(most: usize) -> (tempfile::TempDir, Store, Uploads, Arc<Parameters>) {
        uploads_in(Parking::new(most, u64::MAX)).await
    }

    async fn uploads_in(parking: Parking) -> (tempfile::TempDir, Store, Uploads, Arc<Parameters>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![6] };
        let schema = Arc::new(Schema::new(vec![spec]).unwrap());
        let model = Arc::new(Parameters::new(schema, vec![Values::F32(vec![1.0; 6])]));
        let models = Arc::new(Models::new("r".parse().unwrap(), store.clone(), 0, model.clone()));
        (folder, store, Uploads::new(Arc::new(parking)).with(models), model)
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

    /// Sends the first so many bytes of a body and breaks off.
    async fn breaks_off(uploads: &Uploads, store: &Store, model: &Arc<Parameters>, name: &str, bytes: usize) {
        let body = body(model);
        let mut turn = uploads.turn(&client(name), key(&body), 0).await.unwrap();
        turn.begin(Incoming::new(store.spool().await.unwrap(), SAFETENSORS, (0, model.clone())));
        turn.append(Bytes::copy_from_slice(&body[..bytes])).await.unwrap();
    }

    fn files(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("incoming")).unwrap().count()
    }

    #[tokio::test]
    async fn the_upload_that_has_waited_longest_makes_room() {
        let (folder, store, uploads, model) = uploads(2).await;
        let body = body(&model);
        // Given two uploads that were broken off, of which the first one has gone on since,
        for name in ["first", "second"] {
            breaks_off(&uploads, &store, &model, name, 20).await;
        }
        let mut turn = uploads.turn(&client("first"), key(&body), 20).await.unwrap();
        turn.append(Bytes::copy_from_slice(&body[20..30])).await.unwrap();
        drop(turn);
        // when a third one is broken off, then the second one goes, with its file, and is said to be gone,
        breaks_off(&uploads, &store, &model, "third", 10).await;
        let here = |name| uploads.of(&client(name)).map(|(_, bytes)| bytes);
        assert_eq!((here("first"), here("second"), here("third"), files(&folder)), (Some(30), None, Some(10), 2));
        let second = uploads.turn(&client("second"), key(&body), 20).await.unwrap();
        assert!(matches!(second.go_on(20), Err(RunError::Offset { offset: 20, have: 0 })));
        // and the first one can be completed.
        let mut first = uploads.turn(&client("first"), key(&body), 30).await.unwrap();
        assert_eq!(first.go_on(30).unwrap(), 0);
        first.append(Bytes::copy_from_slice(&body[30..])).await.unwrap();
        assert_eq!(first.finish(&store).await.unwrap().norm, 0.0);
    }

    #[tokio::test]
    async fn one_that_takes_much_room_makes_several_go_and_none_keeps_a_model_in_memory() {
        let (folder, store, uploads, model) = uploads_in(Parking::new(9, 50)).await;
        let held = Arc::strong_count(&model);
        for (name, bytes) in [("first", 20), ("second", 20), ("third", 10)] {
            breaks_off(&uploads, &store, &model, name, bytes).await;
        }
        let here =
            || ["first", "second", "third", "large"].map(|name| uploads.of(&client(name)).map(|(_, bytes)| bytes));
        assert_eq!((here(), files(&folder)), ([Some(20), Some(20), Some(10), None], 3));
        assert_eq!(Arc::strong_count(&model), held);
        breaks_off(&uploads, &store, &model, "large", 40).await;
        assert_eq!((here(), files(&folder)), ([None, None, Some(10), Some(40)], 2));
    }

    #[tokio::test]
    async fn what_nobody_can_go_on_with_takes_no_room() {
        let (folder, store, uploads, model) = uploads(1).await;
        breaks_off(&uploads, &store, &model, "known", 20).await;
        // An upload without a name is not kept, nor one whose round ends while it comes,
        let mut nameless = uploads.turn(&client("nameless"), None, 0).await.unwrap();
        nameless.begin(Incoming::new(store.spool().await.unwrap(), SAFETENSORS, (0, model.clone())));
        drop(nameless);
        assert_eq!((uploads.of(&client("known")).map(|(_, bytes)| bytes), files(&folder)), (Some(20), 1));
        let turn = uploads.turn(&client("known"), key(&body(&model)), 20).await.unwrap();
        uploads.clear(2);
        drop(turn);
        assert_eq!(files(&folder), 0);
    }

    #[tokio::test]
    async fn an_upload_can_be_broken_off_at_every_byte_of_its_head_and_after_it() {
        let (_folder, store, uploads, model) = uploads(1).await;
        let body = body(&model);
        breaks_off(&uploads, &store, &model, "client", 1).await;
        for at in 1..body.len() {
            let mut turn = uploads.turn(&client("client"), key(&body), at as u64).await.unwrap();
            assert_eq!(turn.go_on(at as u64).unwrap(), 0);
            turn.append(Bytes::copy_from_slice(&body[at..=at])).await.unwrap();
        }
        let mut turn = uploads.turn(&client("client"), key(&body), body.len() as u64).await.unwrap();
        assert_eq!(turn.finish(&store).await.unwrap().bytes(), body.len() as u64);
    }
}
