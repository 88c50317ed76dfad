//! Blobs: files named by the SHA-256 of what is in them, written whole or not at all.

use super::blob_error::{BlobError, failed};
use super::spool::SpoolFile;
use super::{Store, StoreError, blocking};
use crate::digest::Sha256Digest;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

impl Store {
    /// Writes a global model, as `write` does, and returns its name once it is durable. Blocking.
    ///
    /// # Errors
    /// The file system; then nothing is left behind under a blob's name.
    pub fn put_model(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Sha256Digest, BlobError> {
        let partial = self.models.join(format!("{:032x}.partial", rand::random::<u128>()));
        let written = write_durably(&partial, write).and_then(|digest| {
            self.unsaved.add(digest);
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
        open_checked(self.models.join(digest.to_string()), digest)
    }

    /// Checks that a body which was kept is what was received. Blocking.
    ///
    /// # Errors
    /// The file is missing, unreadable or damaged.
    pub fn check_received(&self, name: &str, sha256: &Sha256Digest) -> Result<(), BlobError> {
        open_checked(self.incoming.join(name), sha256).map(|_| ())
    }

    /// Removes a global model's file, unless a version of some run has that model, or will have it in a moment; that it is gone
    /// already is fine. False if the file cannot be removed, which is logged.
    ///
    /// # Errors
    /// The database.
    pub(super) async fn remove_unused_model(&self, digest: Sha256Digest) -> Result<bool, StoreError> {
        let Some(_removal) = self.unsaved.begin_removal(digest) else { return Ok(true) };
        let users: i64 = sqlx::query_scalar("SELECT count(*) FROM model_versions WHERE sha256 = ? AND pruned = 0")
            .bind(digest.0.as_slice())
            .fetch_one(&self.readers)
            .await?;
        if users == 0 {
            let path = self.models.join(digest.to_string());
            let removing = path.clone();
            if let Err(error) = blocking(move || fs::remove_file(removing)).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old model");
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Models whose files are written while the rows that will name them are not: their files are not removed meanwhile,
/// although no row names them yet.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    files: Mutex<Files>,
    removed: Condvar,
}

#[derive(Debug, Default)]
struct Files {
    written: Vec<Sha256Digest>,
    being_removed: Vec<Sha256Digest>,
}

impl Unsaved {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of that name is about to appear. Waits for one that is being removed. Blocking.
    fn add(&self, digest: Sha256Digest) {
        let is_removed = |files: &mut Files| files.being_removed.contains(&digest);
        let mut files = self.removed.wait_while(self.files(), is_removed).unwrap_or_else(PoisonError::into_inner);
        files.written.push(digest);
    }

    /// A row names it, or none ever will.
    pub fn saved(&self, digest: &Sha256Digest) {
        let mut files = self.files();
        if let Some(place) = files.written.iter().position(|written| written == digest) {
            files.written.swap_remove(place);
        }
    }

    fn begin_removal(self: &Arc<Self>, digest: Sha256Digest) -> Option<Removal> {
        let mut files = self.files();
        if files.written.contains(&digest) || files.being_removed.contains(&digest) {
            return None;
        }
        files.being_removed.push(digest);
        Some(Removal { unsaved: self.clone(), digest })
    }
}

/// While this is held, no file of that name is written.
struct Removal {
    unsaved: Arc<Unsaved>,
    digest: Sha256Digest,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.unsaved.files().being_removed.retain(|digest| *digest != self.digest);
        self.unsaved.removed.notify_all();
    }
}

/// Opens a file that must hold what has this hash. Blocking.
fn open_checked(path: PathBuf, digest: &Sha256Digest) -> Result<SpoolFile, BlobError> {
    let file = File::open(&path).map_err(failed("read", &path))?;
    let mut hash = Hashing { hash: Sha256::new(), to: io::sink() };
    let bytes = io::copy(&mut &file, &mut hash).map_err(failed("read", &path))?;
    let found = Sha256Digest(hash.hash.finalize().into());
    if found == *digest { Ok(SpoolFile::new(Arc::new(file), bytes)) } else { Err(BlobError::Damaged { path, found }) }
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

impl<W: Write + Send> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Side by side: each takes about as long as the other.
        let (written, ()) = rayon::join(|| self.to.write_all(bytes), || self.hash.update(bytes));
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::BlockSource;

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
}
