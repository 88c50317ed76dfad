//! The coordinator's clock: Unix milliseconds that never run backwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::Instant as TokioInstant;

/// Reads the wall clock once and counts on from there by the monotonic one: deadlines are told to clients and survive
/// a restart as Unix time, yet a correction of the wall clock neither closes a round nor keeps it open.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    unix_at_start: Duration,
    started: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        // Before 1970 there is nothing to count from.
        let unix_at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unix_at_start, started: Instant::now() }
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        u64::try_from((self.unix_at_start + self.started.elapsed()).as_millis()).unwrap_or(u64::MAX)
    }

    /// When that is, for tokio's timers.
    pub fn instant(&self, unix_ms: u64) -> TokioInstant {
        TokioInstant::now() + Duration::from_millis(unix_ms.saturating_sub(self.now_ms()))
    }
}
