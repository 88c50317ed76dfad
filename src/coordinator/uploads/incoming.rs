//! An update that is being received: written to disk as it arrives, and checked block by block as soon as a block is complete.
//!
//! A bad update is rejected before all of it has arrived, and the last block of a good one is checked moments after its last
//! byte. Checking keeps no values in memory but a few blocks for each worker thread, whatever the number and size of updates.
//! Once all blocks are checked and the file is durable, the update may be counted; its values are read again when the round
//! closes.

use super::error::UploadError;
use super::rejection::Rejection;
use crate::digest::Sha256Digest;
use crate::round::StoredBody;
use crate::store::{BlobError, Expanded, Spool, SpoolFile, Store, blocking};
use crate::wire::{self, Base, BlockSource, BodyFormat, Distance, Parameters, Plan, ReadError};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The first bytes of a body, which contain the length of its head in every format.
const FIRST_BYTES: u64 = 16;

/// An update that is being received.
#[derive(Debug)]
pub(super) struct Incoming {
    format: BodyFormat,
    spool: Spool,
    /// The version that the client was asked to train from, and its parameters.
    version: u64,
    base: Arc<Parameters>,
    /// Length of the head, once it is known.
    head_bytes: Option<u64>,
    /// SHA-256 of the head, once it is read.
    head_digest: Option<Sha256Digest>,
    plan: Option<Arc<Plan>>,
    checking: Option<JoinHandle<Result<f64, ReadError>>>,
    /// Blocks that are checked or being checked.
    checked: usize,
    /// Sum of the squared differences to the base over the blocks that are checked.
    squared: f64,
}

/// An interrupted upload. Its head and the version that the update was trained from are not kept in memory: they are read
/// again when it is resumed.
#[derive(Debug)]
pub(super) struct Interrupted {
    format: BodyFormat,
    spool: Spool,
    version: u64,
    head_bytes: Option<u64>,
    checking: Option<JoinHandle<Result<f64, ReadError>>>,
    checked: usize,
    squared: f64,
}

impl Interrupted {
    /// Resumes it. `base` holds the parameters of [`Self::version`].
    pub(super) fn resume(self, base: Arc<Parameters>) -> Incoming {
        let Self { format, spool, version, head_bytes, checking, checked, squared } = self;
        let (head_digest, plan) = (None, None);
        Incoming { format, spool, version, base, head_bytes, head_digest, plan, checking, checked, squared }
    }

    /// The version that the update was trained from.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Bytes that are received.
    pub(super) fn bytes(&self) -> u64 {
        self.spool.bytes()
    }
}

/// An update that is checked and durable. Dropped, its file is removed unless the spool was kept.
#[derive(Debug)]
pub(in crate::coordinator) struct CheckedUpdate {
    pub spool: Spool,
    pub body: StoredBody,
    /// L2 distance from the version that it was trained from, as the client received that.
    pub norm: f64,
}

impl Incoming {
    /// Begins to receive an update that was trained from that version.
    pub(super) fn new(spool: Spool, format: BodyFormat, (version, base): (u64, Arc<Parameters>)) -> Self {
        let (head_bytes, head_digest, plan, checking) = (None, None, None, None);
        Self { format, spool, version, base, head_bytes, head_digest, plan, checking, checked: 0, squared: 0.0 }
    }

    /// Releases what is not needed until the upload is resumed.
    pub(super) fn interrupt(self) -> Interrupted {
        let Self { format, spool, version, head_bytes, checking, checked, squared, .. } = self;
        Interrupted { format, spool, version, head_bytes, checking, checked, squared }
    }

    /// Bytes that are received.
    pub(super) fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// SHA-256 of the bytes that are received.
    pub(super) fn digest(&self) -> Sha256Digest {
        self.spool.digest()
    }

    /// Appends bytes. If it is cancelled they are appended or not, as [`Self::bytes`] shows, and the upload can continue.
    ///
    /// # Errors
    /// The update is rejected, whatever the remaining bytes are; or the file system.
    pub(super) async fn append(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.spool.append(chunk).await?;
        if self.format == (BodyFormat::Safetensors { zstd: true }) {
            return Ok(()); // checked when it is complete: it is expanded into another file
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

    /// Reads the head once it is complete: from the file, so that an incomplete one takes no memory.
    async fn read_head(&mut self) -> Result<(), UploadError> {
        if self.plan.is_some() || self.head_bytes.is_some_and(|bytes| self.spool.bytes() < bytes) {
            return Ok(());
        }
        self.spool.flush().await?;
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

    /// Checks what the head contains.
    fn expect(&self, plan: &Plan) -> Result<(), UploadError> {
        plan.expect_schema(self.base.schema()).map_err(|error| self.bad(&error))?;
        if let Some(from) = plan.base_version().filter(|from| *from != self.version) {
            let version = self.version;
            return Err(UploadError::Rejected(Rejection::mistake(format!(
                "it was trained from version {from}, the client was asked to train from version {version}"
            ))));
        }
        plan.expect_base(Some(self.base())).map_err(|error| self.bad(&error))
    }

    fn bad(&self, error: &wire::DecodeError) -> UploadError {
        Rejection::of(error, self.fingerprint()).into()
    }

    fn unreadable(&self, error: ReadError) -> UploadError {
        match error {
            ReadError::Decode(error) => self.bad(&error),
            ReadError::Source(error) => BlobError::Body(error).into(),
        }
    }

    /// Identifies this body however much of it is received: by its head, which has the checksums of a container's blocks;
    /// without a head, by all of it.
    fn fingerprint(&self) -> Sha256Digest {
        self.head_digest.unwrap_or_else(|| self.digest())
    }

    fn base(&self) -> Base<'_> {
        Base { version: self.version, parameters: &self.base }
    }

    /// Begins to check the blocks that are complete since.
    async fn check(&mut self) -> Result<(), UploadError> {
        let Some(plan) = self.plan.clone() else { return Ok(()) };
        let blocks = self.checked..plan.blocks_within(self.spool.bytes());
        if blocks.is_empty() {
            return Ok(());
        }
        self.spool.flush().await?;
        self.checked = blocks.end; // no await follows, at which the request could be cancelled
        let file = self.spool.file();
        let (version, base) = (self.version, self.base.clone());
        self.checking = Some(tokio::task::spawn_blocking(move || distance(&plan, &file, version, &base, blocks)));
        Ok(())
    }

    /// Waits for the blocks that are being checked.
    async fn join(&mut self) -> Result<(), UploadError> {
        if let Some(checking) = &mut self.checking {
            let squared = checking.await;
            self.checking = None;
            let squared = squared.map_err(|e| UploadError::Internal(e.to_string()))?;
            self.squared += squared.map_err(|error| self.unreadable(error))?;
        }
        Ok(())
    }

    /// Checks the remaining blocks of a complete body and makes it durable.
    ///
    /// # Errors
    /// The update is rejected; or the file system.
    pub(super) async fn finish(mut self, store: &Store) -> Result<CheckedUpdate, UploadError> {
        self.spool.flush().await?;
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
            self.spool.sync().and_then(|()| store.sync_names())?;
            let body = StoredBody {
                sha256: self.spool.digest(),
                bytes: self.spool.bytes(),
                file: self.spool.name(),
                format: self.format.as_str().to_owned(),
            };
            Ok(CheckedUpdate { spool: self.spool, body, norm })
        })
        .await
    }
}

/// The head of a body, as far as it is received.
struct Head {
    /// Its length; `None` if too little is received.
    bytes: Option<u64>,
    /// Once it is complete: its SHA-256 and its content.
    read: Option<(Sha256Digest, Result<Plan, wire::DecodeError>)>,
}

/// Blocking: the length of the head and its content, each as soon as enough of the body is received.
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

/// Blocking: checks some blocks, and returns their squared L2 distance from the base as the client received it.
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
