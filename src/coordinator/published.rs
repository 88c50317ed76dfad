//! What a run shows to everybody, its snapshot with the changes to it and its global model; and what is on its way in.

use super::handle::Retired;
use super::models::Models;
use super::told::{Telling, Told, View};
use super::trouble::Trouble;
use super::uploads::Uploads;
use app::api::{Change, Event, RunSnapshot};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Changes that a slow reader may be behind by before it is given a fresh snapshot instead.
const BACKLOG: usize = 1_024;

/// The readable side of a run. Written by its task alone, but for the trouble that work beside it has.
#[derive(Debug)]
pub struct Published {
    // A std lock: held for a copy or an apply, never across an await.
    snapshot: RwLock<RunSnapshot>,
    events: broadcast::Sender<Event>,
    telling: Telling,
    /// Ticks whenever some client's task may have changed: what long-polls wait for.
    tasks: watch::Sender<u64>,
    /// What the round machine says, and what may have to be said instead. Locked before the snapshot.
    said: Mutex<(String, Trouble)>,
    /// Why the run cannot go on, while it cannot.
    pub(super) stuck: watch::Sender<Option<String>>,
    /// Why the run takes no more requests, once it does not.
    retired: OnceLock<Retired>,
    /// Cancelled when the run is hosted no more: streams of its events end.
    over: CancellationToken,
    /// The global model.
    pub models: Arc<Models>,
    /// Updates on their way in.
    pub uploads: Uploads,
}

impl Published {
    pub(super) fn new(snapshot: RunSnapshot, models: Models, uploads: Uploads) -> Self {
        let models = Arc::new(models);
        Self {
            said: Mutex::new((snapshot.waiting.clone(), Trouble::default())),
            snapshot: RwLock::new(snapshot),
            events: broadcast::channel(BACKLOG).0,
            telling: Telling::default(),
            tasks: watch::channel(0).0,
            stuck: watch::channel(None).0,
            retired: OnceLock::new(),
            over: CancellationToken::new(),
            uploads: uploads.with(models.clone()),
            models,
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

    /// A view of the run, made of its snapshot by `make`, or by whoever asked for the same before. Up to a second old, where
    /// much is held for those who read slowly.
    pub fn tell(&self, view: View, make: impl FnOnce(&RunSnapshot) -> Vec<u8>) -> Told {
        self.read(|snapshot| {
            self.telling.tell(view, (snapshot.seq, snapshot.config_version), Instant::now(), || make(snapshot))
        })
    }

    /// A view of the run that is not older than the call, and every change after it; the first of them may be in it already.
    /// Where much is held for those who read slowly, it may come a second later: to all who wait for it at once.
    pub async fn follow(
        &self,
        view: View,
        make: impl Fn(&RunSnapshot) -> Vec<u8>,
    ) -> (Told, broadcast::Receiver<Event>) {
        // Under the lock that `show` sends under, so that nothing falls between the two.
        let (asked, changes) = self.read(|snapshot| (snapshot.seq, self.events.subscribe()));
        loop {
            let told = self.tell(view, &make);
            if told.seq >= asked {
                return (told, changes);
            }
            tokio::time::sleep(self.telling.young).await;
        }
    }

    /// From now on the run takes no more requests. Unless it is archived, it is hosted no more either.
    pub(super) fn retire(&self, retired: Retired) {
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

    /// Ends when the run is hosted no more.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.over.clone().cancelled_owned()
    }

    /// Tells when some client's task may have changed.
    pub fn task_changes(&self) -> watch::Receiver<u64> {
        self.tasks.subscribe()
    }

    /// Shows a change to all who watch. Of a course, the sentence is that of the round machine: while there is trouble,
    /// that is told.
    pub(super) fn publish(&self, mut change: Change) {
        if let Change::Course { waiting, .. } = &mut change {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let sentence = said.1.sentence(waiting);
            said.0 = std::mem::replace(waiting, sentence);
            self.show(change); // under the lock, or an older sentence could come last
        } else {
            self.show(change);
        }
    }

    /// Notes what trouble there is, and tells it if it has changed: all else stays as it was last shown.
    pub(super) fn trouble<T>(&self, note: impl FnOnce(&mut Trouble) -> T) -> T {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, trouble) = &mut *said;
        let before = trouble.sentence(waiting);
        let noted = note(trouble);
        let sentence = trouble.sentence(waiting);
        if sentence != before {
            let (phase, autorun) = self.read(|run| (run.phase, run.autorun));
            self.show(Change::Course { phase, waiting: sentence, autorun, deadline_ms: None });
        }
        self.stuck.send_if_modified(|stuck| {
            let before = std::mem::replace(stuck, trouble.stuck().cloned());
            before != *stuck
        });
        noted
    }

    fn show(&self, change: Change) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let event = Event { seq: snapshot.seq + 1, change };
        snapshot.apply(&event);
        let _ = self.events.send(event); // an error only means that nobody watches
    }

    pub(super) fn wake_clients(&self) {
        self.tasks.send_modify(|tick| *tick += 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Published {
    /// What the idle run 'run' shows, of a model without values, that nobody has joined.
    pub(super) fn of_nobody(store: crate::store::Store) -> Self {
        use crate::wire::{Parameters, Schema};
        let run: app::api::RunId = "run".parse().unwrap();
        let snapshot = RunSnapshot {
            seq: 0,
            run: run.clone(),
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
        let parameters = Parameters::new(Arc::new(Schema::new(Vec::new()).unwrap()), Vec::new());
        let models = Models::new(run, store, 0, Arc::new(parameters));
        Self::new(snapshot, models, Uploads::new(Arc::default()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Store;
    use app::api::Phase;
    use std::time::Duration;

    fn course(waiting: &str) -> Change {
        Change::Course { phase: Phase::Idle, waiting: waiting.into(), autorun: None, deadline_ms: None }
    }

    #[tokio::test]
    async fn who_follows_a_run_misses_nothing_though_what_is_told_is_old() {
        // Given a run of which much is unread, and that has changed since it was told last,
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut published = Published::of_nobody(store);
        published.telling = Telling::new(0);
        published.telling.young = Duration::from_millis(20);
        let make = |snapshot: &RunSnapshot| serde_json::to_vec(snapshot).unwrap();
        assert_eq!(published.tell(View::Snapshot, make).seq, 0);
        published.publish(course("two"));
        // when two begin to follow it, and it changes again,
        let follow = || published.follow(View::Snapshot, make);
        let (one, other, ()) = tokio::join!(follow(), follow(), async { published.publish(course("three")) });
        published.publish(course("four"));
        // then each is told how it was when it began, or later, and of every change since.
        for (told, mut changes) in [one, other] {
            assert!(told.seq >= 1, "{}", told.seq);
            let mut seen: RunSnapshot = serde_json::from_slice(&told.bytes).unwrap();
            while let Ok(event) = changes.try_recv() {
                assert!(seen.apply(&event), "{} is missing before {}", seen.seq + 1, event.seq);
            }
            assert_eq!(seen, published.snapshot());
        }
    }
}
