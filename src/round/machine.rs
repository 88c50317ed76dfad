//! The machine itself: what each command does, and what follows from where things stand.

use super::command::{Assignment, Counted, Standing};
use super::current::{CurrentRound, Outcome};
use super::roster::{MAX_CLIENTS, OFFLINE_AFTER_MS, Roster, is_eligible, is_out};
use super::{Command, Effect, Reject, UnixMs};
use app::api::{
    Admission, Autorun, ClientId, ClientState, ClientView, CohortStep, OpenRound, Phase, ReportedState, RunConfig,
    StatusReport,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// After a void round an auto-run waits so long before it opens the next: a cause that stays, such as a full disk, must
/// not drive clients in circles.
pub const VOID_PAUSE_MS: u64 = 5_000;

/// The longest text of a client's error that is kept, in characters.
const MAX_ERROR_CHARS: usize = 500;

/// What a machine starts from: a run as it was stored, or a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The newest configuration.
    pub config: RunConfig,
    /// Its version.
    pub config_version: u64,
    /// The current global version; 0 is the initial one.
    pub version: u64,
    /// The number of the next round: above all that ever opened, also one that a crash cut short.
    pub next_round: u64,
    /// The roster.
    pub roster: Vec<RestoredClient>,
    /// The round that was open, if one was: it goes on.
    pub round: Option<RestoredRound>,
    /// Now.
    pub now_ms: UnixMs,
    /// Median norm of the updates of the last complete round.
    pub typical_norm: Option<f64>,
    /// Rounds still to complete.
    pub autorun: Option<Autorun>,
    /// Seed of cohort selection.
    pub seed: u64,
}

/// A client that was on the roster.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredClient {
    /// As stored. One in `pending`, `quarantine` or `kicked` is taken as it is, any other is `offline` until heard of.
    pub view: ClientView,
    /// Its name may not register.
    pub banned: bool,
    /// The round it was last asked in; 0: in none.
    pub asked: u64,
}

/// A round that was open.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredRound {
    /// As stored; `updated` is filled from `counted`.
    pub open: OpenRound,
    /// The configuration of its version.
    pub config: RunConfig,
    /// Those of its cohort who began in an earlier round, and at what they work.
    pub earlier: BTreeMap<ClientId, Assignment>,
    /// What is in. What is of a client that is `kicked` or in `quarantine` by now is not counted again.
    pub counted: BTreeMap<ClientId, Counted>,
}

impl Restored {
    /// A new run: version 0, round 1 next, nobody there.
    pub fn fresh(config: RunConfig, seed: u64) -> Self {
        Self {
            config,
            config_version: 1,
            version: 0,
            next_round: 1,
            roster: Vec::new(),
            round: None,
            now_ms: 0,
            typical_norm: None,
            autorun: None,
            seed,
        }
    }
}

/// Why an auto-run holds its breath.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pause {
    pub until_ms: UnixMs,
    pub round: u64,
    pub reason: String,
}

/// What [`Effect::Course`] broadcasts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Course {
    pub phase: Phase,
    pub waiting: String,
    pub autorun: Option<Autorun>,
    pub deadline_ms: Option<UnixMs>,
}

/// Decides the course of one run.
///
/// Inputs are [`Self::handle`] and [`Self::handle_timeout`]; after each, drain [`Self::poll_effect`], then arm a timer
/// for [`Self::poll_timeout`]. Everything else is a getter. The same inputs give the same effects, always.
///
/// Each input ends at most one round and then opens at most one, so no input can set off an endless chain.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundMachine {
    pub(super) config: RunConfig,
    pub(super) config_version: u64,
    pub(super) version: u64,
    pub(super) next_round: u64,
    pub(super) seed: u64,
    pub(super) autorun: Option<Autorun>,
    pub(super) pause: Option<Pause>,
    pub(super) roster: Roster,
    pub(super) round: Option<CurrentRound>,
    /// Of `async`, between two rounds: who still works on an earlier one.
    pub(super) carried: BTreeMap<ClientId, Assignment>,
    pub(super) typical_norm: Option<f64>,
    pub(super) effects: VecDeque<Effect>,
    /// Clients to be shown at the end of this call; empty between calls.
    pub(super) to_show: BTreeSet<ClientId>,
    /// The operator wants a round in this call; false between calls.
    pub(super) is_round_wanted: bool,
    /// Something of the course may have changed in this call; false between calls.
    pub(super) is_course_stale: bool,
    pub(super) shown: Course,
}

impl RoundMachine {
    /// A machine where it was, with the round that was open. That one's clients get at least the time after which they
    /// would be `offline` to come back: that the coordinator was away is not their fault. Does nothing before its first
    /// input.
    pub fn new(from: Restored) -> Self {
        let mut machine = Self {
            config: from.config,
            config_version: from.config_version,
            version: from.version,
            next_round: from.next_round,
            seed: from.seed,
            autorun: from.autorun.filter(|a| a.rounds > 0),
            pause: None,
            roster: Roster::restored(from.roster),
            round: None,
            carried: BTreeMap::new(),
            typical_norm: from.typical_norm,
            effects: VecDeque::new(),
            to_show: BTreeSet::new(),
            is_round_wanted: false,
            is_course_stale: false,
            shown: Course { phase: Phase::Idle, waiting: String::new(), autorun: None, deadline_ms: None },
        };
        if let Some(round) = from.round {
            machine.restore_round(from.now_ms, round);
        }
        machine.shown = machine.course();
        machine
    }

    /// Takes a command. Deadlines that `now` has passed take effect after it.
    ///
    /// # Errors
    /// The command cannot be obeyed: the machine is unchanged.
    pub fn handle(&mut self, now: UnixMs, command: Command) -> Result<(), Reject> {
        // These two come by the thousand and seldom change the course; `change` notices when they do.
        let is_quiet = matches!(command, Command::Seen { .. } | Command::Ask { .. } | Command::Status { .. });
        match command {
            Command::Join { client, name, samples, device } => self.join(now, client, name, samples, device)?,
            Command::Admit { client } => self.admit(now, &client)?,
            Command::Kick { client, ban } => self.kick(&client, ban)?,
            Command::Leave { client } => self.leave(&client)?,
            Command::Seen { client } => self.seen(now, &client)?,
            Command::Ask { client } => self.ask(now, &client)?,
            Command::Strike { client, reason } => self.strike(now, &client, &reason)?,
            Command::Late { client } => self.late(now, &client)?,
            Command::Status { client, report } => self.status(now, &client, report)?,
            Command::Update { client, round, update } => self.update(now, &client, round, update)?,
            Command::StartAutorun { rounds } => self.set_autorun(rounds),
            Command::StopAutorun => self.set_autorun(0),
            Command::StartRound => self.start_round(now)?,
            Command::AggregateNow => self.aggregate_now(now)?,
            Command::Configure { config, config_version } => self.configure(now, *config, config_version),
            Command::Committed { version, test_loss, test_accuracy } => {
                self.check_aggregating()?;
                self.end(now, Ok(Outcome { version, test_loss, test_accuracy }));
            }
            Command::AggregationFailed { reason } => {
                self.check_aggregating()?;
                self.end(now, Err(format!("aggregation failed: {reason}")));
            }
        }
        self.is_course_stale |= !is_quiet;
        self.settle(now);
        Ok(())
    }

    /// Takes note of the time. To be called when [`Self::poll_timeout`] is reached; harmless at any other time.
    pub fn handle_timeout(&mut self, now: UnixMs) {
        self.settle(now);
    }

    /// The next thing to do, in order; none: all is done.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMs> {
        let deadline = self.round.as_ref().filter(|r| r.is_open()).map(CurrentRound::timeout);
        let pause = self.pause.as_ref().map(|p| p.until_ms);
        let offline = self.roster.next_offline().map(|(at, _)| at);
        [deadline, pause, offline].into_iter().flatten().min()
    }

    /// A client as it will be once it has joined: to be stored before [`Command::Join`], which then cannot fail.
    ///
    /// # Errors
    /// It may not join.
    pub fn newcomer(
        &self,
        now: UnixMs,
        id: ClientId,
        name: String,
        samples: u64,
        device: String,
    ) -> Result<ClientView, Reject> {
        if self.roster.is_banned(&name) {
            return Err(Reject::Banned(name));
        }
        if self.roster.len() >= MAX_CLIENTS {
            return Err(Reject::RosterFull(self.roster.len()));
        }
        let max_samples = self.config.max_samples;
        if samples > max_samples {
            return Err(Reject::TooManySamples { samples, max_samples });
        }
        let state = match self.config.admission {
            Admission::Open => ClientState::Join,
            Admission::Approval => ClientState::Pending,
        };
        Ok(ClientView::new(id, name, samples, device, state, now))
    }

    fn join(&mut self, now: UnixMs, id: ClientId, name: String, samples: u64, device: String) -> Result<(), Reject> {
        if self.roster.get(&id).is_some() {
            return self.seen(now, &id);
        }
        self.roster.insert(self.newcomer(now, id.clone(), name, samples, device)?);
        self.to_show.insert(id);
        Ok(())
    }

    fn admit(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        let view = self.roster.known(id)?;
        if !is_out(view.state) {
            return Ok(());
        }
        self.roster.lift_ban(id);
        let resting = self.resting_state(id);
        self.change(id, |c| {
            c.strikes = 0;
            c.error = None;
            c.state = if now >= c.seen_ms.saturating_add(OFFLINE_AFTER_MS) {
                ClientState::Offline
            } else if resting == ClientState::Finish {
                resting
            } else {
                ClientState::Join
            };
        });
        self.store(id, Standing::Admitted);
        Ok(())
    }

    fn kick(&mut self, id: &ClientId, ban: bool) -> Result<(), Reject> {
        self.roster.known(id)?;
        if ban {
            self.roster.ban(id);
        }
        self.take_out(id);
        self.change(id, |c| {
            c.state = ClientState::Kicked;
            c.progress = None;
            c.error = None;
        });
        self.store(id, Standing::Kicked);
        Ok(())
    }

    /// Nothing of this client is taken any more, nor what it is at: an update that is in is taken out of its round again, unless it is being
    /// combined already.
    fn take_out(&mut self, id: &ClientId) {
        if self.round.as_mut().is_some_and(|round| round.is_open() && round.uncount(id)) {
            self.step(id, CohortStep::Dropped);
        }
        self.carried.remove(id);
    }

    fn strike(&mut self, now: UnixMs, id: &ClientId, reason: &str) -> Result<(), Reject> {
        self.seen(now, id)?;
        let strikes = self.roster.known(id)?.strikes.saturating_add(1);
        let is_last = strikes >= self.config.max_strikes;
        if is_last {
            self.take_out(id);
        }
        self.change(id, |c| {
            c.strikes = strikes;
            c.error = Some(reason.chars().take(MAX_ERROR_CHARS).collect());
            if is_last {
                c.state = ClientState::Quarantine;
                c.progress = None;
            }
        });
        self.store(id, if is_last { Standing::Quarantined } else { Standing::Struck });
        Ok(())
    }

    fn late(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.seen(now, id)?;
        self.change(id, |c| c.late_updates = c.late_updates.saturating_add(1));
        Ok(())
    }

    /// Beside being heard of: in asynchronous runs whoever asks is given work, as far as the cohort's size allows.
    fn ask(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.seen(now, id)?;
        let is_eligible = self.roster.get(id).is_some_and(|client| is_eligible(client.state));
        let Some(round) = self.round.as_mut().filter(|round| round.is_open() && round.is_async()) else {
            return Ok(());
        };
        let most = round.config.cohort.of(self.roster.eligible()).max(round.min_clients());
        let has_place = round.awaited().contains(id) || !round.was_asked(id) && round.awaited().len() < most;
        if is_eligible && has_place && round.take_up(id) {
            self.roster.set_asked(std::slice::from_ref(id), round.open.number);
            self.step(id, CohortStep::Asked);
            self.is_course_stale = true;
        }
        Ok(())
    }

    /// A client that was kicked or is in quarantine cannot leave: it would take the record of that along.
    fn leave(&mut self, id: &ClientId) -> Result<(), Reject> {
        if self.roster.welcome(id)?.state == ClientState::Quarantine {
            return Err(Reject::Quarantined(id.clone()));
        }
        if let Some(view) = self.roster.remove(id) {
            self.effects.push_back(Effect::RemoveClient(Box::new(view)));
        }
        self.carried.remove(id);
        if let Some(round) = &mut self.round {
            round.place(id, None);
        }
        Ok(())
    }

    fn seen(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.roster.welcome(id)?;
        let resting = self.resting_state(id);
        self.change(id, |c| {
            c.seen_ms = c.seen_ms.max(now);
            if c.state == ClientState::Offline {
                c.state = resting;
            }
        });
        Ok(())
    }

    fn status(&mut self, now: UnixMs, id: &ClientId, report: StatusReport) -> Result<(), Reject> {
        self.roster.welcome(id)?;
        let resting = self.resting_state(id);
        // Work that no longer counts is not shown as work: the client is being told to stop.
        let is_idle = resting == ClientState::Finish || report.round.is_some_and(|r| self.is_cancelled(id, r));
        self.change(id, |c| {
            c.seen_ms = c.seen_ms.max(now);
            if matches!(c.state, ClientState::Pending | ClientState::Quarantine) {
                return;
            }
            c.progress = None;
            c.error = None;
            c.state = match report.state {
                ReportedState::Error => {
                    c.error = report.error.map(|text| text.chars().take(MAX_ERROR_CHARS).collect());
                    ClientState::Error
                }
                _ if is_idle => resting,
                ReportedState::Ready => ClientState::Ready,
                ReportedState::Update => ClientState::Update,
                ReportedState::Training => {
                    c.progress = report.progress;
                    ClientState::Training
                }
            };
        });
        Ok(())
    }

    fn update(&mut self, now: UnixMs, id: &ClientId, round: u64, update: Counted) -> Result<(), Reject> {
        self.may_update(id, round)?;
        let Counted { loss, bytes, .. } = update;
        let loss = loss.filter(|loss| loss.is_finite());
        if let Some(current) = &mut self.round {
            current.count(id, update);
        }
        self.step(id, CohortStep::Counted);
        self.change(id, |c| {
            c.seen_ms = c.seen_ms.max(now);
            c.state = ClientState::Finish;
            c.progress = None;
            c.error = None;
            c.rounds += 1;
            c.sent_bytes = c.sent_bytes.saturating_add(bytes);
            c.last_loss = loss.or(c.last_loss);
        });
        Ok(())
    }

    fn set_autorun(&mut self, rounds: u32) {
        self.autorun = (rounds > 0).then_some(Autorun { rounds });
        if rounds == 0 {
            self.drop_carried();
        }
        // The pause is of the auto-run that was; an operator who starts one means now.
        self.pause = None;
    }

    fn start_round(&mut self, now: UnixMs) -> Result<(), Reject> {
        if let Some(round) = &self.round {
            return Err(Reject::RoundInWork { round: round.open.number });
        }
        let eligible = self.roster.eligible_at(now);
        if eligible < self.min_clients() {
            return Err(Reject::TooFewClients { eligible, min_clients: self.config.min_clients });
        }
        self.is_round_wanted = true;
        Ok(())
    }

    /// The operator's word goes before `min_clients`.
    fn aggregate_now(&mut self, now: UnixMs) -> Result<(), Reject> {
        let round = self.round.as_ref().ok_or(Reject::NoRound)?;
        let (number, updates, asked) = (round.open.number, round.updates(), round.open.cohort.len());
        if !round.is_open() {
            return Err(Reject::RoundInWork { round: number });
        }
        if updates == 0 {
            return Err(Reject::TooFewUpdates { updates, min_clients: 1 });
        }
        self.close(now, format!("closed by the operator with {updates} of {asked} updates"));
        Ok(())
    }

    /// An open round keeps what its clients train by, and takes up at once what only says when it closes. Admission is no
    /// matter of rounds: whoever could now register and be in is let in.
    fn configure(&mut self, now: UnixMs, config: RunConfig, config_version: u64) {
        if config.admission == Admission::Open {
            for id in self.roster.pending().clone() {
                // Cannot fail: the client is known.
                _ = self.admit(now, &id);
            }
        }
        if let Some(round) = &mut self.round {
            let is_moved = round.config.deadline_s != config.deadline_s;
            round.adopt(&config);
            if round.is_open() && is_moved && round.redate() {
                self.effects.push_back(Effect::DeadlineMoved);
            }
        }
        self.config = config;
        self.config_version = config_version;
    }

    fn check_aggregating(&self) -> Result<(), Reject> {
        if self.phase() == Phase::Aggregating { Ok(()) } else { Err(Reject::NotAggregating) }
    }
}
