//! Who was asked in which round, and the update that came of it.

use super::{Store, StoreError, corrupt, int, uint};
use crate::digest::Sha256Digest;
use crate::round::{Assignment, Received, StoredBody};
use app::api::{ClientId, RunId};

/// A client of a round's cohort.
#[derive(Debug, Clone)]
pub(super) struct Contribution {
    pub client: ClientId,
    pub asked: Assignment,
    pub received: Option<Received>,
}

#[derive(sqlx::FromRow)]
struct Row {
    client: String,
    asked_round: i64,
    asked_version: i64,
    sha256: Option<Vec<u8>>,
    file: Option<String>,
    format: Option<String>,
    bytes: Option<i64>,
    samples: Option<i64>,
    loss: Option<f64>,
    norm: Option<f64>,
}

pub(super) async fn insert(
    tx: &mut sqlx::SqliteConnection,
    run: &RunId,
    round: u64,
    client: &ClientId,
    asked: Assignment,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO contributions (run, round, client, asked_round, asked_version) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT DO UPDATE SET asked_round = excluded.asked_round, asked_version = excluded.asked_version",
    )
    .bind(run.as_str())
    .bind(int(round))
    .bind(client.as_str())
    .bind(int(asked.round))
    .bind(int(asked.version))
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    pub(super) async fn ask(
        &self,
        run: &RunId,
        round: u64,
        client: &ClientId,
        asked: Assignment,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        insert(&mut tx, run, round, client, asked).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Stores an update and credits it to its client.
    pub(super) async fn add_contribution(
        &self,
        run: &RunId,
        round: u64,
        client: &ClientId,
        Received { samples, loss, norm, body }: &Received,
        received_ms: u64,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let received = sqlx::query(
            "UPDATE contributions SET sha256 = ?, file = ?, format = ?, bytes = ?, samples = ?, loss = ?, norm = ?, \
             received_ms = ? WHERE run = ? AND round = ? AND client = ?",
        )
        .bind(body.sha256.0.as_slice())
        .bind(&body.file)
        .bind(&body.format)
        .bind(int(body.bytes))
        .bind(int(*samples))
        .bind(loss)
        .bind(norm)
        .bind(int(received_ms))
        .bind(run.as_str())
        .bind(int(round))
        .bind(client.as_str())
        .execute(&mut *tx)
        .await?;
        let credited = sqlx::query(
            "UPDATE clients SET rounds = rounds + 1, sent_bytes = sent_bytes + ?, last_loss = coalesce(?, last_loss), \
             error = NULL, seen_ms = max(seen_ms, ?) WHERE run = ? AND client = ?",
        )
        .bind(int(body.bytes))
        .bind(loss)
        .bind(int(received_ms))
        .bind(run.as_str())
        .bind(client.as_str())
        .execute(&mut *tx)
        .await?;
        // An update without a row must not be acknowledged: it would never be aggregated.
        let (asked, known) = (received.rows_affected(), credited.rows_affected());
        if (asked, known) != (1, 1) {
            let reason = format!("client {client} has {asked} places in round {round} and {known} on the roster");
            return Err(corrupt("contribution")(reason));
        }
        tx.commit().await?;
        Ok(())
    }

    /// Removes an update with its file, as if it had never been sent. If the round `is_open` it is not closed any more, and
    /// its updates are judged again when it closes.
    ///
    /// # Errors
    /// The database; then nothing is changed.
    pub async fn drop_contribution(
        &self,
        run: &RunId,
        round: u64,
        client: &ClientId,
        is_open: bool,
    ) -> Result<(), StoreError> {
        let files = self.files(run, round, Some(client)).await?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE contributions SET sha256 = NULL, file = NULL, format = NULL, bytes = NULL, samples = NULL, \
             loss = NULL, norm = NULL, received_ms = NULL, rejected = NULL WHERE run = ? AND round = ? AND client = ?",
        )
        .bind(run.as_str())
        .bind(int(round))
        .bind(client.as_str())
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE contributions SET rejected = NULL WHERE run = ? AND round = ? AND ?")
            .bind(run.as_str())
            .bind(int(round))
            .bind(is_open)
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE rounds SET closed_ms = NULL WHERE run = ? AND number = ? AND ?")
            .bind(run.as_str())
            .bind(int(round))
            .bind(is_open)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.remove_received(files).await;
        Ok(())
    }

    /// The SHA-256 of the update that a client sent for the round it was asked in, if it is stored.
    ///
    /// # Errors
    /// The database.
    pub async fn contribution(
        &self,
        run: &RunId,
        asked_round: u64,
        client: &ClientId,
    ) -> Result<Option<Sha256Digest>, StoreError> {
        let found: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT sha256 FROM contributions WHERE run = ? AND client = ? AND asked_round = ? AND sha256 IS NOT NULL",
        )
        .bind(run.as_str())
        .bind(client.as_str())
        .bind(int(asked_round))
        .fetch_optional(&self.readers)
        .await?;
        found.map(|bytes| Sha256Digest::from_slice(&bytes).map_err(corrupt("contribution"))).transpose()
    }

    /// A round's cohort, ordered by client.
    pub(super) async fn contributions(&self, run: &RunId, round: u64) -> Result<Vec<Contribution>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT client, asked_round, asked_version, sha256, file, format, bytes, samples, loss, norm \
             FROM contributions WHERE run = ? AND round = ? ORDER BY client",
        )
        .bind(run.as_str())
        .bind(int(round))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(contribution).collect()
    }

    /// The norms of the newest updates of rounds that are over and had that configuration, oldest first: enough of them that
    /// those of the clients which sent last are among them.
    pub(super) async fn norms(&self, run: &RunId, config_version: u64) -> Result<Vec<(ClientId, f64)>, StoreError> {
        const ROWS: i64 = 1_000;
        let rows: Vec<(String, f64)> = sqlx::query_as(
            "SELECT client, norm FROM contributions JOIN rounds ON rounds.run = contributions.run \
             AND rounds.number = contributions.round WHERE contributions.run = ? AND norm IS NOT NULL \
             AND rounds.status <> 'open' AND rounds.config_version = ? \
             ORDER BY contributions.round DESC, client DESC LIMIT ?",
        )
        .bind(run.as_str())
        .bind(int(config_version))
        .bind(ROWS)
        .fetch_all(&self.readers)
        .await?;
        let norm = |(client, norm): (String, f64)| {
            client.parse().map(|client| (client, norm)).map_err(|e| corrupt("client")(format!("{e}")))
        };
        rows.into_iter().rev().map(norm).collect()
    }

    /// The files of a round's updates.
    pub(super) async fn files(
        &self,
        run: &RunId,
        round: u64,
        client: Option<&ClientId>,
    ) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT file FROM contributions WHERE run = ?1 AND round = ?2 AND file IS NOT NULL \
             AND (?3 IS NULL OR client = ?3)",
        )
        .bind(run.as_str())
        .bind(int(round))
        .bind(client.map(ClientId::as_str))
        .fetch_all(&self.readers)
        .await?)
    }

    /// Removes what no open round needs: uploads that were cut off, updates of rounds that are over, and models that were
    /// pruned when the coordinator died.
    pub(super) async fn remove_unfinished(&self) -> Result<(), StoreError> {
        let needed: Vec<String> = sqlx::query_scalar(
            "SELECT file FROM contributions JOIN rounds ON rounds.run = contributions.run \
             AND rounds.number = contributions.round WHERE rounds.status = 'open' AND file IS NOT NULL",
        )
        .fetch_all(&self.readers)
        .await?;
        // Not all that the database does not know: it may be an older one that was put back.
        let pruned: Vec<String> = sqlx::query_scalar(
            "SELECT lower(hex(sha256)) FROM model_versions WHERE pruned = 1 \
             EXCEPT SELECT lower(hex(sha256)) FROM model_versions WHERE pruned = 0",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(self.clean_up(&needed.into_iter().collect(), &pruned.into_iter().collect())?)
    }
}

fn contribution(row: Row) -> Result<Contribution, StoreError> {
    let received = match (row.sha256, row.file, row.format) {
        (Some(sha256), Some(file), Some(format)) => {
            let sha256 = Sha256Digest::from_slice(&sha256).map_err(corrupt("contribution"))?;
            let body = StoredBody { sha256, bytes: row.bytes.map_or(0, uint), file, format };
            let (samples, norm) = (row.samples.map_or(0, uint), row.norm.unwrap_or(0.0));
            Some(Received { samples, loss: row.loss, norm, body })
        }
        _ => None,
    };
    Ok(Contribution {
        client: row.client.parse().map_err(|e| corrupt("client")(format!("{e}")))?,
        asked: Assignment { round: uint(row.asked_round), version: uint(row.asked_version) },
        received,
    })
}
