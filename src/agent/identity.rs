//! The identity file: keeps the client's id and token, so that an agent resumes as the same client after a crash.
//!
//! Only this user can read the file. It is locked while an agent uses it. It is always complete: a new version is written beside
//! it, then renamed.

use super::transport::Identity;
use app::api::RunId;
use same_file::Handle;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The most that is read, far more than an identity has.
const MAX_BYTES: u64 = 64 << 10;

/// Why an identity file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system failed.
    #[error("cannot use the identity file {path}: {source}; choose another with --identity")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("{0} is in use by another agent: give each agent a file of its own with --identity")]
    InUse(PathBuf),
    /// It has other content, which is not overwritten.
    #[error("{path} is not an identity file: {reason}; choose another with --identity")]
    NotOne {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It belongs to another run or coordinator.
    #[error("{path} is of run '{run}' at {coordinator}: give another file with --identity, or remove this one")]
    Elsewhere {
        /// Which file.
        path: PathBuf,
        /// Its run.
        run: RunId,
        /// Its coordinator.
        coordinator: String,
    },
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    coordinator: String,
    run: RunId,
    #[serde(flatten)]
    identity: Identity,
}

/// An identity file in use.
pub struct IdentityFile {
    path: PathBuf,
    coordinator: String,
    run: RunId,
    kept: Option<Identity>,
    /// Holds the lock.
    file: File,
}

impl fmt::Debug for IdentityFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityFile({}, {:?})", self.path.display(), self.kept)
    }
}

impl IdentityFile {
    /// Locks the file for an agent of that run. A missing file is created, and is empty.
    ///
    /// # Errors
    /// It cannot be read, is in use, or is another kind of file.
    pub fn open(path: &Path, coordinator_url: &str, run: &RunId) -> Result<Self, IdentityError> {
        let at = at(path);
        let mut file =
            private(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(path).map_err(&at)?;
        lock(&file, path)?;
        // If the file was renamed or removed between the two steps above, an agent that has just ended held the lock.
        let held = file.try_clone().and_then(Handle::from_file).map_err(&at)?;
        if Handle::from_path(path).map_err(&at)? != held {
            return Err(IdentityError::InUse(path.to_owned()));
        }
        let mut text = String::new();
        (&mut file).take(MAX_BYTES).read_to_string(&mut text).map_err(&at)?;
        let coordinator = coordinator_url.trim_end_matches('/').to_owned();
        let kept = if text.is_empty() {
            None
        } else {
            let not_one = |error: serde_json::Error| {
                // Without the content, which may be a secret.
                let reason = format!("{:?} in line {}", error.classify(), error.line());
                IdentityError::NotOne { path: path.to_owned(), reason }
            };
            let kept: Kept = serde_json::from_str(&text).map_err(not_one)?;
            if (&kept.coordinator, &kept.run) != (&coordinator, run) {
                let Kept { coordinator, run, .. } = kept;
                return Err(IdentityError::Elsewhere { path: path.to_owned(), run, coordinator });
            }
            Some(kept.identity)
        };
        Ok(Self { path: path.to_owned(), coordinator, run: run.clone(), kept, file })
    }

    /// The identity in the file.
    pub(super) fn kept(&self) -> Option<&Identity> {
        self.kept.as_ref()
    }

    /// Stores the identity from now on.
    pub(super) fn keep(&mut self, identity: &Identity) -> Result<(), IdentityError> {
        let Self { coordinator, run, .. } = &*self;
        let kept = Kept { coordinator: coordinator.clone(), run: run.clone(), identity: identity.clone() };
        let mut text = serde_json::to_vec_pretty(&kept).map_err(io::Error::from).map_err(at(&self.path))?;
        text.push(b'\n');
        let beside = self.path.with_added_extension("new");
        let write = || {
            let _ = std::fs::remove_file(&beside); // an agent may have been killed before the rename
            let mut file = private(OpenOptions::new().write(true).create_new(true)).open(&beside)?;
            file.lock()?; // before the rename, so that the file is always locked
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&beside, &self.path)?;
            Ok(file)
        };
        self.file = write().map_err(at(&beside))?;
        self.kept = Some(identity.clone());
        Ok(())
    }

    /// Forgets the identity: the file is removed when this is dropped.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }
}

impl Drop for IdentityFile {
    fn drop(&mut self) {
        if self.kept.is_none() {
            let _ = std::fs::remove_file(&self.path); // an empty file that stays does no harm
        }
    }
}

/// Readable by this user alone. On Windows the folder's permissions apply, as for other secrets in a user's profile.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn lock(file: &File, path: &Path) -> Result<(), IdentityError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(IdentityError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(at(path)(error)),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> IdentityError {
    move |source| IdentityError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HERE: &str = "http://127.0.0.1:3000";

    fn open(path: &Path) -> Result<IdentityFile, IdentityError> {
        IdentityFile::open(path, HERE, &"default".parse().unwrap())
    }

    fn identity(token: &str) -> Identity {
        Identity { client_id: "c1".parse().unwrap(), token: token.to_owned() }
    }

    /// A folder, and the path of a file in it that does not exist yet.
    fn nowhere() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("me.json");
        (folder, path)
    }

    #[test]
    fn a_stored_identity_is_read_again_and_only_this_user_can_read_it() {
        let (folder, path) = nowhere();
        let mut file = open(&path).unwrap();
        assert!(file.kept().is_none());
        file.keep(&identity("first")).unwrap();
        file.keep(&identity("second")).unwrap();
        drop(file);
        assert_eq!(open(&path).unwrap().kept().unwrap().token, "second");
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing lies beside it");
    }

    #[test]
    fn a_file_has_one_agent_at_a_time() {
        let (_folder, path) = nowhere();
        let mut file = open(&path).unwrap();
        assert!(matches!(open(&path), Err(IdentityError::InUse(_))));
        file.keep(&identity("a")).unwrap();
        assert!(matches!(open(&path), Err(IdentityError::InUse(_))));
        drop(file);
        open(&path).unwrap();
    }

    #[test]
    fn an_agent_that_has_left_leaves_no_file() {
        let (_folder, path) = nowhere();
        let mut file = open(&path).unwrap();
        file.keep(&identity("a")).unwrap();
        file.forget();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_another_run_or_kind_is_rejected_and_stays_unchanged() {
        let (_folder, path) = nowhere();
        open(&path).unwrap().keep(&identity("secret")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let refusal = IdentityFile::open(&path, HERE, &"other".parse().unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("is of run 'default' at http://127.0.0.1:3000"), "{refusal}");
        assert!(IdentityFile::open(&path, "http://10.0.0.1", &"default".parse().unwrap()).is_err());
        IdentityFile::open(&path, "http://127.0.0.1:3000/", &"default".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, "my diary: secret").unwrap();
        let refusal = open(&path).unwrap_err().to_string();
        assert!(refusal.contains("is not an identity file") && !refusal.contains("secret"), "{refusal}");
        assert_eq!(std::fs::read(&path).unwrap(), b"my diary: secret");
    }
}
