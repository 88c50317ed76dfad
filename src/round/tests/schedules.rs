//! Random schedules: thousands of worlds in which anything happens in any order, each from its seed. A judge that knows
//! the rules but not the machine watches every step.
//!
//! `ROUND_SCHEDULES=1000000` runs more of them, `ROUND_SEED=17` begins at that seed.

use super::super::roster::is_eligible;
use super::*;
use app::api::{ClientView, Phase, Task};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const CLIENTS: usize = 6;
const STEPS: usize = 60;

/// What the judge knows of the round in work, from what it saw.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    number: u64,
    min_clients: u32,
    updates: BTreeSet<ClientId>,
    is_aggregating: bool,
}

#[derive(Debug, PartialEq)]
struct Schedule {
    machine: RoundMachine,
    now: UnixMs,
    effects: Vec<Effect>,
    round: Option<Seen>,
    last_number: u64,
    version: u64,
    /// Who has left: whoever joins again does so under a new id.
    left: BTreeSet<ClientId>,
}

impl Schedule {
    fn new(config: RunConfig) -> Self {
        let machine = RoundMachine::new(Restored::fresh(config, 7));
        let (effects, left) = (Vec::new(), BTreeSet::new());
        Self { machine, now: START_MS, effects, round: None, last_number: 0, version: 0, left }
    }

    fn command(&mut self, command: Command) {
        let before = self.machine.clone();
        match self.machine.handle(self.now, command.clone()) {
            Ok(()) => {
                self.judge_command(&before, &command);
                self.judge_step(&before, Some(&command));
            }
            Err(reject) => {
                assert_eq!(self.machine, before, "{command:?} was refused ({reject}) and changed the machine")
            }
        }
    }

    fn timeout(&mut self) {
        let before = self.machine.clone();
        self.machine.handle_timeout(self.now);
        self.judge_step(&before, None);
        let next = self.machine.poll_timeout();
        assert!(next.is_none_or(|at| at > self.now), "a timer that does not go off");
    }

    fn judge_command(&mut self, before: &RoundMachine, command: &Command) {
        match command {
            Command::Update { client, round, .. } => {
                let state = before.client(client).unwrap().state;
                assert!(!matches!(state, ClientState::Kicked | ClientState::Pending), "an update of a {state} client");
                let open = self.round.as_mut().unwrap();
                assert!(open.number == *round && !open.is_aggregating, "an update of another round");
                assert!(open.updates.insert(client.clone()), "a second update of {client} in round {round}");
            }
            Command::Committed { version, .. } => self.version = *version,
            Command::Leave { client } => _ = self.left.insert(client.clone()),
            _ => {}
        }
    }

    /// `command` is none for a timeout.
    fn judge_step(&mut self, before: &RoundMachine, command: Option<&Command>) {
        let effects: Vec<_> = std::iter::from_fn(|| self.machine.poll_effect()).collect();
        for effect in &effects {
            self.judge_effect(effect, command);
        }
        let is_shown = |effect: &Effect| matches!(effect, Effect::ShowClient(_) | Effect::Course);
        assert!(effects.is_sorted_by_key(is_shown), "something to store comes after something to show: {effects:?}");
        let courses = effects.iter().filter(|e| **e == Effect::Course).count();
        assert!(courses == 0 || courses == 1 && effects.last() == Some(&Effect::Course), "{effects:?}");

        let course = |m: &RoundMachine| (m.phase(), m.waiting(), m.autorun(), m.open_round().cloned());
        assert_eq!(courses == 1, course(before) != course(&self.machine), "the course is announced when it changes");
        for view in self.machine.clients().filter(|c| before.client(&c.id) != Some(c)) {
            let told = [Effect::StoreClient(view.id.clone()), Effect::ShowClient(view.id.clone())];
            assert!(effects.iter().any(|e| told.contains(e)), "{view:?} changed in silence");
        }
        self.judge_state();
        self.effects.extend(effects);
    }

    fn judge_effect(&mut self, effect: &Effect, command: Option<&Command>) {
        match effect {
            Effect::RoundOpened => {
                assert_eq!(self.round, None, "a round opened in a round");
                let round = self.machine.open_round().unwrap();
                assert!(round.number > self.last_number, "round {} after {}", round.number, self.last_number);
                assert_eq!(round.base_version, self.version);
                assert!(round.cohort.is_sorted_by(|a, b| a < b) && round.updated.is_empty());
                assert!(round.cohort.iter().all(|id| is_eligible(self.machine.client(id).unwrap().state)));
                let min_clients = self.machine.config().min_clients;
                assert!(round.cohort.len() >= min_clients as usize);
                self.last_number = round.number;
                let updates = BTreeSet::new();
                self.round = Some(Seen { number: round.number, min_clients, updates, is_aggregating: false });
            }
            Effect::Aggregate { round } => {
                let seen = self.round.as_mut().unwrap();
                assert!(seen.number == *round && !seen.is_aggregating && !seen.updates.is_empty());
                let is_ordered = matches!(command, Some(Command::AggregateNow));
                assert!(is_ordered || seen.updates.len() >= seen.min_clients as usize, "aggregated below quorum");
                seen.is_aggregating = true;
            }
            Effect::RoundEnded(summary) => {
                let seen = self.round.take().unwrap();
                assert_eq!((summary.number, summary.updates), (seen.number, seen.updates.len() as u32));
                let is_committed = matches!(command, Some(Command::Committed { .. }));
                assert_eq!(summary.outcome == RoundOutcome::Complete, is_committed && seen.is_aggregating);
                assert!(!summary.reason.is_empty());
            }
            _ => {}
        }
    }

    fn judge_state(&self) {
        let machine = &self.machine;
        let round = machine.open_round();
        let is_open = machine.phase() == Phase::Training;
        assert_eq!(round.map(|r| r.number), self.round.as_ref().map(|r| r.number));
        assert_eq!(is_open, self.round.as_ref().is_some_and(|r| !r.is_aggregating));
        assert!(!is_open || machine.poll_timeout().is_some(), "an open round without a timer");
        for ClientView { id, state, .. } in machine.clients() {
            let is_counted = round.is_some_and(|r| r.updated.contains(id));
            let is_asked = round.is_some_and(|r| r.cohort.contains(id));
            assert!(*state != ClientState::Finish || is_counted, "{id} is at finish without an update");
            let is_told_to_train = matches!(machine.task(self.now, id), Ok(Task::Train(_)));
            assert_eq!(is_told_to_train, is_open && is_asked && !is_counted && is_eligible(*state), "{id} is {state}");
        }
    }

    /// From here on three clients live and answer, the others are silent: three rounds must come to completion.
    fn calm(&mut self) {
        let config = RunConfig { min_clients: 2, deadline_s: 60, ..RunConfig::default() };
        self.command(Command::Configure { config: Box::new(config), config_version: 1_000 });
        self.command(Command::StartAutorun { rounds: 3 });
        let alive = ["x", "y", "z"];
        let first_version = self.version;
        for _ in 0..60 {
            for name in alive {
                self.command(join(name));
                if let Ok(Task::Train(task)) = self.machine.task(self.now, &id(name)) {
                    self.command(update(name, task.round));
                }
            }
            if self.machine.phase() == Phase::Aggregating {
                self.command(committed(self.version + 1));
            }
            if self.machine.autorun().is_none() {
                assert_eq!((self.version, self.machine.phase()), (first_version + 3, Phase::Idle));
                return;
            }
            self.now += 20_000;
            self.timeout();
        }
        panic!("stalled: {}", self.machine.waiting());
    }
}

fn random_config(rng: &mut ChaCha8Rng) -> RunConfig {
    let min_clients = rng.random_range(1..=4);
    let cohort = match rng.random_range(0..3) {
        0 => CohortSize::Fraction(rng.random_range(0.1..=1.0)),
        1 => CohortSize::Fraction(1.0),
        _ => CohortSize::Size(rng.random_range(min_clients..=6)),
    };
    let admission = if rng.random_bool(0.8) { Admission::Open } else { Admission::Approval };
    RunConfig { min_clients, cohort, admission, deadline_s: rng.random_range(1..=200), ..RunConfig::default() }
}

fn random_command(rng: &mut ChaCha8Rng, schedule: &Schedule) -> Command {
    let mut name = rng.random_range(0..CLIENTS).to_string();
    while schedule.left.contains(&id(&name)) && rng.random_bool(0.95) {
        name += "x";
    }
    let (name, client) = (name.as_str(), id(&name));
    // Mostly the round in work, at times the one before or after.
    let round = (schedule.last_number + [0, 1, 1, 1, 1, 1, 1, 2][rng.random_range(0..8)]).saturating_sub(1);
    match rng.random_range(0..100) {
        0..15 if !schedule.left.contains(&client) => join(name),
        0..15 => Command::Seen { client },
        15..20 => Command::Admit { client },
        20..24 => kick(name, rng.random()),
        24..28 => Command::Leave { client },
        28..36 => Command::Seen { client },
        36..50 => {
            let state = ReportedState::ALL[rng.random_range(0..ReportedState::ALL.len())];
            report(name, state, rng.random_bool(0.8).then_some(round))
        }
        50..74 => update(name, round),
        74..78 => Command::StartAutorun { rounds: rng.random_range(0..4) },
        78..80 => Command::StopAutorun,
        80..84 => Command::StartRound,
        84..87 => Command::AggregateNow,
        87..89 => Command::Configure { config: Box::new(random_config(rng)), config_version: rng.random_range(1..100) },
        89..98 => committed(schedule.version + 1),
        _ => Command::AggregationFailed { reason: "chance".to_owned() },
    }
}

fn run(seed: u64) -> Schedule {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut schedule = Schedule::new(random_config(&mut rng));
    for _ in 0..STEPS {
        match rng.random_range(0..10) {
            0 => schedule.now += rng.random_range(0..90_000),
            1 => schedule.now += rng.random_range(0..5_000),
            2 => schedule.timeout(),
            3 => {
                schedule.now = schedule.machine.poll_timeout().map_or(schedule.now, |at| at.max(schedule.now));
                schedule.timeout();
            }
            _ => {
                let command = random_command(&mut rng, &schedule);
                schedule.command(command);
            }
        }
    }
    schedule.calm();
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
