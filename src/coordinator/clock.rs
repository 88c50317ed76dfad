//! The coordinator's clock: Unix milliseconds that never run backwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::Instant as TokioInstant;

/// Reads the wall clock once and counts on from there by the monotonic one: deadlines are told to clients and survive
/// a restart as Unix time, yet a correction of the wall clock neither closes a round nor keeps it open.
#[derive(Debug, Clone)]
pub struct Clock {
    unix_at_start: Duration,
    started: Instant,
    /// By how much it was put forward, see [`Self::put_forward`].
    forward_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        // Before 1970 there is nothing to count from.
        let unix_at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_at_start, started: Instant::now(), forward_ms: Arc::default() }
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        let read_ms = u64::try_from((self.unix_at_start + self.started.elapsed()).as_millis()).unwrap_or(u64::MAX);
        read_ms.saturating_add(self.forward_ms.load(Ordering::Relaxed))
    }

    /// Puts the clock forward, for tests of what takes minutes. Timers that run already go off by the old time; the next
    /// request finds the new one.
    pub fn put_forward(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.forward_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// When that is, for tokio's timers.
    pub fn instant(&self, unix_ms: u64) -> TokioInstant {
        TokioInstant::now() + Duration::from_millis(unix_ms.saturating_sub(self.now_ms()))
    }
}
