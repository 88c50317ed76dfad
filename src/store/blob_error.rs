//! Why a file of parameters could not be written or read.

use crate::digest::Sha256Digest;
use crate::wire::DecodeError;
use std::io;
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
    /// A body that was received.
    #[error("cannot read or write a received body: {0}")]
    Body(io::Error),
    /// The file is not what its name says.
    #[error("{path} is damaged: its SHA-256 is {found}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The hash of what is in it.
        found: Sha256Digest,
    },
    /// The file is what its name says, but nothing that this program can read.
    #[error("the model {digest} cannot be read: {source}")]
    NoModel {
        /// Its name.
        digest: Sha256Digest,
        /// What is wrong with it.
        source: Box<DecodeError>,
    },
}

impl BlobError {
    /// Whether reading it again may do better. Else what it held is lost: the bytes are others, or there is no such file
    /// in a folder that is there.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
                !path.parent().is_some_and(Path::is_dir)
            }
            Self::Io { source, .. } | Self::Body(source) => source.kind() != io::ErrorKind::UnexpectedEof,
            Self::Damaged { .. } | Self::NoModel { .. } => false,
        }
    }
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { what, path, source }
}
