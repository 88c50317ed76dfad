//! The round machine, sans-IO: [`Command`] in, [`Effect`] out, the clock a parameter.
//!
//! Decides who takes part, when a round opens, closes, counts or is void, and says why it waits.
//! Refuses to know how anything is sent, stored, decoded, trained or combined: no IO, no clock, no randomness of its
//! own, no parameters.

mod cohort;
mod command;
mod course;
mod current;
mod gate;
mod machine;
mod members;
mod recent_norms;
mod restored;
mod roster;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod time;
mod verdict;
mod view;
mod waiting;
mod weights;
mod words;

pub use command::{
    Assignment, Closed, Command, Counted, Effect, Order, Received, Reject, Standing, StoredBody, UnixMs,
};
pub use machine::{RoundMachine, VOID_PAUSE_MS};
pub use recent_norms::{RECENT_NORMS, RecentNorms};
pub use restored::{Restored, RestoredClient, RestoredRound};
pub use roster::{HEARTBEAT_INTERVAL_S, MAX_CLIENTS, OFFLINE_AFTER_MS};
pub use view::Part;
