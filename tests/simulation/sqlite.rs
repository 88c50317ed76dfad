//! The same schedules with the real database beside the simulated one: after each crash both hold the same run.

use super::environment::Twin;
use super::schedule::{START_MS, Schedule};
use super::{TellSeed, from_env};
use app::api::{RunConfig, RunId};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::Restored;
use fedlearn::run::{Ledger, Record};
use fedlearn::store::{NewRun, Store};
use std::cell::RefCell;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A database of its own folder, with one run.
#[derive(Debug)]
struct Sqlite {
    runtime: Runtime,
    folder: TempDir,
    run: RunId,
    store: RefCell<Store>,
}

impl Sqlite {
    fn new(config: &RunConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = runtime.block_on(Store::open(folder.path())).unwrap();
        let run: RunId = "simulated".parse().unwrap();
        let (config, sha256) = (config.clone(), Sha256Digest::of("version 0"));
        let new = NewRun { run: run.clone(), model: None, dataset: None, config, sha256, created_ms: START_MS };
        assert!(runtime.block_on(store.create_run(&new)).unwrap());
        Self { runtime, folder, run, store: RefCell::new(store) }
    }
}

impl Twin for Sqlite {
    fn save(&self, record: &Record<'_>) {
        let ledger = self.store.borrow().ledger(self.run.clone());
        self.runtime.block_on(ledger.save(record)).unwrap();
    }

    fn load(&self) -> Restored {
        self.store.borrow().release();
        self.store.replace(self.runtime.block_on(Store::open(self.folder.path())).unwrap());
        let ledger = self.store.borrow().ledger(self.run.clone());
        let mut found = self.runtime.block_on(ledger.load()).unwrap();
        found.roster.sort_by(|a, b| a.view.id.cmp(&b.view.id));
        found
    }
}

#[test]
fn after_every_crash_the_database_holds_the_run_of_the_simulated_one() {
    let (first, count) = (from_env("SIM_SEED").unwrap_or(0), from_env("SIM_LEDGERS").unwrap_or(20));
    let mut crashes = 0;
    for seed in first..first + count {
        let _tell = TellSeed(seed);
        crashes += Schedule::run_beside(seed, |config| Some(Box::new(Sqlite::new(config)))).tally.crashes;
    }
    assert!(crashes > 0, "no database was opened again");
}
