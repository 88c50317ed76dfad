//! What goes into the round machine and what comes out of it.

use crate::digest::Sha256Digest;
use app::api::{ClientId, ClientView, CohortStep, RoundSummary, RunConfig, StatusReport};
use std::collections::BTreeMap;

/// Unix milliseconds. The caller's clock must not run backwards; deadlines therefore survive a restart.
pub type UnixMs = u64;

/// What a client works on: the round that it was asked in, and the version that it starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The round whose number its update names.
    pub round: u64,
    /// The version.
    pub version: u64,
}

/// An update that has been received: checked and durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Number of training images.
    pub samples: u64,
    /// Mean training loss of the last local epoch.
    pub loss: Option<f64>,
    /// L2 distance from the version that it was trained from.
    pub norm: f64,
    /// Its body.
    pub body: StoredBody,
}

/// The body of an update, as a file of the store. The rules of a run depend on none of this but the number of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBody {
    /// SHA-256 of the body as the client sent it.
    pub sha256: Sha256Digest,
    /// Its length.
    pub bytes: u64,
    /// Name of the file.
    pub file: String,
    /// Word for the body's format.
    pub format: String,
}

/// An update that its round counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// The update.
    pub received: Received,
    /// How many versions the one that it was trained from was behind the round's base version.
    pub staleness: u64,
}

/// That a round takes no more updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Since when.
    pub at_ms: UnixMs,
    /// Why, for people: stays with the round's record.
    pub reason: String,
    /// The operator wanted it, whatever `min_clients` says.
    pub by_operator: bool,
    /// The clients whose update is out of proportion and is not combined, and why. The machine fills it.
    pub rejected: BTreeMap<ClientId, String>,
}

/// What the operator may order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Admit a pending client, or take a kicked one back, which also lifts a ban on its name.
    Admit {
        /// The client.
        client: ClientId,
    },
    /// Remove a client. No update of it is accepted any more; one that is counted is removed from its round, unless it is
    /// being aggregated already.
    Kick {
        /// The client.
        client: ClientId,
        /// Reject later registrations under its name too.
        ban: bool,
    },
    /// Complete that many more rounds, one after the other, the open one included. Void rounds do not count.
    StartAutorun {
        /// How many; 0 is [`Order::StopAutorun`].
        rounds: u32,
    },
    /// Finish the open round, then stop.
    StopAutorun,
    /// Open one round now.
    StartRound,
    /// Close the open round now with the updates that are counted: at least 1, whatever `min_clients` is.
    Aggregate,
    /// Void the open round now; its clients stop, and no other round follows automatically.
    Cancel,
}

/// What happened, or what somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The operator orders something.
    Order(Order),
    /// A client registered, and is stored as [`super::RoundMachine::newcomer`] has it; its id is new and unguessable. Said
    /// twice, it is [`Command::Seen`].
    Join {
        /// Its id.
        client: ClientId,
        /// The name it gave.
        name: String,
        /// Training images it holds.
        samples: u64,
        /// What it trains on.
        device: String,
    },
    /// A client leaves by itself.
    Leave {
        /// Which client.
        client: ClientId,
    },
    /// A client was heard of.
    Seen {
        /// Which client.
        client: ClientId,
    },
    /// A client that works for a round sent a heartbeat, without a report.
    Heartbeat {
        /// Which client.
        client: ClientId,
    },
    /// A client asks for something to do: it is at nothing else. [`super::RoundMachine::task`] tells what it gets.
    Ask {
        /// Which client.
        client: ClientId,
    },
    /// A client that asked is given its task to train, at once or at the end of a long-poll.
    Take {
        /// Which client.
        client: ClientId,
    },
    /// An update of this client for that round was rejected: sending it again changes nothing. In a round that awaits it the
    /// client has failed, as if it had reported an error; a sound update of it is still accepted. With its last strike a
    /// client is in quarantine: an update of it that is in is taken out again, unless it is being combined already.
    Rejected {
        /// Which client.
        client: ClientId,
        /// The round that it was sent for.
        round: u64,
        /// Why, for the operator.
        reason: String,
        /// The digest of what was sent, where that cannot be an honest mistake: a strike, counted once for each digest.
        strike: Option<Sha256Digest>,
    },
    /// An update of this client came when its round was closed.
    Late {
        /// Which client.
        client: ClientId,
    },
    /// A client has another number of training images. It counts for updates that come from now on.
    ChangeSamples {
        /// Which client.
        client: ClientId,
        /// How many it has.
        samples: u64,
    },
    /// A client says what it does.
    Status {
        /// Which client.
        client: ClientId,
        /// What it says.
        report: StatusReport,
    },
    /// An update was decoded, found sound and made durable: count it. Ask [`super::RoundMachine::may_update`] first,
    /// before the body is read and again before it is made durable.
    Update {
        /// Whose it is.
        client: ClientId,
        /// The round that the client was asked in.
        round: u64,
        /// The update.
        update: Received,
    },
    /// A new configuration, already checked: taken by the next round. What is safe changes at once: admission (where it
    /// becomes `open`, those who wait for it are let in), the deadline and what follows it, the bounds of the ingest gate.
    Configure {
        /// The configuration.
        config: Box<RunConfig>,
        /// Its version.
        config_version: u64,
    },
    /// The closed round's new version is stored: go on.
    Committed {
        /// The new global version.
        version: u64,
        /// Loss on the test split.
        test_loss: Option<f64>,
        /// Accuracy on the test split.
        test_accuracy: Option<f64>,
    },
    /// The closed round could not be aggregated or stored: it is void.
    AggregationFailed {
        /// Why, for a person.
        reason: String,
    },
}

/// Why a command was refused. The machine is unchanged by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// No such client.
    #[error("no client {0} on the roster")]
    UnknownClient(ClientId),
    /// The operator removed it.
    #[error("client {0} was removed by the operator")]
    Kicked(ClientId),
    /// Its name is banned.
    #[error("the name '{0}' is banned from this run")]
    Banned(String),
    /// Too many of its updates were refused.
    #[error("client {0} is in quarantine, for its updates were refused too often; the operator can admit it again")]
    Quarantined(ClientId),
    /// It says that it has more images than any client may.
    #[error(
        "samples must be at most {max_samples} (max_samples of the run), got {samples}: ask the operator to raise max_samples"
    )]
    TooManySamples {
        /// How many it has.
        samples: u64,
        /// How many it may have.
        max_samples: u64,
    },
    /// It awaits admission.
    #[error("client {0} awaits admission")]
    NotAdmitted(ClientId),
    /// The client is not in this round's cohort.
    #[error("client {client} is not in the cohort of round {round}")]
    NotInCohort {
        /// Which client.
        client: ClientId,
        /// Which round.
        round: u64,
    },
    /// That round is over.
    #[error("round {round} is closed; the run is past it")]
    RoundClosed {
        /// Which round.
        round: u64,
    },
    /// That round has not opened.
    #[error("round {round} has not opened yet")]
    TooEarly {
        /// Which round.
        round: u64,
    },
    /// The run is not near that round.
    #[error("there is no round {round}: the next one is {next}")]
    NoSuchRound {
        /// Which round.
        round: u64,
        /// The number of the next one.
        next: u64,
    },
    /// The updates of the round are being combined; what the client works on is taken by the next one.
    #[error("round {round} is being aggregated; the next one takes this update")]
    Aggregating {
        /// Which round.
        round: u64,
    },
    /// This client's update is in already.
    #[error("client {client} has already sent its update for round {round}")]
    AlreadyUpdated {
        /// Which client.
        client: ClientId,
        /// Which round.
        round: u64,
    },
    /// Too few clients to start a round.
    #[error("{eligible} clients are ready, min_clients is {min_clients}")]
    TooFewClients {
        /// Ready to take part.
        eligible: usize,
        /// Wanted.
        min_clients: u32,
    },
    /// A round is open or being aggregated.
    #[error("round {round} is still in work")]
    RoundInWork {
        /// Which round.
        round: u64,
    },
    /// No round is open.
    #[error("no round is open")]
    NoRound,
    /// Too few updates to aggregate.
    #[error("{updates} updates are in, min_clients is {min_clients}")]
    TooFewUpdates {
        /// How many are in.
        updates: usize,
        /// Wanted.
        min_clients: u32,
    },
    /// No aggregation is under way.
    #[error("no round is being aggregated")]
    NotAggregating,
    /// The roster is full, of clients that are there or have taken part.
    #[error("the roster is full: {0} clients")]
    RosterFull(usize),
}

/// What the owner of the machine has to do. Drain after every call, carry out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A client's standing changed: store it, with [`super::RoundMachine::is_banned`] of its name, then broadcast it.
    StoreClient {
        /// Which client.
        client: ClientId,
        /// What happened to it.
        what: Standing,
    },
    /// Only what is seen of a client changed (state, progress, last seen): broadcast it.
    ShowClient(ClientId),
    /// A client sent its first heartbeat: store that.
    HeartbeatsBegan(ClientId),
    /// A client left: store that, then broadcast it.
    RemoveClient(Box<ClientView>),
    /// [`super::RoundMachine::open_round`] has opened: store it, with [`super::RoundMachine::assignment`] of each of its
    /// cohort, which may fetch the model.
    RoundOpened,
    /// Something happened to a client in the open round: store it, then broadcast it. An update that is counted is stored
    /// already.
    Cohort {
        /// Which client.
        client: ClientId,
        /// What happened.
        step: CohortStep,
    },
    /// The open round's deadline has moved: store it.
    DeadlineMoved,
    /// The round takes no more updates: store that ([`super::RoundMachine::closed`]), combine
    /// [`super::RoundMachine::parts`] (if there are none, all were rejected: nothing is to be combined), evaluate and store the result, then answer with [`Command::Committed`] or
    /// [`Command::AggregationFailed`].
    Aggregate {
        /// Which round.
        round: u64,
    },
    /// A round is over, complete or void. If void, its updates are to be dropped; if complete, all is stored already.
    RoundEnded(Box<RoundSummary>),
    /// Phase, sentence, autorun or deadline changed: store the autorun, broadcast them. At most once an input, and last.
    Course,
}

/// What happened to a client's standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The operator let it in, or back in.
    Admitted,
    /// The operator removed it.
    Kicked,
    /// It has another number of training images.
    SamplesChanged,
    /// It reported that it cannot deliver its update.
    Failed,
    /// An update of it was rejected.
    Rejected,
    /// An update of it was rejected that cannot be an honest mistake.
    Struck,
    /// And that once too often.
    Quarantined,
}

impl Standing {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Kicked => "kicked",
            Self::SamplesChanged => "samples changed",
            Self::Failed => "client failed",
            Self::Rejected => "update rejected",
            Self::Struck => "strike",
            Self::Quarantined => "quarantined",
        }
    }
}
