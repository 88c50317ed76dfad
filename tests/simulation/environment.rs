//! The environment of the simulated run: a database that fails at times, and a crash that may come before or after any write.

use super::database::{Database, Model};
use app::api::{Change, ClientId, Event, RunSnapshot};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::Restored;
use fedlearn::run::{Aggregation, Environment, Ledger, Record};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};

/// Another ledger beside the simulated one: it stores the same records, and must load the same run after each crash.
pub trait Twin: Send + std::fmt::Debug {
    fn save(&self, record: &Record<'_>);
    fn load(&self) -> Restored;
}

/// What the schedule, the judge and the run share. One thread, so never contended.
#[derive(Debug)]
pub struct Shared {
    pub now_ms: u64,
    pub database: Database,
    /// What everybody sees.
    pub shown: RunSnapshot,
    /// Combining that was begun: it ends when the schedule says so.
    pub aggregations: Vec<Aggregation>,
    /// Someone's task may have changed.
    pub woken: bool,
    /// The coordinator dies at the so many-th write from now, before it or after it.
    pub crash_at: Option<(u32, bool)>,
    /// Of a hundred writes, so many fail.
    pub failing: u32,
    pub is_blocked: bool,
    pub twin: Option<Box<dyn Twin>>,
    rng: ChaCha8Rng,
}

/// A handle on it.
#[derive(Debug, Clone)]
pub struct Simulated(Arc<Mutex<Shared>>);

/// A write that failed.
#[derive(Debug, Clone, Copy)]
pub struct DiskFull;

impl std::fmt::Display for DiskFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the disk is full")
    }
}

impl Simulated {
    pub fn new(seed: u64, now_ms: u64, database: Database, shown: RunSnapshot) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        Self(Arc::new(Mutex::new(Shared {
            now_ms,
            database,
            shown,
            aggregations: Vec::new(),
            woken: false,
            crash_at: None,
            failing: 0,
            is_blocked: false,
            twin: None,
            rng,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap()
    }

    /// Whether the coordinator dies here.
    fn dies(&self, after: bool) -> bool {
        let mut shared = self.lock();
        match &mut shared.crash_at {
            Some((0, when)) => *when == after,
            Some((left, _)) => {
                if after {
                    *left -= 1;
                }
                false
            }
            None => false,
        }
    }
}

impl Ledger for Simulated {
    type Error = DiskFull;

    async fn save(&self, record: &Record<'_>) -> Result<(), DiskFull> {
        // A future that never ends is a coordinator that goes no further: the schedule drops it.
        if self.dies(false) {
            std::future::pending::<()>().await;
        }
        {
            let mut shared = self.lock();
            let failing = shared.failing;
            if shared.rng.random_range(0..100) < failing {
                return Err(DiskFull);
            }
            shared.database.save(record);
            if let Some(twin) = &shared.twin {
                twin.save(record);
            }
        }
        if self.dies(true) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn contribution(&self, client: &ClientId, round: u64) -> Result<Option<Sha256Digest>, DiskFull> {
        Ok(self.lock().database.contribution(client, round))
    }

    /// Both ledgers hold the same run.
    async fn load(&self) -> Result<Restored, DiskFull> {
        let shared = self.lock();
        let restored = shared.database.restored();
        if let Some(twin) = &shared.twin {
            assert_eq!(twin.load(), restored, "the other ledger has another run");
        }
        Ok(restored)
    }
}

impl Environment for Simulated {
    type Parameters = Model;

    fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    async fn backoff(&self, attempt: u32, _: &DiskFull) -> ControlFlow<()> {
        let mut shared = self.lock();
        assert!(shared.is_blocked, "blocked, and nobody was told");
        shared.now_ms += 100;
        if attempt > 5 {
            shared.failing = 0; // somebody has made room
        }
        ControlFlow::Continue(())
    }

    fn set_blocked(&self, why: Option<String>) {
        self.lock().is_blocked = why.is_some();
    }

    fn publish(&self, change: Change) {
        let mut shared = self.lock();
        let event = Event { seq: shared.shown.seq + 1, change };
        assert!(shared.shown.apply(&event));
    }

    fn notify_tasks(&self) {
        self.lock().woken = true;
    }

    fn aggregate(&mut self, work: Aggregation) {
        let mut shared = self.lock();
        // All of it is durable by now.
        let row = &shared.database.rounds[&work.round];
        for part in &work.parts {
            let update = row.contributions[&part.client].update.as_ref().unwrap();
            assert_eq!(update.received.body, part.body);
        }
        assert_eq!(shared.database.version(), work.base_version);
        shared.aggregations.push(work);
    }

    fn install(&self, version: u64, _: Model) {
        assert_eq!(self.lock().database.version(), version, "shown before it is stored");
    }

    fn discard_uploads_before(&self, before_round: u64) {
        let shared = self.lock();
        let open = shared.database.open().map(|row| row.round.number);
        assert!(open.is_none_or(|open| before_round <= open));
    }
}
