//! What a run shows to everybody, its snapshot with the changes to it and its global model; and what is on its way in.

use super::models::Models;
use super::uploads::Uploads;
use app::api::{Change, Event, Phase, RunSnapshot};
use std::sync::{PoisonError, RwLock};
use tokio::sync::{broadcast, watch};

/// Changes that a slow reader may be behind by before it is given a fresh snapshot instead.
const BACKLOG: usize = 1_024;

/// The readable side of a run. Written by its task alone.
#[derive(Debug)]
pub struct Published {
    // A std lock: held for a copy or an apply, never across an await.
    snapshot: RwLock<RunSnapshot>,
    events: broadcast::Sender<Event>,
    /// Ticks whenever some client's task may have changed: what long-polls wait for.
    tasks: watch::Sender<u64>,
    /// Ticks whenever a round takes no more updates: what those wait for who work for one.
    closings: watch::Sender<u64>,
    /// The global model.
    pub models: Models,
    /// Updates on their way in.
    pub uploads: Uploads,
}

impl Published {
    pub(super) fn new(snapshot: RunSnapshot, models: Models) -> Self {
        Self {
            snapshot: RwLock::new(snapshot),
            events: broadcast::channel(BACKLOG).0,
            tasks: watch::channel(0).0,
            closings: watch::channel(0).0,
            models,
            uploads: Uploads::default(),
        }
    }

    /// Reads from the snapshot without copying it.
    pub fn read<T>(&self, look: impl FnOnce(&RunSnapshot) -> T) -> T {
        // A poisoned lock still holds a whole snapshot: `apply` does not panic half-way.
        look(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The snapshot as it is now.
    pub fn snapshot(&self) -> RunSnapshot {
        self.read(RunSnapshot::clone)
    }

    /// The snapshot, and every change after it.
    pub fn subscribe(&self) -> (RunSnapshot, broadcast::Receiver<Event>) {
        // Under the lock that `publish` sends under, so that nothing falls between the two.
        self.read(|snapshot| (snapshot.clone(), self.events.subscribe()))
    }

    /// Tells when some client's task may have changed.
    pub fn task_changes(&self) -> watch::Receiver<u64> {
        self.tasks.subscribe()
    }

    /// Tells when a round takes no more updates. Apart from [`Self::task_changes`]: most clients have delivered by then,
    /// and nothing has changed for them.
    pub fn closings(&self) -> watch::Receiver<u64> {
        self.closings.subscribe()
    }

    pub(super) fn publish(&self, change: Change) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let event = Event { seq: snapshot.seq + 1, change };
        let took_updates = snapshot.phase == Phase::Training;
        snapshot.apply(&event);
        if took_updates && (snapshot.phase != Phase::Training || snapshot.round.is_none()) {
            self.closings.send_modify(|tick| *tick += 1);
        }
        let _ = self.events.send(event); // an error only means that nobody watches
    }

    pub(super) fn wake_clients(&self) {
        self.tasks.send_modify(|tick| *tick += 1);
    }
}
