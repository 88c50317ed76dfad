//! Runs, their configurations, and their global versions.

use super::rounds::LastRound;
use super::{Store, StoreError, corrupt, int, uint};
use crate::digest::Sha256Digest;
use crate::round::{RecentNorms, Restored};
use app::api::{Autorun, BestVersion, Dataset, ModelSpec, RoundSummary, RunConfig, RunId};
use sqlx::SqliteConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A run that is to be made; the blob of its version 0 is durable already.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its name.
    pub run: RunId,
    /// The built-in network, or none where it begins with uploaded parameters.
    pub model: Option<ModelSpec>,
    /// Whose test split it is evaluated on.
    pub dataset: Option<Dataset>,
    /// Its configuration, version 1.
    pub config: RunConfig,
    /// The blob of version 0.
    pub sha256: Sha256Digest,
    /// Now.
    pub created_ms: u64,
}

/// Everything that is stored of a run.
#[derive(Debug, Clone)]
pub struct StoredRun {
    /// Its name.
    pub run: RunId,
    /// When it was made.
    pub created_ms: u64,
    /// Since when it is archived; `None`: it is not.
    pub archived_ms: Option<u64>,
    /// The built-in network, if it is one.
    pub model: Option<ModelSpec>,
    /// Whose test split it is evaluated on.
    pub dataset: Option<Dataset>,
    /// The blob of the current global version.
    pub sha256: Sha256Digest,
    /// The most accurate version so far.
    pub best: Option<BestVersion>,
    /// The rounds that are over, in order.
    pub rounds: Vec<RoundSummary>,
    /// The state that the run continues from.
    pub restored: Restored,
}

#[derive(sqlx::FromRow)]
struct RunRow {
    run: String,
    created_ms: i64,
    archived_ms: Option<i64>,
    model_json: Option<String>,
    dataset: Option<String>,
    version: i64,
    sha256: Vec<u8>,
    best_version: Option<i64>,
    best_round: Option<i64>,
    best_accuracy: Option<f64>,
    autorun_rounds: i64,
    config_version: i64,
    config_json: String,
}

impl Store {
    /// Stores a new run. Returns false, and stores nothing, if one of that name is there.
    ///
    /// # Errors
    /// The database.
    pub async fn create_run(&self, new: &NewRun) -> Result<bool, StoreError> {
        let json = |e: serde_json::Error| corrupt("run")(e.to_string());
        let model_json = new.model.as_ref().map(serde_json::to_string).transpose().map_err(json)?;
        let config_json = serde_json::to_string(&new.config).map_err(json)?;
        let mut tx = self.begin().await?;
        let made = sqlx::query(
            "INSERT INTO runs (run, created_ms, model_json, dataset, version) VALUES (?, ?, ?, ?, 0) \
             ON CONFLICT DO NOTHING",
        )
        .bind(new.run.as_str())
        .bind(int(new.created_ms))
        .bind(model_json)
        .bind(new.dataset.map(Dataset::as_str))
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            self.unsaved.saved(&new.sha256);
            return Ok(false);
        }
        sqlx::query("INSERT INTO model_versions (run, version, sha256, created_ms) VALUES (?, 0, ?, ?)")
            .bind(new.run.as_str())
            .bind(new.sha256.0.as_slice())
            .bind(int(new.created_ms))
            .execute(&mut *tx)
            .await?;
        insert_config(&mut tx, &new.run, 1, config_json, new.created_ms).await?;
        tx.commit().await?;
        self.unsaved.saved(&new.sha256);
        Ok(true)
    }

    /// Every run that is wanted, with roster, history, and the round that was open.
    ///
    /// # Errors
    /// The database, or something in it that this program does not understand.
    pub async fn load_runs(&self, is_wanted: impl Fn(&RunId) -> bool) -> Result<Vec<StoredRun>, StoreError> {
        let rows: Vec<RunRow> = sqlx::query_as(SELECT_RUNS).fetch_all(&self.readers).await?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let run: RunId = row.run.parse().map_err(|e| corrupt("run")(format!("{e}")))?;
            if !is_wanted(&run) {
                continue;
            }
            runs.push(self.stored_run(run, row).await?);
        }
        Ok(runs)
    }

    async fn stored_run(&self, run: RunId, row: RunRow) -> Result<StoredRun, StoreError> {
        let json = |e: serde_json::Error| corrupt("run")(e.to_string());
        let best = match (row.best_version, row.best_round, row.best_accuracy) {
            (Some(version), Some(round), Some(test_accuracy)) => {
                Some(BestVersion { version: uint(version), round: uint(round), test_accuracy })
            }
            _ => None,
        };
        let config_version = uint(row.config_version);
        let mut recent_norms = RecentNorms::default();
        for (client, norm) in self.norms(&run, config_version).await? {
            recent_norms.push(&client, norm);
        }
        let (next_round, round, carried) = match self.last_round(&run).await? {
            None => (1, None, BTreeMap::new()),
            Some(LastRound::Open(round)) => (round.open.number + 1, Some(*round), BTreeMap::new()),
            Some(LastRound::Over { number, carried }) => (number + 1, None, carried),
        };
        let rounds = u32::try_from(row.autorun_rounds).unwrap_or(u32::MAX);
        let restored = Restored {
            config: serde_json::from_str(&row.config_json).map_err(json)?,
            config_version,
            version: uint(row.version),
            next_round,
            roster: self.roster(&run).await?,
            round,
            carried,
            recent_norms,
            autorun: (rounds > 0).then_some(Autorun { rounds }),
        };
        Ok(StoredRun {
            created_ms: uint(row.created_ms),
            archived_ms: row.archived_ms.map(uint),
            model: row.model_json.as_deref().map(serde_json::from_str).transpose().map_err(json)?,
            dataset: row.dataset.as_deref().map(str::parse).transpose().map_err(corrupt("dataset"))?,
            sha256: Sha256Digest::from_slice(&row.sha256).map_err(corrupt("model version"))?,
            best,
            rounds: self.history(&run).await?,
            restored,
            run,
        })
    }

    /// Stores a new configuration.
    ///
    /// # Errors
    /// The database.
    pub async fn add_config(
        &self,
        run: &RunId,
        config_version: u64,
        config: &RunConfig,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(config).map_err(|e| corrupt("config")(e.to_string()))?;
        let mut tx = self.begin().await?;
        insert_config(&mut tx, run, config_version, json, now_ms).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Stores how many rounds are to follow by themselves.
    ///
    /// # Errors
    /// The database.
    pub async fn set_autorun(&self, run: &RunId, rounds: u32) -> Result<(), StoreError> {
        sqlx::query("UPDATE runs SET autorun_rounds = ? WHERE run = ? AND autorun_rounds <> ?")
            .bind(rounds)
            .bind(run.as_str())
            .bind(rounds)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// The blob of a global version, if there is such a version and its blob was not pruned.
    ///
    /// # Errors
    /// The database.
    pub async fn model_version(&self, run: &RunId, version: u64) -> Result<Option<Sha256Digest>, StoreError> {
        let found: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT sha256 FROM model_versions WHERE run = ? AND version = ? AND pruned = 0")
                .bind(run.as_str())
                .bind(int(version))
                .fetch_optional(&self.readers)
                .await?;
        found.map(|bytes| Sha256Digest::from_slice(&bytes).map_err(corrupt("model version"))).transpose()
    }

    /// Removes the blobs of versions more than `keep` behind the current one; the best and the initial one stay.
    ///
    /// # Errors
    /// The database. A file that cannot be removed is only logged.
    pub async fn prune_models(&self, run: &RunId, keep: u64) -> Result<(), StoreError> {
        let pruned: Vec<Vec<u8>> = sqlx::query_scalar(
            "UPDATE model_versions SET pruned = 1 WHERE run = ?1 AND pruned = 0 AND version > 0 \
             AND version < (SELECT version FROM runs WHERE run = ?1) - ?2 \
             AND version IS NOT (SELECT best_version FROM runs WHERE run = ?1) RETURNING sha256",
        )
        .bind(run.as_str())
        .bind(int(keep))
        .fetch_all(&self.writer)
        .await?;
        for sha256 in pruned {
            self.remove_unused_model(Sha256Digest::from_slice(&sha256).map_err(corrupt("model version"))?).await?;
        }
        Ok(())
    }

    /// Whether the database can be written: for `/readyz`. Writes nothing.
    ///
    /// # Errors
    /// It cannot, and why.
    pub async fn ping(&self) -> Result<(), Arc<StoreError>> {
        // Anybody may ask, as often as they like: at most one of them stands in the way of those who have to write, and
        // what it finds is told to all who asked before it began.
        let begun = self.pings.begun.load(Ordering::SeqCst);
        let mut last = self.pings.last.lock().await;
        if let Some((number, found)) = &*last
            && *number > begun
        {
            return found.clone();
        }
        let number = self.pings.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = async { self.begin().await?.commit().await }.await.map_err(Arc::new);
        *last = Some((number, found.clone()));
        found
    }
}

const SELECT_RUNS: &str = "SELECT runs.run, runs.created_ms, archived_ms, model_json, dataset, runs.version, current.sha256, \
    best_version, best.round AS best_round, best.test_accuracy AS best_accuracy, autorun_rounds, \
    config.config_version, config.config_json \
    FROM runs \
    JOIN model_versions AS current ON current.run = runs.run AND current.version = runs.version \
    LEFT JOIN model_versions AS best ON best.run = runs.run AND best.version = runs.best_version \
    JOIN config_versions AS config ON config.run = runs.run AND config.config_version = \
    (SELECT max(config_version) FROM config_versions WHERE config_versions.run = runs.run) \
    ORDER BY runs.created_ms, runs.run";

async fn insert_config(
    tx: &mut SqliteConnection,
    run: &RunId,
    config_version: u64,
    config_json: String,
    now_ms: u64,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO config_versions (run, config_version, config_json, created_ms) VALUES (?, ?, ?, ?)")
        .bind(run.as_str())
        .bind(int(config_version))
        .bind(config_json)
        .bind(int(now_ms))
        .execute(tx)
        .await?;
    Ok(())
}
