//! The round machine: the rules of a run, without IO. A [`Command`] goes in, [`Effect`]s come out, and the time is a
//! parameter.
//!
//! It decides which clients take part and when a round opens, closes, is complete or void, and it explains what the run waits
//! for. It has no clock, no randomness of its own and no parameters of models.

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
