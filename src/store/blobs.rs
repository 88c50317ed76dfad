//! Blobs: files named by the SHA-256 of what is in them, written whole or not at all.

use super::{Sha256Digest, Store};
use crate::wire::{self, BlockSource, ReadError};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a blob could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file system.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A body that was received.
    #[error("cannot read or write a received body: {0}")]
    Body(io::Error),
    /// The file is not what its name says.
    #[error("the blob {path} is damaged: its SHA-256 is {found}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The hash of what is in it.
        found: Sha256Digest,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { what, path, source }
}

impl Store {
    /// Writes a global model, as `write` does, and returns its name once it is durable. Blocking.
    ///
    /// # Errors
    /// The file system; then nothing is left behind under a blob's name.
    pub fn put_model(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Sha256Digest, BlobError> {
        let partial = self.models.join(format!("{:032x}.partial", rand::random::<u128>()));
        let written = write_durably(&partial, write).and_then(|digest| {
            fs::rename(&partial, self.models.join(digest.to_string())).map_err(failed("rename", &partial))?;
            // The name itself is durable only when its folder is.
            File::open(&self.models).and_then(|dir| dir.sync_all()).map_err(failed("sync", &self.models))?;
            Ok(digest)
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial); // best effort: the error that matters is already in hand
        }
        written
    }

    /// Opens a global model, after checking that it is what its name says. Blocking.
    ///
    /// # Errors
    /// The file is missing, unreadable or damaged.
    pub fn open_model(&self, digest: &Sha256Digest) -> Result<SpoolFile, BlobError> {
        let path = self.models.join(digest.to_string());
        let file = File::open(&path).map_err(failed("read", &path))?;
        let mut hash = Hashing { hash: Sha256::new(), to: io::sink() };
        let bytes = io::copy(&mut &file, &mut hash).map_err(failed("read", &path))?;
        let found = Sha256Digest(hash.hash.finalize().into());
        if found == *digest {
            Ok(SpoolFile { file: Arc::new(file), bytes })
        } else {
            Err(BlobError::Damaged { path, found })
        }
    }

    /// Removes a global model's file; that it is gone already is fine. Blocking.
    pub(super) fn remove_model(&self, digest: &Sha256Digest) {
        let path = self.models.join(digest.to_string());
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old model");
        }
    }

    /// A new file for a body that is being received.
    pub fn spool(&self) -> Spool {
        Spool { path: self.incoming.join(format!("{:032x}", rand::random::<u128>())), hash: Sha256::new(), bytes: 0 }
    }
}

fn write_durably(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Sha256Digest, BlobError> {
    let file = File::create(path).map_err(failed("create", path))?;
    let mut out = Hashing { hash: Sha256::new(), to: file };
    write(&mut out).map_err(failed("write", path))?;
    out.to.sync_all().map_err(failed("sync", path))?;
    Ok(Sha256Digest(out.hash.finalize().into()))
}

/// Hashes what it passes on.
struct Hashing<W> {
    hash: Sha256,
    to: W,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A file that blocks are read from, by as many threads as like.
#[derive(Debug, Clone)]
pub struct SpoolFile {
    file: Arc<File>,
    bytes: u64,
}

impl SpoolFile {
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

/// A body on its way in: on disk rather than in memory, so that memory does not grow with the number of clients.
/// Dropped, it removes its file.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

impl Spool {
    /// Opens the file for writing.
    ///
    /// # Errors
    /// The file system.
    pub async fn create(&self) -> Result<tokio::fs::File, BlobError> {
        tokio::fs::File::create(&self.path).await.map_err(failed("create", &self.path))
    }

    /// Appends a chunk and returns how many bytes there are now.
    ///
    /// # Errors
    /// The file system.
    pub async fn append(&mut self, file: &mut tokio::fs::File, chunk: &[u8]) -> Result<(), BlobError> {
        use tokio::io::AsyncWriteExt;
        file.write_all(chunk).await.map_err(failed("write", &self.path))?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Goes on with a file to which an append was broken off: what it may have written is overwritten.
    ///
    /// # Errors
    /// The file system.
    pub async fn resume(&self, file: &mut tokio::fs::File) -> Result<(), BlobError> {
        use tokio::io::AsyncSeekExt;
        file.set_len(self.bytes).await.map_err(failed("write", &self.path))?; // after a write that still ran
        file.seek(io::SeekFrom::Start(self.bytes)).await.map(|_| ()).map_err(failed("write", &self.path))
    }

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash of what was received so far.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    /// Waits until all that was appended can be read.
    ///
    /// # Errors
    /// The file system.
    pub async fn flush(&self, file: &mut tokio::fs::File) -> Result<(), BlobError> {
        use tokio::io::AsyncWriteExt;
        file.flush().await.map_err(failed("write", &self.path))
    }

    /// Opens what was received so far, for reading.
    ///
    /// # Errors
    /// The file system.
    pub fn open(&self) -> Result<SpoolFile, BlobError> {
        let file = File::open(&self.path).map_err(failed("read", &self.path))?;
        let bytes = file.metadata().map_err(failed("read", &self.path))?.len();
        Ok(SpoolFile { file: Arc::new(file), bytes })
    }

    /// Replaces what was received, a zstd frame, by what it expands to; its digest and number of bytes stay. Blocking.
    ///
    /// # Errors
    /// No zstd, or more than `max_bytes`; the file system.
    pub fn expand(self, max_bytes: u64) -> Result<Self, ReadError> {
        let path = self.path.with_extension("expanded");
        // From here on it is this file that is removed at the end, however that comes.
        let expanded = Self { path, hash: self.hash.clone(), bytes: self.bytes };
        let mut out = File::create(&expanded.path)?;
        wire::safe::expand(io::BufReader::new(File::open(&self.path)?), &mut out, max_bytes)?;
        Ok(expanded)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // never created, or removed at the next start
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
    async fn a_model_comes_back_as_it_was_put() {
        let (_folder, store) = store().await;
        let digest = store.put_model(|out| out.write_all(b"parameters")).unwrap();
        assert_eq!(digest, Sha256Digest::of("parameters"));
        let (model, mut scratch) = (store.open_model(&digest).unwrap(), Vec::new());
        assert_eq!((model.bytes(), model.read(2..5, &mut scratch).unwrap()), (10, &b"ram"[..]));
    }

    #[tokio::test]
    async fn a_damaged_model_is_refused_by_name() {
        let (folder, store) = store().await;
        let digest = store.put_model(|out| out.write_all(b"parameters")).unwrap();
        fs::write(folder.path().join("models").join(digest.to_string()), b"parametres").unwrap();
        assert!(matches!(store.open_model(&digest), Err(BlobError::Damaged { .. })));
    }

    #[tokio::test]
    async fn a_model_that_cannot_be_written_leaves_nothing() {
        let (folder, store) = store().await;
        let refused = store.put_model(|out| out.write_all(b"half").and(Err(io::Error::other("the disk is full"))));
        assert!(matches!(refused, Err(BlobError::Io { what: "write", .. })));
        assert_eq!(fs::read_dir(folder.path().join("models")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_spool_hashes_what_it_takes_and_leaves_nothing() {
        let (folder, store) = store().await;
        let mut spool = store.spool();
        let mut file = spool.create().await.unwrap();
        spool.append(&mut file, b"a").await.unwrap();
        spool.append(&mut file, b"bc").await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut file).await.unwrap();
        assert_eq!((spool.bytes(), spool.digest()), (3, Sha256Digest::of("abc")));
        assert_eq!(spool.open().unwrap().read(0..3, &mut Vec::new()).unwrap(), b"abc");
        drop(spool);
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }
}
