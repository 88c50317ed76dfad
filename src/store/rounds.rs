//! Rounds, and the versions that come of them.

use super::contributions::{Contribution, insert};
use super::{Store, StoreError, corrupt, int, uint};
use crate::round::{Assignment, Closed, RestoredRound};
use crate::run::NewVersion;
use app::api::{ClientId, Mode, OpenRound, RoundOutcome, RoundSummary, RunConfig, RunId};
use std::collections::BTreeMap;

/// The last round of a run.
pub(super) enum LastRound {
    /// It was open.
    Open(Box<RestoredRound>),
    /// It is over.
    Over {
        number: u64,
        /// Clients of an asynchronous round whose update it did not wait for, and what they work on.
        carried: BTreeMap<ClientId, Assignment>,
    },
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
    /// Stores a round that opens, with a row for each client of its cohort; `assignments` are in the order of the cohort.
    pub(super) async fn open_round(
        &self,
        run: &RunId,
        round: &OpenRound,
        assignments: &[Assignment],
    ) -> Result<(), StoreError> {
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
        for (client, asked) in round.cohort.iter().zip(assignments) {
            insert(&mut tx, run, round.number, client, *asked).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn move_deadline(&self, run: &RunId, round: u64, deadline_ms: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE rounds SET deadline_ms = ? WHERE run = ? AND number = ?")
            .bind(int(deadline_ms))
            .bind(run.as_str())
            .bind(int(round))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    pub(super) async fn close_round(
        &self,
        run: &RunId,
        round: u64,
        Closed { at_ms, reason, by_operator, rejected }: &Closed,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE rounds SET closed_ms = ?, reason = ?, closed_by_operator = ? WHERE run = ? AND number = ?")
            .bind(int(*at_ms))
            .bind(reason)
            .bind(by_operator)
            .bind(run.as_str())
            .bind(int(round))
            .execute(&mut *tx)
            .await?;
        // After a restart a round may be judged again.
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

    pub(super) async fn end_round(
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
            .bind(round.test_accuracy)
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
        // Its updates are no longer needed. Files that remain are removed at the next start.
        self.remove_received(self.files(run, round.number, None).await.unwrap_or_default()).await;
        Ok(())
    }

    pub(super) async fn last_round(&self, run: &RunId) -> Result<Option<LastRound>, StoreError> {
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
        let config: RunConfig =
            serde_json::from_str(&row.config_json).map_err(|e| corrupt("configuration")(e.to_string()))?;
        let number = uint(row.number);
        if row.status != "open" {
            let left = contributions.into_iter().filter(|c| config.mode == Mode::Async && c.received.is_none());
            return Ok(Some(LastRound::Over { number, carried: left.map(|c| (c.client, c.asked)).collect() }));
        }
        let open = OpenRound {
            number,
            base_version: uint(row.base_version),
            config_version: uint(row.config_version),
            opened_ms: uint(row.opened_ms),
            deadline_ms: uint(row.deadline_ms),
            target: u32::try_from(row.target).unwrap_or(u32::MAX),
            cohort: contributions.iter().map(|c| c.client.clone()).collect(),
            updated: Vec::new(),
        };
        let (by_operator, rejected) = (row.closed_by_operator, BTreeMap::new());
        let closed = row.closed_ms.map(|at| Closed { at_ms: uint(at), reason: row.reason, by_operator, rejected });
        let (mut earlier, mut received) = (BTreeMap::new(), BTreeMap::new());
        for Contribution { client, asked, received: update } in contributions {
            if asked.round < number {
                earlier.insert(client.clone(), asked);
            }
            if let Some(update) = update {
                received.insert(client, update);
            }
        }
        let round = RestoredRound { open, config, earlier, received, closed };
        Ok(Some(LastRound::Open(Box::new(round))))
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
