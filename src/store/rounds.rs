//! Rounds, and the versions that come of them.

use super::contributions::insert;
use super::{Store, StoreError, StoredContribution, corrupt, int, uint};
use crate::digest::Sha256Digest;
use app::api::{ClientId, OpenRound, RoundOutcome, RoundSummary, RunConfig, RunId};
use std::collections::BTreeMap;

/// The last round, open or over.
#[derive(Debug, Clone)]
pub struct StoredRound {
    /// It is open.
    pub is_open: bool,
    /// As it was; `updated` is empty, see `contributions`.
    pub round: OpenRound,
    /// Since when it takes no more updates, and why; none while it does.
    pub closed: Option<(u64, String)>,
    /// It was closed by the operator.
    pub closed_by_operator: bool,
    /// The configuration that it runs under.
    pub config: RunConfig,
    /// Of its whole cohort, by client.
    pub contributions: Vec<StoredContribution>,
}

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
    rejected: i64,
    samples: i64,
    received_bytes: i64,
    mean_staleness: Option<f64>,
    lowered_weights: Option<String>,
    train_loss: Option<f64>,
    test_loss: Option<f64>,
    test_accuracy: Option<f64>,
    opened_ms: i64,
    ended_ms: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct LastRow {
    number: i64,
    status: String,
    reason: String,
    closed_ms: Option<i64>,
    closed_by_operator: bool,
    base_version: i64,
    config_version: i64,
    opened_ms: i64,
    deadline_ms: i64,
    target: i64,
    config_json: String,
}

impl Store {
    /// Stores a round that opens, with a row for each client of its cohort: who, asked in which round, from which version.
    ///
    /// # Errors
    /// The database; then nothing of it is stored.
    pub async fn open_round(
        &self,
        run: &RunId,
        round: &OpenRound,
        cohort: impl IntoIterator<Item = (ClientId, u64, u64)> + Send,
    ) -> Result<(), StoreError> {
        let cohort: Vec<_> = cohort.into_iter().collect();
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO rounds (run, number, status, base_version, config_version, cohort, opened_ms, deadline_ms, \
             target) VALUES (?, ?, 'open', ?, ?, ?, ?, ?, ?)",
        )
        .bind(run.as_str())
        .bind(int(round.number))
        .bind(int(round.base_version))
        .bind(int(round.config_version))
        .bind(int(round.cohort.len() as u64))
        .bind(int(round.opened_ms))
        .bind(int(round.deadline_ms))
        .bind(round.target)
        .execute(&mut *tx)
        .await?;
        for (client, asked_round, asked_version) in &cohort {
            insert(&mut tx, run, round.number, client, *asked_round, *asked_version).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Stores when an open round closes now.
    ///
    /// # Errors
    /// The database.
    pub async fn move_deadline(&self, run: &RunId, round: u64, deadline_ms: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE rounds SET deadline_ms = ? WHERE run = ? AND number = ?")
            .bind(int(deadline_ms))
            .bind(run.as_str())
            .bind(int(round))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Stores that an open round takes no more updates, and which are left out and why, in one transaction.
    ///
    /// # Errors
    /// The database; then nothing of it is stored.
    pub async fn close_round(
        &self,
        run: &RunId,
        round: u64,
        at_ms: u64,
        reason: &str,
        by_operator: bool,
        rejected: &BTreeMap<ClientId, String>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE rounds SET closed_ms = ?, reason = ?, closed_by_operator = ? WHERE run = ? AND number = ?")
            .bind(int(at_ms))
            .bind(reason)
            .bind(by_operator)
            .bind(run.as_str())
            .bind(int(round))
            .execute(&mut *tx)
            .await?;
        // After a restart a round may be judged anew.
        sqlx::query("UPDATE contributions SET rejected = NULL WHERE run = ? AND round = ? AND rejected IS NOT NULL")
            .bind(run.as_str())
            .bind(int(round))
            .execute(&mut *tx)
            .await?;
        for (client, reason) in rejected {
            sqlx::query("UPDATE contributions SET rejected = ? WHERE run = ? AND round = ? AND client = ?")
                .bind(reason)
                .bind(run.as_str())
                .bind(int(round))
                .bind(client.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
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
        let mut tx = self.begin().await?;
        if let Some(new) = &version {
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
        } else {
            sqlx::query("UPDATE runs SET autorun_rounds = ? WHERE run = ?")
                .bind(autorun_rounds)
                .bind(run.as_str())
                .execute(&mut *tx)
                .await?;
        }
        let lowered = round.lowered_weights.as_ref().map(serde_json::to_string).transpose();
        let lowered_weights = lowered.map_err(|e| corrupt("lowered weights")(e.to_string()))?;
        sqlx::query(
            "UPDATE rounds SET status = ?, reason = ?, version = ?, cohort = ?, updates = ?, rejected = ?, samples = ?, \
             received_bytes = ?, mean_staleness = ?, lowered_weights = ?, train_loss = ?, test_loss = ?, \
             test_accuracy = ?, ended_ms = ? WHERE run = ? AND number = ?",
        )
        .bind(round.outcome.as_str())
        .bind(&round.reason)
        .bind(round.version.map(int))
        .bind(i64::from(round.cohort))
        .bind(i64::from(round.updates))
        .bind(i64::from(round.rejected))
        .bind(int(round.samples))
        .bind(int(round.received_bytes))
        .bind(round.mean_staleness)
        .bind(lowered_weights)
        .bind(round.train_loss)
        .bind(round.test_loss)
        .bind(round.test_accuracy)
        .bind(int(round.ended_ms))
        .bind(run.as_str())
        .bind(int(round.number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        if let Some(new) = version {
            self.unsaved.saved(&new.sha256);
        }
        // Combined or void, its updates are of no more use. Else they go at the next start.
        self.remove_received(self.files(run, round.number, None).await.unwrap_or_default()).await;
        Ok(())
    }

    pub(super) async fn last_round(&self, run: &RunId) -> Result<Option<StoredRound>, StoreError> {
        let row: Option<LastRow> = sqlx::query_as(
            "SELECT number, status, reason, closed_ms, closed_by_operator, base_version, config_version, opened_ms, deadline_ms, target, \
             config_json FROM rounds JOIN config_versions USING (run, config_version) \
             WHERE run = ? ORDER BY number DESC LIMIT 1",
        )
        .bind(run.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let contributions = self.contributions(run, uint(row.number)).await?;
        let round = OpenRound {
            number: uint(row.number),
            base_version: uint(row.base_version),
            config_version: uint(row.config_version),
            opened_ms: uint(row.opened_ms),
            deadline_ms: uint(row.deadline_ms),
            target: u32::try_from(row.target).unwrap_or(u32::MAX),
            cohort: contributions.iter().map(|c| c.client.clone()).collect(),
            updated: Vec::new(),
        };
        let config = serde_json::from_str(&row.config_json).map_err(|e| corrupt("configuration")(e.to_string()))?;
        let (closed, closed_by_operator) = (row.closed_ms.map(|at| (uint(at), row.reason)), row.closed_by_operator);
        Ok(Some(StoredRound {
            is_open: row.status == "open",
            round,
            closed,
            closed_by_operator,
            config,
            contributions,
        }))
    }

    pub(super) async fn history(&self, run: &RunId) -> Result<Vec<RoundSummary>, StoreError> {
        let rows: Vec<RoundRow> = sqlx::query_as(
            "SELECT number, status, reason, base_version, version, config_version, cohort, updates, rejected, samples, \
             received_bytes, mean_staleness, lowered_weights, train_loss, test_loss, test_accuracy, opened_ms, ended_ms \
             FROM rounds WHERE run = ? AND status <> 'open' ORDER BY number",
        )
        .bind(run.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(round_summary).collect()
    }
}

fn round_summary(row: RoundRow) -> Result<RoundSummary, StoreError> {
    let lowered = row.lowered_weights.as_deref().map(serde_json::from_str).transpose();
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
        rejected: small(row.rejected),
        samples: uint(row.samples),
        received_bytes: uint(row.received_bytes),
        mean_staleness: row.mean_staleness,
        lowered_weights: lowered.map_err(|e| corrupt("lowered weights")(e.to_string()))?,
        train_loss: row.train_loss,
        test_loss: row.test_loss,
        test_accuracy: row.test_accuracy,
        opened_ms: uint(row.opened_ms),
        ended_ms: row.ended_ms.map_or(0, uint),
    })
}
