//! Databases of other versions of this program, that others write into, and that fail.

use super::*;
use crate::digest::Sha256Digest;
use crate::round::{Received, StoredBody};
use app::api::{Autorun, RoundOutcome, RunConfig};
use sqlx::{ConnectOptions, Executor, Row};

const FIRST: &str = include_str!("../../migrations/0001_initial.sql");

/// What a run of the first version left behind: a finished round, and one that was open with an update in.
const ROWS: &str = "
    BEGIN;
    INSERT INTO coordinator VALUES (1, x'00000000000000000000000000000000000000000000000000000000000000aa');
    INSERT INTO runs VALUES ('old', 1, NULL, NULL, 1, NULL, 3);
    INSERT INTO config_versions VALUES ('old', 1, '{\"min_clients\": 2}', 1);
    INSERT INTO model_versions VALUES ('old', 0, x'0000000000000000000000000000000000000000000000000000000000000001', NULL, NULL, 1, 0);
    INSERT INTO model_versions VALUES ('old', 1, x'0000000000000000000000000000000000000000000000000000000000000002', 1, 0.5, 2, 0);
    INSERT INTO clients VALUES ('old', 'c1', 'alice', 'cpu', 10, x'0000000000000000000000000000000000000000000000000000000000000003', 'admitted', 0, 1, 100, 0.5, 1, 2);
    INSERT INTO clients VALUES ('old', 'c2', 'mallory', 'cpu', 10, x'0000000000000000000000000000000000000000000000000000000000000004', 'kicked', 1, 0, 0, NULL, 1, 2);
    INSERT INTO rounds VALUES ('old', 1, 'complete', 'all updates in (1)', 0, 1, 1, 1, 1, 10, 100, 0.5, 0.4, 0.5, 1, 2, 2);
    INSERT INTO rounds (run, number, status, base_version, config_version, cohort, opened_ms, deadline_ms) VALUES ('old', 2, 'open', 1, 1, 1, 3, 4);
    INSERT INTO contributions VALUES ('old', 1, 'c1', x'0000000000000000000000000000000000000000000000000000000000000005', 100, 10, 0.5, 2);
    INSERT INTO contributions VALUES ('old', 2, 'c1', x'0000000000000000000000000000000000000000000000000000000000000006', 100, 10, 0.5, 3);
    INSERT INTO events VALUES (1, 'old', 1, 'joined', 'c1', NULL, 'alice');
    COMMIT;
";

fn new_run(sha256: Sha256Digest) -> NewRun {
    let (run, config) = ("tiny".parse().unwrap(), RunConfig::default());
    NewRun { run, model: None, dataset: None, config, sha256, created_ms: 1 }
}

#[tokio::test]
async fn a_database_of_the_first_version_is_taken_up_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join(DATABASE)).create_if_missing(true);
    let mut old = options.connect().await.unwrap();
    // As the migrator of that version left it: with its own table, in which the first one is noted.
    let migrator = sqlx::migrate!();
    let first = migrator.iter().find(|migration| migration.version == 1).unwrap();
    old.execute(sqlx::raw_sql(FIRST)).await.unwrap();
    old.execute(sqlx::raw_sql(ROWS)).await.unwrap();
    let table = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
        installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
        execution_time BIGINT NOT NULL)";
    old.execute(sqlx::raw_sql(table)).await.unwrap();
    let noted = "INSERT INTO _sqlx_migrations VALUES (1, 'initial', 0, TRUE, ?, 1)";
    sqlx::query(noted).bind(first.checksum.as_ref()).execute(&mut old).await.unwrap();
    drop(old);

    let store = Store::open(folder.path()).await.unwrap();
    let run = store.load_runs(|_| true).await.unwrap().remove(0);
    let (autorun, restored) = (Some(Autorun { rounds: 3 }), &run.restored);
    assert_eq!((restored.version, restored.autorun, restored.config.min_clients), (1, autorun, 2));
    let names: Vec<_> =
        restored.roster.iter().map(|c| (c.view.name.as_str(), c.banned, c.view.rounds, c.asked)).collect();
    assert_eq!(names, [("alice", false, 1, 2), ("mallory", true, 0, 0)]);
    assert_eq!((run.rounds[0].outcome, run.rounds[0].test_accuracy), (RoundOutcome::Complete, Some(0.5)));
    // The updates of its open round were in memory only: they are asked for again, from the same version.
    let round = restored.round.as_ref().unwrap();
    assert_eq!((round.open.number, round.open.base_version, round.open.cohort.len()), (2, 1, 1));
    assert!(round.earlier.is_empty() && round.received.is_empty());
    assert!(store.contribution(&run.run, 1, &restored.roster[0].view.id).await.unwrap().is_some(), "history stays");
    let events = sqlx::query("SELECT count(*) AS n FROM events").fetch_one(&store.readers).await.unwrap();
    assert_eq!(events.get::<i64, _>("n"), 1);
}

#[tokio::test]
async fn a_database_that_is_newer_than_this_program_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'of tomorrow', 0, TRUE, x'00', 1)";
    store.writer.execute(newer).await.unwrap();
    store.writer.close().await;
    store.readers.close().await;
    store.release();
    let refused = Store::open(folder.path()).await.err();
    assert!(matches!(refused, Some(StoreError::Migration(sqlx::migrate::MigrateError::VersionMissing(9999)))));
    // Nobody holds the folder for that.
    assert!(matches!(Store::open(folder.path()).await.err(), Some(StoreError::Migration(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_at_once_waits_for_each_other_and_none_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    // Given many who write without a pause,
    let mut writing = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        writing.spawn(async move {
            for _ in 0..30 {
                store.open_session(0, 1).await?;
            }
            store.begin().await?.commit().await
        });
    }
    // then all is written.
    for written in writing.join_all().await {
        written.unwrap();
    }
    let sessions = sqlx::query("SELECT count(*) AS n FROM sessions").fetch_one(&store.readers).await.unwrap();
    assert_eq!(sessions.get::<i64, _>("n"), 16 * 30);
}

#[tokio::test]
async fn a_database_that_another_program_writes_into_answers_but_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    store.ping().await.unwrap();
    let other = SqliteConnectOptions::new().filename(folder.path().join(DATABASE));
    let mut other = other.connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    assert!(store.ping().await.unwrap_err().to_string().contains("database is locked"));
    assert_eq!(store.load_runs(|_| true).await.unwrap().len(), 0);
    other.execute("ROLLBACK").await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_the_database_took_back_by_itself_leaves_nothing_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let new = new_run(Sha256Digest([0; 32]));
    assert!(store.create_run(&new).await.unwrap());
    let NewRun { run, config, .. } = new;
    // Given a disk that is full in the middle of a transaction, which SQLite answers by taking all of it back,
    let full = "CREATE TRIGGER full BEFORE INSERT ON config_versions WHEN NEW.config_version = 2 \
        BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END";
    store.writer.execute(full).await.unwrap();
    assert!(store.add_config(&run, 2, &config, 2).await.is_err());
    // and one that fails for a reason of its own,
    assert!(store.add_config(&run, 1, &config, 2).await.is_err());
    // then what is stored later is there for whoever else looks, as after a crash.
    store.add_config(&run, 3, &config, 3).await.unwrap();
    let beside = Store::attach(folder.path()).await.unwrap();
    assert_eq!(beside.load_runs(|_| true).await.unwrap()[0].restored.config_version, 3);
}

#[tokio::test]
async fn a_model_that_was_to_go_when_the_coordinator_died_goes_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let put = |bytes: &'static [u8]| store.put_model(move |file| file.write_all(bytes)).unwrap();
    let (kept, pruned, unknown) = (put(b"kept"), put(b"pruned"), put(b"unknown"));
    let new = new_run(kept);
    assert!(store.create_run(&new).await.unwrap());
    for (version, sha256, is_pruned) in [(1, pruned, true), (2, kept, true)] {
        sqlx::query("INSERT INTO model_versions (run, version, sha256, created_ms, pruned) VALUES (?, ?, ?, 1, ?)")
            .bind(new.run.as_str())
            .bind(version)
            .bind(sha256.0.as_slice())
            .bind(is_pruned)
            .execute(&store.writer)
            .await
            .unwrap();
    }
    store.release();
    let store = Store::open(folder.path()).await.unwrap();
    let there = [kept, pruned, unknown].map(|sha256| store.open_model(&sha256).is_ok());
    assert_eq!(there, [true, false, true], "of what another version still is, and of what is unknown, nothing goes");
}

#[tokio::test]
async fn an_update_of_a_client_that_was_not_asked_is_an_error_and_not_half_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let new = new_run(Sha256Digest([0; 32]));
    assert!(store.create_run(&new).await.unwrap());
    // Given a client that is on the roster and in no round,
    let client = "INSERT INTO clients (run, client, name, device, samples, token_sha256, standing, banned, rounds, \
        sent_bytes, joined_ms, seen_ms) VALUES ('tiny', 'c1', 'alice', 'cpu', 10, zeroblob(32), 'admitted', 0, 0, 0, 1, 1)";
    store.writer.execute(client).await.unwrap();
    let client = "c1".parse().unwrap();
    let body = StoredBody { sha256: Sha256Digest([1; 32]), bytes: 1, file: "file".into(), format: "container".into() };
    let received = Received { samples: 1, loss: None, norm: 0.0, body };
    let refused = store.add_contribution(&new.run, 1, &client, &received, 2);
    // then an update of it is an error, and is not put on its account either.
    let refused = refused.await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains("client c1 has 0 places in round 1 and 1 on the roster"), "{refused}");
    assert_eq!(store.load_runs(|_| true).await.unwrap()[0].restored.roster[0].view.rounds, 0);
}

#[tokio::test]
async fn who_waits_in_line_for_the_database_in_vain_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).await.unwrap();
    // Given a database whose one connection nobody gets in time,
    let options = store.writer.connect_options().as_ref().clone();
    let pool = SqlitePoolOptions::new().acquire_timeout(Duration::from_millis(1));
    store.writer = pool.after_connect(|_, _| Box::pin(std::future::pending())).connect_lazy_with(options);
    // then who waits for it is told what to look for.
    let refused = store.set_autorun(&"tiny".parse().unwrap(), 1).await.unwrap_err();
    assert!(matches!(refused, StoreError::Turn) && refused.is_passing(), "{refused}");
    assert!(refused.to_string().contains("timed out after 5 s waiting for the database"), "{refused}");
}

#[tokio::test]
async fn all_who_wait_for_the_same_ping_are_told_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let other = SqliteConnectOptions::new().filename(folder.path().join(DATABASE));
    let mut other = other.connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    // Given many who ask at once whether a database can be written that another program holds,
    let found = futures::future::join_all((0..64).map(|_| store.ping())).await;
    // then that is tried for the first, and once for all who came while it was.
    let found: Vec<_> = found.into_iter().map(Result::unwrap_err).collect();
    let tries: std::collections::HashSet<_> = found.iter().map(Arc::as_ptr).collect();
    assert_eq!(tries.len(), 2);
}
