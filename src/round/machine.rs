//! The machine itself: what each command does, and what follows from where things stand.

use super::command::{Assignment, Closed, Received};
use super::current::{CurrentRound, Outcome};
use super::recent_norms::RecentNorms;
use super::roster::Roster;
use super::{Command, Effect, Order, Reject, Restored, UnixMs};
use app::api::{Admission, Autorun, ClientId, ClientState, CohortStep, Phase, RunConfig};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// After a void round an auto-run waits so long before it opens the next: a cause that stays, such as a full disk, must
/// not drive clients in circles.
pub const VOID_PAUSE_MS: u64 = 5_000;

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
    pub(super) autorun: Option<Autorun>,
    pub(super) pause: Option<Pause>,
    /// Since when an auto-run has had no round open, where it has none.
    pub(super) waits_since_ms: UnixMs,
    pub(super) roster: Roster,
    pub(super) round: Option<CurrentRound>,
    /// Of `async`, between two rounds: who still works on an earlier one.
    pub(super) carried: BTreeMap<ClientId, Assignment>,
    pub(super) recent_norms: RecentNorms,
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
    /// A machine where it was, with the round that was open. If that one still took updates, its clients get at least the
    /// time after which they would be `offline` to come back: that the coordinator was away is not their fault. If it was
    /// closed, it is to be combined. Does nothing before its first input.
    pub fn new(now: UnixMs, from: Restored) -> Self {
        let mut machine = Self {
            config: from.config,
            config_version: from.config_version,
            version: from.version,
            next_round: from.next_round,
            autorun: from.autorun.filter(|a| a.rounds > 0),
            pause: None,
            waits_since_ms: now,
            roster: Roster::restored(now, from.roster),
            round: None,
            carried: from.carried,
            recent_norms: from.recent_norms,
            effects: VecDeque::new(),
            to_show: BTreeSet::new(),
            is_round_wanted: false,
            is_course_stale: false,
            shown: Course { phase: Phase::Idle, waiting: String::new(), autorun: None, deadline_ms: None },
        };
        if let Some(round) = from.round {
            machine.restore_round(now, round);
        }
        if machine.autorun.is_none() {
            machine.carried.clear();
        }
        machine.release_carried();
        machine.admit_pending(now); // that may have been cut short
        machine.shown = machine.course();
        machine
    }

    /// Takes a command. Deadlines that `now` has passed take effect after it.
    ///
    /// # Errors
    /// The command cannot be obeyed: the machine is unchanged.
    pub fn handle(&mut self, now: UnixMs, command: Command) -> Result<(), Reject> {
        // These come by the thousand and seldom change the course; `change` notices when they do.
        let is_quiet = matches!(
            command,
            Command::Seen { .. }
                | Command::Heartbeat { .. }
                | Command::Ask { .. }
                | Command::Take { .. }
                | Command::Status { .. }
        );
        match command {
            Command::Order(order) => self.order(now, order)?,
            Command::Join { client, name, samples, device } => self.join(now, client, name, samples, device)?,
            Command::Leave { client } => self.leave(&client)?,
            Command::Seen { client } => self.seen(now, &client)?,
            Command::Heartbeat { client } => self.heartbeat(now, &client)?,
            Command::Ask { client } => self.ask(now, &client)?,
            Command::Take { client } => self.take(&client),
            Command::Rejected { client, round, reason, strike } => {
                self.rejected(now, &client, round, &reason, strike)?;
            }
            Command::Late { client } => self.late(now, &client)?,
            Command::ChangeSamples { client, samples } => self.change_samples(now, &client, samples)?,
            Command::Status { client, report } => self.status(now, &client, report)?,
            Command::Update { client, round, update } => self.update(now, &client, round, update)?,
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

    fn order(&mut self, now: UnixMs, order: Order) -> Result<(), Reject> {
        match order {
            Order::Admit { client } => self.admit(now, &client)?,
            Order::Kick { client, ban } => self.kick(&client, ban)?,
            Order::StartAutorun { rounds } => self.set_autorun(now, rounds),
            Order::StopAutorun => self.set_autorun(now, 0),
            Order::StartRound => self.start_round(now)?,
            Order::Aggregate => self.aggregate_now(now)?,
            Order::Cancel => self.cancel_round(now)?,
        }
        Ok(())
    }

    fn update(&mut self, now: UnixMs, id: &ClientId, round: u64, update: Received) -> Result<(), Reject> {
        self.may_update(id, round)?;
        let (loss, bytes) = (update.loss.filter(|loss| loss.is_finite()), update.body.bytes);
        if let Some(current) = &mut self.round {
            current.count(id, update);
        }
        self.step(id, CohortStep::Counted);
        self.change(id, |c| {
            c.seen_ms = c.seen_ms.max(now);
            c.state = ClientState::Finish;
            c.progress = None;
            c.error = None;
            c.rejected = None;
            c.rounds += 1;
            c.sent_bytes = c.sent_bytes.saturating_add(bytes);
            c.last_loss = loss.or(c.last_loss);
        });
        Ok(())
    }

    fn set_autorun(&mut self, now: UnixMs, rounds: u32) {
        if self.autorun.is_none() {
            self.waits_since_ms = now;
        }
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
        let reason = format!("closed by the operator with {updates} of {asked} updates");
        self.close(Closed { at_ms: now, reason, by_operator: true, rejected: BTreeMap::new() });
        Ok(())
    }

    fn cancel_round(&mut self, now: UnixMs) -> Result<(), Reject> {
        let round = self.round.as_ref().ok_or(Reject::NoRound)?;
        if !round.is_open() {
            return Err(Reject::RoundInWork { round: round.open.number });
        }
        self.set_autorun(now, 0);
        self.end(now, Err("cancelled by the operator".to_owned()));
        Ok(())
    }

    /// An open round keeps what its clients train by, and takes up at once what only says when it closes. Admission is no
    /// matter of rounds: whoever could now register and be in is let in.
    fn configure(&mut self, now: UnixMs, config: RunConfig, config_version: u64) {
        if let Some(round) = &mut self.round {
            let is_moved = round.config.deadline_s != config.deadline_s;
            round.adopt(&config);
            if round.is_open() && is_moved && round.redate(now) {
                self.effects.push_back(Effect::DeadlineMoved);
            }
        }
        self.config = config;
        self.config_version = config_version;
        self.release_carried();
        self.recent_norms.clear();
        self.admit_pending(now);
    }

    /// Where admission is open, nobody waits for it.
    fn admit_pending(&mut self, now: UnixMs) {
        if self.config.admission == Admission::Open {
            for id in self.roster.pending().clone() {
                // Cannot fail: the client is known.
                _ = self.admit(now, &id);
            }
        }
    }

    fn check_aggregating(&self) -> Result<(), Reject> {
        if self.phase() == Phase::Aggregating { Ok(()) } else { Err(Reject::NotAggregating) }
    }
}
