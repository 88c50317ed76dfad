//! What must hold of every run at the end of every test, whatever happened in it.

use app::api::{RoundOutcome, RunSnapshot};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};
use std::path::Path;

/// Holds what was shown last, and what is stored, against each other and against the rules.
pub async fn check(folder: &Path, shown: &[RunSnapshot], secrets: &[String]) {
    let database = SqliteConnectOptions::new().filename(folder.join("fedlearn.sqlite")).read_only(true);
    let mut database = database.connect().await.unwrap();
    for run in shown {
        history_is_a_chain(run);
        shown_is_what_is_stored(&mut database, run).await;
    }
    no_update_of_somebody_kept_out(&mut database).await;
    no_upload_left_behind(&mut database, folder).await;
    no_secret_on_disk(folder, secrets);
}

/// Round numbers rise, and every complete round makes the version after the one it started from; void ones make none.
fn history_is_a_chain(run: &RunSnapshot) {
    assert!(run.rounds.is_sorted_by(|a, b| a.number < b.number), "round numbers rise");
    let mut version = 0;
    let mut best = None;
    for round in &run.rounds {
        assert_eq!(round.base_version, version, "round {} starts from the current version", round.number);
        assert!(round.updates <= round.cohort, "round {} counts its cohort only", round.number);
        if round.outcome == RoundOutcome::Complete {
            version += 1;
            assert!(round.updates >= 1, "round {} was made of something", round.number);
            best = best.max(round.test_accuracy.map(|a| (a * 1e9) as u64));
        }
        let made = (round.outcome == RoundOutcome::Complete).then_some(version);
        assert_eq!(round.version, made, "round {}", round.number);
    }
    assert_eq!(run.version, version, "the version is that of the last complete round");
    assert_eq!(run.best.map(|b| (b.test_accuracy * 1e9) as u64), best, "the best version is the most accurate");
}

/// What lies there is an update of a round that is open, and all of those lie there.
async fn no_upload_left_behind(database: &mut SqliteConnection, folder: &Path) {
    let kept = "SELECT file FROM contributions JOIN rounds ON rounds.run = contributions.run \
        AND rounds.number = contributions.round WHERE status = 'open' AND file IS NOT NULL ORDER BY file";
    let kept: Vec<String> = sqlx::query_scalar(kept).fetch_all(database).await.unwrap();
    let files = std::fs::read_dir(folder.join("incoming")).unwrap();
    let mut left: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, kept, "no upload is left behind, and none is lost");
}

async fn shown_is_what_is_stored(database: &mut SqliteConnection, run: &RunSnapshot) {
    let stored = sqlx::query(
        "SELECT version, best_version, autorun_rounds, \
         (SELECT count(*) FROM clients c WHERE c.run = runs.run AND standing <> 'left') AS clients, \
         (SELECT count(*) FROM rounds r WHERE r.run = runs.run AND status <> 'open') AS rounds, \
         (SELECT max(config_version) FROM config_versions v WHERE v.run = runs.run) AS config_version \
         FROM runs WHERE run = ?",
    )
    .bind(run.run.as_str())
    .fetch_one(&mut *database)
    .await
    .unwrap();
    let number = |column: &str| stored.get::<Option<i64>, _>(column).map(|n| n as u64);
    assert_eq!(number("version"), Some(run.version));
    assert_eq!(number("best_version"), run.best.map(|b| b.version));
    assert_eq!(number("autorun_rounds"), Some(run.autorun.map_or(0, |a| a.rounds.into())));
    assert_eq!(number("clients"), Some(run.clients.len() as u64));
    assert_eq!(number("rounds"), Some(run.rounds.len() as u64));
    assert_eq!(number("config_version"), Some(run.config_version));

    for round in run.rounds.iter().filter(|round| round.outcome == RoundOutcome::Complete) {
        let sums = sqlx::query(
            "SELECT count(*) AS asked, count(sha256) - count(rejected) AS updates, count(rejected) AS rejected, \
             coalesce(sum(samples) FILTER (WHERE rejected IS NULL), 0) AS samples, coalesce(sum(bytes), 0) AS bytes \
             FROM contributions WHERE run = ? AND round = ?",
        )
        .bind(run.run.as_str())
        .bind(round.number as i64)
        .fetch_one(&mut *database)
        .await
        .unwrap();
        let sum = |column| sums.get::<i64, _>(column) as u64;
        assert_eq!(sum("asked"), u64::from(round.cohort), "cohort of round {}", round.number);
        assert_eq!(sum("updates"), u64::from(round.updates), "updates of round {}", round.number);
        assert_eq!(sum("rejected"), u64::from(round.rejected), "updates left out of round {}", round.number);
        assert_eq!(sum("samples"), round.samples, "samples of round {}", round.number);
        assert_eq!(sum("bytes"), round.received_bytes, "bytes of round {}", round.number);
    }
}

/// Nobody pending has contributed, and nobody kicked after it was kicked, until it was admitted again.
async fn no_update_of_somebody_kept_out(database: &mut SqliteConnection) {
    let sneaked_in: Vec<(String, i64)> = sqlx::query_as(
        "SELECT client, round FROM contributions c WHERE received_ms IS NOT NULL AND (\
         EXISTS (SELECT 1 FROM clients WHERE run = c.run AND client = c.client AND standing = 'pending') OR \
         (SELECT kind FROM events WHERE run = c.run AND client = c.client AND kind IN ('kicked', 'admitted') \
         AND at_ms < c.received_ms ORDER BY id DESC LIMIT 1) = 'kicked')",
    )
    .fetch_all(database)
    .await
    .unwrap();
    assert_eq!(sneaked_in, [], "(client, round) of updates that should not have been taken");
}

fn no_secret_on_disk(folder: &Path, secrets: &[String]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let is_in = |secret: &&String| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(secrets.iter().find(is_in).is_none(), "a token stands in {}", path.display());
        }
    }
}
