//! The ledger of one run in the database.

use super::{Store, StoreError, corrupt};
use crate::digest::Sha256Digest;
use crate::round::Restored;
use crate::run::{Ledger, Record};
use app::api::{ClientId, RunId};

/// See the module.
#[derive(Debug, Clone)]
pub struct RunLedger {
    store: Store,
    run: RunId,
}

impl Store {
    /// The ledger of that run.
    pub fn ledger(&self, run: RunId) -> RunLedger {
        RunLedger { store: self.clone(), run }
    }
}

impl Ledger for RunLedger {
    type Error = StoreError;

    async fn save(&self, record: &Record<'_>) -> Result<(), StoreError> {
        let Self { store, run } = self;
        match record {
            Record::Joined { client, token } => store.add_client(run, client, *token).await,
            Record::Client { client, banned } => store.update_client(run, client, *banned).await,
            Record::HeartbeatsBegan { client } => store.heartbeats_began(run, client).await,
            Record::Left { client } => store.remove_client(run, client).await,
            Record::RoundOpened { round, assignments } => store.open_round(run, round, assignments).await,
            Record::Asked { round, client, assignment } => store.ask(run, *round, client, *assignment).await,
            Record::Update { round, client, received, at_ms } => {
                store.add_contribution(run, *round, client, received, *at_ms).await
            }
            Record::Dropped { round, client, is_open } => store.drop_contribution(run, *round, client, *is_open).await,
            Record::Deadline { round, deadline_ms } => store.move_deadline(run, *round, *deadline_ms).await,
            Record::Closed { round, closed } => store.close_round(run, *round, closed).await,
            Record::RoundEnded { summary, version, autorun_rounds } => {
                store.end_round(run, summary, *version, *autorun_rounds).await
            }
            Record::Autorun { rounds } => store.set_autorun(run, *rounds).await,
            Record::Config { version, config, at_ms } => store.add_config(run, *version, config, *at_ms).await,
            Record::Event { kind, client, round, detail, at_ms } => {
                let logged = store.log_event(run, *at_ms, kind, *client, *round, detail).await;
                logged.inspect_err(|error| tracing::warn!(%run, %error, "cannot store an event"))
            }
        }
    }

    async fn contribution(&self, client: &ClientId, round: u64) -> Result<Option<Sha256Digest>, StoreError> {
        self.store.contribution(&self.run, round, client).await
    }

    async fn load(&self) -> Result<Restored, StoreError> {
        let stored = self.store.load_runs(|run| *run == self.run).await?;
        let missing = || corrupt("run")(format!("there is no run '{}'", self.run));
        stored.into_iter().next().map(|stored| stored.restored).ok_or_else(missing)
    }
}
