//! Room for uploads: how many are received at once, and how many of them are one client's.
//!
//! Each takes a file, buffers, and the blocks that are being checked: some 300 kB (docs/measured.md), whatever the model.

use super::error::{ApiError, ApiResult};
use app::api::{ClientId, ErrorCode, RunId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most at once: some 150 MB.
pub const MAX_UPLOADS: u64 = 512;
/// The most of one client: a connection that nobody noticed to be dead, its successor, and the same once more.
const MAX_UPLOADS_OF_ONE: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct UploadRoom {
    all: Arc<Semaphore>,
    by_client: Mutex<HashMap<(RunId, ClientId), usize>>,
}

/// A place in it, until dropped.
#[derive(Debug)]
pub struct UploadPlace {
    room: Arc<UploadRoom>,
    client: (RunId, ClientId),
    _one: OwnedSemaphorePermit,
}

impl Default for UploadRoom {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_UPLOADS as usize)), by_client: Mutex::default() }
    }
}

impl UploadRoom {
    /// A place for an upload of that client.
    ///
    /// # Errors
    /// There is none: 429, before anything of the body is read.
    pub fn enter(self: &Arc<Self>, run: &RunId, client: &ClientId) -> ApiResult<UploadPlace> {
        let full = |whose: &str, most: u64| {
            let message = format!("{most} uploads {whose} are being received, which is the most at once");
            ApiError::new(ErrorCode::TooMany, message)
        };
        let one = self.all.clone().try_acquire_owned().map_err(|_| full("of all clients", MAX_UPLOADS))?;
        let client = (run.clone(), client.clone());
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_client.entry(client.clone()).or_default();
        if *count >= MAX_UPLOADS_OF_ONE {
            return Err(full("of this client", MAX_UPLOADS_OF_ONE as u64));
        }
        *count += 1;
        Ok(UploadPlace { room: self.clone(), client, _one: one })
    }
}

impl Drop for UploadPlace {
    fn drop(&mut self) {
        let mut by_client = self.room.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn enter(room: &Arc<UploadRoom>, client: u64) -> ApiResult<UploadPlace> {
        room.enter(&"r".parse().unwrap(), &format!("c{client}").parse().unwrap())
    }

    #[test]
    fn one_client_does_not_take_all_the_room() {
        let room = Arc::new(UploadRoom::default());
        let mut places: Vec<_> = (0..MAX_UPLOADS_OF_ONE).map(|_| enter(&room, 0).unwrap()).collect();
        assert!(enter(&room, 0).is_err());
        assert!(enter(&room, 1).is_ok());
        places.pop();
        assert!(enter(&room, 0).is_ok());
    }

    #[test]
    fn there_is_room_for_so_many_and_nothing_is_kept_of_who_has_left() {
        let room = Arc::new(UploadRoom::default());
        let places: Vec<_> = (0..MAX_UPLOADS).map(|client| enter(&room, client).unwrap()).collect();
        assert!(enter(&room, MAX_UPLOADS).is_err());
        drop(places);
        assert!(room.by_client.lock().unwrap().is_empty());
        assert!(enter(&room, MAX_UPLOADS).is_ok());
    }
}
