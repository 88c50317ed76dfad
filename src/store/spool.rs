//! Bodies on their way in: on disk rather than in memory, so that memory does not grow with the number of clients.

use super::blob_error::{BlobError, failed};
use super::{Store, blocking};
use crate::digest::Sha256Digest;
use crate::wire::{self, BlockSource, ReadError};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

/// Length of the body that [`Store::probe_files`] stores: a disk that is almost full would accept less.
const PROBE_BYTES: usize = 64 << 10;

/// A file that blocks are read from, by any number of threads.
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

/// A body that is being received. Dropped, it removes its file, unless it is kept.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Arc<File>,
    hash: Sha256,
    /// Received so far.
    bytes: u64,
    is_kept: AtomicBool,
    /// The last chunk, while it is written: beside the hashing of it, and the receiving of the next one.
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Store {
    /// Checks that the body of an update could be stored, by storing one and removing it again.
    ///
    /// # Errors
    /// The file system.
    pub async fn probe_files(&self) -> Result<(), BlobError> {
        let mut spool = self.spool().await?;
        spool.append(Bytes::from_static(&[0; PROBE_BYTES])).await?;
        spool.flush().await?;
        let store = self.clone();
        blocking(move || spool.sync().and_then(|()| store.sync_names())).await
    }

    /// A new file for a body that is being received.
    ///
    /// # Errors
    /// The file system.
    pub async fn spool(&self) -> Result<Spool, BlobError> {
        let path = self.incoming.join(format!("{:032x}", rand::random::<u128>()));
        blocking(move || {
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            let file = Arc::new(file.map_err(failed("create", &path))?);
            Ok(Spool { path, file, hash: Sha256::new(), bytes: 0, is_kept: AtomicBool::new(false), writing: None })
        })
        .await
    }

    /// A body that was received and kept, and where it lies. Blocking.
    ///
    /// # Errors
    /// The file system.
    pub fn received(&self, name: &str) -> Result<(PathBuf, SpoolFile), BlobError> {
        let path = self.incoming.join(name);
        let file = File::open(&path).map_err(failed("read", &path))?;
        let bytes = file.metadata().map_err(failed("read", &path))?.len();
        Ok((path, SpoolFile::new(Arc::new(file), bytes)))
    }

    /// Removes bodies that were kept; that one is gone already is fine.
    pub(super) async fn remove_received(&self, names: Vec<String>) {
        let incoming = self.incoming.clone();
        let remove = move || {
            for name in names {
                let _ = fs::remove_file(incoming.join(name)); // else at the next start
            }
        };
        blocking(remove).await;
    }

    /// Makes the names of all files durable that were received so far. Blocking.
    ///
    /// # Errors
    /// The file system.
    pub fn sync_names(&self) -> Result<(), BlobError> {
        File::open(&self.incoming).and_then(|folder| folder.sync_all()).map_err(failed("sync", &self.incoming))
    }

    /// Removes all bodies but these, halves of models, and these models. Blocking.
    pub(super) fn clean_up(&self, needed: &HashSet<String>, pruned: &HashSet<String>) -> Result<(), BlobError> {
        for (folder, is_model) in [(&self.incoming, false), (&self.models, true)] {
            for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
                let path = entry.map_err(failed("list", folder))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let is_needed = match is_model {
                    true => !name.ends_with(".partial") && !pruned.contains(name),
                    false => needed.contains(name),
                };
                if !is_needed {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
        }
        Ok(())
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
        SpoolFile { file: self.file.clone(), bytes: self.bytes }
    }

    /// Its file's name.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Makes what was received durable, once it is flushed; its name is so by [`Store::sync_names`]. Blocking.
    ///
    /// # Errors
    /// The file system.
    pub fn sync(&self) -> Result<(), BlobError> {
        self.file.sync_all().map_err(failed("sync", &self.path))
    }

    /// The file stays when this is dropped.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Removes the file, although it was kept.
    pub fn discard(self) {
        self.is_kept.store(false, Ordering::Relaxed);
    }

    /// What the zstd frame that was received expands to. Blocking.
    ///
    /// # Errors
    /// See [`expand`].
    pub fn expand(&self, max_bytes: u64) -> Result<Expanded, ReadError> {
        expand(&self.path, max_bytes)
    }
}

/// What a zstd frame has expanded to. Dropped, it removes its file.
#[derive(Debug)]
pub struct Expanded {
    path: PathBuf,
    file: SpoolFile,
}

impl Expanded {
    /// For reading.
    pub fn file(&self) -> SpoolFile {
        self.file.clone()
    }
}

impl Drop for Expanded {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // else at the next start
    }
}

/// Expands a zstd frame into a file beside it. Blocking.
///
/// # Errors
/// No zstd, or more than `max_bytes`; the file system.
pub fn expand(frame: &Path, max_bytes: u64) -> Result<Expanded, ReadError> {
    let path = frame.with_extension(format!("{:016x}", rand::random::<u64>()));
    let file = Arc::new(File::options().read(true).write(true).create_new(true).open(&path)?);
    // From here on the file is removed at the end, however that comes.
    let mut expanded = Expanded { path, file: SpoolFile::new(file.clone(), 0) };
    let from = io::BufReader::new(File::open(frame)?);
    expanded.file.bytes = wire::safe::expand(from, &mut &*file, max_bytes)?;
    Ok(expanded)
}

impl Drop for Spool {
    // On whatever thread that is, an async one if a request is broken off: it is one unlink, and whoever is told that nothing
    // is kept can rely on it. Handed to another thread it would be lost where the program ends.
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path); // else at the next start
        }
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
        let mut spool = store.spool().await.unwrap();
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
        let mut spool = store.spool().await.unwrap();
        let frame = wire::safe::compress(&[7; 1_000]).unwrap();
        spool.append(frame.clone().into()).await.unwrap();
        spool.flush().await.unwrap();
        let expanded = spool.expand(1_000).unwrap();
        assert_eq!((spool.bytes(), spool.digest()), (frame.len() as u64, Sha256Digest::of(&frame)));
        assert_eq!(
            (expanded.file().bytes(), expanded.file().read(998..1_000, &mut Vec::new()).unwrap()),
            (1_000, &[7, 7][..])
        );
        drop((spool, expanded));
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }
}
