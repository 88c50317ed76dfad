//! An update on its way in: written to disk as it arrives, and checked block by block as soon as a block is there.
//!
//! So a bad update is refused before all of it has come, and the last block of a good one is checked moments after its
//! last byte. Checking keeps no values: memory is a few blocks for each worker thread, whatever the number and size of
//! updates. Only once all is checked are the values read again, into the round's sum.

use super::handle::RunError;
use super::models::blocking;
use super::published::Published;
use crate::store::{BlobError, Sha256Digest, Spool, SpoolFile, StoreError};
use crate::wire::{self, Base, BodyFormat, Distance, Parameters, Plan, ReadError};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// An update whose bytes are coming in.
#[derive(Debug)]
pub struct Incoming {
    format: BodyFormat,
    published: Arc<Published>,
    spool: Spool,
    /// The version that the run has, which the update should be trained from.
    version: u64,
    base: Arc<Parameters>,
    /// The body's beginning, until its head is complete.
    head: Vec<u8>,
    plan: Option<Arc<Plan>>,
    checking: Option<JoinHandle<Result<f64, ReadError>>>,
    /// Blocks that are checked or being checked.
    checked: usize,
    /// The sum of the squares of the differences to the base, over the blocks that are checked.
    squared: f64,
}

/// An update that is sound, on disk.
pub struct CheckedUpdate {
    pub(super) plan: Arc<Plan>,
    pub(super) file: SpoolFile,
    pub(super) version: u64,
    pub(super) base: Arc<Parameters>,
    /// Kept for the file behind it, which it removes at its end.
    pub(super) spool: Spool,
}

impl CheckedUpdate {
    /// Its body as it came.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }
}

impl Incoming {
    /// Nothing has come yet.
    pub fn new(published: Arc<Published>, spool: Spool, format: BodyFormat) -> Self {
        let (version, base) = published.models.current();
        Self {
            format,
            published,
            spool,
            version,
            base,
            head: Vec::new(),
            plan: None,
            checking: None,
            checked: 0,
            squared: 0.0,
        }
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
        self.spool.append(chunk.clone()).await.map_err(StoreError::from)?;
        if self.format == (BodyFormat::Safetensors { zstd: true }) {
            return Ok(()); // read once it is there: what it expands to is written to another file
        }
        if self.plan.is_none() {
            self.head.extend_from_slice(&chunk);
            let Some(bytes) = Plan::head_bytes(self.format, &self.head).map_err(bad)? else { return Ok(()) };
            let Some(head) = self.head.get(..bytes) else { return Ok(()) };
            let plan = Plan::read(self.format, head).map_err(bad)?;
            self.expect(&plan)?;
            self.plan = Some(Arc::new(plan));
            self.head = Vec::new();
        }
        if let Some(plan) = self.plan.as_ref().filter(|plan| self.spool.bytes() > plan.bytes()) {
            return plan.expect_length(self.spool.bytes()).map_err(bad);
        }
        if self.checking.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join().await?;
        }
        if self.checking.is_none() {
            self.check().await?;
        }
        Ok(())
    }

    /// What the head alone tells.
    fn expect(&self, plan: &Plan) -> Result<(), RunError> {
        plan.expect_schema(self.published.models.schema()).map_err(bad)?;
        if let Some(from) = plan.base_version().filter(|from| *from != self.version) {
            let version = self.version;
            return Err(RunError::BadUpdate(format!(
                "it was trained from version {from}, the round is of version {version}"
            )));
        }
        plan.expect_base(Some(self.base())).map_err(bad)
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
            self.squared += squared.map_err(unreadable)?;
        }
        Ok(())
    }

    /// All has come: what is left to check.
    ///
    /// # Errors
    /// The update cannot be accepted; or the file system.
    pub async fn finish(mut self) -> Result<CheckedUpdate, RunError> {
        self.spool.flush().await.map_err(StoreError::from)?;
        if self.format == (BodyFormat::Safetensors { zstd: true }) {
            let most = wire::max_body_bytes(self.published.models.schema());
            let spool = self.spool;
            self.spool = blocking(move || spool.expand(most)).await.map_err(unreadable)?;
        }
        let file = self.spool.file();
        let plan = match self.plan.clone() {
            Some(plan) => plan,
            None => {
                let plan = Plan::of_source(self.format, &file, file.bytes()).map_err(unreadable)?;
                self.expect(&plan)?;
                Arc::new(plan)
            }
        };
        plan.expect_length(file.bytes()).map_err(bad)?;
        self.join().await?;
        let rest = {
            let (plan, file, blocks) = (plan.clone(), file.clone(), self.checked..plan.block_count());
            let (version, base) = (self.version, self.base.clone());
            blocking(move || distance(&plan, &file, version, &base, blocks)).await.map_err(unreadable)?
        };
        let norm = (self.squared + rest).sqrt();
        if let Some(limit) = self.published.read(|snapshot| snapshot.config.max_update_norm)
            && norm > limit
        {
            return Err(RunError::BadUpdate(format!(
                "its distance from the base version is {norm:.4}, max_update_norm is {limit}"
            )));
        }
        Ok(CheckedUpdate { plan, file, version: self.version, base: self.base, spool: self.spool })
    }
}

/// Blocking: checks some blocks, and how far their values are from the base: the sum of the squares.
fn distance(
    plan: &Plan,
    file: &SpoolFile,
    version: u64,
    base: &Parameters,
    blocks: Range<usize>,
) -> Result<f64, ReadError> {
    let sinks = plan.distances(base, blocks.clone());
    let checked = plan.read_blocks(file, Some(Base { version, parameters: base }), blocks, sinks)?;
    Ok(checked.iter().map(Distance::squared).sum())
}

fn bad(error: wire::DecodeError) -> RunError {
    RunError::BadUpdate(error.to_string())
}

fn unreadable(error: ReadError) -> RunError {
    match error {
        ReadError::Decode(error) => bad(error),
        ReadError::Source(error) => RunError::Store(StoreError::from(BlobError::Body(error))),
    }
}
