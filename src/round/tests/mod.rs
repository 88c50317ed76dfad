//! The machine in a world whose clock the test turns. Clients are named by their ids.
#![allow(clippy::unwrap_used)]

mod asynchronous;
mod autorun;
mod carried;
mod deadlines;
mod gate;
mod judge;
mod ledger;
mod membership;
mod over_selection;
mod rejections;
mod removal;
mod restart;
mod rounds;
mod schedules;
mod sentences;
mod silence;

use super::{Command, Effect, Order, Received, Reject, Restored, RoundMachine, Standing, StoredBody, UnixMs};
use crate::digest::Sha256Digest;
use app::api::{
    Admission, ClientId, ClientState, CohortSize, CohortStep, Mode, Progress, ReportedState, RoundOutcome,
    RoundSummary, RunConfig, StatusReport, Task,
};
use ledger::Ledger;
use std::sync::atomic::{AtomicU64, Ordering};

const START_MS: UnixMs = 1_700_000_000_000;
const DEADLINE_MS: u64 = 600_000;

fn id(name: &str) -> ClientId {
    name.parse().unwrap()
}

fn quorum(min_clients: u32) -> RunConfig {
    RunConfig { min_clients, ..RunConfig::default() }
}

fn by_approval() -> RunConfig {
    RunConfig { admission: Admission::Approval, ..RunConfig::default() }
}

fn join(name: &str) -> Command {
    Command::Join { client: id(name), name: name.to_owned(), samples: 100, device: "cpu".to_owned() }
}

fn received(samples: u64, loss: Option<f64>, bytes: u64) -> Received {
    let body = StoredBody { sha256: Sha256Digest::of("body"), bytes, file: "file".into(), format: "container".into() };
    Received { samples, loss, norm: 1.0, body }
}

fn update(name: &str, round: u64) -> Command {
    Command::Update { client: id(name), round, update: received(100, Some(1.0), 1_000) }
}

fn seen(name: &str) -> Command {
    Command::Seen { client: id(name) }
}

fn admit(name: &str) -> Command {
    Command::Order(Order::Admit { client: id(name) })
}

fn ask(name: &str) -> Command {
    Command::Ask { client: id(name) }
}

/// What was sent for that round is rejected; `strike` is the digest of what cannot be an honest mistake.
fn rejected(name: &str, round: u64, reason: &str, strike: Option<&str>) -> Command {
    Command::Rejected { client: id(name), round, reason: reason.to_owned(), strike: strike.map(Sha256Digest::of) }
}

/// A strike of its own, for a round that awaits nothing of the client.
fn strike(name: &str) -> Command {
    static STRIKES: AtomicU64 = AtomicU64::new(0);
    let digest = STRIKES.fetch_add(1, Ordering::Relaxed).to_string();
    rejected(name, 0, "block 0 has an odd number of codes", Some(&digest))
}

/// Rounds of `buffer_size` updates, of whoever is there; the gate does not ask for more.
fn asynchronous(buffer_size: u32) -> RunConfig {
    RunConfig { mode: Mode::Async, buffer_size, max_norm_ratio: None, ..RunConfig::default() }
}

fn configure(config: RunConfig, config_version: u64) -> Command {
    Command::Configure { config: Box::new(config), config_version }
}

fn store(name: &str, what: Standing) -> Effect {
    Effect::StoreClient { client: id(name), what }
}

fn show(name: &str) -> Effect {
    Effect::ShowClient(id(name))
}

fn step(name: &str, step: CohortStep) -> Effect {
    Effect::Cohort { client: id(name), step }
}

fn kick(name: &str, ban: bool) -> Command {
    Command::Order(Order::Kick { client: id(name), ban })
}

fn report(name: &str, state: ReportedState, round: Option<u64>) -> Command {
    let progress = Progress { epoch: 1, epochs: 2, batch: 3, batches: 4, loss: 0.5 };
    let report = StatusReport {
        state,
        round,
        progress: (state == ReportedState::Training).then_some(progress),
        error: (state == ReportedState::Error).then(|| "no memory".to_owned()),
    };
    Command::Status { client: id(name), report }
}

fn committed(version: u64) -> Command {
    Command::Committed { version, test_loss: Some(0.5), test_accuracy: Some(0.9) }
}

struct World {
    machine: RoundMachine,
    /// What a restart finds.
    ledger: Ledger,
    now: UnixMs,
    /// All effects so far.
    effects: Vec<Effect>,
}

impl World {
    fn new(config: RunConfig) -> Self {
        Self::from(Restored::fresh(config))
    }

    fn from(restored: Restored) -> Self {
        let ledger = Ledger::new(&restored);
        Self { machine: RoundMachine::new(START_MS, restored), ledger, now: START_MS, effects: Vec::new() }
    }

    /// A world where these have joined and reported ready.
    fn with(config: RunConfig, names: &[&str]) -> Self {
        let mut world = Self::new(config);
        for name in names {
            world.ok(join(name));
            world.ok(report(name, ReportedState::Ready, None));
        }
        world
    }

    /// The same, in round 1, started by hand.
    fn in_round(config: RunConfig, names: &[&str]) -> Self {
        let mut world = Self::with(config, names);
        world.ok(Command::Order(Order::StartRound));
        world
    }

    /// The command is taken. Returns what it brought about.
    fn ok(&mut self, command: Command) -> Vec<Effect> {
        if let Err(reject) = self.machine.handle(self.now, command.clone()) {
            panic!("{command:?} was refused: {reject}");
        }
        self.ledger.command(&self.machine, &command);
        self.drain()
    }

    /// The command is refused and leaves the machine as it was. Returns why.
    fn refused(&mut self, command: Command) -> Reject {
        let before = self.machine.clone();
        let reject = self.machine.handle(self.now, command).unwrap_err();
        assert_eq!(self.machine, before, "a refusal changed the machine: {reject}");
        reject
    }

    /// Time passes, and every timer is served.
    fn pass(&mut self, ms: u64) -> Vec<Effect> {
        let end = self.now + ms;
        let from = self.effects.len();
        while let Some(at) = self.machine.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.machine.handle_timeout(self.now);
            self.drain();
            assert!(self.machine.poll_timeout().is_none_or(|at| at > self.now), "a timer that does not go off");
        }
        self.now = end;
        self.effects[from..].to_vec()
    }

    /// Time passes while these are heard of every 20 s.
    fn pass_with(&mut self, names: &[&str], ms: u64) -> Vec<Effect> {
        let from = self.effects.len();
        let mut left = ms;
        while left > 0 {
            let step = left.min(20_000);
            self.pass(step);
            left -= step;
            for name in names {
                self.ok(seen(name));
            }
        }
        self.effects[from..].to_vec()
    }

    /// The coordinator dies, and is there again after that time.
    fn restart(&mut self, ms: u64) {
        self.now += ms;
        self.machine = RoundMachine::new(self.now, self.ledger.restored());
    }

    /// The same, and it has taken note of the time.
    fn restart_and_tick(&mut self, ms: u64) -> Vec<Effect> {
        self.restart(ms);
        self.machine.handle_timeout(self.now);
        self.drain()
    }

    /// The round whose update the client is told to train, and the version that it starts from.
    fn task(&self, name: &str) -> Option<(u64, u64)> {
        match self.machine.task(self.now, &id(name)) {
            Ok(Task::Train(task)) => Some((task.round, task.version)),
            _ => None,
        }
    }

    /// It asks for something to do, and begins with it.
    fn begin(&mut self, name: &str) -> Option<(u64, u64)> {
        self.ok(ask(name));
        let task = self.task(name)?;
        self.ok(report(name, ReportedState::Training, Some(task.0)));
        Some(task)
    }

    /// What is counted: whose it is, and how stale.
    fn parts(&self) -> Vec<(String, u64)> {
        let base_version = self.machine.version();
        let staleness = |version| base_version - version;
        self.machine.parts().into_iter().map(|part| (part.client.to_string(), staleness(part.version))).collect()
    }

    fn drain(&mut self) -> Vec<Effect> {
        let new: Vec<_> = std::iter::from_fn(|| self.machine.poll_effect()).collect();
        for effect in &new {
            self.ledger.effect(&self.machine, effect);
        }
        self.effects.extend(new.iter().cloned());
        new
    }

    fn state(&self, name: &str) -> ClientState {
        self.machine.client(&id(name)).unwrap().state
    }

    fn cohort(&self) -> Vec<&str> {
        self.machine.open_round().unwrap().cohort.iter().map(ClientId::as_str).collect()
    }

    fn round(&self) -> Option<u64> {
        self.machine.open_round().map(|r| r.number)
    }

    /// The rounds that are over.
    fn ended(&self) -> Vec<&RoundSummary> {
        let mut ended = Vec::new();
        for effect in &self.effects {
            if let Effect::RoundEnded(summary) = effect {
                ended.push(&**summary);
            }
        }
        ended
    }

    /// The last round that is over: how it ended and why.
    fn last(&self) -> (RoundOutcome, &str) {
        let last = self.ended().pop().unwrap();
        (last.outcome, &last.reason)
    }
}

fn cohort_of(size: u32, min_clients: u32) -> RunConfig {
    RunConfig { cohort: CohortSize::Size(size), min_clients, ..RunConfig::default() }
}
