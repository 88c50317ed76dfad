//! Why an update is rejected, and whether that is a strike.

use crate::digest::Sha256Digest;
use crate::wire::DecodeError;

/// Why an update is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    /// Why, for people.
    pub reason: String,
    /// SHA-256 of what was sent, if that cannot be an honest mistake.
    pub strike: Option<Sha256Digest>,
}

impl Rejection {
    /// A rejection of what can be an honest mistake.
    pub fn mistake(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), strike: None }
    }

    /// A rejection of bytes with that digest.
    pub(super) fn of(error: &DecodeError, digest: Sha256Digest) -> Self {
        Self { reason: error.to_string(), strike: contradicts_itself(error).then_some(digest) }
    }
}

/// Whether a body contradicts itself although its checksums are right, or expands beyond any update of its model. No encoder
/// writes that, and no damage in transit causes it. Everything else can be an honest mistake: another format, version or
/// model, values that are not finite, a truncated or damaged body.
fn contradicts_itself(error: &DecodeError) -> bool {
    use DecodeError as E;
    matches!(
        error,
        E::SchemaDigest
            | E::TensorSize { .. }
            | E::Offset { .. }
            | E::BlockCount { .. }
            | E::BlockLength { .. }
            | E::PlaneSize { .. }
            | E::PlaneZstd { .. }
            | E::Padding { .. }
            | E::Positions { .. }
            | E::Expands { .. }
    )
}
