//! Times as people read them in a sentence.

use super::UnixMs;

/// `14:03:20 UTC`.
pub(crate) fn of_day(unix_ms: UnixMs) -> String {
    let s = unix_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", s / 3_600, s / 60 % 60, s % 60)
}
