//! What is told of a run to everybody who asks: made once for each state of it, shared by all who are being told.
//!
//! Of thousands of clients it takes a megabyte, for as long as the slowest of those who asked takes to read it; and anybody
//! may ask, again after every change. So once much is held for them, who asks is told what was so up to a second ago.

use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Of one run so many bytes are held for those who have not read them yet, beside what was told last and what is made in a
/// second more.
const MOST_BYTES: usize = 32 << 20;
/// How old what is told may be then.
const YOUNG: Duration = Duration::from_secs(1);

/// What one can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Everything.
    Snapshot,
    /// The roster.
    Clients,
    /// The history.
    Rounds,
    /// The history as CSV.
    Export,
}

/// What is told, and of which state.
#[derive(Debug, Clone)]
pub struct Told {
    /// Number of the last event in it.
    pub seq: u64,
    /// Version of the configuration in it.
    pub config_version: u64,
    /// As it is sent.
    pub bytes: Bytes,
}

/// What was told last, and how much is still being told.
#[derive(Debug)]
pub(super) struct Telling {
    most_bytes: usize,
    pub(super) young: Duration,
    snapshot: Last,
    clients: Last,
    rounds: Last,
    export: Last,
    /// Bytes that somebody holds, the last of each view among them.
    held: Arc<AtomicUsize>,
    /// Bytes of the last of each view: held whether or not somebody reads.
    cached: AtomicUsize,
}

/// What was told last of a view, and when it was made.
type Last = Mutex<Option<(Instant, Told)>>;

impl Default for Telling {
    fn default() -> Self {
        Self::new(MOST_BYTES)
    }
}

impl Telling {
    pub(super) fn new(most_bytes: usize) -> Self {
        let (snapshot, clients, rounds, export) = Default::default();
        Self {
            most_bytes,
            young: YOUNG,
            snapshot,
            clients,
            rounds,
            export,
            held: Arc::default(),
            cached: AtomicUsize::default(),
        }
    }

    fn last(&self, view: View) -> &Last {
        match view {
            View::Snapshot => &self.snapshot,
            View::Clients => &self.clients,
            View::Rounds => &self.rounds,
            View::Export => &self.export,
        }
    }

    /// Whether as much as may be is held for those who have not read it yet.
    fn is_much(&self) -> bool {
        let cached = self.cached.load(Ordering::Relaxed);
        self.held.load(Ordering::Relaxed).saturating_sub(cached) >= self.most_bytes
    }

    /// The view of the state of that number, with the version of its configuration; or, as its own number says, of one that
    /// is up to a second older, but of no other configuration: the operator would change what is not so any more, and nobody
    /// else can have it change.
    pub(super) fn tell(
        &self,
        view: View,
        (seq, config_version): (u64, u64),
        now: Instant,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Told {
        // Locked while it is made: whoever asks meanwhile needs no other.
        let mut last = self.last(view).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, told)) = &*last {
            let is_young = told.config_version == config_version && now.saturating_duration_since(*made) < self.young;
            if told.seq == seq || is_young && self.is_much() {
                return told.clone();
            }
        }
        // What nobody reads any more makes room for the new one.
        if let Some((_, told)) = last.take() {
            self.cached.fetch_sub(told.bytes.len(), Ordering::Relaxed);
        }
        let bytes = make().into_boxed_slice(); // or it would take up to twice what is counted
        self.held.fetch_add(bytes.len(), Ordering::Relaxed);
        self.cached.fetch_add(bytes.len(), Ordering::Relaxed);
        let bytes = Bytes::from_owner(Held { bytes, all: self.held.clone() });
        let told = Told { seq, config_version, bytes };
        *last = Some((now, told.clone()));
        told
    }
}

/// Bytes that count as long as somebody holds them.
struct Held {
    bytes: Box<[u8]>,
    all: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(telling: &Telling, seq: u64, now: Instant) -> Told {
        telling.tell(View::Snapshot, (seq, 1), now, || vec![0; 10])
    }

    #[test]
    fn all_who_ask_for_the_same_share_it() {
        let (telling, now) = (Telling::new(100), Instant::now());
        let told = [tell(&telling, 7, now), tell(&telling, 7, now)];
        assert_eq!(told[0].bytes.as_ptr(), told[1].bytes.as_ptr());
        assert_eq!(telling.held.load(Ordering::Relaxed), 10);
        let other = telling.tell(View::Clients, (7, 1), now, || vec![1]);
        assert_eq!(other.bytes, [1][..], "what is another view is told apart");
        drop((told, other));
        tell(&telling, 8, now);
        assert_eq!(telling.held.load(Ordering::Relaxed), 11, "the last of each is kept, and no other");
    }

    #[test]
    fn who_does_not_read_makes_what_is_told_a_second_old_and_takes_no_more_memory() {
        let (telling, began) = (Telling::new(100), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        // Given a run that changes between any two who ask, and nobody who reads,
        let unread: Vec<_> = (0..1_000).map(|seq| tell(&telling, seq, at(seq))).collect();
        // then no more is held than may be, with the last one, and all the others are told of the same state,
        assert_eq!((telling.held.load(Ordering::Relaxed), unread[999].seq), (110, 10));
        // until that is a second ago; and once they have read, everybody is told what is so.
        assert_eq!((tell(&telling, 1_010, at(1_010)).seq, tell(&telling, 1_011, at(1_011)).seq), (1_010, 1_010));
        drop(unread);
        assert_eq!(tell(&telling, 1_012, at(1_012)).seq, 1_012);
    }

    #[test]
    fn what_is_told_last_is_not_held_for_those_who_do_not_read() {
        // Given a run of which any view is larger than all that may be held for those who do not read,
        let (telling, now) = (Telling::new(5), Instant::now());
        // then who reads at once is told what is so,
        assert_eq!([1, 2, 3].map(|seq| tell(&telling, seq, now).seq), [1, 2, 3]);
        // and while somebody does not, who changes the configuration is told of the new one.
        let unread = [tell(&telling, 4, now), tell(&telling, 5, now)];
        assert_eq!(tell(&telling, 6, now).seq, 5);
        let changed = telling.tell(View::Snapshot, (7, 2), now, || vec![0; 10]);
        assert_eq!((changed.seq, changed.config_version), (7, 2));
        drop(unread);
    }
}
