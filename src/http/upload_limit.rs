//! Limits the uploads that are received at once.
//!
//! Each takes a file, buffers, and the blocks that are being checked: some 300 kB (docs/measured.md), whatever the model.

use super::error::{ApiError, ApiResult};
use super::shares::{Exhausted, Share, Shares};
use app::api::{ClientId, ErrorCode, RunId};
use std::sync::Arc;

/// The most at once: some 150 MB.
pub const MAX_UPLOADS: u64 = 512;
/// The most of one client: a dead connection, its successor, and the same once more.
const MAX_UPLOADS_OF_ONE: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct UploadLimit(Arc<Shares<(RunId, ClientId)>>);

impl Default for UploadLimit {
    fn default() -> Self {
        Self(Shares::new(MAX_UPLOADS as usize, MAX_UPLOADS_OF_ONE))
    }
}

impl UploadLimit {
    /// Admits an upload of that client.
    ///
    /// # Errors
    /// 429, before anything of the body is read.
    pub fn enter(&self, run: &RunId, client: &ClientId) -> ApiResult<Share<(RunId, ClientId)>> {
        self.0.take(Some((run.clone(), client.clone()))).map_err(|exhausted| {
            let (most, whose) = match exhausted {
                Exhausted::All => (MAX_UPLOADS, "of all clients"),
                Exhausted::OfHolder => (MAX_UPLOADS_OF_ONE as u64, "of this client"),
            };
            let message = format!("{most} uploads {whose} are being received, which is the most at once");
            ApiError::new(ErrorCode::TooMany, message)
        })
    }
}
