//! The round machine, sans-IO: [`Command`] in, [`Effect`] out, the clock a parameter.

mod command;

pub use command::{Command, Effect, Reject, UnixMs};
