//! Several writes, all of them or none.

use super::{Store, StoreError};
use sqlx::pool::PoolConnection;
use sqlx::{Executor, Sqlite, SqliteConnection};
use std::ops::{Deref, DerefMut};

/// A transaction on the one connection that writes. Whatever ends it but a commit that succeeds ends the connection too:
/// on a full disk SQLite takes a transaction back by itself, after which sqlx's own count of open ones is wrong, and what
/// comes later on that connection would be written into a transaction that nobody ever commits.
pub(super) struct Transaction {
    connection: PoolConnection<Sqlite>,
    is_committed: bool,
}

impl Store {
    /// Begins to write.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(super) async fn begin(&self) -> Result<Transaction, StoreError> {
        let connection = self.writer.acquire().await?;
        let mut transaction = Transaction { connection, is_committed: false };
        transaction.execute("BEGIN IMMEDIATE").await?;
        Ok(transaction)
    }
}

impl Transaction {
    /// Makes all of it durable.
    ///
    /// # Errors
    /// The database; then none of it is stored.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.execute("COMMIT").await?;
        self.is_committed = true;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_committed {
            self.connection.close_on_drop();
        }
    }
}
