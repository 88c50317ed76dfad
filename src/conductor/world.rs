//! What a run needs of the world: a place where things are durable, somebody who watches, somebody who combines models.

use super::Update;
use crate::digest::Sha256Digest;
use crate::round::{Assignment, Closed, Part, UnixMs};
use app::api::{Change, ClientId, ClientView, OpenRound, RoundSummary, RunConfig};
use std::fmt;
use std::ops::ControlFlow;

/// The world of one run.
pub trait World: Sized + Send + Sync {
    /// The body of an update, durable, but removed with this value unless the update is saved.
    type Body: Send + Sync;
    /// A global model, durable, but not yet the run's.
    type Model: Send + Sync;
    /// Why something could not be stored.
    type Error: fmt::Display + Send;

    /// Now: Unix milliseconds that never run backwards.
    fn now_ms(&self) -> UnixMs;

    /// Stores one thing, whole or not at all.
    ///
    /// # Errors
    /// Nothing of it is stored.
    fn save(&self, record: Record<'_, Self>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The hash of the update that is stored of a client for the round that it was asked in.
    ///
    /// # Errors
    /// It cannot be looked up.
    fn contribution(
        &self,
        client: &ClientId,
        round: u64,
    ) -> impl Future<Output = Result<Option<Sha256Digest>, Self::Error>> + Send;

    /// Waits before something is stored once more that could not be: `error` is why, for the `attempt`-th time. Broken: the
    /// run stops.
    fn pause(&self, attempt: u32, error: &Self::Error) -> impl Future<Output = ControlFlow<()>> + Send;

    /// Says to all who ask or watch that the run is stuck, and why; none: no longer. What is decided meanwhile is not to be
    /// seen: it is not stored.
    fn stuck(&self, why: Option<String>);

    /// Shows a change to all who watch.
    fn publish(&self, change: Change);

    /// Some client's task may have changed: whoever waits for one shall ask again.
    fn wake(&self);

    /// Begins to combine updates that are stored, and to evaluate the result. What comes of it is handed to
    /// [`super::Conductor::aggregated`].
    fn aggregate(&self, work: Aggregation);

    /// That model is the run's now.
    fn adopt(&self, version: u64, model: Self::Model);

    /// What was received for rounds before that one is of no use any more.
    fn forget(&self, before_round: u64);
}

/// What is stored at one go.
#[derive(Debug)]
pub enum Record<'a, W: World> {
    /// A client has registered, with the hash of its token.
    Joined {
        /// As it is now.
        client: &'a ClientView,
        /// The hash.
        token: Sha256Digest,
    },
    /// A client's standing has changed.
    Client {
        /// As it is now.
        client: &'a ClientView,
        /// Its name may not register.
        banned: bool,
    },
    /// A client has sent its first heartbeat.
    HeartbeatsBegan {
        /// Which one.
        client: &'a ClientId,
    },
    /// A client has left.
    Left {
        /// Which one.
        client: &'a ClientId,
    },
    /// A round has opened, and the clients of its cohort with what each works on.
    RoundOpened {
        /// The round.
        round: &'a OpenRound,
        /// In the order of the cohort.
        assignments: &'a [Assignment],
    },
    /// A client was asked in an open round, or anew.
    Asked {
        /// The round.
        round: u64,
        /// The client.
        client: &'a ClientId,
        /// What it works on.
        assignment: Assignment,
    },
    /// An update is in, and on its client's account.
    Update {
        /// The round that it counts in.
        round: u64,
        /// The update.
        update: &'a Update<W::Body>,
        /// Now.
        at_ms: UnixMs,
    },
    /// An update is out again, as if it had never come.
    Dropped {
        /// The round that it counted in.
        round: u64,
        /// Whose it was.
        client: &'a ClientId,
        /// The round takes updates, whether it was closed before or not.
        is_open: bool,
    },
    /// The open round's deadline has moved.
    Deadline {
        /// The round.
        round: u64,
        /// When it is.
        deadline_ms: UnixMs,
    },
    /// An open round takes no more updates.
    Closed {
        /// The round.
        round: u64,
        /// Since when, and why.
        closed: &'a Closed,
    },
    /// A round is over.
    RoundEnded {
        /// How it went.
        summary: &'a RoundSummary,
        /// The model that came of it, and whether it is the most accurate so far.
        model: Option<(&'a W::Model, bool)>,
        /// Rounds that are still to follow by themselves.
        autorun_rounds: u32,
    },
    /// So many rounds are to follow by themselves.
    Autorun {
        /// How many.
        rounds: u32,
    },
    /// A new configuration.
    Config {
        /// Its version.
        version: u64,
        /// The configuration.
        config: &'a RunConfig,
        /// Now.
        at_ms: UnixMs,
    },
    /// What happened, for people.
    Event {
        /// What.
        kind: &'a str,
        /// To whom.
        client: Option<&'a ClientId>,
        /// In which round.
        round: Option<u64>,
        /// More words.
        detail: &'a str,
        /// Now.
        at_ms: UnixMs,
    },
}

/// Updates to be combined: all are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregation {
    /// The round that they count in.
    pub round: u64,
    /// The version that the new one is to follow.
    pub base_version: u64,
    /// The updates, by client.
    pub parts: Vec<Part>,
}

/// A new global model that is durable, and how it does on the test split.
#[derive(Debug)]
pub struct Made<M> {
    /// The model.
    pub model: M,
    /// Its loss.
    pub test_loss: Option<f64>,
    /// Its accuracy: 0 to 1.
    pub test_accuracy: Option<f64>,
}
