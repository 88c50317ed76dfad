//! What is stored of a run, and where.

use crate::digest::Sha256Digest;
use crate::round::{Assignment, Closed, Received, Restored, UnixMs};
use app::api::{ClientId, ClientView, OpenRound, RoundSummary, RunConfig};
use std::fmt;

/// The durable record of one run.
pub trait Ledger: Send + Sync {
    /// Why something could not be stored or read.
    type Error: fmt::Display + Send;

    /// Stores one record in one transaction.
    ///
    /// # Errors
    /// Nothing of the record is stored.
    fn save(&self, record: &Record<'_>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The SHA-256 of the update that a client sent for the round it was asked in; `None` if none is stored.
    ///
    /// # Errors
    /// The lookup failed.
    fn contribution(
        &self,
        client: &ClientId,
        round: u64,
    ) -> impl Future<Output = Result<Option<Sha256Digest>, Self::Error>> + Send;

    /// The state that the run continues from after a restart.
    ///
    /// # Errors
    /// It cannot be read.
    fn load(&self) -> impl Future<Output = Result<Restored, Self::Error>> + Send;
}

/// What is stored in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Record<'a> {
    /// A client has registered.
    Joined {
        /// The client.
        client: &'a ClientView,
        /// SHA-256 of its token.
        token: Sha256Digest,
    },
    /// A client's standing has changed.
    Client {
        /// The client.
        client: &'a ClientView,
        /// Whether its name may not register again.
        banned: bool,
    },
    /// A client has sent its first heartbeat.
    HeartbeatsBegan {
        /// The client.
        client: &'a ClientId,
    },
    /// A client has left.
    Left {
        /// The client.
        client: &'a ClientId,
    },
    /// A round has opened.
    RoundOpened {
        /// The round.
        round: &'a OpenRound,
        /// What each client of the cohort works on, in the order of the cohort.
        assignments: &'a [Assignment],
    },
    /// A client has been asked in an open round, for the first time or again.
    Asked {
        /// The round.
        round: u64,
        /// The client.
        client: &'a ClientId,
        /// What it works on.
        assignment: Assignment,
    },
    /// An update is counted and credited to its client.
    Update {
        /// The round that counts it.
        round: u64,
        /// The client.
        client: &'a ClientId,
        /// The update.
        received: &'a Received,
        /// Now.
        at_ms: UnixMs,
    },
    /// An update is removed from its round, as if it had never been sent.
    Dropped {
        /// The round that counted it.
        round: u64,
        /// The client.
        client: &'a ClientId,
        /// The round takes updates; if it was closed, it is open again.
        is_open: bool,
    },
    /// The open round's deadline has moved.
    Deadline {
        /// The round.
        round: u64,
        /// The new deadline.
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
        /// Its record.
        summary: &'a RoundSummary,
        /// The global version that it made, if any.
        version: Option<NewVersion>,
        /// Rounds that are still to follow automatically.
        autorun_rounds: u32,
    },
    /// The number of rounds that follow automatically has changed.
    Autorun {
        /// The new number.
        rounds: u32,
    },
    /// The configuration has changed.
    Config {
        /// Its version.
        version: u64,
        /// The configuration.
        config: &'a RunConfig,
        /// Now.
        at_ms: UnixMs,
    },
    /// An entry of the event log, which only people read.
    Event {
        /// What happened.
        kind: &'a str,
        /// Whom it concerns.
        client: Option<&'a ClientId>,
        /// In which round.
        round: Option<u64>,
        /// Details.
        detail: &'a str,
        /// Now.
        at_ms: UnixMs,
    },
}

/// The global version that a round has made. Its number and accuracy are in the round's summary, its parameters are a
/// durable blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewVersion {
    /// The version.
    pub version: u64,
    /// Name of the blob.
    pub sha256: Sha256Digest,
    /// It is the most accurate version so far.
    pub is_best: bool,
}
