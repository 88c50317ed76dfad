//! What must hold at the end, of what is shown and of what is stored.

use crate::script::Size;
use crate::stage::Ended;
use app::api::RoundOutcome;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use std::collections::BTreeSet;
use std::path::Path;

/// Judges a run whose coordinator has stopped.
pub async fn check(folder: &Path, ended: &Ended, size: &Size) {
    let data = folder.join("data");
    let database = SqliteConnectOptions::new().filename(data.join("fedlearn.sqlite")).read_only(true);
    let mut database = database.connect().await.unwrap();
    history_has_no_gap(ended, size);
    rounds_are_made_of_what_is_stored(&mut database, ended).await;
    what_was_acknowledged_is_in(&mut database, ended).await;
    let left: Vec<_> = std::fs::read_dir(data.join("incoming")).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(left.is_empty(), "no upload is left behind: {left:?}");
}

/// Rounds are counted through, and every complete one makes the next version. None is void but for want of updates.
fn history_has_no_gap(ended: &Ended, size: &Size) {
    let mut version = 0;
    for (round, number) in ended.run.rounds.iter().zip(1..) {
        assert_eq!(round.number, number, "no round is missing");
        assert_eq!(round.base_version, version, "round {number} starts from the current version");
        match round.outcome {
            RoundOutcome::Complete => {
                version += 1;
                assert_eq!(round.version, Some(version), "round {number}");
                assert!(round.updates as usize >= size.agents.div_ceil(2), "round {number} had its quorum");
                assert!(round.updates <= round.cohort, "round {number} counts its cohort only");
            }
            RoundOutcome::Void => {
                assert_eq!(round.version, None, "round {number}");
                assert!(round.reason.starts_with("deadline with"), "round {number} is void: {}", round.reason);
            }
        }
    }
    assert_eq!((ended.run.version, version as usize), (version, size.rounds), "as many rounds as were asked for");
}

async fn rounds_are_made_of_what_is_stored(database: &mut SqliteConnection, ended: &Ended) {
    for round in ended.complete() {
        let query =
            "SELECT count(sha256), coalesce(sum(samples), 0) FROM contributions WHERE run = 'default' AND round = ?";
        let stored: (i64, i64) =
            sqlx::query_as(query).bind(round.number as i64).fetch_one(&mut *database).await.unwrap();
        assert_eq!(stored, (round.updates.into(), round.samples as i64), "updates, samples of round {}", round.number);
    }
}

/// Nobody is told that an update is in which is not, and nobody is asked for two.
async fn what_was_acknowledged_is_in(database: &mut SqliteConnection, ended: &Ended) {
    let whose: BTreeSet<_> = ended.acknowledged.iter().map(|update| (update.round, &update.client)).collect();
    assert_eq!(whose.len(), ended.acknowledged.len(), "nobody trains twice for a round: {:#?}", ended.acknowledged);
    for update in &ended.acknowledged {
        let query = "SELECT lower(hex(sha256)), status FROM contributions c \
            JOIN rounds r ON r.run = c.run AND r.number = c.round \
            WHERE c.run = 'default' AND client = ? AND asked_round = ? AND sha256 IS NOT NULL";
        let stored = sqlx::query_as(query).bind(&update.client).bind(update.round).fetch_all(&mut *database).await;
        let stored: Vec<(String, String)> = stored.unwrap();
        let [(sha256, status)] = &stored[..] else { panic!("{update:?} was acknowledged; stored is {stored:?}") };
        assert_eq!(*sha256, update.sha256, "what counts is what was sent: {update:?}");
        assert_ne!(status, "open", "its round is over: {update:?}");
    }
}
