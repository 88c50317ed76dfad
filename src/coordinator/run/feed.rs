//! What a run shows to everybody: its snapshot, and the changes to it.

use super::error::Retired;
use super::health::{Health, Storage};
use super::views::{CachedView, View, ViewCache};
use crate::round::{UnixMs, time};
use crate::store::StoreError;
use app::api::{Change, Event, RunSnapshot};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Changes that a slow reader may be behind by before it is given a fresh snapshot instead.
const BACKLOG: usize = 1_024;

/// See the module. Written by the run's actor, except for its health.
#[derive(Debug)]
pub struct Feed {
    // A std lock: held for a copy or an apply, never across an await.
    snapshot: RwLock<RunSnapshot>,
    events: broadcast::Sender<Event>,
    views: ViewCache,
    /// Ticks whenever some client's task may have changed: pending requests for a task wait for it.
    tasks: watch::Sender<u64>,
    /// What the run waits for according to the round machine, and the health that may replace it. Locked before the snapshot.
    waiting: Mutex<(String, Health)>,
    /// Why the run cannot continue, while it cannot.
    pub(super) blocked: watch::Sender<Option<String>>,
    /// Why the run takes no more requests, once it does not.
    retired: OnceLock<Retired>,
    /// Cancelled when the run is not hosted any more: streams of its events end.
    over: CancellationToken,
}

impl Feed {
    pub(in crate::coordinator) fn new(snapshot: RunSnapshot) -> Self {
        Self {
            waiting: Mutex::new((snapshot.waiting.clone(), Health::default())),
            snapshot: RwLock::new(snapshot),
            events: broadcast::channel(BACKLOG).0,
            views: ViewCache::default(),
            tasks: watch::channel(0).0,
            blocked: watch::channel(None).0,
            retired: OnceLock::new(),
            over: CancellationToken::new(),
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

    /// A view of the run, made from its snapshot by `make` or shared with earlier requests. Up to a second old while slow
    /// readers hold much memory.
    pub fn view(&self, view: View, make: impl FnOnce(&RunSnapshot) -> Vec<u8>) -> CachedView {
        self.read(|snapshot| {
            self.views.get(view, (snapshot.seq, snapshot.config_version), Instant::now(), || make(snapshot))
        })
    }

    /// A view of the run that is not older than the call, and every change after it; the view may contain the first of them.
    /// While slow readers hold much memory, it may take a second.
    pub async fn follow(
        &self,
        view: View,
        make: impl Fn(&RunSnapshot) -> Vec<u8>,
    ) -> (CachedView, broadcast::Receiver<Event>) {
        // Under the lock that `show` sends under, so that nothing falls between the two.
        let (asked, changes) = self.read(|snapshot| (snapshot.seq, self.events.subscribe()));
        loop {
            let view = self.view(view, &make);
            if view.seq >= asked {
                return (view, changes);
            }
            tokio::time::sleep(self.views.max_age).await;
        }
    }

    /// The run takes no more requests. Unless it is archived, it is not hosted any more either.
    pub(in crate::coordinator) fn retire(&self, retired: Retired) {
        let is_over = !retired.is_archived;
        let _ = self.retired.set(retired); // the first reason stands
        if is_over {
            self.over.cancel();
        }
    }

    /// Why the run takes no more requests, if it does not.
    pub(super) fn retired(&self) -> Option<&Retired> {
        self.retired.get()
    }

    /// Returns when the run is not hosted any more.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.over.clone().cancelled_owned()
    }

    /// Changes when some client's task may have changed.
    pub fn task_changes(&self) -> watch::Receiver<u64> {
        self.tasks.subscribe()
    }

    /// Shows a change to everybody who watches. The sentence of a course is replaced by a problem of the run's health.
    pub(super) fn publish(&self, mut change: Change) {
        if let Change::Course { waiting, .. } = &mut change {
            let mut current = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let shown = current.1.waiting(waiting);
            current.0 = std::mem::replace(waiting, shown);
            self.show(change); // while locked, or an older sentence could be shown last
        } else {
            self.show(change);
        }
    }

    /// Changes the run's health, and shows it if what the run waits for is another sentence now.
    pub(in crate::coordinator) fn health<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut current = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, health) = &mut *current;
        let before = health.waiting(waiting);
        let result = change(health);
        let shown = health.waiting(waiting);
        if shown != before {
            let (phase, autorun) = self.read(|run| (run.phase, run.autorun));
            self.show(Change::Course { phase, waiting: shown, autorun, deadline_ms: None });
        }
        self.blocked.send_if_modified(|blocked| {
            let before = std::mem::replace(blocked, health.blocked().cloned());
            before != *blocked
        });
        result
    }

    /// Something was stored there.
    pub(in crate::coordinator) fn stored(&self, storage: Storage) {
        self.health(|health| *health.unstored(storage) = None);
    }

    /// Something could not be stored there: that is shown until something is.
    pub(in crate::coordinator) fn not_stored(&self, storage: Storage, now_ms: UnixMs, error: &StoreError) {
        let (since, what) = (time::of_day(now_ms), storage.contents());
        let reason = format!("Since {since} {what} cannot be stored ({error}); clients are asked to try again.");
        self.health(|health| _ = health.unstored(storage).get_or_insert(reason));
    }

    fn show(&self, change: Change) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let event = Event { seq: snapshot.seq + 1, change };
        snapshot.apply(&event);
        let _ = self.events.send(event); // fails if nobody watches
    }

    /// Some client's task may have changed.
    pub(super) fn notify_tasks(&self) {
        self.tasks.send_modify(|tick| *tick += 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Feed {
    /// The feed of the idle run 'run' without clients.
    pub(super) fn idle() -> Self {
        let run: app::api::RunId = "run".parse().unwrap();
        let snapshot = RunSnapshot {
            seq: 0,
            run,
            created_ms: 1,
            archived_ms: None,
            model: None,
            parameters: 0,
            dataset: None,
            config: app::api::RunConfig::default(),
            config_version: 1,
            phase: app::api::Phase::Idle,
            waiting: "one".into(),
            autorun: None,
            version: 0,
            best: None,
            round: None,
            clients: Vec::new(),
            rounds: Vec::new(),
        };
        Self::new(snapshot)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use app::api::Phase;
    use std::time::Duration;

    fn course(waiting: &str) -> Change {
        Change::Course { phase: Phase::Idle, waiting: waiting.into(), autorun: None, deadline_ms: None }
    }

    #[tokio::test]
    async fn a_follower_misses_no_change_although_views_are_old() {
        // Given a run of which slow readers hold much, and that has changed since its last view,
        let mut feed = Feed::idle();
        feed.views = ViewCache::new(0);
        feed.views.max_age = Duration::from_millis(20);
        let make = |snapshot: &RunSnapshot| serde_json::to_vec(snapshot).unwrap();
        assert_eq!(feed.view(View::Snapshot, make).seq, 0);
        feed.publish(course("two"));
        // when two begin to follow it, and it changes again,
        let follow = || feed.follow(View::Snapshot, make);
        let (one, other, ()) = tokio::join!(follow(), follow(), async { feed.publish(course("three")) });
        feed.publish(course("four"));
        // then each receives the state at that time or a later one, and every change since.
        for (view, mut changes) in [one, other] {
            assert!(view.seq >= 1, "{}", view.seq);
            let mut seen: RunSnapshot = serde_json::from_slice(&view.bytes).unwrap();
            while let Ok(event) = changes.try_recv() {
                assert!(seen.apply(&event), "{} is missing before {}", seen.seq + 1, event.seq);
            }
            assert_eq!(seen, feed.snapshot());
        }
    }
}
