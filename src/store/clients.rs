//! The roster.

use super::{Store, StoreError, corrupt, int, uint};
use crate::digest::Sha256Digest;
use crate::round::RestoredClient;
use app::api::{ClientId, ClientState, ClientView, Rejection, RunId};

/// What is stored of a client's state. Whether it trains or waits, it reports itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Awaits admission.
    Pending,
    /// Takes part.
    Admitted,
    /// Removed by the operator.
    Kicked,
}

impl Standing {
    fn of(state: ClientState) -> Self {
        match state {
            ClientState::Pending => Self::Pending,
            ClientState::Kicked => Self::Kicked,
            _ => Self::Admitted,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Admitted => "admitted",
            Self::Kicked => "kicked",
        }
    }
}

#[derive(sqlx::FromRow)]
struct ClientRow {
    client: String,
    name: String,
    device: String,
    samples: i64,
    standing: String,
    banned: i64,
    rounds: i64,
    sent_bytes: i64,
    last_loss: Option<f64>,
    joined_ms: i64,
    seen_ms: i64,
    quarantined: i64,
    strikes: i64,
    late_updates: i64,
    error: Option<String>,
    asked: i64,
    sends_heartbeats: bool,
    rejected_round: Option<i64>,
    rejected: Option<String>,
}

impl Store {
    /// Stores a client that has just registered.
    ///
    /// # Errors
    /// The database.
    pub async fn add_client(&self, run: &RunId, client: &ClientView, token: Sha256Digest) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO clients (run, client, name, device, samples, token_sha256, standing, banned, rounds, \
             sent_bytes, joined_ms, seen_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?)",
        )
        .bind(run.as_str())
        .bind(client.id.as_str())
        .bind(&client.name)
        .bind(&client.device)
        .bind(int(client.samples))
        .bind(token.0.as_slice())
        .bind(Standing::of(client.state).as_str())
        .bind(int(client.joined_ms))
        .bind(int(client.seen_ms))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Stores what has changed of a client, and whether its name is banned, which is so for all of that name. One that is not
    /// there is left alone.
    ///
    /// # Errors
    /// The database; then nothing of it is stored.
    pub async fn update_client(&self, run: &RunId, client: &ClientView, banned: bool) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE clients SET banned = ?1 WHERE run = ?2 AND name = ?3 AND banned <> ?1")
            .bind(banned)
            .bind(run.as_str())
            .bind(&client.name)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE clients SET standing = ?, quarantined = ?, strikes = ?, late_updates = ?, error = ?, \
             samples = ?, seen_ms = ? WHERE run = ? AND client = ?",
        )
        .bind(Standing::of(client.state).as_str())
        .bind(client.state == ClientState::Quarantine)
        .bind(client.strikes)
        .bind(int(client.late_updates))
        .bind(&client.error)
        .bind(int(client.samples))
        .bind(int(client.seen_ms))
        .bind(run.as_str())
        .bind(client.id.as_str())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// A client has sent its first heartbeat.
    ///
    /// # Errors
    /// The database.
    pub async fn heartbeats_began(&self, run: &RunId, client: &ClientId) -> Result<(), StoreError> {
        sqlx::query("UPDATE clients SET sends_heartbeats = 1 WHERE run = ? AND client = ?")
            .bind(run.as_str())
            .bind(client.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// A client has left. Its history stays.
    ///
    /// # Errors
    /// The database.
    pub async fn remove_client(&self, run: &RunId, client: &ClientId) -> Result<(), StoreError> {
        sqlx::query("UPDATE clients SET standing = 'left' WHERE run = ? AND client = ?")
            .bind(run.as_str())
            .bind(client.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// The clients on a run's roster, and SHA-256 of their tokens.
    ///
    /// # Errors
    /// The database.
    pub async fn client_tokens(&self, run: &RunId) -> Result<Vec<(ClientId, Sha256Digest)>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT client, token_sha256 FROM clients WHERE run = ? AND standing <> 'left'")
                .bind(run.as_str())
                .fetch_all(&self.readers)
                .await?;
        let token = |(client, sha256): (String, Vec<u8>)| {
            let client = client.parse().map_err(|e| corrupt("client")(format!("{e}")))?;
            Ok((client, Sha256Digest::from_slice(&sha256).map_err(corrupt("client token"))?))
        };
        rows.into_iter().map(token).collect()
    }

    pub(super) async fn roster(&self, run: &RunId) -> Result<Vec<RestoredClient>, StoreError> {
        let rows: Vec<ClientRow> = sqlx::query_as(
            "SELECT clients.client, name, device, clients.samples, standing, banned, rounds, sent_bytes, last_loss, \
             joined_ms, seen_ms, quarantined, strikes, late_updates, error, sends_heartbeats, \
             coalesce((SELECT max(round) FROM contributions c \
             WHERE c.run = clients.run AND c.client = clients.client), 0) AS asked, \
             newest.asked_round AS rejected_round, newest.rejected \
             FROM clients LEFT JOIN contributions newest ON newest.run = clients.run AND newest.client = clients.client \
             AND newest.asked_round = (SELECT max(asked_round) FROM contributions c \
             WHERE c.run = clients.run AND c.client = clients.client AND c.norm IS NOT NULL) AND newest.norm IS NOT NULL \
             WHERE clients.run = ? AND standing <> 'left' ORDER BY joined_ms, clients.client",
        )
        .bind(run.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(restored_client).collect()
    }
}

fn restored_client(row: ClientRow) -> Result<RestoredClient, StoreError> {
    let state = match row.standing.as_str() {
        "pending" => ClientState::Pending,
        "kicked" => ClientState::Kicked,
        _ if row.quarantined != 0 => ClientState::Quarantine,
        _ => ClientState::Offline, // until it sends a request
    };
    let view = ClientView {
        id: row.client.parse().map_err(|e| corrupt("client")(format!("{e}")))?,
        name: row.name,
        state,
        samples: uint(row.samples),
        device: row.device,
        progress: None,
        last_loss: row.last_loss,
        sent_bytes: uint(row.sent_bytes),
        rounds: uint(row.rounds),
        joined_ms: uint(row.joined_ms),
        seen_ms: uint(row.seen_ms),
        error: row.error,
        rejected: row.rejected_round.zip(row.rejected).map(|(round, reason)| Rejection { round: uint(round), reason }),
        strikes: u32::try_from(row.strikes).unwrap_or(u32::MAX),
        late_updates: uint(row.late_updates),
    };
    let (banned, asked, sends_heartbeats) = (row.banned != 0, uint(row.asked), row.sends_heartbeats);
    Ok(RestoredClient { view, banned, asked, sends_heartbeats })
}
