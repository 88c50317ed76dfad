//! Why a request to a run failed.

use crate::coordinator::uploads::UploadError;
use crate::coordinator::versions::VersionError;
use crate::round::Reject;
use crate::run::Refusal;
use crate::store::StoreError;
use app::api::RunId;

/// Why a request to a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run did not carry it out.
    #[error(transparent)]
    Refusal(#[from] Refusal<StoreError>),
    /// Too many requests wait for the run.
    #[error("run '{run}' is busy: {limit} requests wait for it, which is the most at once")]
    Busy {
        /// The run.
        run: RunId,
        /// The limit.
        limit: usize,
    },
    /// The run cannot continue, and why: a decision cannot be stored, or the run has failed.
    #[error("{0}")]
    Blocked(String),
    /// A global version cannot be read.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// An upload failed.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The run is archived, renamed or deleted.
    #[error("{}", .0.reason)]
    Retired(Retired),
}

impl RunError {
    /// The coordinator is stopping.
    pub fn stopping() -> Self {
        Refusal::Stopping.into()
    }
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Refusal::Store(error).into()
    }
}

impl From<Reject> for RunError {
    fn from(reject: Reject) -> Self {
        Refusal::from(reject).into()
    }
}

/// Why a run takes no more requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The reason, for people.
    pub reason: String,
    /// There is an archived run of that name; otherwise there is none.
    pub is_archived: bool,
}
