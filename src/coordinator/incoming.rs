//! An update on its way in: written to disk as it arrives, and checked block by block as soon as a block is there.
//!
//! So a bad update is refused before all of it has come, and the last block of a good one is checked moments after its
//! last byte. Checking keeps no values: memory is a few blocks for each worker thread, whatever the number and size of
//! updates. Once all is checked and the file is durable, the update may be counted; its values are read again when the
//! round is over.

use super::handle::RunError;
use super::models::blocking;
use super::rejection::Rejection;
use crate::digest::Sha256Digest;
use crate::store::{BlobError, Expanded, Spool, SpoolFile, Store, StoreError};
use crate::wire::{self, Base, BlockSource, BodyFormat, Distance, Parameters, Plan, ReadError};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// So many bytes of a body tell how long its head is, whatever its format.
const FIRST_BYTES: u64 = 16;

/// An update whose bytes are coming in.
#[derive(Debug)]
pub struct Incoming {
    format: BodyFormat,
    spool: Spool,
    /// The version that the client was asked to train from.
    version: u64,
    base: Arc<Parameters>,
    /// How long the head is, once that is known.
    head_bytes: Option<u64>,
    /// SHA-256 of the head, once it was read.
    head_digest: Option<Sha256Digest>,
    plan: Option<Arc<Plan>>,
    checking: Option<JoinHandle<Result<f64, ReadError>>>,
    /// Blocks that are checked or being checked.
    checked: usize,
    /// The sum of the squares of the differences to the base, over the blocks that are checked.
    squared: f64,
}

/// An update of which nothing comes for now. It holds no more memory than it must: what its head tells and the version that
/// it is trained from are read again when it goes on.
#[derive(Debug)]
pub(super) struct Resting {
    format: BodyFormat,
    spool: Spool,
    version: u64,
    head_bytes: Option<u64>,
    checking: Option<JoinHandle<Result<f64, ReadError>>>,
    checked: usize,
    squared: f64,
}

impl Resting {
    /// Goes on with it. The base is that of [`Self::version`].
    pub(super) fn go_on(self, base: Arc<Parameters>) -> Incoming {
        let Self { format, spool, version, head_bytes, checking, checked, squared } = self;
        let (head_digest, plan) = (None, None);
        Incoming { format, spool, version, base, head_bytes, head_digest, plan, checking, checked, squared }
    }

    /// The version that it is trained from.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Bytes that have come.
    pub(super) fn bytes(&self) -> u64 {
        self.spool.bytes()
    }
}

/// The body of an update that is sound and durable. Dropped, it is removed, unless its record was saved.
#[derive(Debug)]
pub struct Body {
    pub(super) spool: Spool,
    pub(super) format: BodyFormat,
}

/// An update that is sound and durable.
#[derive(Debug)]
pub struct CheckedUpdate {
    /// Its body.
    pub body: Body,
    /// Its L2 distance from the version that it was trained from, as the client received that.
    pub norm: f64,
}

impl CheckedUpdate {
    /// Bytes of its body as it came.
    pub fn bytes(&self) -> u64 {
        self.body.spool.bytes()
    }

    /// SHA-256 of them.
    pub fn digest(&self) -> Sha256Digest {
        self.body.spool.digest()
    }
}

impl Incoming {
    /// Nothing has come yet of an update that is trained from that version.
    pub fn new(spool: Spool, format: BodyFormat, (version, base): (u64, Arc<Parameters>)) -> Self {
        let (head_bytes, head_digest, plan, checking) = (None, None, None, None);
        Self { format, spool, version, base, head_bytes, head_digest, plan, checking, checked: 0, squared: 0.0 }
    }

    /// Nothing more comes for now.
    pub(super) fn rest(self) -> Resting {
        let Self { format, spool, version, head_bytes, checking, checked, squared, .. } = self;
        Resting { format, spool, version, head_bytes, checking, checked, squared }
    }

    /// Bytes that have come.
    pub fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// SHA-256 of the bytes that have come.
    pub fn digest(&self) -> Sha256Digest {
        self.spool.digest()
    }

    /// Takes the next bytes. Broken off while it waits, it has taken them or not, as [`Self::bytes`] says, and can go on.
    ///
    /// # Errors
    /// The update cannot be accepted, whatever else comes; or the file system.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), RunError> {
        self.spool.append(chunk).await.map_err(StoreError::from)?;
        if self.format == (BodyFormat::Safetensors { zstd: true }) {
            return Ok(()); // read once it is there: what it expands to is written to another file
        }
        self.read_head().await?;
        if let Some(plan) = self.plan.as_ref().filter(|plan| self.spool.bytes() > plan.bytes()) {
            return plan.expect_length(self.spool.bytes()).map_err(|error| self.bad(&error));
        }
        if self.checking.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join().await?;
        }
        if self.checking.is_none() {
            self.check().await?;
        }
        Ok(())
    }

    /// Reads the head once all of it is here: from the file, so that half a head takes no memory.
    async fn read_head(&mut self) -> Result<(), RunError> {
        if self.plan.is_some() || self.head_bytes.is_some_and(|bytes| self.spool.bytes() < bytes) {
            return Ok(());
        }
        self.spool.flush().await.map_err(StoreError::from)?;
        let (format, file) = (self.format, self.spool.file());
        let head = blocking(move || head(format, &file)).await.map_err(|error| self.unreadable(error))?;
        self.head_bytes = head.bytes;
        if let Some((digest, plan)) = head.read {
            self.head_digest = Some(digest);
            let plan = plan.map_err(|error| self.bad(&error))?;
            self.expect(&plan)?;
            self.plan = Some(Arc::new(plan));
        }
        Ok(())
    }

    /// What the head alone tells.
    fn expect(&self, plan: &Plan) -> Result<(), RunError> {
        plan.expect_schema(self.base.schema()).map_err(|error| self.bad(&error))?;
        if let Some(from) = plan.base_version().filter(|from| *from != self.version) {
            let version = self.version;
            return Err(RunError::BadUpdate(Rejection::mistake(format!(
                "it was trained from version {from}, the client was asked to train from version {version}"
            ))));
        }
        plan.expect_base(Some(self.base())).map_err(|error| self.bad(&error))
    }

    fn bad(&self, error: &wire::DecodeError) -> RunError {
        Rejection::of(error, self.fingerprint()).into()
    }

    fn unreadable(&self, error: ReadError) -> RunError {
        match error {
            ReadError::Decode(error) => self.bad(&error),
            ReadError::Source(error) => StoreError::from(BlobError::Body(error)).into(),
        }
    }

    /// Tells this body from others, however much of it has come: by its head, which has the checksums of a container's
    /// blocks; where there is none, by all of it.
    fn fingerprint(&self) -> Sha256Digest {
        self.head_digest.unwrap_or_else(|| self.digest())
    }

    fn base(&self) -> Base<'_> {
        Base { version: self.version, parameters: &self.base }
    }

    /// Begins to check the blocks that have come since.
    async fn check(&mut self) -> Result<(), RunError> {
        let Some(plan) = self.plan.clone() else { return Ok(()) };
        let blocks = self.checked..plan.blocks_within(self.spool.bytes());
        if blocks.is_empty() {
            return Ok(());
        }
        self.spool.flush().await.map_err(StoreError::from)?;
        self.checked = blocks.end; // from here on without an await, at which the request may be broken off
        let file = self.spool.file();
        let (version, base) = (self.version, self.base.clone());
        self.checking = Some(tokio::task::spawn_blocking(move || distance(&plan, &file, version, &base, blocks)));
        Ok(())
    }

    /// Waits for the blocks that are being checked.
    async fn join(&mut self) -> Result<(), RunError> {
        if let Some(checking) = &mut self.checking {
            let squared = checking.await;
            self.checking = None;
            let squared = squared.map_err(|e| RunError::Internal(format!("checking broke down: {e}")))?;
            self.squared += squared.map_err(|error| self.unreadable(error))?;
        }
        Ok(())
    }

    /// All has come: what is left to check; then the body is made durable.
    ///
    /// # Errors
    /// The update cannot be accepted; or the file system.
    pub async fn finish(mut self, store: &Store) -> Result<CheckedUpdate, RunError> {
        self.spool.flush().await.map_err(StoreError::from)?;
        self.join().await?;
        let store = store.clone();
        blocking(move || {
            let expanded = match self.format {
                BodyFormat::Safetensors { zstd: true } => {
                    let most = wire::max_body_bytes(self.base.schema());
                    Some(self.spool.expand(most).map_err(|error| self.unreadable(error))?)
                }
                _ => None,
            };
            let file = expanded.as_ref().map_or_else(|| self.spool.file(), Expanded::file);
            let plan = match self.plan.clone() {
                Some(plan) => plan,
                None => {
                    let plan = Plan::of_source(self.format, &file, file.bytes());
                    let plan = plan.map_err(|error| self.unreadable(error))?;
                    self.expect(&plan)?;
                    Arc::new(plan)
                }
            };
            plan.expect_length(file.bytes()).map_err(|error| self.bad(&error))?;
            let blocks = self.checked..plan.block_count();
            let rest = distance(&plan, &file, self.version, &self.base, blocks);
            let norm = (self.squared + rest.map_err(|error| self.unreadable(error))?).sqrt();
            self.spool.sync().and_then(|()| store.sync_names()).map_err(StoreError::from)?;
            Ok(CheckedUpdate { body: Body { spool: self.spool, format: self.format }, norm })
        })
        .await
    }
}

/// What the first bytes of a body tell.
struct Head {
    /// How long the head is; none: too little has come to tell.
    bytes: Option<u64>,
    /// Once all of it has come: its SHA-256, and what it says.
    read: Option<(Sha256Digest, Result<Plan, wire::DecodeError>)>,
}

/// Blocking: how long the head is, and what it tells; each as soon as enough of the body is here.
fn head(format: BodyFormat, file: &SpoolFile) -> Result<Head, ReadError> {
    let mut scratch = Vec::new();
    let Some(bytes) = Plan::head_bytes(format, file.read(0..FIRST_BYTES, &mut scratch)?)? else {
        return Ok(Head { bytes: None, read: None });
    };
    let bytes = bytes as u64;
    if file.bytes() < bytes {
        return Ok(Head { bytes: Some(bytes), read: None });
    }
    let head = file.read(0..bytes, &mut scratch)?;
    Ok(Head { bytes: Some(bytes), read: Some((Sha256Digest::of(head), Plan::read(format, head))) })
}

/// Blocking: checks some blocks, and how far they are from the base as the client received it: the sum of the squares.
fn distance(
    plan: &Plan,
    file: &SpoolFile,
    version: u64,
    base: &Parameters,
    blocks: Range<usize>,
) -> Result<f64, ReadError> {
    let sinks = vec![Distance::default(); blocks.len()];
    let checked = plan.read_changes(file, Base { version, parameters: base }, blocks, sinks)?;
    Ok(checked.iter().map(Distance::squared).sum())
}
