//! The parts of a run that its actor shares with its handles.

use super::feed::Feed;
use super::tokens::Tokens;
use crate::coordinator::clock::Clock;
use crate::coordinator::uploads::{Places, Uploads};
use crate::coordinator::versions::Versions;
use crate::store::Store;
use app::api::RunId;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// See the module.
#[derive(Debug)]
pub(in crate::coordinator) struct Parts {
    pub run: RunId,
    pub store: Store,
    pub clock: Clock,
    pub feed: Arc<Feed>,
    pub tokens: Arc<Tokens>,
    pub versions: Arc<Versions>,
    pub uploads: Arc<Uploads>,
    pub places: Arc<Places>,
    pub max_upload_mb: u32,
    /// Ends the run.
    pub halt: CancellationToken,
    /// The run's actor, and the work beside it.
    pub tasks: TaskTracker,
}
