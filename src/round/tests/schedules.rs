//! Random schedules: thousands of worlds in which anything happens in any order, each from its seed, and the coordinator
//! dies between any two effects. A judge watches every step.
//!
//! `ROUND_SCHEDULES=1000000` runs more of them, `ROUND_SEED=17` begins at that seed, `ROUND_TRACE=1` tells every step.

use super::judge::Judge;
use super::*;
use app::api::{BelowQuorum, Phase};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

const CLIENTS: usize = 6;
const STEPS: usize = 100;

#[derive(Debug, PartialEq)]
struct Schedule {
    machine: RoundMachine,
    ledger: Ledger,
    judge: Judge,
    now: UnixMs,
    effects: Vec<Effect>,
    config_version: u64,
    /// Who has left: whoever joins again does so under a new id.
    left: BTreeSet<ClientId>,
    /// The round that each client was told to train for when it last asked.
    told: BTreeMap<ClientId, u64>,
    /// The coordinator dies when it has carried out so many effects of the next input that is taken.
    dies_after: Option<usize>,
}

impl Schedule {
    fn new(config: RunConfig) -> Self {
        let restored = Restored::fresh(config.clone());
        Self {
            ledger: Ledger::new(&restored),
            machine: RoundMachine::new(START_MS, restored),
            judge: Judge::new(config),
            now: START_MS,
            effects: Vec::new(),
            config_version: 1,
            left: BTreeSet::new(),
            told: BTreeMap::new(),
            dies_after: None,
        }
    }

    fn command(&mut self, command: Command) {
        self.trace(&command);
        let before = self.machine.clone();
        if let Err(reject) = self.machine.handle(self.now, command.clone()) {
            assert_eq!(self.machine, before, "{command:?} was refused ({reject}) and changed the machine");
            return;
        }
        self.judge.command(&before, &command);
        self.ledger.command(&self.machine, &command);
        match &command {
            Command::Leave { client } => _ = self.left.insert(client.clone()),
            Command::Ask { client } | Command::Take { client } => {
                if let Ok(Task::Train(task)) = self.machine.task(self.now, client) {
                    self.told.insert(client.clone(), task.round);
                }
            }
            _ => {}
        }
        self.step(&before, Some(&command));
    }

    /// For whoever replays a schedule.
    fn trace(&self, what: &dyn std::fmt::Debug) {
        if std::env::var_os("ROUND_TRACE").is_some() {
            eprintln!("{} {what:?}: {}", self.now - START_MS, self.machine.waiting());
        }
    }

    fn timeout(&mut self) {
        let before = self.machine.clone();
        self.machine.handle_timeout(self.now);
        self.step(&before, None);
    }

    fn step(&mut self, before: &RoundMachine, command: Option<&Command>) {
        let effects: Vec<_> = std::iter::from_fn(|| self.machine.poll_effect()).collect();
        self.judge.step(self.now, before, &self.machine, command, &effects);
        let dies_after = self.dies_after.take();
        for effect in effects.iter().take(dies_after.unwrap_or(usize::MAX)) {
            self.ledger.effect(&self.machine, effect);
        }
        self.trace(&effects);
        self.effects.extend(effects);
        if dies_after.is_some() {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.trace(&"restart");
        self.machine = RoundMachine::new(self.now, self.ledger.restored());
        // What is stored of those who are out by now is taken out, what was closed is combined, and nobody waits for
        // an admission that is open.
        while let Some(effect) = self.machine.poll_effect() {
            let is_drop = matches!(effect, Effect::Cohort { step: CohortStep::Dropped, .. });
            let is_admitted = matches!(effect, Effect::StoreClient { what: Standing::Admitted, .. });
            assert!(is_drop || is_admitted || matches!(effect, Effect::Aggregate { .. }), "{effect:?}");
            self.ledger.effect(&self.machine, &effect);
        }
        self.judge.restarted(self.now, &self.machine, &self.ledger);
        self.timeout();
    }

    fn configure(&mut self, config: RunConfig) {
        assert_eq!(config.problems(), Vec::<String>::new());
        self.config_version += 1;
        self.command(configure(config, self.config_version));
    }

    /// From here on three clients live and answer, the others are silent: three rounds must come to completion.
    fn calm(&mut self, config: RunConfig) {
        self.dies_after = None;
        self.configure(config);
        self.command(Command::Order(Order::StartAutorun { rounds: 3 }));
        let alive = ["x", "y", "z"];
        let first_version = self.judge.version;
        let mut at_work: BTreeMap<&str, u64> = BTreeMap::new();
        for times in 0..100 {
            for name in alive {
                self.command(join(name));
                // What was begun at one time is sent at the next; by one of them later, so that it may be stale.
                if name == "z" && times % 3 != 0 {
                    continue;
                }
                if let Some(round) = at_work.remove(name) {
                    self.command(update(name, round));
                }
                self.command(ask(name));
                if let Ok(Task::Train(task)) = self.machine.task(self.now, &id(name)) {
                    at_work.insert(name, task.round);
                }
            }
            if self.machine.phase() == Phase::Aggregating {
                self.command(committed(self.judge.version + 1));
            }
            if self.machine.autorun().is_none() {
                assert_eq!((self.judge.version, self.machine.phase()), (first_version + 3, Phase::Idle));
                return;
            }
            self.now += 20_000;
            self.timeout();
        }
        panic!("stalled: {}", self.machine.waiting());
    }
}

fn random_config(rng: &mut ChaCha8Rng) -> RunConfig {
    let min_clients = [1, 1, 1, 2, 2, 3, 4][rng.random_range(0..7)];
    RunConfig {
        min_clients,
        cohort: match rng.random_range(0..3) {
            0 => CohortSize::Fraction(rng.random_range(0.1..=1.0)),
            1 => CohortSize::Fraction(1.0),
            _ => CohortSize::Size(rng.random_range(min_clients..=6)),
        },
        admission: if rng.random_bool(0.8) { Admission::Open } else { Admission::Approval },
        over_selection: if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..=1.0) },
        deadline_s: if rng.random_bool(0.3) { rng.random_range(1..=100) } else { 600 },
        below_quorum: if rng.random_bool(0.5) { BelowQuorum::Void } else { BelowQuorum::Extend },
        mode: if rng.random_bool(0.4) { Mode::Sync } else { Mode::Async },
        buffer_size: rng.random_range(1..=5),
        max_staleness: rng.random_range(0..=3),
        max_strikes: rng.random_range(1..=3),
        max_norm_ratio: None, // has tests of its own, and a judge in the simulator
        ..RunConfig::default()
    }
}

fn calm_config(rng: &mut ChaCha8Rng) -> RunConfig {
    let config = random_config(rng);
    let (min_clients, admission) = (config.min_clients.min(3), Admission::Open);
    RunConfig { min_clients, admission, deadline_s: 150, below_quorum: BelowQuorum::Void, ..config }
}

fn random_update(rng: &mut ChaCha8Rng) -> Received {
    let loss = [None, Some(1.0), Some(f64::INFINITY)][rng.random_range(0..3)];
    Received { norm: rng.random_range(0.0..2.0), ..received(rng.random_range(1..=100), loss, 1_000) }
}

fn random_command(rng: &mut ChaCha8Rng, schedule: &Schedule) -> Command {
    let machine = &schedule.machine;
    if machine.phase() == Phase::Aggregating && rng.random_bool(0.2) {
        return match rng.random_range(0..6) {
            0 => Command::AggregationFailed { reason: "chance".to_owned() },
            _ => committed(schedule.judge.version + 1),
        };
    }
    let mut name = rng.random_range(0..CLIENTS).to_string();
    while schedule.left.contains(&id(&name)) {
        if rng.random_bool(0.05) {
            return ask(&name);
        }
        name += "x";
    }
    let (name, client) = (name.as_str(), id(&name));
    let Some(state) = machine.client(&client).map(|client| client.state) else { return join(name) };
    if matches!(state, ClientState::Kicked | ClientState::Quarantine | ClientState::Pending) && rng.random_bool(0.3) {
        return admit(name);
    }
    // Mostly the round that it was told, else that in work, at times the one before or after.
    let last = schedule.judge.last_number;
    let round = match schedule.told.get(&client) {
        Some(told) if rng.random_bool(0.8) => *told,
        _ => (last + [0, 1, 1, 1, 1, 2][rng.random_range(0..6)]).saturating_sub(1),
    };
    // Who is at work seldom asks.
    let is_at_work = schedule.told.get(&client).is_some_and(|told| !machine.is_cancelled(&client, *told));
    match rng.random_range(0..100) {
        0..35 if !is_at_work || rng.random_bool(0.1) => ask(name),
        0..20 => seen(name),
        20..28 => Command::Take { client },
        28..35 => Command::Heartbeat { client },
        35..70 => Command::Update { client, round, update: random_update(rng) },
        70..74 => seen(name),
        74..82 => {
            let state = ReportedState::ALL[rng.random_range(0..ReportedState::ALL.len())];
            report(name, state, rng.random_bool(0.8).then_some(round))
        }
        82..84 => kick(name, rng.random_bool(0.2)),
        84..85 => Command::Leave { client },
        85..87 => rejected(
            name,
            round,
            "chance",
            rng.random_bool(0.7).then_some(["a", "b", "c", "d"][rng.random_range(0..4)]),
        ),
        87..88 => Command::Late { client },
        88..89 => join(name),
        89..90 => admit(name),
        90..93 => Command::Order(Order::StartAutorun { rounds: rng.random_range(0..9) }),
        93..94 => Command::Order(Order::StopAutorun),
        94..96 => Command::Order(Order::StartRound),
        96..97 => match rng.random_bool(0.7) {
            true => Command::Order(Order::Aggregate),
            false => Command::Order(Order::Cancel),
        },
        97..99 => committed(schedule.judge.version + 1),
        _ => Command::AggregationFailed { reason: "chance".to_owned() },
    }
}

fn run(seed: u64) -> Schedule {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut schedule = Schedule::new(random_config(&mut rng));
    for client in 0..rng.random_range(0..=CLIENTS) {
        schedule.command(join(&client.to_string()));
    }
    if rng.random_bool(0.8) {
        schedule.command(Command::Order(Order::StartAutorun { rounds: 20 }));
    }
    for _ in 0..STEPS {
        match rng.random_range(0..100) {
            0..3 => schedule.now += rng.random_range(0..90_000),
            3..15 => schedule.now += rng.random_range(0..5_000),
            15..20 => schedule.timeout(),
            20..23 => {
                schedule.now = schedule.machine.poll_timeout().map_or(schedule.now, |at| at.max(schedule.now));
                schedule.timeout();
            }
            23..25 => schedule.restart(),
            25..28 => schedule.dies_after = Some(rng.random_range(0..4)),
            28..30 => schedule.configure(random_config(&mut rng)),
            _ => {
                let command = random_command(&mut rng, &schedule);
                schedule.command(command);
            }
        }
    }
    schedule.calm(calm_config(&mut rng));
    schedule
}

/// Tells the seed of a schedule that fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with ROUND_SEED={} ROUND_SCHEDULES=1", self.0);
        }
    }
}

#[test]
fn in_every_schedule_the_rules_hold_and_rounds_go_on() {
    let from_env = |name, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap());
    let (first, count) = (from_env("ROUND_SEED", 0), from_env("ROUND_SCHEDULES", 10_000));
    for seed in first..first + count {
        let _tell = TellSeed(seed);
        let schedule = run(seed);
        if seed % 10 == 0 {
            assert_eq!(schedule, run(seed), "the same inputs gave other effects");
        }
    }
}
