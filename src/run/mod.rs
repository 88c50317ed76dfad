//! One run: owns the round machine, passes requests to it, and carries out its decisions in one order: first durable, then
//! visible, then answered.
//!
//! Where decisions are stored, who watches, and how models are aggregated is up to the [`Environment`].

mod effects;
mod environment;
mod ledger;

pub use environment::{Aggregation, Candidate, Environment};
pub use ledger::{Ledger, NewVersion, Record};

use crate::digest::Sha256Digest;
use crate::round::{Command, Received, Reject, RoundMachine};
use app::api::{
    BestVersion, Change, ClientId, ClientState, ClientView, RegisterRequest, RunConfig, StatusReply, StatusReport, Task,
};

/// Why a run did not carry out a request. Nothing has changed, except that a rejected update is shown to the operator.
#[derive(Debug, thiserror::Error)]
pub enum Refusal<E> {
    /// The rules of the round do not allow it.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// It could not be stored.
    #[error("{0}")]
    Store(E),
    /// The ingest gate rejects the update.
    #[error("the update was rejected: {0}")]
    Fault(String),
    /// The configuration is invalid.
    #[error("the configuration was rejected: {}", .0.join("; "))]
    BadConfig(Vec<String>),
    /// The configuration has changed since the caller read it.
    #[error(
        "the configuration is at version {current}, not {expected}: read the run again, and change what it has now"
    )]
    ConfigChanged {
        /// The current version.
        current: u64,
        /// The version that the caller named.
        expected: u64,
    },
    /// The run is stopping. It continues after the restart.
    #[error("the coordinator is stopping")]
    Stopping,
}

/// What a run expects of a client for a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// An update, trained from that version.
    Awaited {
        /// The version.
        version: u64,
    },
    /// Nothing more: the update with that SHA-256 is stored.
    AlreadyCounted(Sha256Digest),
}

/// The result of an update that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It is counted now.
    Counted,
    /// The same update was counted before: the first response was lost.
    Again,
}

/// One run.
#[derive(Debug)]
pub struct Run<E: Environment> {
    environment: E,
    machine: RoundMachine,
    best: Option<BestVersion>,
    /// As last stored.
    autorun_rounds: u32,
    /// The model of the round that is being committed.
    candidate: Option<(E::Parameters, Sha256Digest)>,
    /// The environment ended in the middle of a step.
    is_stopped: bool,
}

impl<E: Environment> Run<E> {
    /// A run that continues where the machine is. [`Self::tick`] starts it.
    pub fn new(environment: E, machine: RoundMachine, best: Option<BestVersion>) -> Self {
        let autorun_rounds = machine.autorun().map_or(0, |autorun| autorun.rounds);
        Self { environment, machine, best, autorun_rounds, candidate: None, is_stopped: false }
    }

    /// The round machine, for reading.
    pub fn machine(&self) -> &RoundMachine {
        &self.machine
    }

    /// The environment.
    pub fn environment(&self) -> &E {
        &self.environment
    }

    /// The environment, for what it does beside the run.
    pub fn environment_mut(&mut self) -> &mut E {
        &mut self.environment
    }

    /// Carries out what is due.
    pub async fn tick(&mut self) {
        self.machine.handle_timeout(self.environment.now_ms());
        let _ = self.drain().await; // an error only means that the run stops
    }

    /// Passes a command to the round machine. When this returns, its decision is durable.
    ///
    /// # Errors
    /// The machine rejects it, or the run stops.
    pub async fn command(&mut self, command: Command) -> Result<(), Refusal<E::Error>> {
        self.machine.handle(self.environment.now_ms(), command)?;
        self.drain().await
    }

    /// Adds a client to the roster.
    ///
    /// # Errors
    /// It may not join, or cannot be stored.
    pub async fn register(
        &mut self,
        client: ClientId,
        token: Sha256Digest,
        request: RegisterRequest,
    ) -> Result<ClientState, Refusal<E::Error>> {
        let RegisterRequest { name, samples, device, .. } = request;
        let now = self.environment.now_ms();
        let view = self.machine.newcomer(now, client.clone(), name.clone(), samples, device.clone())?;
        self.save(Record::Joined { client: &view, token }).await?;
        self.log("joined", Some(&client), None, &name).await;
        // At the same time as what is stored.
        self.machine.handle(now, Command::Join { client, name, samples, device })?;
        self.drain().await?;
        Ok(view.state)
    }

    /// Passes on a client's report of its state.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn status(&mut self, client: &ClientId, report: StatusReport) -> Result<StatusReply, Refusal<E::Error>> {
        let round = report.round;
        self.command(Command::Status { client: client.clone(), report }).await?;
        let cancel = round.is_some_and(|round| self.machine.is_cancelled(client, round));
        let state = self.machine.client(client).map_or(ClientState::Offline, |client| client.state);
        Ok(StatusReply { cancel, state })
    }

    /// The task of a client, and whether it needs an answer now: for an idle client, that there is something to do; for one
    /// that works for a round, that it should stop. With `is_heard` the client itself has just asked, which counts as a sign
    /// of life; otherwise its pending request looks again on its behalf.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn task(
        &mut self,
        client: &ClientId,
        at_work_for: Option<u64>,
        is_heard: bool,
    ) -> Result<(Task, bool), Refusal<E::Error>> {
        let is_kicked = |view: &&ClientView| view.state == ClientState::Kicked;
        if let Some(view) = self.machine.client(client).filter(is_kicked)
            && self.machine.is_banned(&view.name)
        {
            let reason = format!("the operator has banned the name '{}' from this run", view.name);
            return Ok((Task::Stop { reason }, true));
        }
        let command = match at_work_for {
            Some(_) => is_heard.then(|| Command::Heartbeat { client: client.clone() }),
            None => (is_heard || self.machine.has_place(client)).then(|| Command::Ask { client: client.clone() }),
        };
        if let Some(command) = command {
            self.command(command).await?;
        }
        let task = self.machine.task(self.environment.now_ms(), client)?;
        if at_work_for.is_none() && matches!(task, Task::Train(_)) {
            self.command(Command::Take { client: client.clone() }).await?;
        }
        let is_news = match at_work_for {
            Some(round) => self.machine.is_cancelled(client, round),
            None => !matches!(task, Task::Wait { .. }),
        };
        Ok((task, is_news))
    }

    /// What the run expects of that client for that round.
    ///
    /// # Errors
    /// No update is stored, and none would be accepted. If it would be too late, that is counted.
    pub async fn expect(&mut self, client: &ClientId, round: u64) -> Result<Expectation, Refusal<E::Error>> {
        let reject = match self.machine.may_update(client, round) {
            Ok(assignment) => return Ok(Expectation::Awaited { version: assignment.version }),
            Err(reject) => reject,
        };
        let stored = match reject {
            Reject::AlreadyUpdated { .. } => self.machine.counted(client),
            Reject::RoundClosed { .. } => {
                let stored = self.environment.contribution(client, round).await.map_err(Refusal::Store)?;
                if stored.is_none() {
                    self.command(Command::Late { client: client.clone() }).await?;
                }
                stored
            }
            Reject::Aggregating { .. } => {
                // A sign of life: the next round may wait for this client alone.
                self.command(Command::Seen { client: client.clone() }).await?;
                None
            }
            _ => None,
        };
        stored.map(Expectation::AlreadyCounted).ok_or(reject.into())
    }

    /// Counts an update. When this returns `Ok`, it stays counted whatever happens to the coordinator.
    ///
    /// # Errors
    /// The update is not counted and not stored.
    pub async fn update(
        &mut self,
        client: &ClientId,
        round: u64,
        received: Received,
    ) -> Result<Receipt, Refusal<E::Error>> {
        match self.expect(client, round).await? {
            Expectation::AlreadyCounted(earlier) if earlier == received.body.sha256 => return Ok(Receipt::Again),
            Expectation::AlreadyCounted(_) => {
                return Err(Reject::AlreadyUpdated { client: client.clone(), round }.into());
            }
            Expectation::Awaited { .. } => {}
        }
        if let Some(reason) = self.machine.fault(client, received.samples, received.norm) {
            let rejected = Command::Rejected { client: client.clone(), round, reason: reason.clone(), strike: None };
            self.command(rejected).await?;
            return Err(Refusal::Fault(reason));
        }
        let Some(counts_in) = self.machine.open_round().map(|round| round.number) else {
            return Err(Reject::RoundClosed { round }.into());
        };
        let at_ms = self.environment.now_ms();
        // Stored before it is counted: an update that could not be stored is sent again, and must not count twice.
        self.save(Record::Update { round: counts_in, client, received: &received, at_ms }).await?;
        self.command(Command::Update { client: client.clone(), round, update: received }).await?;
        Ok(Receipt::Counted)
    }

    /// Changes the configuration by a JSON merge patch, if it still has the version that the caller expects. Returns the
    /// new version, which is the old one if nothing changes.
    ///
    /// # Errors
    /// It has another version, the result is out of bounds, or it cannot be stored.
    pub async fn configure(&mut self, expected: u64, patch: &serde_json::Value) -> Result<u64, Refusal<E::Error>> {
        let current = self.machine.config_version();
        if expected != current {
            return Err(Refusal::ConfigChanged { current, expected });
        }
        let config: RunConfig = self.machine.config().patched(patch).map_err(Refusal::BadConfig)?;
        if config == *self.machine.config() {
            return Ok(current);
        }
        let config_version = current + 1;
        self.save(Record::Config { version: config_version, config: &config, at_ms: self.environment.now_ms() })
            .await?;
        self.environment.publish(Change::Config { config: Box::new(config.clone()), config_version });
        self.log("configured", None, None, &patch.to_string()).await;
        self.command(Command::Configure { config: Box::new(config), config_version }).await?;
        Ok(config_version)
    }

    /// Takes the result of [`Environment::aggregate`]: a durable model, or why there is none.
    pub async fn aggregated(&mut self, round: u64, result: Result<Candidate<E::Parameters>, String>) {
        let command = match result {
            Ok(Candidate { parameters, sha256, test_loss, test_accuracy }) => {
                self.candidate = Some((parameters, sha256));
                Command::Committed { version: self.machine.version() + 1, test_loss, test_accuracy }
            }
            Err(reason) => Command::AggregationFailed { reason },
        };
        if self.machine.open_round().map(|open| open.number) == Some(round) {
            let _ = self.command(command).await; // an error only means that the run stops
        }
        self.candidate = None;
    }

    /// Stores what must be stored before it is decided.
    async fn save(&self, record: Record<'_>) -> Result<(), Refusal<E::Error>> {
        if self.is_stopped {
            return Err(Refusal::Stopping);
        }
        self.environment.save(&record).await.map_err(Refusal::Store)
    }
}
