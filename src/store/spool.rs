//! Bodies on their way in: on disk rather than in memory, so that memory does not grow with the number of clients.

use super::blobs::{BlobError, failed};
use super::{Sha256Digest, Store};
use crate::wire::{self, BlockSource, ReadError};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A file that blocks are read from, by as many threads as like.
#[derive(Debug, Clone)]
pub struct SpoolFile {
    file: Arc<File>,
    bytes: u64,
}

impl SpoolFile {
    pub(super) fn new(file: Arc<File>, bytes: u64) -> Self {
        Self { file, bytes }
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl BlockSource for SpoolFile {
    fn read<'a>(&'a self, range: Range<u64>, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let len = range.end.saturating_sub(range.start).min(self.bytes) as usize; // of a file that is read by blocks
        scratch.resize(len, 0);
        self.file.read_exact_at(scratch, range.start)?;
        Ok(scratch)
    }
}

/// A body that is being received. Dropped, it removes its file.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Arc<File>,
    hash: Sha256,
    /// Received so far.
    bytes: u64,
    /// In the file, where it is not `bytes`: of what was expanded.
    expanded_bytes: Option<u64>,
    /// The last chunk, while it is written: beside the hashing of it, and the receiving of the next one.
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Store {
    /// A new file for a body that is being received.
    ///
    /// # Errors
    /// The file system.
    pub fn spool(&self) -> Result<Spool, BlobError> {
        let path = self.incoming.join(format!("{:032x}", rand::random::<u128>()));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = Arc::new(file.map_err(failed("create", &path))?);
        Ok(Spool { path, file, hash: Sha256::new(), bytes: 0, expanded_bytes: None, writing: None })
    }
}

impl Spool {
    /// Appends a chunk. Broken off while it waits, it has appended nothing.
    ///
    /// # Errors
    /// The file system, perhaps with an earlier chunk.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        self.flush().await?;
        self.hash.update(&chunk);
        let (file, at) = (self.file.clone(), self.bytes);
        self.bytes += chunk.len() as u64;
        self.writing = Some(tokio::task::spawn_blocking(move || file.write_all_at(&chunk, at)));
        Ok(())
    }

    /// Waits until all that was appended can be read.
    ///
    /// # Errors
    /// The file system.
    pub async fn flush(&mut self) -> Result<(), BlobError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        written.map_err(io::Error::other).flatten().map_err(failed("write", &self.path))
    }

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash of what was received so far.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    /// What was received, once it is flushed, for reading.
    pub fn file(&self) -> SpoolFile {
        SpoolFile { file: self.file.clone(), bytes: self.expanded_bytes.unwrap_or(self.bytes) }
    }

    /// Replaces what was received, a zstd frame, by what it expands to; its digest and number of bytes stay. Blocking.
    ///
    /// # Errors
    /// No zstd, or more than `max_bytes`; the file system.
    pub fn expand(self, max_bytes: u64) -> Result<Self, ReadError> {
        let path = self.path.with_extension("expanded");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // From here on it is this file that is removed at the end, however that comes.
        let (hash, bytes) = (self.hash.clone(), self.bytes);
        let mut expanded = Self { path, file: Arc::new(file), hash, bytes, expanded_bytes: None, writing: None };
        let from = io::BufReader::new(File::open(&self.path)?);
        expanded.expanded_bytes = Some(wire::safe::expand(from, &mut &*expanded.file, max_bytes)?);
        Ok(expanded)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // else at the next start
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn a_spool_hashes_what_it_takes_and_leaves_nothing() {
        let (folder, store) = store().await;
        let mut spool = store.spool().unwrap();
        spool.append("a".into()).await.unwrap();
        spool.append("bc".into()).await.unwrap();
        spool.flush().await.unwrap();
        assert_eq!((spool.bytes(), spool.digest()), (3, Sha256Digest::of("abc")));
        assert_eq!(spool.file().read(0..3, &mut Vec::new()).unwrap(), b"abc");
        drop(spool);
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_expanded_is_read_and_what_came_is_counted() {
        let (folder, store) = store().await;
        let mut spool = store.spool().unwrap();
        let frame = wire::safe::compress(&[7; 1_000]).unwrap();
        spool.append(frame.clone().into()).await.unwrap();
        spool.flush().await.unwrap();
        let spool = spool.expand(1_000).unwrap();
        assert_eq!((spool.bytes(), spool.digest()), (frame.len() as u64, Sha256Digest::of(&frame)));
        assert_eq!(
            (spool.file().bytes(), spool.file().read(998..1_000, &mut Vec::new()).unwrap()),
            (1_000, &[7, 7][..])
        );
        drop(spool);
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }
}
