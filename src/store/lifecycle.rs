//! Runs that are archived, renamed and deleted: each in one transaction, so that after a crash a run is whole or gone.

use super::{Store, StoreError, corrupt, int};
use crate::digest::Sha256Digest;
use app::api::RunId;
use sqlx::Executor;

/// The tables that have rows of a run, those that refer to others first.
const TABLES: [&str; 7] = ["contributions", "events", "rounds", "clients", "config_versions", "model_versions", "runs"];

impl Store {
    /// Stores since when a run is archived; `None`: it is not.
    ///
    /// # Errors
    /// The database.
    pub async fn set_archived(&self, run: &RunId, archived_ms: Option<u64>) -> Result<(), StoreError> {
        sqlx::query("UPDATE runs SET archived_ms = ? WHERE run = ?")
            .bind(archived_ms.map(int))
            .bind(run.as_str())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Gives a run another name. Returns false, and changes nothing, if there is a run of that name.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub async fn rename_run(&self, run: &RunId, to: &RunId) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let taken: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM runs WHERE run = ?").bind(to.as_str()).fetch_optional(&mut *tx).await?;
        if taken.is_some() {
            return Ok(false);
        }
        // Until the last table is done, rows refer to a name that is not there.
        tx.execute("PRAGMA defer_foreign_keys = ON").await?;
        for table in TABLES {
            sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE {table} SET run = ? WHERE run = ?")))
                .bind(to.as_str())
                .bind(run.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes a run with all that is stored of it, then the files that nothing else needs.
    ///
    /// # Errors
    /// The database; then nothing is deleted. A file that cannot be removed is only logged.
    pub async fn delete_run(&self, run: &RunId) -> Result<(), StoreError> {
        let received: Vec<String> = sqlx::query_scalar(
            "SELECT file FROM contributions JOIN rounds ON rounds.run = contributions.run \
             AND rounds.number = contributions.round WHERE rounds.run = ? AND status = 'open' AND file IS NOT NULL",
        )
        .bind(run.as_str())
        .fetch_all(&self.readers)
        .await?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT OR IGNORE INTO removed_models SELECT sha256 FROM model_versions WHERE run = ? AND pruned = 0",
        )
        .bind(run.as_str())
        .execute(&mut *tx)
        .await?;
        tx.execute("PRAGMA defer_foreign_keys = ON").await?;
        for table in TABLES {
            sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE run = ?")))
                .bind(run.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        self.remove_received(received).await;
        if let Err(error) = self.remove_models().await {
            tracing::warn!(%run, %error, "the models of a deleted run are removed at the next start");
        }
        Ok(())
    }

    /// Removes the files of models whose runs are deleted, unless another run has the same model.
    pub(super) async fn remove_models(&self) -> Result<(), StoreError> {
        let removed: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT sha256 FROM removed_models").fetch_all(&self.readers).await?;
        for sha256 in removed {
            let digest = Sha256Digest::from_slice(&sha256).map_err(corrupt("removed model"))?;
            if self.remove_unused_model(digest).await? {
                sqlx::query("DELETE FROM removed_models WHERE sha256 = ?").bind(sha256).execute(&self.writer).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::NewRun;
    use app::api::RunConfig;

    fn new_run(run: &str, sha256: Sha256Digest) -> NewRun {
        let (run, config) = (run.parse().unwrap(), RunConfig::default());
        NewRun { run, model: None, dataset: None, config, sha256, created_ms: 1 }
    }

    fn put(store: &Store, bytes: &'static [u8]) -> Sha256Digest {
        store.put_model(move |file| file.write_all(bytes)).unwrap()
    }

    #[tokio::test]
    async fn the_model_of_a_deleted_run_whose_file_could_not_be_removed_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let (model, unknown) = (put(&store, b"model"), put(&store, b"unknown"));
        let run = new_run("doomed", model);
        assert!(store.create_run(&run).await.unwrap());
        // Given a file that cannot be removed when its run is deleted, as where the coordinator dies in between,
        let path = folder.path().join("models").join(model.to_string());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        store.delete_run(&run.run).await.unwrap();
        assert_eq!(store.load_runs(|_| true).await.unwrap().len(), 0);
        assert!(path.exists());
        // then it goes at the next start, and nothing that is unknown does.
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, b"model").unwrap();
        store.release();
        let store = Store::open(folder.path()).await.unwrap();
        assert!(!path.exists());
        assert!(store.open_model(&unknown).is_ok());
    }

    #[tokio::test]
    async fn every_table_with_rows_of_a_run_is_renamed_and_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut with_runs: Vec<String> = sqlx::query_scalar(
            "SELECT tables.name FROM sqlite_schema AS tables JOIN pragma_table_info(tables.name) AS columns \
             WHERE tables.type = 'table' AND columns.name = 'run'",
        )
        .fetch_all(&store.readers)
        .await
        .unwrap();
        with_runs.sort();
        let mut known = TABLES;
        known.sort();
        assert_eq!(with_runs, known);
    }

    #[tokio::test]
    async fn a_model_that_another_run_has_or_is_about_to_have_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let model = put(&store, b"model");
        let (first, second) = (new_run("first", model), new_run("second", model));
        assert!(store.create_run(&first).await.unwrap());
        // Given a second run with the same model, of which only the file is written so far,
        put(&store, b"model");
        store.delete_run(&first.run).await.unwrap();
        assert!(store.open_model(&model).is_ok());
        // and one of which all is stored,
        assert!(store.create_run(&second).await.unwrap());
        store.rename_run(&second.run, &first.run).await.unwrap();
        put(&store, b"model");
        let third = new_run("third", model);
        assert!(store.create_run(&third).await.unwrap());
        store.delete_run(&third.run).await.unwrap();
        assert!(store.open_model(&model).is_ok());
        // then the file goes with the last of them.
        store.delete_run(&first.run).await.unwrap();
        assert!(store.open_model(&model).is_err());
    }

    #[tokio::test]
    async fn the_file_of_the_best_version_is_kept_however_old_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let models: Vec<_> = ["0", "1", "2", "3", "4"].map(|bytes| put(&store, bytes.as_bytes())).into();
        let run = new_run("run", models[0]);
        assert!(store.create_run(&run).await.unwrap());
        for (version, sha256) in models.iter().enumerate().skip(1) {
            let insert = "INSERT INTO model_versions (run, version, sha256, created_ms) VALUES ('run', ?, ?, 1)";
            sqlx::query(insert).bind(version as i64).bind(sha256.0.as_slice()).execute(&store.writer).await.unwrap();
            store.unsaved.saved(sha256);
        }
        sqlx::query("UPDATE runs SET version = 4, best_version = 2").execute(&store.writer).await.unwrap();
        store.prune_models(&run.run, 1).await.unwrap();
        let there: Vec<_> = models.iter().map(|sha256| store.open_model(sha256).is_ok()).collect();
        assert_eq!(there, [true, false, true, true, true], "the initial one, the best, and the newest two");
    }
}
