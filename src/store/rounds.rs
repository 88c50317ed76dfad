//! Rounds, their contributions, and the versions that come of them.

use super::{Sha256Digest, Store, StoreError, corrupt, int, uint};
use app::api::{ClientId, OpenRound, RoundOutcome, RoundSummary, RunId};

/// The global version that a round made; its blob is durable already.
#[derive(Debug, Clone, Copy)]
pub struct NewVersion {
    /// Its number.
    pub version: u64,
    /// The blob's name.
    pub sha256: Sha256Digest,
    /// Accuracy on the test split: 0 to 1.
    pub test_accuracy: Option<f64>,
    /// It is the most accurate so far.
    pub is_best: bool,
}

#[derive(sqlx::FromRow)]
struct RoundRow {
    number: i64,
    status: String,
    reason: String,
    base_version: i64,
    version: Option<i64>,
    config_version: i64,
    cohort: i64,
    updates: i64,
    samples: i64,
    received_bytes: i64,
    train_loss: Option<f64>,
    test_loss: Option<f64>,
    test_accuracy: Option<f64>,
    opened_ms: i64,
    ended_ms: Option<i64>,
}

impl Store {
    /// Stores a round that opens, with a row for each client of its cohort.
    ///
    /// # Errors
    /// The database.
    pub async fn open_round(&self, run: &RunId, round: &OpenRound) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO rounds (run, number, status, base_version, config_version, cohort, opened_ms, deadline_ms) \
             VALUES (?, ?, 'open', ?, ?, ?, ?, ?)",
        )
        .bind(run.as_str())
        .bind(int(round.number))
        .bind(int(round.base_version))
        .bind(int(round.config_version))
        .bind(int(round.cohort.len() as u64))
        .bind(int(round.opened_ms))
        .bind(int(round.deadline_ms))
        .execute(&mut *tx)
        .await?;
        for client in &round.cohort {
            sqlx::query("INSERT INTO contributions (run, round, client) VALUES (?, ?, ?)")
                .bind(run.as_str())
                .bind(int(round.number))
                .bind(client.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Stores that an update is in.
    ///
    /// # Errors
    /// The database.
    #[allow(clippy::too_many_arguments)] // one row's columns
    pub async fn add_contribution(
        &self,
        run: &RunId,
        round: u64,
        client: &ClientId,
        sha256: Sha256Digest,
        bytes: u64,
        samples: u64,
        loss: Option<f64>,
        received_ms: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE contributions SET sha256 = ?, bytes = ?, samples = ?, loss = ?, received_ms = ? \
             WHERE run = ? AND round = ? AND client = ?",
        )
        .bind(sha256.0.as_slice())
        .bind(int(bytes))
        .bind(int(samples))
        .bind(loss)
        .bind(int(received_ms))
        .bind(run.as_str())
        .bind(int(round))
        .bind(client.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The hash of the update that a client sent for a round, if it is in.
    ///
    /// # Errors
    /// The database.
    pub async fn contribution(
        &self,
        run: &RunId,
        round: u64,
        client: &ClientId,
    ) -> Result<Option<Sha256Digest>, StoreError> {
        let found: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT sha256 FROM contributions WHERE run = ? AND round = ? AND client = ?")
                .bind(run.as_str())
                .bind(int(round))
                .bind(client.as_str())
                .fetch_optional(&self.pool)
                .await?;
        found.flatten().map(|bytes| Sha256Digest::from_slice(&bytes).map_err(corrupt("contribution"))).transpose()
    }

    /// Stores how a round ended, the version that came of it, and the rounds that are still to follow by themselves, in
    /// one transaction.
    ///
    /// # Errors
    /// The database; then nothing of it is stored.
    pub async fn end_round(
        &self,
        run: &RunId,
        round: &RoundSummary,
        version: Option<NewVersion>,
        autorun_rounds: u32,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        if let Some(new) = version {
            sqlx::query(
                "INSERT INTO model_versions (run, version, sha256, round, test_accuracy, created_ms) \
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(run.as_str())
            .bind(int(new.version))
            .bind(new.sha256.0.as_slice())
            .bind(int(round.number))
            .bind(new.test_accuracy)
            .bind(int(round.ended_ms))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "UPDATE runs SET version = ?, best_version = CASE WHEN ? THEN ? ELSE best_version END, \
                 autorun_rounds = ? WHERE run = ?",
            )
            .bind(int(new.version))
            .bind(new.is_best)
            .bind(int(new.version))
            .bind(autorun_rounds)
            .bind(run.as_str())
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "UPDATE rounds SET status = ?, reason = ?, version = ?, updates = ?, samples = ?, received_bytes = ?, \
             train_loss = ?, test_loss = ?, test_accuracy = ?, ended_ms = ? WHERE run = ? AND number = ?",
        )
        .bind(round.outcome.as_str())
        .bind(&round.reason)
        .bind(round.version.map(int))
        .bind(i64::from(round.updates))
        .bind(int(round.samples))
        .bind(int(round.received_bytes))
        .bind(round.train_loss)
        .bind(round.test_loss)
        .bind(round.test_accuracy)
        .bind(int(round.ended_ms))
        .bind(run.as_str())
        .bind(int(round.number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Declares void what a stopped coordinator left open.
    pub(super) async fn void_open_rounds(&self, run: &RunId, now_ms: u64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rounds SET status = 'void', reason = 'the coordinator was restarted', ended_ms = ? \
             WHERE run = ? AND status = 'open'",
        )
        .bind(int(now_ms))
        .bind(run.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(super) async fn history(&self, run: &RunId) -> Result<Vec<RoundSummary>, StoreError> {
        let rows: Vec<RoundRow> = sqlx::query_as(
            "SELECT number, status, reason, base_version, version, config_version, cohort, updates, samples, \
             received_bytes, train_loss, test_loss, test_accuracy, opened_ms, ended_ms \
             FROM rounds WHERE run = ? AND status <> 'open' ORDER BY number",
        )
        .bind(run.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(round_summary).collect()
    }
}

fn round_summary(row: RoundRow) -> Result<RoundSummary, StoreError> {
    let small = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(RoundSummary {
        number: uint(row.number),
        outcome: row.status.parse::<RoundOutcome>().map_err(corrupt("round"))?,
        reason: row.reason,
        base_version: uint(row.base_version),
        version: row.version.map(uint),
        config_version: uint(row.config_version),
        cohort: small(row.cohort),
        updates: small(row.updates),
        samples: uint(row.samples),
        received_bytes: uint(row.received_bytes),
        train_loss: row.train_loss,
        test_loss: row.test_loss,
        test_accuracy: row.test_accuracy,
        opened_ms: uint(row.opened_ms),
        ended_ms: row.ended_ms.map_or(0, uint),
    })
}
