//! The admin token and the dashboard's sessions, as hashes.

use super::{Store, StoreError, Token, corrupt, int};
use crate::digest::Sha256Digest;

impl Store {
    /// Makes the admin token at first start, and returns it that once. Later: none.
    ///
    /// # Errors
    /// The database.
    pub async fn make_admin_token(&self) -> Result<Option<Token>, StoreError> {
        let token = Token::generate();
        let made = sqlx::query("INSERT INTO coordinator (id, admin_token_sha256) VALUES (1, ?) ON CONFLICT DO NOTHING")
            .bind(token.digest().0.as_slice())
            .execute(&self.writer)
            .await?;
        Ok((made.rows_affected() == 1).then_some(token))
    }

    /// Whether an admin token was ever made: then this is not the first start with this data folder.
    ///
    /// # Errors
    /// The database.
    pub async fn has_admin_token(&self) -> Result<bool, StoreError> {
        let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM coordinator").fetch_optional(&self.readers).await?;
        Ok(found.is_some())
    }

    /// Puts another admin token in place of the forgotten one, ends all sessions, and returns it that once.
    ///
    /// # Errors
    /// The database.
    pub async fn renew_admin_token(&self) -> Result<Token, StoreError> {
        let token = Token::generate();
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM sessions").execute(&mut *tx).await?;
        sqlx::query("INSERT OR REPLACE INTO coordinator (id, admin_token_sha256) VALUES (1, ?)")
            .bind(token.digest().0.as_slice())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Whether that is the admin token.
    ///
    /// # Errors
    /// The database.
    pub async fn is_admin_token(&self, token: &str) -> Result<bool, StoreError> {
        let kept: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT admin_token_sha256 FROM coordinator").fetch_optional(&self.readers).await?;
        let Some(kept) = kept else { return Ok(false) };
        Ok(Sha256Digest::from_slice(&kept).map_err(corrupt("admin token"))? == Sha256Digest::of(token))
    }

    /// Opens a session until `expires_ms`; forgets those that are over.
    ///
    /// # Errors
    /// The database.
    pub async fn open_session(&self, now_ms: u64, expires_ms: u64) -> Result<Token, StoreError> {
        let token = Token::generate();
        sqlx::query("DELETE FROM sessions WHERE expires_ms <= ?").bind(int(now_ms)).execute(&self.writer).await?;
        sqlx::query("INSERT INTO sessions (token_sha256, expires_ms) VALUES (?, ?)")
            .bind(token.digest().0.as_slice())
            .bind(int(expires_ms))
            .execute(&self.writer)
            .await?;
        Ok(token)
    }

    /// Whether that session is open. The look-up is by hash, so its time says nothing of the secret.
    ///
    /// # Errors
    /// The database.
    pub async fn is_session(&self, token: &str, now_ms: u64) -> Result<bool, StoreError> {
        let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sessions WHERE token_sha256 = ? AND expires_ms > ?")
            .bind(Sha256Digest::of(token).0.as_slice())
            .bind(int(now_ms))
            .fetch_optional(&self.readers)
            .await?;
        Ok(found.is_some())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database.
    pub async fn close_session(&self, token: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM sessions WHERE token_sha256 = ?")
            .bind(Sha256Digest::of(token).0.as_slice())
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
