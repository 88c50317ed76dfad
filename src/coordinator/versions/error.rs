//! Why a global version could not be sent.

use crate::store::StoreError;
use crate::wire::EncodeError;

/// Older versions of one run that are encoded at the same time.
pub(super) const OLDER_AT_ONCE: usize = 2;

/// Why a global version could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The run has no such version, or it was pruned.
    #[error("there is no version {0} of this model, or it is no longer kept: models/latest is the current one")]
    NoVersion(u64),
    /// Other older versions are being encoded.
    #[error("version {0} is not the current one, and {OLDER_AT_ONCE} of those are being encoded, the most at once")]
    Busy(u64),
    /// Slow readers are being sent older versions.
    #[error("version {version} is not the current one, and of those {held} bytes are being sent, of at most {limit}")]
    Full {
        /// The version asked for.
        version: u64,
        /// Bytes of all bodies of older versions.
        held: u64,
        /// From that number on no more are encoded.
        limit: u64,
    },
    /// The store, which may succeed another time.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob is damaged or missing.
    #[error("the stored version {version} cannot be read: {reason}")]
    Unreadable {
        /// The version.
        version: u64,
        /// The cause.
        reason: String,
    },
    /// It cannot be written in the format asked for.
    #[error("version {version} cannot be sent as {format}: {source}")]
    Unwritable {
        /// The version.
        version: u64,
        /// The media type, with the encoding where it has one.
        format: &'static str,
        /// The cause.
        source: EncodeError,
    },
}
