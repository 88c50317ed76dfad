//! Uploads that were broken off and wait for their clients to come back: so many, of all runs together.
//!
//! Each is a file, and anybody who may register can leave one behind. So where there is no room for one more, the one that
//! has waited longest goes: its client sends it again from the beginning.

use super::incoming::Incoming;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most that a coordinator keeps: as many as it receives at once.
pub const MAX_PARKED: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Parking {
    most: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// Counts up.
    turn: u64,
    /// Who has waited longest comes first. With how many bytes are shown to be here.
    parked: BTreeMap<u64, (Incoming, Arc<AtomicU64>)>,
}

impl Default for Parking {
    fn default() -> Self {
        Self::new(MAX_PARKED)
    }
}

impl Parking {
    /// Room for so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, places: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks an upload, until the ticket is dropped or there is no room for it any more: then `shown` becomes 0.
    pub(super) fn park(self: &Arc<Self>, mut incoming: Incoming, shown: Arc<AtomicU64>) -> Ticket {
        incoming.rest();
        let mut places = self.lock();
        places.turn += 1;
        let turn = places.turn;
        places.parked.insert(turn, (incoming, shown));
        let gone = if places.parked.len() > self.most { places.parked.pop_first() } else { None };
        if let Some((_, (_, shown))) = &gone {
            shown.store(0, Ordering::Relaxed);
        }
        drop(places);
        drop(gone); // removes its file, which need not keep others waiting
        Ticket { parking: self.clone(), turn }
    }
}

/// The right to a parked upload.
#[derive(Debug)]
pub(super) struct Ticket {
    parking: Arc<Parking>,
    turn: u64,
}

impl Ticket {
    /// The upload, if it is there still.
    pub(super) fn redeem(&self) -> Option<Incoming> {
        let taken = self.parking.lock().parked.remove(&self.turn);
        taken.map(|(incoming, _)| incoming)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.redeem());
    }
}
