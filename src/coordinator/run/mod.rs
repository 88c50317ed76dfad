//! One live run: an actor that owns the run, and handles through which requests reach it.

mod actor;
mod environment;
mod error;
mod feed;
mod handle;
mod health;
mod mailbox;
mod parts;
mod tokens;
mod upload;
mod views;

pub use error::{Retired, RunError};
pub use feed::Feed;
pub use handle::RunHandle;
pub use tokens::Tokens;
pub use upload::{Announced, Upload};
pub use views::{CachedView, View};

pub(super) use actor::Actor;
pub(super) use environment::LiveEnvironment;
pub(super) use health::Storage;
pub(super) use mailbox::MAILBOX;
pub(super) use parts::Parts;
