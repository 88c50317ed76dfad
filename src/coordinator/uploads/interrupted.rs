//! Interrupted uploads that their clients may resume, of all runs together: limited in number and in bytes.
//!
//! Each is a file, and every client may leave one behind. When a limit is exceeded, the oldest are removed: their clients
//! send those updates again from the beginning.

use super::incoming::{Incoming, Interrupted};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most interrupted uploads that are kept: as many as are received at the same time.
pub const MAX_INTERRUPTED: usize = 512;
/// The most bytes of all of them: enough for 512 updates of 4 million values, or 190 of a ResNet-18.
const MAX_BYTES: u64 = 8 << 30;

/// See the module.
#[derive(Debug)]
pub struct InterruptedUploads {
    max_uploads: usize,
    max_bytes: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Counts up.
    number: u64,
    /// The oldest first, with the number of bytes that others are shown.
    uploads: BTreeMap<u64, (Interrupted, Arc<AtomicU64>)>,
}

impl Kept {
    fn bytes(&self) -> u64 {
        self.uploads.values().map(|(upload, _)| upload.bytes()).sum()
    }
}

impl Default for InterruptedUploads {
    fn default() -> Self {
        Self::new(MAX_INTERRUPTED, MAX_BYTES)
    }
}

impl InterruptedUploads {
    pub(super) fn new(max_uploads: usize, max_bytes: u64) -> Self {
        Self { max_uploads, max_bytes, kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an upload until its ticket is dropped or newer ones exceed a limit. `shown_bytes` is set to 0 then.
    pub(super) fn keep(self: &Arc<Self>, incoming: Incoming, shown_bytes: Arc<AtomicU64>) -> Ticket {
        let upload = incoming.interrupt();
        let version = upload.version();
        let mut kept = self.lock();
        kept.number += 1;
        let number = kept.number;
        kept.uploads.insert(number, (upload, shown_bytes));
        let mut removed = Vec::new();
        while kept.uploads.len() > self.max_uploads || kept.bytes() > self.max_bytes {
            let Some((_, (upload, shown_bytes))) = kept.uploads.pop_first() else { break };
            shown_bytes.store(0, Ordering::Relaxed);
            removed.push(upload);
        }
        drop(kept);
        drop(removed); // removes the files, while others need not wait
        Ticket { uploads: self.clone(), number, version }
    }
}

/// The right to resume an interrupted upload.
#[derive(Debug)]
pub(super) struct Ticket {
    uploads: Arc<InterruptedUploads>,
    number: u64,
    version: u64,
}

impl Ticket {
    /// The upload, if it is still kept.
    pub(super) fn redeem(&self) -> Option<Interrupted> {
        let taken = self.uploads.lock().uploads.remove(&self.number);
        taken.map(|(upload, _)| upload)
    }

    /// The version that the update was trained from.
    pub(super) fn version(&self) -> u64 {
        self.version
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.redeem());
    }
}
