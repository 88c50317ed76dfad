//! What a run's actor receives: work to be done with the run.

use super::environment::LiveEnvironment;
use crate::run::Run;
use futures::future::BoxFuture;

/// A run in its real environment.
pub type LiveRun = Run<LiveEnvironment>;

/// Work for a run's actor. It carries its own reply.
pub type Job = Box<dyn for<'a> FnOnce(&'a mut LiveRun) -> BoxFuture<'a, ()> + Send>;

/// Jobs that may wait for a run's actor; more are answered with 503.
pub const MAILBOX: usize = 8_192;
