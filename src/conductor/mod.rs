//! One run, conducted: what the round machine decides is carried out in one order, durable, then visible, then answered.
//!
//! Decides that order, what is written down of each step, and what happens when that fails. Refuses to know what it is
//! written to, who watches and how models are combined: that is the [`World`]'s, of which the coordinator's is real and
//! the simulator's crashes between any two steps.

mod effects;
mod world;

pub use world::{Aggregation, Made, Record, World};

use crate::digest::Sha256Digest;
use crate::round::{Command, Counted, Reject, RoundMachine};
use app::api::{
    BestVersion, Change, ClientId, ClientState, ClientView, RegisterRequest, RunConfig, StatusReply, StatusReport, Task,
};

/// Why a run did not do what was asked. Nothing of it is done then; a rejected update is shown.
#[derive(Debug, thiserror::Error)]
pub enum Refusal<E> {
    /// The round machine's word.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// It could not be stored.
    #[error("{0}")]
    Store(E),
    /// The ingest gate rejects the update.
    #[error("the update was rejected: {0}")]
    Fault(String),
    /// The configuration is not acceptable.
    #[error("the configuration was rejected: {}", .0.join("; "))]
    BadConfig(Vec<String>),
    /// The configuration has changed since the caller read it.
    #[error(
        "the configuration is at version {current}, not {expected}: read the run again, and change what it has now"
    )]
    ConfigChanged {
        /// The version it has.
        current: u64,
        /// The version that the caller knows.
        expected: u64,
    },
    /// The run is stopping; what it was doing goes on after the restart.
    #[error("the coordinator is stopping")]
    Stopping,
}

/// An update that is sound, and what its sender says of it. Its body is durable.
#[derive(Debug)]
pub struct Update<B> {
    /// Whose it is.
    pub client: ClientId,
    /// The round that the client was asked in.
    pub round: u64,
    /// Images behind it.
    pub samples: u64,
    /// Mean training loss of the last local epoch.
    pub loss: Option<f64>,
    /// Its L2 distance from the version that it was trained from.
    pub norm: f64,
    /// Bytes of the body as it came.
    pub bytes: u64,
    /// SHA-256 of them.
    pub sha256: Sha256Digest,
    /// The body.
    pub body: B,
}

/// What became of an update that is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It was counted.
    Counted,
    /// This very one was counted before: the first answer was lost.
    Again,
}

/// Owns a run's round machine, feeds it, and carries out what it decides.
#[derive(Debug)]
pub struct Conductor<W: World> {
    world: W,
    machine: RoundMachine,
    best: Option<BestVersion>,
    /// As last stored.
    autorun_rounds: u32,
    /// What the round that is being committed made.
    made: Option<W::Model>,
    /// The world has ended in the middle of a step.
    is_stopped: bool,
}

impl<W: World> Conductor<W> {
    /// Takes a run up where the machine is. [`Self::tick`] sets it going.
    pub fn new(world: W, machine: RoundMachine, best: Option<BestVersion>) -> Self {
        let autorun_rounds = machine.autorun().map_or(0, |autorun| autorun.rounds);
        Self { world, machine, best, autorun_rounds, made: None, is_stopped: false }
    }

    /// The round machine, to look at.
    pub fn machine(&self) -> &RoundMachine {
        &self.machine
    }

    /// The world.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// Takes note of the time.
    pub async fn tick(&mut self) {
        self.machine.handle_timeout(self.world.now_ms());
        // Who is told to stop need not be told twice.
        let _ = self.drain().await;
    }

    /// Has the round machine handle a command. What it decides is durable when this returns.
    ///
    /// # Errors
    /// The machine's refusal; or the run stops.
    pub async fn command(&mut self, command: Command) -> Result<(), Refusal<W::Error>> {
        self.machine.handle(self.world.now_ms(), command)?;
        self.drain().await
    }

    /// Takes a new client on the roster.
    ///
    /// # Errors
    /// It may not join, or cannot be stored.
    pub async fn register(
        &mut self,
        client: ClientId,
        token: Sha256Digest,
        request: RegisterRequest,
    ) -> Result<ClientState, Refusal<W::Error>> {
        let RegisterRequest { name, samples, device, .. } = request;
        let now = self.world.now_ms();
        let view = self.machine.newcomer(now, client.clone(), name.clone(), samples, device.clone())?;
        self.save(Record::Joined { client: &view, token }).await?;
        self.note("joined", Some(&client), None, &name).await;
        // Of the same moment as what is stored.
        self.machine.handle(now, Command::Join { client, name, samples, device })?;
        self.drain().await?;
        Ok(view.state)
    }

    /// Takes a client's word of itself.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn status(&mut self, client: &ClientId, report: StatusReport) -> Result<StatusReply, Refusal<W::Error>> {
        let round = report.round;
        self.command(Command::Status { client: client.clone(), report }).await?;
        let cancel = round.is_some_and(|round| self.machine.is_cancelled(client, round));
        let state = self.machine.client(client).map_or(ClientState::Offline, |client| client.state);
        Ok(StatusReply { cancel, state })
    }

    /// What a client is to do, and whether that is news for it: for one that asks for something to do, that there is; for
    /// one that works for a round, that it is to stop. Only where it `is_heard` is that a sign of life; else somebody looks
    /// on its behalf who has heard it a while ago.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn task(
        &mut self,
        client: &ClientId,
        at_work_for: Option<u64>,
        is_heard: bool,
    ) -> Result<(Task, bool), Refusal<W::Error>> {
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
        let task = self.machine.task(self.world.now_ms(), client)?;
        if at_work_for.is_none() && matches!(task, Task::Train(_)) {
            self.command(Command::Take { client: client.clone() }).await?;
        }
        let is_news = match at_work_for {
            Some(round) => self.machine.is_cancelled(client, round),
            None => !matches!(task, Task::Wait { .. }),
        };
        Ok((task, is_news))
    }

    /// The update of that client for that round which is in already; none: one is awaited.
    ///
    /// # Errors
    /// None is in, and none would be taken. If it comes too late, that is counted.
    pub async fn prior(&mut self, client: &ClientId, round: u64) -> Result<Option<Sha256Digest>, Refusal<W::Error>> {
        let reject = match self.machine.may_update(client, round) {
            Ok(()) => return Ok(None),
            Err(reject @ (Reject::AlreadyUpdated { .. } | Reject::RoundClosed { .. })) => reject,
            Err(reject) => {
                if matches!(reject, Reject::Aggregating { .. }) {
                    // It is there, and may be all that the next round waits for.
                    self.command(Command::Seen { client: client.clone() }).await?;
                }
                return Err(reject.into());
            }
        };
        let earlier = self.world.contribution(client, round).await.map_err(Refusal::Store)?;
        if earlier.is_none() && matches!(reject, Reject::RoundClosed { .. }) {
            self.command(Command::Late { client: client.clone() }).await?;
        }
        earlier.map(Some).ok_or(reject.into())
    }

    /// Counts an update. When this returns it is in, and stays in whatever happens to the coordinator.
    ///
    /// # Errors
    /// It is not in, and nothing of it is kept.
    pub async fn update(&mut self, update: Update<W::Body>) -> Result<Receipt, Refusal<W::Error>> {
        let (client, round) = (update.client.clone(), update.round);
        match self.prior(&client, round).await? {
            Some(earlier) if earlier == update.sha256 => return Ok(Receipt::Again),
            Some(_) => return Err(Reject::AlreadyUpdated { client, round }.into()),
            None => {}
        }
        let Update { samples, loss, norm, bytes, .. } = update;
        if let Some(fault) = self.machine.fault(&client, samples, norm) {
            self.command(Command::Rejected { client, round, reason: fault.clone(), strike: None }).await?;
            return Err(Refusal::Fault(fault));
        }
        let Some(counts_in) = self.machine.open_round().map(|round| round.number) else {
            return Err(Reject::RoundClosed { round }.into());
        };
        let at_ms = self.world.now_ms();
        // Stored before it is counted: one that cannot be stored is sent again, and must not weigh twice.
        self.save(Record::Update { round: counts_in, update: &update, at_ms }).await?;
        let staleness = 0; // the machine knows better
        let update = Counted { samples, loss, bytes, norm, staleness };
        self.command(Command::Update { client, round, update }).await?;
        Ok(Receipt::Counted)
    }

    /// Changes the configuration by a JSON merge patch, if it still is at the version that the caller knows. Returns the
    /// new version; the same one where nothing changes.
    ///
    /// # Errors
    /// It has changed since, the result is out of bounds, or it cannot be stored.
    pub async fn configure(&mut self, expected: u64, patch: &serde_json::Value) -> Result<u64, Refusal<W::Error>> {
        let current = self.machine.config_version();
        if expected != current {
            return Err(Refusal::ConfigChanged { current, expected });
        }
        let config: RunConfig = self.machine.config().patched(patch).map_err(Refusal::BadConfig)?;
        if config == *self.machine.config() {
            return Ok(current);
        }
        let config_version = current + 1;
        self.save(Record::Config { version: config_version, config: &config, at_ms: self.world.now_ms() }).await?;
        self.world.publish(Change::Config { config: Box::new(config.clone()), config_version });
        self.note("configured", None, None, &patch.to_string()).await;
        self.command(Command::Configure { config: Box::new(config), config_version }).await?;
        Ok(config_version)
    }

    /// Takes what came of [`World::aggregate`]: a model that is durable, or why there is none.
    pub async fn aggregated(&mut self, round: u64, result: Result<Made<W::Model>, String>) {
        let command = match result {
            Ok(Made { model, test_loss, test_accuracy }) => {
                self.made = Some(model);
                Command::Committed { version: self.machine.version() + 1, test_loss, test_accuracy }
            }
            Err(reason) => Command::AggregationFailed { reason },
        };
        if self.machine.open_round().map(|open| open.number) == Some(round) {
            // Of nothing but an aggregation that nobody waits for, or the run's end: neither has anything left to do.
            let _ = self.command(command).await;
        }
        self.made = None;
    }

    /// Stores what has to be stored before it is decided.
    async fn save(&self, record: Record<'_, W>) -> Result<(), Refusal<W::Error>> {
        if self.is_stopped {
            return Err(Refusal::Stopping);
        }
        self.world.save(record).await.map_err(Refusal::Store)
    }
}
