//! One schedule: what happens when, and the judge's books.

use super::Tally;
use super::chance::random_config;
use super::client::{Answer, Client, Request};
use super::database::{Database, Model};
use super::environment::{Simulated, Twin};
use app::api::{ClientId, ClientState, RunConfig, RunSnapshot};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::{Order, Restored, RoundMachine};
use fedlearn::run::{Aggregation, Candidate, Ledger, Run};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

pub(super) const START_MS: u64 = 1_700_000_000_000;
const EVENTS: usize = 220;
/// Simulated time within which the calm end must bring its rounds to completion.
const PATIENCE_MS: u64 = 1_200_000;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// It is a client's turn.
    Turn { client: usize, turn: u64 },
    /// A request arrives.
    Request { client: usize, turn: u64, request: Request },
    /// An answer arrives.
    Answer { client: usize, turn: u64, answer: Answer },
    /// An aggregation that was begun is through.
    Aggregated(Aggregation),
    /// A timer of the coordinator, of the one that was started as the so many-th.
    Timer { life: u64 },
    /// The operator does something.
    Operator,
    /// Something breaks.
    Trouble,
    /// The coordinator starts again.
    Restart,
}

/// The coordinator died in the middle of a step.
pub(super) struct Died;

pub struct Schedule {
    pub(super) rng: ChaCha8Rng,
    pub(super) environment: Simulated,
    pub(super) run: Option<Run<Simulated>>,
    pub(super) clients: Vec<Client>,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) events: BTreeMap<u64, What>,
    pub(super) next_event: u64,
    pub(super) life: u64,
    pub(super) next_id: u64,
    pub(super) is_calm: bool,
    /// `SIM_TRACE=1` tells all that happens.
    pub(super) is_traced: bool,
    /// What was acknowledged: client and round asked in.
    pub(super) acknowledged: BTreeMap<(ClientId, u64), [u8; 32]>,
    /// Who has taken a task and sent no heartbeat since, with the deadline that it was given.
    pub(super) silent: BTreeMap<ClientId, u64>,
    /// Updates that have 1,000 times an honest norm.
    pub(super) outliers: BTreeSet<[u8; 32]>,
    /// Rounds that the operator closed below their quorum.
    pub(super) ordered: BTreeSet<u64>,
    /// Rounds that were open at a crash.
    pub(super) crashed: BTreeSet<u64>,
    pub tally: Tally,
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        let books = |this: &Self| (this.acknowledged.clone(), this.tally, this.next_event);
        books(self) == books(other) && self.environment.lock().database == other.environment.lock().database
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.tally, self.environment.lock().database)
    }
}

impl Schedule {
    /// Everything that comes of that seed.
    pub fn run(seed: u64) -> Self {
        Self::run_beside(seed, |_| None)
    }

    /// The same, with another ledger beside the simulated one, which begins with that configuration.
    pub fn run_beside(seed: u64, twin: impl FnOnce(&RunConfig) -> Option<Box<dyn Twin>>) -> Self {
        let mut this = Self::new(seed, twin);
        for _ in 0..EVENTS {
            this.step();
        }
        this.calm();
        this.settle_accounts();
        this
    }

    fn new(seed: u64, twin: impl FnOnce(&RunConfig) -> Option<Box<dyn Twin>>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = random_config(&mut rng);
        let database = Database::new(config.clone());
        let twin = twin(&config);
        let machine = RoundMachine::new(START_MS, Restored::fresh(config));
        let environment = Simulated::new(seed, START_MS, database.clone(), snapshot(&machine, &database));
        environment.lock().twin = twin;
        let count = rng.random_range(2..=6);
        let clients = (0..count)
            .map(|n| Client::new(format!("client-{n}"), rng.random_bool(0.2), rng.random_bool(0.4)))
            .collect();
        let run = Some(Run::new(environment.clone(), machine, None));
        let mut this = Self {
            rng,
            environment,
            run,
            clients,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            life: 0,
            next_id: 0,
            is_calm: false,
            is_traced: std::env::var_os("SIM_TRACE").is_some(),
            acknowledged: BTreeMap::new(),
            silent: BTreeMap::new(),
            outliers: BTreeSet::new(),
            ordered: BTreeSet::new(),
            crashed: BTreeSet::new(),
            tally: Tally::default(),
        };
        for client in 0..count {
            let delay = this.rng.random_range(0..3_000);
            this.after(delay, What::Turn { client, turn: 0 });
        }
        this.after(2_000, What::Operator);
        this.after(20_000, What::Trouble);
        this
    }

    pub(super) fn now(&self) -> u64 {
        self.environment.lock().now_ms
    }

    pub(super) fn after(&mut self, delay_ms: u64, what: What) {
        let at = self.now() + delay_ms;
        self.queue.push(Reverse((at, self.next_event)));
        self.events.insert(self.next_event, what);
        self.next_event += 1;
    }

    fn step(&mut self) {
        let Some(Reverse((at, number))) = self.queue.pop() else { return };
        let what = self.events.remove(&number).unwrap();
        {
            let mut shared = self.environment.lock();
            shared.now_ms = shared.now_ms.max(at);
        }
        if self.is_traced {
            eprintln!("{} {what:?}", self.now() - START_MS);
        }
        match what {
            What::Turn { client, turn } if turn == self.clients[client].turn => self.turn(client),
            What::Turn { .. } => {}
            What::Request { client, turn, request } => {
                let answer = self.serve(request).unwrap_or(None);
                if let Some(answer) = answer
                    && !self.is_lost()
                {
                    let delay = self.delay();
                    self.after(delay, What::Answer { client, turn, answer });
                }
            }
            What::Answer { client, turn, answer } if turn == self.clients[client].turn => {
                let delay = self.clients[client].hear(answer, &mut self.rng);
                let turn = self.clients[client].turn;
                self.after(delay, What::Turn { client, turn });
            }
            What::Answer { .. } => {}
            What::Aggregated(work) => self.aggregated(&work),
            What::Timer { life } if life == self.life => _ = self.act(async |run| run.tick().await),
            What::Timer { .. } => {}
            What::Operator => self.operator(),
            What::Trouble => self.trouble(),
            What::Restart => self.restart(),
        }
        self.follow();
    }

    fn is_lost(&mut self) -> bool {
        !self.is_calm && self.rng.random_bool(0.1)
    }

    fn delay(&mut self) -> u64 {
        if !self.is_calm && self.rng.random_bool(0.1) {
            self.rng.random_range(1_000..90_000)
        } else {
            self.rng.random_range(1..300)
        }
    }

    fn turn(&mut self, client: usize) {
        let request = self.clients[client].request(&mut self.rng);
        let turn = self.clients[client].turn;
        let copies = if !self.is_calm && self.rng.random_bool(0.1) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.is_lost() {
                let delay = self.delay();
                self.after(delay, What::Request { client, turn, request: request.clone() });
            }
        }
        // If no answer comes, the same again.
        let patience = self.rng.random_range(5_000..60_000);
        self.after(patience, What::Turn { client, turn });
    }

    /// Has the coordinator do something, to its end or to its death.
    pub(super) fn act<T>(&mut self, act: impl AsyncFnOnce(&mut Run<Simulated>) -> T) -> Result<T, Died> {
        let Some(mut run) = self.run.take() else { return Err(Died) };
        match at_once(act(&mut run)) {
            Some(result) => {
                self.run = Some(run);
                self.judge();
                Ok(result)
            }
            None => {
                if self.is_traced {
                    eprintln!("    the coordinator dies in the middle of it");
                }
                self.tally.torn += 1;
                self.die();
                Err(Died)
            }
        }
    }

    pub(super) fn die(&mut self) {
        self.run = None;
        self.tally.crashes += 1;
        let mut shared = self.environment.lock();
        shared.aggregations.clear();
        shared.crash_at = None;
        shared.is_blocked = false;
        self.crashed.extend(shared.database.open().map(|row| row.round.number));
        // A coordinator that starts again expects silence of those alone that never sent a heartbeat.
        let is_silent = |id: &ClientId| shared.database.clients.get(id).is_some_and(|row| !row.sends_heartbeats);
        self.silent.retain(|id, _| is_silent(id));
        drop(shared);
        self.life += 1;
        self.events.retain(|_, what| !matches!(what, What::Aggregated(_)));
        let events = &self.events;
        self.queue.retain(|Reverse((_, number))| events.contains_key(number));
        let delay = self.rng.random_range(100..90_000);
        self.after(delay, What::Restart);
    }

    fn restart(&mut self) {
        let is_set_back = !self.is_calm && self.rng.random_bool(0.05);
        let set_back_ms = if is_set_back { self.rng.random_range(0..10_000_000) } else { 0 };
        let machine = {
            let restored = at_once(self.environment.load()).unwrap().unwrap();
            let mut shared = self.environment.lock();
            shared.now_ms = shared.now_ms.saturating_sub(set_back_ms).max(START_MS);
            let machine = RoundMachine::new(shared.now_ms, restored);
            shared.shown = snapshot(&machine, &shared.database);
            machine
        };
        let best = self.environment.lock().shown.best;
        self.run = Some(Run::new(self.environment.clone(), machine, best));
        _ = self.act(async |run| run.tick().await);
    }

    /// What follows by itself: timers, and aggregations that were begun.
    fn follow(&mut self) {
        let begun = std::mem::take(&mut self.environment.lock().aggregations);
        for work in begun {
            self.check(&work);
            let delay = self.rng.random_range(10..5_000);
            self.after(delay, What::Aggregated(work));
        }
        let Some(run) = &self.run else { return };
        let timeout = run.machine().poll_timeout();
        if let Some(at) = timeout {
            // The one before it is dropped: there is one timer at a time.
            let is_timer = |what: &What| matches!(what, What::Timer { .. });
            if let Some(old) = self.events.iter().find(|(_, what)| is_timer(what)).map(|(number, _)| *number) {
                self.events.remove(&old);
                self.queue.retain(|Reverse((_, number))| *number != old);
            }
            let (now, life) = (self.now(), self.life);
            self.after(at.saturating_sub(now), What::Timer { life });
        }
    }

    fn aggregated(&mut self, work: &Aggregation) {
        let fails = !self.is_calm && self.rng.random_bool(0.05);
        let made_of = {
            let shared = self.environment.lock();
            let rows = &shared.database.rounds[&work.round].contributions;
            let part = |id: &ClientId| {
                let row = &rows[id];
                (id.clone(), row.asked.round, row.update.as_ref().map_or([0; 32], |update| update.sha256))
            };
            work.parts.iter().map(|part_of| part(&part_of.client)).collect()
        };
        let parameters = Model { made_of };
        let sha256 = Sha256Digest::of(format!("{parameters:?}"));
        self.environment.lock().database.blobs.insert(sha256.0, parameters.clone());
        let candidate = Candidate { parameters, sha256, test_loss: Some(1.0), test_accuracy: Some(0.5) };
        let result = if fails { Err("the mean is not finite".to_owned()) } else { Ok(candidate) };
        let round = work.round;
        _ = self.act(async |run| run.aggregated(round, result).await);
    }

    /// From here on nothing breaks and nobody lies, and all are let in: three rounds must come to completion.
    fn calm(&mut self) {
        self.is_calm = true;
        {
            let mut shared = self.environment.lock();
            (shared.crash_at, shared.failing) = (None, 0);
            let in_quarantine = |state| state == ClientState::Quarantine;
            let clients = shared.database.clients.values();
            self.tally.quarantined = clients.filter(|row| in_quarantine(row.view.state)).count() as u64;
        }
        self.events.retain(|_, what| !matches!(what, What::Operator | What::Trouble));
        let events = &self.events;
        self.queue.retain(|Reverse((_, number))| events.contains_key(number));
        for client in 0..self.clients.len() {
            (self.clients[client].is_liar, self.clients[client].may_fail) = (false, false);
            let turn = self.clients[client].turn;
            self.after(1, What::Turn { client, turn });
        }
        let mut is_started = false;
        let until = self.now() + PATIENCE_MS;
        while self.now() < until {
            self.step();
            if self.run.is_none() {
                continue;
            }
            let kept_out: Vec<_> = {
                let shared = self.environment.lock();
                let is_out =
                    |state| matches!(state, ClientState::Pending | ClientState::Kicked | ClientState::Quarantine);
                shared.shown.clients.iter().filter(|c| is_out(c.state)).map(|c| c.id.clone()).collect()
            };
            for client in kept_out {
                _ = self.order(Order::Admit { client });
            }
            if !is_started {
                is_started = true;
                let calm =
                    json!({"min_clients": 2, "deadline_s": 120, "cohort": {"fraction": 1.0}, "admission": "open"});
                self.configure(calm);
                if self.clients.len() < 3 {
                    // Too few for what the open round may want.
                    self.configure(json!({"below_quorum": "void"}));
                }
                _ = self.order(Order::StartAutorun { rounds: 3 });
                self.follow();
            }
            if is_started && self.environment.lock().shown.autorun.is_none() {
                return;
            }
            self.follow();
        }
        panic!("stalled: {}", self.environment.lock().shown.waiting);
    }
}

/// The result of a future that never waits; `None` if it waits, which means that the coordinator has died.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// As the coordinator makes it when it starts.
fn snapshot(machine: &RoundMachine, database: &Database) -> RunSnapshot {
    let ended: Vec<_> = database.rounds.values().filter_map(|row| row.ended.clone()).collect();
    RunSnapshot {
        seq: 0,
        run: "simulated".parse().unwrap(),
        created_ms: START_MS,
        archived_ms: None,
        model: None,
        parameters: 1,
        dataset: None,
        config: machine.config().clone(),
        config_version: machine.config_version(),
        phase: machine.phase(),
        waiting: machine.waiting(),
        autorun: machine.autorun(),
        version: machine.version(),
        best: None,
        round: machine.open_round().cloned(),
        clients: machine.clients().cloned().collect(),
        rounds: ended,
    }
}
