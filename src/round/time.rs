//! Times as people read them in a sentence.

use super::UnixMs;

/// `14:03:20 UTC`, or `14:03:20 UTC, 2 days later`: later than `than`.
pub(crate) fn of_day_after(unix_ms: UnixMs, than: UnixMs) -> String {
    match (unix_ms / 86_400_000).saturating_sub(than / 86_400_000) {
        0 => of_day(unix_ms),
        1 => format!("{}, a day later", of_day(unix_ms)),
        days => format!("{}, {days} days later", of_day(unix_ms)),
    }
}

/// `14:03:20 UTC`.
pub(crate) fn of_day(unix_ms: UnixMs) -> String {
    let s = unix_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", s / 3_600, s / 60 % 60, s % 60)
}
