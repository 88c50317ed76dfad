//! One schedule: what happens when, and the judge's books.

use super::Tally;
use super::client::{Answer, Client, Request, Sent};
use super::database::{Database, Model};
use super::world::Simulated;
use app::api::{
    Admission, BelowQuorum, ClientId, ClientState, CohortSize, Mode, Phase, RoundOutcome, RunConfig, RunSnapshot, Task,
};
use fedlearn::conductor::{Aggregation, Conductor, Made, Receipt, Refusal, Update};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::{Command, Reject, Restored, RoundMachine};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

const START_MS: u64 = 1_700_000_000_000;
const EVENTS: usize = 220;
/// Simulated time within which the calm end must bring its rounds to completion.
const PATIENCE_MS: u64 = 3_600_000;

#[derive(Debug, Clone, PartialEq)]
enum What {
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
struct Died;

pub struct Schedule {
    rng: ChaCha8Rng,
    world: Simulated,
    conductor: Option<Conductor<Simulated>>,
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, What>,
    next_event: u64,
    life: u64,
    next_id: u64,
    is_calm: bool,
    /// `SIM_TRACE=1` tells all that happens.
    is_traced: bool,
    /// What was acknowledged: client and round asked in.
    acknowledged: BTreeMap<(ClientId, u64), [u8; 32]>,
    /// What the operator took out again by removing the client.
    dropped: BTreeSet<(ClientId, u64)>,
    /// What may have been: the client was removed while it was being combined, which a crash may have undone.
    perhaps_dropped: BTreeSet<(ClientId, u64)>,
    /// Rounds that the operator closed below their quorum.
    ordered: BTreeSet<u64>,
    /// Rounds that were open at a crash.
    crashed: BTreeSet<u64>,
    pub tally: Tally,
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        let books = |this: &Self| (this.acknowledged.clone(), this.dropped.clone(), this.tally, this.next_event);
        books(self) == books(other) && self.world.lock().database == other.world.lock().database
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.tally, self.world.lock().database)
    }
}

impl Schedule {
    /// Everything that comes of that seed.
    pub fn run(seed: u64) -> Self {
        let mut this = Self::new(seed);
        for _ in 0..EVENTS {
            this.step();
        }
        this.calm();
        this.settle_accounts();
        this
    }

    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let config = random_config(&mut rng);
        let database = Database::new(config.clone());
        let machine = RoundMachine::new(Restored::fresh(config, 7));
        let world = Simulated::new(seed, START_MS, database.clone(), snapshot(&machine, &database));
        let count = rng.random_range(2..=6);
        let clients = (0..count).map(|n| Client::new(format!("client-{n}"), rng.random_bool(0.2))).collect();
        let conductor = Some(Conductor::new(world.clone(), machine, None));
        let mut this = Self {
            rng,
            world,
            conductor,
            clients,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            life: 0,
            next_id: 0,
            is_calm: false,
            is_traced: std::env::var_os("SIM_TRACE").is_some(),
            acknowledged: BTreeMap::new(),
            dropped: BTreeSet::new(),
            perhaps_dropped: BTreeSet::new(),
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

    fn now(&self) -> u64 {
        self.world.lock().now_ms
    }

    fn after(&mut self, delay_ms: u64, what: What) {
        let at = self.now() + delay_ms;
        self.queue.push(Reverse((at, self.next_event)));
        self.events.insert(self.next_event, what);
        self.next_event += 1;
    }

    fn step(&mut self) {
        let Some(Reverse((at, number))) = self.queue.pop() else { return };
        let what = self.events.remove(&number).unwrap();
        {
            let mut shared = self.world.lock();
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
            What::Timer { life } if life == self.life => _ = self.act(async |conductor| conductor.tick().await),
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
    fn act<T>(&mut self, act: impl AsyncFnOnce(&mut Conductor<Simulated>) -> T) -> Result<T, Died> {
        let Some(mut conductor) = self.conductor.take() else { return Err(Died) };
        let result = {
            let step = pin!(act(&mut conductor));
            step.poll(&mut Context::from_waker(Waker::noop()))
        };
        match result {
            Poll::Ready(result) => {
                self.conductor = Some(conductor);
                self.judge();
                Ok(result)
            }
            Poll::Pending => {
                if self.is_traced {
                    eprintln!("    the coordinator dies in the middle of it");
                }
                self.tally.torn += 1;
                self.die();
                Err(Died)
            }
        }
    }

    fn die(&mut self) {
        self.conductor = None;
        self.tally.crashes += 1;
        let mut shared = self.world.lock();
        shared.aggregations.clear();
        shared.crash_at = None;
        shared.is_stuck = false;
        self.crashed.extend(shared.database.open().map(|row| row.round.number));
        drop(shared);
        self.life += 1;
        self.events.retain(|_, what| !matches!(what, What::Aggregated(_)));
        let events = &self.events;
        self.queue.retain(|Reverse((_, number))| events.contains_key(number));
        let delay = self.rng.random_range(100..90_000);
        self.after(delay, What::Restart);
    }

    fn restart(&mut self) {
        let machine = {
            let mut shared = self.world.lock();
            let machine = RoundMachine::new(shared.database.restored(shared.now_ms));
            shared.shown = snapshot(&machine, &shared.database);
            machine
        };
        let best = self.world.lock().shown.best;
        self.conductor = Some(Conductor::new(self.world.clone(), machine, best));
        _ = self.act(async |conductor| conductor.tick().await);
    }

    /// What follows by itself: timers, and aggregations that were begun.
    fn follow(&mut self) {
        let begun = std::mem::take(&mut self.world.lock().aggregations);
        for work in begun {
            self.check(&work);
            let delay = self.rng.random_range(10..5_000);
            self.after(delay, What::Aggregated(work));
        }
        let Some(conductor) = &self.conductor else { return };
        let timeout = conductor.machine().poll_timeout();
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

    /// Against the rules that an aggregation must obey.
    fn check(&mut self, work: &Aggregation) {
        let shared = self.world.lock();
        let row = &shared.database.rounds[&work.round];
        let config = &shared.database.configs[&row.round.config_version];
        let is_ordered = self.ordered.contains(&work.round);
        assert!(!work.parts.is_empty());
        assert!(is_ordered || work.parts.len() >= config.min_clients as usize, "round {} below quorum", work.round);
        for part in &work.parts {
            if let Some(client) = shared.database.clients.get(&part.client) {
                let state = client.view.state;
                let is_out = matches!(state, ClientState::Kicked | ClientState::Pending | ClientState::Quarantine);
                assert!(!is_out, "an update of {}, which is {state}", part.client);
            }
            assert!(part.staleness <= u64::from(config.max_staleness));
            self.tally.stale += u64::from(part.staleness > 0);
        }
    }

    fn aggregated(&mut self, work: &Aggregation) {
        let fails = !self.is_calm && self.rng.random_bool(0.05);
        let made_of = {
            let shared = self.world.lock();
            let rows = &shared.database.rounds[&work.round].contributions;
            let part = |id: &ClientId| {
                let row = &rows[id];
                (id.clone(), row.asked.round, row.update.as_ref().map_or([0; 32], |update| update.sha256))
            };
            work.parts.iter().map(|part_of| part(&part_of.client)).collect()
        };
        let made = Made { model: Model { made_of }, test_loss: Some(1.0), test_accuracy: Some(0.5) };
        let result = if fails { Err("the mean is not finite".to_owned()) } else { Ok(made) };
        let round = work.round;
        _ = self.act(async |conductor| conductor.aggregated(round, result).await);
    }

    fn serve(&mut self, request: Request) -> Result<Option<Answer>, Died> {
        type Refused = Refusal<super::world::DiskFull>;
        let refused = |refusal: Refused| match refusal {
            Refusal::Reject(Reject::UnknownClient(_)) => Answer::Unknown,
            Refusal::Store(_) | Refusal::Reject(Reject::Aggregating { .. } | Reject::TooEarly { .. }) => {
                Answer::Unavailable
            }
            _ => Answer::Refused,
        };
        let answer = match request {
            Request::Register(request) => {
                self.next_id += 1;
                let id: ClientId = format!("c{}", self.next_id).parse().unwrap();
                let new = id.clone();
                let result = self.act(async move |c| c.register(new, Sha256Digest([0; 32]), request).await)?;
                result.map_or_else(refused, |_| Answer::Registered(id))
            }
            Request::Task { id, at_work_for } => {
                let asked = id.clone();
                let result = self.act(async move |c| c.task(&asked, at_work_for).await)?;
                if let Ok((Task::Train(task), _)) = &result {
                    self.may_be_asked(&id, task.round);
                }
                match (result, at_work_for) {
                    (Ok((_, is_cancelled)), Some(_)) => Answer::Cancel(is_cancelled),
                    (Ok((task, _)), None) => Answer::Task(task),
                    (Err(refusal), _) => refused(refusal),
                }
            }
            Request::Status { id, report } => {
                let result = self.act(async move |c| c.status(&id, report).await)?;
                result.map_or_else(refused, |reply| Answer::Cancel(reply.cancel))
            }
            Request::Update { id, sent } => return self.receive(id, sent),
            Request::Leave { id } => {
                let result = self.act(async move |c| c.command(Command::Leave { client: id }).await)?;
                result.map_or_else(refused, |()| Answer::Unknown)
            }
        };
        Ok(Some(answer))
    }

    /// Nobody is asked for what is in.
    fn may_be_asked(&self, id: &ClientId, round: u64) {
        assert_eq!(self.world.lock().database.contribution(id, round), None, "{id} trains twice for round {round}");
    }

    fn receive(&mut self, id: ClientId, sent: Sent) -> Result<Option<Answer>, Died> {
        let (samples, norm) = (sent.samples(), sent.norm());
        let (round, sha256) = (sent.round, Sha256Digest(sent.sha256));
        let update = Update { client: id.clone(), round, samples, loss: Some(0.5), norm, bytes: 100, sha256, body: () };
        let result = self.act(async move |c| c.update(update).await)?;
        Ok(Some(match result {
            Ok(receipt) => {
                // Durable before it is answered: whatever happens now, it is in.
                let stored = self.world.lock().database.contribution(&id, round);
                assert_eq!(stored, Some(sha256), "an acknowledged update of {id} is not stored");
                assert!(norm.is_finite() && norm < 1e6 && samples <= super::client::SAMPLES, "a bad one is taken");
                let known = self.acknowledged.insert((id.clone(), round), sent.sha256);
                let (id, round) = &(id, round);
                let key = (id.clone(), *round);
                let is_anew =
                    self.dropped.remove(&key) || self.perhaps_dropped.contains(&key) && known != Some(sent.sha256);
                let is_first = known.is_none() || is_anew;
                assert!(is_first || known == Some(sent.sha256), "two updates for one round");
                match receipt {
                    Receipt::Counted => self.tally.acknowledged += 1,
                    Receipt::Again => self.tally.again += 1,
                }
                Answer::Taken
            }
            Err(Refusal::Fault(_)) => {
                self.tally.faults += 1;
                Answer::Refused
            }
            Err(Refusal::Reject(Reject::RoundClosed { .. })) => {
                self.tally.late += 1;
                Answer::Refused
            }
            Err(Refusal::Store(_) | Refusal::Reject(Reject::Aggregating { .. })) => Answer::Unavailable,
            Err(Refusal::Reject(Reject::UnknownClient(_))) => Answer::Unknown,
            Err(_) => Answer::Refused,
        }))
    }

    fn operator(&mut self) {
        let delay = self.rng.random_range(1_000..40_000);
        self.after(delay, What::Operator);
        let ids: Vec<_> = self.world.lock().shown.clients.iter().map(|client| client.id.clone()).collect();
        let somebody = ids.choose(&mut self.rng).cloned();
        match (self.rng.random_range(0..100), somebody) {
            (0..10, Some(client)) => self.kick(client),
            (10..40, Some(client)) => _ = self.order(Command::Admit { client }),
            (40..45, _) => {
                let round = self.world.lock().shown.round.as_ref().map(|round| round.number);
                // Noted first: what it sets going is judged before it returns.
                let is_new = round.is_some_and(|round| self.ordered.insert(round));
                let is_done = matches!(self.order(Command::AggregateNow), Ok(true));
                if !is_done && is_new {
                    self.ordered.remove(&round.unwrap_or_default());
                }
            }
            (45..50, _) => _ = self.order(Command::StartRound),
            (50..53, _) => _ = self.order(Command::StopAutorun),
            (53..65, _) => {
                let config = random_config(&mut self.rng);
                let patch = serde_json::to_value(config).unwrap();
                self.configure(patch);
            }
            _ => {
                let rounds = self.rng.random_range(1..6);
                _ = self.order(Command::StartAutorun { rounds });
            }
        }
    }

    fn order(&mut self, command: Command) -> Result<bool, Died> {
        if self.is_traced {
            eprintln!("    the operator: {command:?}");
        }
        self.act(async move |c| c.command(command).await.is_ok())
    }

    fn configure(&mut self, patch: serde_json::Value) {
        _ = self.act(async move |c| {
            let expected = c.machine().config_version();
            c.configure(expected, &patch).await.map(|_| ())
        });
    }

    /// Its update in a round that still takes updates is out with it.
    fn kick(&mut self, client: ClientId) {
        let in_round = {
            let shared = self.world.lock();
            let row = shared.database.open().and_then(|row| row.contributions.get(&client));
            row.filter(|row| row.update.is_some()).map(|row| row.asked.round)
        };
        let key = in_round.map(|round| (client.clone(), round));
        let is_combined = self.world.lock().shown.phase == Phase::Aggregating;
        // Noted first: what it sets going is judged before it returns.
        let is_noted = match &key {
            Some(key) if is_combined => {
                self.perhaps_dropped.insert(key.clone());
                false
            }
            Some(key) => self.dropped.insert(key.clone()),
            None => false,
        };
        let ban = self.rng.random_bool(0.2);
        _ = self.order(Command::Kick { client: client.clone(), ban });
        // It died before it came to that: then it counts as it did.
        if let Some(key) =
            key.filter(|(client, round)| is_noted && self.world.lock().database.contribution(client, *round).is_some())
        {
            self.dropped.remove(&key);
        }
    }

    fn trouble(&mut self) {
        let delay = self.rng.random_range(5_000..60_000);
        self.after(delay, What::Trouble);
        match self.rng.random_range(0..10) {
            0 if self.conductor.is_some() => self.die(),
            1..4 => {
                let crash_at = (self.rng.random_range(0..12), self.rng.random());
                self.world.lock().crash_at = Some(crash_at);
            }
            4 => self.world.lock().failing = 50,
            5..7 => self.world.lock().failing = 0,
            _ => {
                let client = self.rng.random_range(0..self.clients.len());
                self.clients[client].crash(&mut self.rng);
                let (turn, delay) = (self.clients[client].turn, self.rng.random_range(0..120_000));
                self.after(delay, What::Turn { client, turn });
            }
        }
    }

    /// After every step: what is shown is what is stored.
    fn judge(&mut self) {
        let shared = self.world.lock();
        let (shown, database) = (&shared.shown, &shared.database);
        assert_eq!(shown.version, database.version());
        assert_eq!(shown.config_version, *database.configs.last_key_value().unwrap().0);
        assert_eq!(shown.autorun.map_or(0, |autorun| autorun.rounds), database.autorun);
        assert_eq!(shown.clients.len(), database.clients.len());
        assert!(!shared.is_stuck, "stuck without being so");
        for client in &shown.clients {
            let stored = &database.clients[&client.id].view;
            let standing = |state| match state {
                ClientState::Pending | ClientState::Kicked | ClientState::Quarantine => Some(state),
                _ => None,
            };
            assert_eq!(standing(client.state), standing(stored.state), "{} is stored as another", client.id);
            assert_eq!((client.strikes, client.rounds), (stored.strikes, stored.rounds));
        }
        let ended = database.rounds.values().filter_map(|row| row.ended.as_ref());
        assert!(ended.eq(shown.rounds.iter()));
        let open = database.open();
        assert_eq!(shown.round.as_ref().map(|round| round.number), open.map(|row| row.round.number));
        if let (Some(round), Some(row)) = (&shown.round, open) {
            assert!(row.contributions.keys().eq(&round.cohort));
            let updated = row.contributions.iter().filter(|(_, row)| row.update.is_some()).map(|(id, _)| id);
            assert!(updated.eq(&round.updated), "round {} shows other updates than are stored", round.number);
        }
        assert!(!shown.waiting.is_empty());
    }

    /// From here on nothing breaks and nobody lies, and all are let in: three rounds must come to completion.
    fn calm(&mut self) {
        self.is_calm = true;
        {
            let mut shared = self.world.lock();
            (shared.crash_at, shared.failing) = (None, 0);
            let in_quarantine = |state| state == ClientState::Quarantine;
            let clients = shared.database.clients.values();
            self.tally.quarantined = clients.filter(|row| in_quarantine(row.view.state)).count() as u64;
        }
        self.events.retain(|_, what| !matches!(what, What::Operator | What::Trouble));
        let events = &self.events;
        self.queue.retain(|Reverse((_, number))| events.contains_key(number));
        for client in 0..self.clients.len() {
            self.clients[client].is_liar = false;
            let turn = self.clients[client].turn;
            self.after(1, What::Turn { client, turn });
        }
        let mut is_started = false;
        let until = self.now() + PATIENCE_MS;
        while self.now() < until {
            self.step();
            if self.conductor.is_none() {
                continue;
            }
            let kept_out: Vec<_> = {
                let shared = self.world.lock();
                let is_out =
                    |state| matches!(state, ClientState::Pending | ClientState::Kicked | ClientState::Quarantine);
                shared.shown.clients.iter().filter(|c| is_out(c.state)).map(|c| c.id.clone()).collect()
            };
            for client in kept_out {
                _ = self.order(Command::Admit { client });
            }
            if !is_started {
                is_started = true;
                let calm =
                    json!({"min_clients": 1, "deadline_s": 120, "cohort": {"fraction": 1.0}, "admission": "open"});
                self.configure(calm);
                if self.clients.len() < 3 {
                    // Too few for what the open round may want.
                    self.configure(json!({"below_quorum": "void"}));
                }
                _ = self.order(Command::StartAutorun { rounds: 3 });
                self.follow();
            }
            if is_started && self.world.lock().shown.autorun.is_none() {
                return;
            }
            self.follow();
        }
        panic!("stalled: {}", self.world.lock().shown.waiting);
    }

    /// Every acknowledged update is aggregated exactly once, or its round is on record as void, or the operator took it out.
    fn settle_accounts(&mut self) {
        let shared = self.world.lock();
        let database = &shared.database;
        let mut counts = BTreeMap::new();
        for model in database.versions.values() {
            for part in &model.made_of {
                *counts.entry(part.clone()).or_insert(0) += 1;
            }
        }
        assert!(counts.values().all(|n| *n == 1), "an update is in two versions");
        for ((client, round), sha256) in &self.acknowledged {
            let counted = counts.contains_key(&(client.clone(), *round, *sha256));
            let row = database.rounds.values().find(|row| {
                row.contributions.get(client).is_some_and(|c| {
                    c.asked.round == *round && c.update.as_ref().is_some_and(|update| update.sha256 == *sha256)
                })
            });
            let is_void =
                row.is_some_and(|row| row.ended.as_ref().is_none_or(|ended| ended.outcome == RoundOutcome::Void));
            let is_dropped = self.dropped.contains(&(client.clone(), *round));
            let is_perhaps_dropped = self.perhaps_dropped.contains(&(client.clone(), *round));
            let is_right = is_perhaps_dropped || counted != (is_void || is_dropped);
            assert!(is_right, "the update of {client} for round {round} is lost or forged");
        }
        let mut last = 0;
        for row in database.rounds.values() {
            assert!(row.round.number > last);
            last = row.round.number;
            match row.ended.as_ref().map(|ended| ended.outcome) {
                Some(RoundOutcome::Complete) => {
                    self.tally.complete += 1;
                    self.tally.survived += u64::from(self.crashed.contains(&row.round.number));
                }
                Some(RoundOutcome::Void) => self.tally.void += 1,
                None => {}
            }
        }
    }
}

fn random_config(rng: &mut ChaCha8Rng) -> RunConfig {
    let min_clients = rng.random_range(1..=3);
    let cohort = match rng.random_range(0..3) {
        0 => CohortSize::Fraction(rng.random_range(0.3..=1.0)),
        1 => CohortSize::Fraction(1.0),
        _ => CohortSize::Size(rng.random_range(min_clients..=5)),
    };
    RunConfig {
        admission: if rng.random_bool(0.9) { Admission::Open } else { Admission::Approval },
        cohort,
        min_clients,
        over_selection: if rng.random_bool(0.3) { rng.random_range(0.0..2.0) } else { 0.0 },
        deadline_s: rng.random_range(10..=200),
        below_quorum: if rng.random() { BelowQuorum::Void } else { BelowQuorum::Extend },
        mode: if rng.random() { Mode::Sync } else { Mode::Async },
        buffer_size: rng.random_range(1..=4),
        max_staleness: rng.random_range(0..=RunConfig::MOST_STALE),
        max_norm_ratio: rng.random_bool(0.5).then_some(20.0),
        max_strikes: rng.random_range(1..=3),
        ..RunConfig::default()
    }
}

/// As the coordinator makes it when it starts.
fn snapshot(machine: &RoundMachine, database: &Database) -> RunSnapshot {
    let ended: Vec<_> = database.rounds.values().filter_map(|row| row.ended.clone()).collect();
    RunSnapshot {
        seq: 0,
        run: "simulated".parse().unwrap(),
        created_ms: START_MS,
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
