//! A run in a simulated world: the real run with its round machine, whose database, network, clients and clock
//! are made of chance. Anything may be delayed, lost, repeated or overtaken; clients crash, lie and are removed; the
//! coordinator crashes between any two steps. A judge that keeps books of its own holds every step against the rules.
//!
//! Each schedule comes from its seed alone. `SIM_SCHEDULES=1000000` runs more of them, `SIM_SEED=17` begins at that seed,
//! `SIM_MINUTES=10` runs that long, `SIM_LEDGERS=200` runs more of those beside the real database,
//! `SIM_TRACE=1` prints all that happens.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod chance;
mod client;
mod database;
mod environment;
mod judge;
mod requests;
mod schedule;
#[cfg(feature = "server")]
mod sqlite;

use schedule::Schedule;
use std::time::{Duration, Instant};

/// Tells the seed of a schedule that fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SIM_SEED={} SIM_SCHEDULES=1", self.0);
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// What all schedules together did: a simulation in which nothing happens proves nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Rounds that were complete.
    pub complete: u64,
    /// Rounds that were void.
    pub void: u64,
    /// Updates that were acknowledged.
    pub acknowledged: u64,
    /// Updates that were acknowledged again.
    pub again: u64,
    /// Crashes of the coordinator.
    pub crashes: u64,
    /// Crashes in the middle of a step.
    pub torn: u64,
    /// Updates that were refused by the ingest gate.
    pub faults: u64,
    /// Updates that were left out when their round closed.
    pub rejected: u64,
    /// Rounds in which an attacker was left out for certain.
    pub defended: u64,
    /// Clients that were put in quarantine.
    pub quarantined: u64,
    /// Updates that came too late.
    pub late: u64,
    /// Updates that were counted some versions behind.
    pub stale: u64,
    /// Rounds that went on after a crash and were completed.
    pub survived: u64,
    /// Steps at which a client trained in silence.
    pub silent: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.complete += other.complete;
        self.void += other.void;
        self.acknowledged += other.acknowledged;
        self.again += other.again;
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.faults += other.faults;
        self.rejected += other.rejected;
        self.defended += other.defended;
        self.quarantined += other.quarantined;
        self.late += other.late;
        self.stale += other.stale;
        self.survived += other.survived;
        self.silent += other.silent;
    }
}

#[test]
fn in_every_schedule_what_is_acknowledged_counts_once_and_rounds_go_on() {
    let first = from_env("SIM_SEED").unwrap_or(0);
    // Built to find what overflows, it is slow; `make test` runs it both ways.
    let usual = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
    let count = from_env("SIM_SCHEDULES").unwrap_or(usual);
    let until = from_env("SIM_MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let work = |thread: u64| {
        let (mut tally, mut done) = (Tally::default(), 0_u64);
        for seed in (first + thread..).step_by(threads as usize) {
            if until.map_or(seed >= first + count, |until| Instant::now() >= until) {
                break;
            }
            let _tell = TellSeed(seed);
            let schedule = Schedule::run(seed);
            if seed % 50 == 0 {
                assert_eq!(schedule, Schedule::run(seed), "the same seed gave another schedule");
            }
            tally += schedule.tally;
            done += 1;
        }
        (tally, done)
    };
    let (tally, done) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        results.fold((Tally::default(), 0), |(mut sum, n), (tally, done)| {
            sum += tally;
            (sum, n + done)
        })
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("{done} schedules in {seconds:.1} s, {:.0} a second: {tally:?}", done as f64 / seconds);
    if done >= 1_000 {
        let Tally {
            complete,
            void,
            acknowledged,
            again,
            crashes,
            torn,
            faults,
            rejected,
            defended,
            quarantined,
            late,
            stale,
            survived,
            silent,
        } = tally;
        let all = [
            complete,
            void,
            acknowledged,
            again,
            crashes,
            torn,
            faults,
            rejected,
            defended,
            quarantined,
            late,
            stale,
            survived,
            silent,
        ];
        assert!(all.iter().all(|n| *n > done / 100), "something hardly ever happens: {tally:?}");
    }
}
