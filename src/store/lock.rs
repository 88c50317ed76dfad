//! One coordinator a data folder. Two would void each other's rounds and remove each other's uploads.

use super::{StoreError, at};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Holds the data folder until it is released or dropped, or the process ends, however that comes.
#[derive(Debug)]
pub(super) struct FolderLock(File);

impl FolderLock {
    /// Makes the folder if it is missing, and takes it.
    pub fn take(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let path = folder.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
            Err(TryLockError::Error(error)) => Err(at(&path)(error)),
        }
    }

    pub fn release(&self) {
        let _ = self.0.unlock(); // at the latest it goes with the process
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::store::{Store, StoreError};

    #[tokio::test]
    async fn a_folder_in_use_is_neither_opened_by_a_second_coordinator_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).await.unwrap();
        assert!(matches!(Store::open(folder.path()).await, Err(StoreError::InUse(_))));
        assert!(matches!(Store::remove(folder.path()), Err(StoreError::InUse(_))));
        // Once the first one is done with it, both can be.
        let still_held = first.clone();
        first.release();
        drop(Store::open(folder.path()).await.unwrap());
        Store::remove(folder.path()).unwrap();
        assert!(!folder.path().exists());
        Store::remove(folder.path()).unwrap();
        drop(still_held);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_is_named_from_the_root_with_its_setting() {
        // A relative path through a file, as that of a folder in which a person has no rights.
        let refusal = Store::open(std::path::Path::new("Cargo.toml/data")).await.unwrap_err().to_string();
        let whole = std::env::current_dir().unwrap().join("Cargo.toml/data");
        assert!(refusal.starts_with(&format!("cannot use the data folder {}: ", whole.display())), "{refusal}");
        assert!(refusal.ends_with("or choose another with --data-dir"), "{refusal}");
    }

    #[tokio::test]
    async fn looking_in_beside_a_coordinator_leaves_its_uploads_alone_and_makes_no_database() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Store::attach(folder.path()).await, Err(StoreError::NoDatabase(_))));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let coordinator = Store::open(folder.path()).await.unwrap();
        let old = coordinator.make_admin_token().await.unwrap().unwrap();
        let upload = folder.path().join("incoming/upload");
        std::fs::write(&upload, b"half of it").unwrap();
        let new = Store::attach(folder.path()).await.unwrap().renew_admin_token().await.unwrap();
        assert!(upload.exists());
        assert!(coordinator.is_admin_token(new.reveal()).await.unwrap());
        assert!(!coordinator.is_admin_token(old.reveal()).await.unwrap());
    }
}
