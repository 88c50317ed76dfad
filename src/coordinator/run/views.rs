//! Serialised views of a run: made once for each state, and shared by all requests for it.
//!
//! With thousands of clients a view takes a megabyte, for as long as the slowest reader takes, and anybody may ask for one
//! after every change. While slow readers hold much memory, requests receive a view that is up to a second old.

use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that are held for slow readers of one run, beside the newest views and those made within a second more.
const MAX_BYTES: usize = 32 << 20;
/// The greatest age of a view then.
const MAX_AGE: Duration = Duration::from_secs(1);

/// What a request can ask for.
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

/// A view, and of which state it is.
#[derive(Debug, Clone)]
pub struct CachedView {
    /// Number of the last event in it.
    pub seq: u64,
    /// Version of the configuration in it.
    pub config_version: u64,
    /// The body of the response.
    pub bytes: Bytes,
}

/// The newest view of each kind, and how much is being read.
#[derive(Debug)]
pub(super) struct ViewCache {
    max_bytes: usize,
    pub(super) max_age: Duration,
    snapshot: Last,
    clients: Last,
    rounds: Last,
    export: Last,
    /// Bytes of all views that are in use, the newest ones included.
    held: Arc<AtomicUsize>,
    /// Bytes of the newest views, which are held whether or not anybody reads.
    cached: AtomicUsize,
}

/// The newest view of a kind, and when it was made.
type Last = Mutex<Option<(Instant, CachedView)>>;

impl Default for ViewCache {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

impl ViewCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        let (snapshot, clients, rounds, export) = Default::default();
        Self {
            max_bytes,
            max_age: MAX_AGE,
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

    /// Whether slow readers hold as much as they may.
    fn is_full(&self) -> bool {
        let cached = self.cached.load(Ordering::Relaxed);
        self.held.load(Ordering::Relaxed).saturating_sub(cached) >= self.max_bytes
    }

    /// The view of the state with that number and version of the configuration. It may be up to a second older, as its own
    /// number shows, but never of another configuration: the operator would change what is no longer current.
    pub(super) fn get(
        &self,
        view: View,
        (seq, config_version): (u64, u64),
        now: Instant,
        make: impl FnOnce() -> Vec<u8>,
    ) -> CachedView {
        // Locked while it is made, since concurrent requests need the same.
        let mut last = self.last(view).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, view)) = &*last {
            let is_young = view.config_version == config_version && now.saturating_duration_since(*made) < self.max_age;
            if view.seq == seq || is_young && self.is_full() {
                return view.clone();
            }
        }
        // Dropped before the new one is made.
        if let Some((_, view)) = last.take() {
            self.cached.fetch_sub(view.bytes.len(), Ordering::Relaxed);
        }
        let bytes = make().into_boxed_slice(); // a Vec could take twice what is counted
        self.held.fetch_add(bytes.len(), Ordering::Relaxed);
        self.cached.fetch_add(bytes.len(), Ordering::Relaxed);
        let bytes = Bytes::from_owner(Held { bytes, all: self.held.clone() });
        let view = CachedView { seq, config_version, bytes };
        *last = Some((now, view.clone()));
        view
    }
}

/// Bytes that are counted as long as they are in use.
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

    fn get(cache: &ViewCache, seq: u64, now: Instant) -> CachedView {
        cache.get(View::Snapshot, (seq, 1), now, || vec![0; 10])
    }

    #[test]
    fn requests_for_the_same_state_share_a_view() {
        let (cache, now) = (ViewCache::new(100), Instant::now());
        let views = [get(&cache, 7, now), get(&cache, 7, now)];
        assert_eq!(views[0].bytes.as_ptr(), views[1].bytes.as_ptr());
        assert_eq!(cache.held.load(Ordering::Relaxed), 10);
        let other = cache.get(View::Clients, (7, 1), now, || vec![1]);
        assert_eq!(other.bytes, [1][..], "each kind has its own");
        drop((views, other));
        get(&cache, 8, now);
        assert_eq!(cache.held.load(Ordering::Relaxed), 11, "only the newest of each kind is kept");
    }

    #[test]
    fn slow_readers_make_views_a_second_old_and_take_no_more_memory() {
        let (cache, began) = (ViewCache::new(100), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        // Given a run that changes between any two requests, and nobody who reads,
        let unread: Vec<_> = (0..1_000).map(|seq| get(&cache, seq, at(seq))).collect();
        // then no more is held than the limit and the newest view, and later requests receive that one,
        assert_eq!((cache.held.load(Ordering::Relaxed), unread[999].seq), (110, 10));
        // until it is a second old; and once the readers have finished, every request receives the current state.
        assert_eq!((get(&cache, 1_010, at(1_010)).seq, get(&cache, 1_011, at(1_011)).seq), (1_010, 1_010));
        drop(unread);
        assert_eq!(get(&cache, 1_012, at(1_012)).seq, 1_012);
    }

    #[test]
    fn the_newest_view_does_not_count_as_held_by_slow_readers() {
        // Given views larger than the limit,
        let (cache, now) = (ViewCache::new(5), Instant::now());
        // then fast readers receive the current state,
        assert_eq!([1, 2, 3].map(|seq| get(&cache, seq, now).seq), [1, 2, 3]);
        // and while a slow one reads, a changed configuration is still visible.
        let unread = [get(&cache, 4, now), get(&cache, 5, now)];
        assert_eq!(get(&cache, 6, now).seq, 5);
        let changed = cache.get(View::Snapshot, (7, 2), now, || vec![0; 10]);
        assert_eq!((changed.seq, changed.config_version), (7, 2));
        drop(unread);
    }
}
