//! Why an upload failed.

use super::rejection::Rejection;
use crate::coordinator::versions::VersionError;
use crate::store::{BlobError, StoreError};

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The body was read and is not acceptable.
    #[error("the update was rejected: {0}")]
    Rejected(#[from] Rejection),
    /// The body is longer than any update of the model.
    #[error(
        "the body has at least {bytes} bytes, and no update of this run's model has more than {limit}: send the tensors \
         that GET .../models/latest has, and no others"
    )]
    LargerThanModel {
        /// Its length, as far as it is known.
        bytes: u64,
        /// The longest update of the model.
        limit: u64,
    },
    /// The body is longer than the coordinator accepts.
    #[error(
        "the body has at least {bytes} bytes, and --max-upload-mb {max_upload_mb} of the coordinator allows {}: send it in \
         a smaller encoding, or restart the coordinator with --max-upload-mb {} or more",
        u64::from(*max_upload_mb) << 20,
        bytes.div_ceil(1 << 20)
    )]
    LargerThanSetting {
        /// Its length, as far as it is known.
        bytes: u64,
        /// The setting.
        max_upload_mb: u32,
    },
    /// No more uploads are received at the same time.
    #[error("{limit} uploads {whose} are being received, which is the most at once")]
    TooMany {
        /// Of all clients, or of this client.
        whose: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The upload cannot be resumed at that offset.
    #[error("offset is {offset}, but {stored} bytes of this update are stored")]
    Offset {
        /// The offset that the client named.
        offset: u64,
        /// Bytes that the coordinator has.
        stored: u64,
    },
    /// A later request of the client has resumed the upload.
    #[error("another request resumes this update")]
    Superseded,
    /// The version that the update was trained from cannot be read.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The file system.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of this program.
    #[error("checking the update failed: {0}")]
    Internal(String),
}

impl From<BlobError> for UploadError {
    fn from(error: BlobError) -> Self {
        StoreError::from(error).into()
    }
}

impl UploadError {
    /// Why sending the same body again would fail again; `None` if it might succeed.
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection.clone()),
            Self::LargerThanModel { .. } | Self::LargerThanSetting { .. } => Some(Rejection::mistake(self.to_string())),
            _ => None,
        }
    }
}
