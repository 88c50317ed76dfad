//! What survives a restart: a SQLite database, and blobs as files named by their SHA-256.
//!
//! A blob is durable before the row that names it, and a round is stored with its contributions and its new version in one
//! transaction. The rules of a run are not applied here. Row types stay private; the public types are those of `app::api`,
//! and the plain ones of `round` and `run`.

mod blob_error;
mod blobs;
mod clients;
mod contributions;
mod ledger;
mod lifecycle;
mod lock;
mod rounds;
mod runs;
mod secrets;
mod spool;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod token;
mod transaction;

pub use blob_error::BlobError;
pub use ledger::RunLedger;
pub use runs::{NewRun, StoredRun};
pub use spool::{Expanded, Spool, SpoolFile, expand};
pub use token::Token;

use blobs::Unsaved;
use lock::FolderLock;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Why the store could not do what was asked. None of these is the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    /// The database, for which others wait too.
    #[error(
        "timed out after {} s waiting for the database: another process holds the write lock, or the disk does not respond",
        TURN.as_secs()
    )]
    Turn,
    /// The database is newer than this program, or was changed behind its back.
    #[error("database schema: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The data folder could not be made.
    #[error("cannot use the data folder {}: {source}; make it writable for this user, or choose another with --data-dir", absolute(.path))]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A coordinator holds the data folder.
    #[error("another coordinator uses the data folder {}: stop it, or choose another folder with --data-dir", absolute(.0))]
    InUse(PathBuf),
    /// No coordinator has ever used the data folder.
    #[error("no coordinator has used the data folder {}: name its folder with --data-dir", absolute(.0))]
    NoDatabase(PathBuf),
    /// A row does not mean anything to this program.
    #[error("the database holds a {what} that cannot be read: {reason}")]
    Corrupt {
        /// What the row describes.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // Of the pool sqlx says only that it timed out, which tells nobody what to look for.
        if matches!(error, sqlx::Error::PoolTimedOut) { Self::Turn } else { Self::Database(error) }
    }
}

impl StoreError {
    /// Whether another try may do better: a full disk, a locked database; not what is damaged.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Blob(error) => error.is_passing(),
            Self::Corrupt { .. } => false,
            _ => true,
        }
    }
}

/// A handle on the data folder; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    /// One connection, for which those who write queue up. SQLite has one writer at a time anyway; but among several
    /// connections whoever asks at the right moment is next, and under load somebody asks in vain until it gives up.
    writer: SqlitePool,
    /// Connections that cannot write. None of them waits for a writer.
    readers: SqlitePool,
    pings: Arc<Pings>,
    models: PathBuf,
    incoming: PathBuf,
    unsaved: Arc<Unsaved>,
    /// The coordinator's; not of those who only look in.
    lock: Option<Arc<FolderLock>>,
}

/// How often the database was asked whether it can be written, and what came of the last time, with its number.
#[derive(Debug, Default)]
struct Pings {
    begun: AtomicU64,
    last: tokio::sync::Mutex<Option<(u64, Found)>>,
}

/// What came of one.
type Found = Result<(), Arc<StoreError>>;

const DATABASE: &str = "fedlearn.sqlite";

/// How long a coordinator waits for another program that writes into its database. Short, because a run does one thing after
/// the other: whoever sends is told to try again, and what is decided is tried again anyway.
const BUSY: Duration = Duration::from_millis(500);
/// How long another program waits for the coordinator, which writes most of the time and lets go every few milliseconds.
const BUSY_BESIDE: Duration = Duration::from_secs(5);

/// How long whoever writes waits for those before it. While another program holds it each of them takes
/// [`BUSY`] in vain, and the last of many should not learn of that after half a minute.
const TURN: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the data folder for a coordinator, making it and bringing its database up to date where needed. What a stopped
    /// coordinator left unfinished is removed: uploads that are in no open round, and halves of models.
    ///
    /// # Errors
    /// The folder cannot be written, another coordinator uses it, or its database is newer than this program.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let lock = FolderLock::take(folder)?;
        for folder in [folder.join("models"), folder.join("incoming")] {
            tokio::fs::create_dir_all(&folder).await.map_err(at(&folder))?;
        }
        let store = Self::connect(folder, BUSY, Some(lock)).await?;
        store.remove_unfinished().await?;
        store.remove_models().await?;
        Ok(store)
    }

    /// Looks into the data folder beside its coordinator, which may be running: nothing is made, migrated or cleaned up.
    ///
    /// # Errors
    /// There is no database in it, or it cannot be opened.
    pub async fn attach(folder: &Path) -> Result<Self, StoreError> {
        if !folder.join(DATABASE).is_file() {
            return Err(StoreError::NoDatabase(folder.to_owned()));
        }
        Self::connect(folder, BUSY_BESIDE, None).await
    }

    /// Connects to the database; with the lock, makes it and brings it up to date where needed.
    async fn connect(folder: &Path, busy: Duration, lock: Option<FolderLock>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(DATABASE))
            .create_if_missing(lock.is_some())
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power cut, not only a crash of this program.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(busy);
        let writer = SqlitePoolOptions::new().max_connections(1).acquire_timeout(TURN);
        let writer = writer.connect_with(options.clone()).await?;
        if lock.is_some() {
            sqlx::migrate!().run(&writer).await?;
        }
        let options = options.create_if_missing(false).pragma("query_only", "on");
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        let (models, incoming) = (folder.join("models"), folder.join("incoming"));
        Ok(Self {
            writer,
            readers,
            pings: Arc::default(),
            models,
            incoming,
            unsaved: Arc::default(),
            lock: lock.map(Arc::new),
        })
    }

    /// Removes a data folder with all that is in it; that it is not there is fine.
    ///
    /// # Errors
    /// A coordinator uses it, or the file system.
    pub fn remove(folder: &Path) -> Result<(), StoreError> {
        if !folder.exists() {
            return Ok(());
        }
        let _lock = FolderLock::take(folder)?;
        std::fs::remove_dir_all(folder).map_err(at(folder))
    }

    /// Lets another coordinator have the data folder, even while somebody still holds a handle on this store.
    pub fn release(&self) {
        if let Some(lock) = &self.lock {
            lock.release();
        }
    }

    /// Notes what happened, for people.
    ///
    /// # Errors
    /// The database.
    pub async fn log_event(
        &self,
        run: &app::api::RunId,
        at_ms: u64,
        kind: &str,
        client: Option<&app::api::ClientId>,
        round: Option<u64>,
        detail: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO events (run, at_ms, kind, client, round, detail) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(run.as_str())
            .bind(int(at_ms))
            .bind(kind)
            .bind(client.map(|c| c.as_str()))
            .bind(round.map(int))
            .bind(detail)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// The whole path: where a relative one leads depends on where the program was started.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Folder { path, source }
}

/// SQLite's integers are signed; nothing that is counted here comes near 2^63.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back; CHECKs in the schema keep negative numbers out.
fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn corrupt(what: &'static str) -> impl Fn(String) -> StoreError {
    move |reason| StoreError::Corrupt { what, reason }
}

/// Runs heavy work, and what waits for a disk, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Not cancelled: nobody holds the handle. So it panicked, and the panic goes on where it was asked for.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
