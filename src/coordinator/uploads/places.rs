//! How many uploads are received at the same time, of all clients and of one.
//!
//! Each takes a file, buffers, and the blocks that are being checked: some 300 kB (docs/measured.md), whatever the model.

use super::error::UploadError;
use crate::shares::{Exhausted, Share, Shares};
use app::api::{ClientId, RunId};
use std::sync::Arc;

/// The limit for all clients: some 150 MB.
pub const MAX_UPLOADS: usize = 512;
/// The limit for one client: a dead connection, its successor, and the same once more.
const MAX_UPLOADS_OF_ONE: usize = 4;

/// A place, until it is dropped.
pub(in crate::coordinator) type Place = Share<(RunId, ClientId)>;

/// See the module.
#[derive(Debug)]
pub struct Places(Arc<Shares<(RunId, ClientId)>>);

impl Default for Places {
    fn default() -> Self {
        Self(Shares::new(MAX_UPLOADS, MAX_UPLOADS_OF_ONE))
    }
}

impl Places {
    /// A place for an upload of that client.
    ///
    /// # Errors
    /// None is free.
    pub(in crate::coordinator) fn take(&self, run: &RunId, client: &ClientId) -> Result<Place, UploadError> {
        self.0.take(Some((run.clone(), client.clone()))).map_err(|exhausted| match exhausted {
            Exhausted::All => UploadError::TooMany { whose: "of all clients", limit: MAX_UPLOADS },
            Exhausted::OfHolder => UploadError::TooMany { whose: "of this client", limit: MAX_UPLOADS_OF_ONE },
        })
    }
}
