//! Blobs: files named by the SHA-256 of what is in them, written whole or not at all.

use super::{Sha256Digest, Store};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    /// Writes a global model and returns its name once it is durable. Blocking.
    ///
    /// # Errors
    /// The file system; then nothing is left behind under a blob's name.
    pub fn put_model(&self, bytes: &[u8]) -> Result<Sha256Digest, BlobError> {
        let digest = Sha256Digest::of(bytes);
        let path = self.models.join(digest.to_string());
        if path.exists() {
            return Ok(digest);
        }
        let partial = self.models.join(format!("{digest}.{:016x}.partial", rand::random::<u64>()));
        let written = write_durably(&partial, bytes).and_then(|()| {
            fs::rename(&partial, &path).map_err(failed("rename", &partial))?;
            // The name itself is durable only when its folder is.
            File::open(&self.models).and_then(|dir| dir.sync_all()).map_err(failed("sync", &self.models))
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial); // best effort: the error that matters is already in hand
        }
        written.map(|()| digest)
    }

    /// Reads a global model and checks that it is what its name says. Blocking.
    ///
    /// # Errors
    /// The file is missing, unreadable or damaged.
    pub fn get_model(&self, digest: &Sha256Digest) -> Result<Vec<u8>, BlobError> {
        let path = self.models.join(digest.to_string());
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let found = Sha256Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(BlobError::Damaged { path, found }) }
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

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), BlobError> {
    let mut file = File::create(path).map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
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

    /// Bytes received so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash of what was received so far.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    /// What was received. Blocking.
    ///
    /// # Errors
    /// The file system.
    pub fn read(&self) -> Result<Vec<u8>, BlobError> {
        fs::read(&self.path).map_err(failed("read", &self.path))
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
        let digest = store.put_model(b"parameters").unwrap();
        assert_eq!(store.get_model(&digest).unwrap(), b"parameters");
    }

    #[tokio::test]
    async fn a_damaged_model_is_refused_by_name() {
        let (folder, store) = store().await;
        let digest = store.put_model(b"parameters").unwrap();
        fs::write(folder.path().join("models").join(digest.to_string()), b"parametres").unwrap();
        assert!(matches!(store.get_model(&digest), Err(BlobError::Damaged { .. })));
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
        assert_eq!(spool.read().unwrap(), b"abc");
        drop(spool);
        assert_eq!(fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }
}
