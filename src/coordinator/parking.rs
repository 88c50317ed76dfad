//! Uploads that were broken off and wait for their clients to come back: so many, and so many bytes, of all runs together.
//!
//! Each is a file, and anybody who may register can leave one behind. So where there is no room for one more, those that have
//! waited longest go: their clients send them again from the beginning.

use super::incoming::{Incoming, Resting};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most that a coordinator keeps: as many as it receives at once.
pub const MAX_PARKED: usize = 512;
/// The most bytes of all of them. Of models up to 4 million values that is room for all, of a ResNet-18 for 190.
const MAX_BYTES: u64 = 8 << 30;

/// See the module.
#[derive(Debug)]
pub struct Parking {
    most: usize,
    most_bytes: u64,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// Counts up.
    turn: u64,
    /// Who has waited longest comes first. With how many bytes are shown to be here.
    parked: BTreeMap<u64, (Resting, Arc<AtomicU64>)>,
}

impl Places {
    fn bytes(&self) -> u64 {
        self.parked.values().map(|(resting, _)| resting.bytes()).sum()
    }
}

impl Default for Parking {
    fn default() -> Self {
        Self::new(MAX_PARKED, MAX_BYTES)
    }
}

impl Parking {
    /// Room for so many, of so many bytes.
    pub(super) fn new(most: usize, most_bytes: u64) -> Self {
        Self { most, most_bytes, places: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks an upload, until the ticket is dropped or there is no room for it any more: then `shown` becomes 0.
    pub(super) fn park(self: &Arc<Self>, incoming: Incoming, shown: Arc<AtomicU64>) -> Ticket {
        let resting = incoming.rest();
        let version = resting.version();
        let mut places = self.lock();
        places.turn += 1;
        let turn = places.turn;
        places.parked.insert(turn, (resting, shown));
        let mut gone = Vec::new();
        while places.parked.len() > self.most || places.bytes() > self.most_bytes {
            let Some((_, (resting, shown))) = places.parked.pop_first() else { break };
            shown.store(0, Ordering::Relaxed);
            gone.push(resting);
        }
        drop(places);
        drop(gone); // removes their files, which need not keep others waiting
        Ticket { parking: self.clone(), turn, version }
    }
}

/// The right to a parked upload.
#[derive(Debug)]
pub(super) struct Ticket {
    parking: Arc<Parking>,
    turn: u64,
    version: u64,
}

impl Ticket {
    /// The upload, if it is there still.
    pub(super) fn redeem(&self) -> Option<Resting> {
        let taken = self.parking.lock().parked.remove(&self.turn);
        taken.map(|(resting, _)| resting)
    }

    /// The version that it is trained from.
    pub(super) fn version(&self) -> u64 {
        self.version
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.redeem());
    }
}
