//! What lies under a coordinator fails: a clear 503, nothing half-done, and it goes on when the cause is gone.

use crate::harness::{Coordinator, Guest, refused, soon, take};
use app::api::{ClientState, ErrorCode, Phase, RoundOutcome, RunSnapshot, Task};
use reqwest::{Method, RequestBuilder, header};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Executor};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the operator closes a round.
const CLOSE: &str = "/runs/tiny/rounds/current/aggregate";

/// Another program holds the database of a coordinator: nothing can be written.
async fn locked(coordinator: &Coordinator) -> SqliteConnection {
    let database = SqliteConnectOptions::new().filename(coordinator.folder().join("fedlearn.sqlite"));
    let mut database = database.connect().await.unwrap();
    database.execute("BEGIN IMMEDIATE").await.unwrap();
    database
}

/// What those ask who monitor a coordinator.
fn ready(coordinator: &Coordinator) -> RequestBuilder {
    coordinator.http.get(format!("{}/readyz", coordinator.origin()))
}

/// The folder of the coordinator is away until it is brought back.
struct Away {
    place: PathBuf,
    aside: PathBuf,
}

impl Away {
    fn take(coordinator: &Coordinator, folder: &str) -> Self {
        let place = coordinator.folder().join(folder);
        let aside = coordinator.folder().join(format!("{folder}-aside"));
        fs::rename(&place, &aside).unwrap();
        Self { place, aside }
    }

    fn bring_back(self) {
        fs::rename(self.aside, self.place).unwrap();
    }
}

/// A file that is there and cannot be opened, whoever asks, until it is opened again: in its place is a link to itself.
struct Closed(Away);

impl Closed {
    fn take(file: &Path) -> Self {
        // Not beside it: what is in the folder of updates and in no round is removed at start.
        let folder = file.parent().and_then(Path::parent).unwrap();
        let away = Away { place: file.to_owned(), aside: folder.join("aside") };
        fs::rename(&away.place, &away.aside).unwrap();
        std::os::unix::fs::symlink(&away.place, &away.place).unwrap();
        Self(away)
    }

    fn open(self) {
        self.0.bring_back();
    }
}

/// Waits until the run `tiny` answers again.
async fn is_back(coordinator: &Coordinator) {
    let is_back = async {
        while coordinator.anybody(Method::GET, "/runs/tiny").send().await.unwrap().status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    soon("the run", is_back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_be_stored_is_not_in_and_is_welcome_again() {
    let (coordinator, guests) = Guest::in_round(&["guest"]).await;
    let guest = &guests[0];
    // Given a database that somebody else holds,
    let database = locked(&coordinator).await;
    let refusal = refused(503, ErrorCode::Unavailable, guest.full_of(1, 2.0)).await;
    assert!(refusal.message.contains("database is locked"), "{}", refusal.message);
    assert_eq!(coordinator.incoming(), Vec::<PathBuf>::new(), "nothing is kept");
    assert_eq!(coordinator.snapshot("tiny").await.round.unwrap().updated, []);
    // or a folder that cannot be written,
    drop(database);
    let away = Away::take(&coordinator, "incoming");
    refused(503, ErrorCode::Unavailable, guest.full_of(1, 2.0)).await;
    // once the cause is gone, the same update is taken.
    away.bring_back();
    guest.sends(1, 2.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_store_what_it_decided_says_so_to_all_and_then_goes_on() {
    let (coordinator, guests) = Guest::in_round(&["stays", "goes"]).await;
    let database = locked(&coordinator).await;
    // When the operator removes a client, and that cannot be stored,
    let kick = format!("/runs/tiny/clients/{}/kick", guests[1].id);
    let refusal = refused(503, ErrorCode::Unavailable, coordinator.operator(Method::POST, &kick)).await;
    assert!(refusal.message.starts_with("Cannot store the run's progress, trying again: "), "{}", refusal.message);
    // then nobody is left to wait in the dark: neither clients, nor who watches, nor who monitors.
    refused(503, ErrorCode::Unavailable, guests[0].own(Method::GET, "/task")).await;
    let run = coordinator.snapshot("tiny").await;
    assert!(run.waiting.starts_with("Cannot store the run's progress"), "{}", run.waiting);
    assert_eq!(run.client(&guests[1].id).unwrap().state, ClientState::Join, "shown is what is stored");
    refused(503, ErrorCode::Unavailable, ready(&coordinator)).await;
    // Once it can be stored, it is done.
    drop(database);
    let is_out = |state| state == ClientState::Kicked;
    let run = coordinator
        .until("tiny", "the client is out", |run| {
            is_out(run.client(&guests[1].id).unwrap().state) && run.waiting.starts_with("Round 1")
        })
        .await;
    assert_eq!(run.phase, Phase::Training);
    guests[0].sends(1, 3.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_to_the_database_is_shown_until_one_succeeds() {
    let (coordinator, guests) = Guest::in_round(&["guest"]).await;
    let database = locked(&coordinator).await;
    refused(503, ErrorCode::Unavailable, guests[0].full_of(1, 2.0)).await;
    // Given an update that could not be stored, then who watches is told since when and why, and what the run waits for;
    let waiting = coordinator.snapshot("tiny").await.waiting;
    assert!(waiting.starts_with("Since ") && waiting.contains(" what clients send cannot be stored ("), "{waiting}");
    assert!(
        waiting.contains("database is locked); clients are asked to try again. Round 1: waiting for "),
        "{waiting}"
    );
    refused(503, ErrorCode::Unavailable, ready(&coordinator)).await;
    // but nobody is kept from what needs nothing stored.
    assert_eq!(guests[0].asked().await.round, 1);
    // Once the cause is gone, /readyz finds that out, even if no client sends anything.
    drop(database);
    take(200, ready(&coordinator)).await;
    coordinator.until("tiny", "the sentence is gone", |run| run.waiting.starts_with("Round 1: waiting for ")).await;
    guests[0].sends(1, 2.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_of_an_update_is_shown_until_one_succeeds() {
    let (coordinator, guests) = Guest::in_round(&["guest"]).await;
    // Given a folder for updates that is away, then who watches is told since when and why, and what the run waits for,
    let away = Away::take(&coordinator, "incoming");
    let refusal = refused(503, ErrorCode::Unavailable, guests[0].full_of(1, 2.0)).await;
    let waiting = coordinator.snapshot("tiny").await.waiting;
    let cause = format!(" updates cannot be stored ({}); clients are asked to try again.", refusal.message);
    assert!(waiting.starts_with("Since ") && waiting.contains(&format!("{cause} Round 1: waiting for ")), "{waiting}");
    // and who monitors, for which run;
    let refusal = refused(503, ErrorCode::Unavailable, ready(&coordinator)).await;
    assert!(refusal.message.starts_with("run 'tiny': Since ") && refusal.message.ends_with(&cause), "{refusal:?}");
    // but nobody is kept from what is stored elsewhere, and that it is stored is no sign that updates can be.
    assert_eq!(guests[0].asked().await.round, 1);
    Guest::join(&coordinator, "tiny", "later").await;
    assert!(coordinator.snapshot("tiny").await.waiting.contains(&cause));
    // Once the cause is gone, /readyz finds that out, even if no client sends anything.
    away.bring_back();
    take(200, ready(&coordinator)).await;
    coordinator.until("tiny", "the sentence is gone", |run| run.waiting.starts_with("Round 1: waiting for ")).await;
    guests[0].sends(1, 2.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_is_not_shown_before_it_is_stored() {
    let (coordinator, guests) = Guest::in_round(&["in", "awaited"]).await;
    guests[0].sends(1, 2.0).await;
    let database = locked(&coordinator).await;
    refused(503, ErrorCode::Unavailable, coordinator.operator(Method::POST, CLOSE)).await;
    let run = coordinator.snapshot("tiny").await;
    assert!(run.waiting.starts_with("Cannot store the run's progress"), "{}", run.waiting);
    assert_eq!(run.phase, Phase::Training);
    drop(database);
    coordinator.until("tiny", "the round is over", |run| run.version == 1 && run.waiting.starts_with("Idle")).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_by_503_is_not_done_afterwards() {
    let (coordinator, guests) = Guest::in_round(&["in", "out", "slow"]).await;
    guests[0].sends(1, 2.0).await;
    // Given a run that cannot store what it decided,
    let database = locked(&coordinator).await;
    let kick = format!("/runs/tiny/clients/{}/kick", guests[1].id);
    refused(503, ErrorCode::Unavailable, coordinator.operator(Method::POST, &kick)).await;
    // when it is asked for something else, and all are told that it cannot,
    refused(503, ErrorCode::Unavailable, coordinator.operator(Method::POST, CLOSE)).await;
    let ghost = coordinator.anybody(Method::POST, "/runs/tiny/clients").json(&json!({"name": "ghost", "samples": 10}));
    refused(503, ErrorCode::Unavailable, ghost).await;
    let patch = coordinator.operator(Method::PATCH, "/runs/tiny").header(header::IF_MATCH, "\"1\"");
    refused(503, ErrorCode::Unavailable, patch.json(&json!({"min_clients": 2}))).await;
    // then none of it is done once it can be stored: who wants it still will ask again.
    drop(database);
    let is_out = |run: &RunSnapshot| run.client(&guests[1].id).unwrap().state == ClientState::Kicked;
    coordinator.until("tiny", "the client is out", |run| is_out(run) && run.waiting.starts_with("Round 1")).await;
    guests[2].sends(1, 4.0).await;
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!((run.rounds[0].updates, coordinator.tiny_value(1).await), (2, 3.0));
    assert_eq!(run.clients.iter().map(|client| client.name.as_str()).collect::<Vec<_>>(), ["in", "out", "slow"]);
    assert_eq!(run.config_version, 1);
}

/// Everybody is told why it takes so long.
fn cannot_combine(run: &RunSnapshot) -> bool {
    run.waiting.starts_with("Cannot make the new model, trying again: ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_model_that_cannot_be_stored_delays_its_round_and_loses_no_update() {
    let (coordinator, guests) = Guest::in_round(&["guest"]).await;
    let away = Away::take(&coordinator, "models");
    guests[0].sends(1, 4.0).await;
    // Everybody is told why it takes so long; who only asks what to do waits, as while any round is combined.
    assert_eq!(coordinator.until("tiny", "that it is told", cannot_combine).await.phase, Phase::Aggregating);
    assert_eq!(guests[0].task(0).await, Task::Wait { state: ClientState::Finish, rejected: None });
    let refusal = refused(503, ErrorCode::Unavailable, ready(&coordinator)).await;
    assert!(refusal.message.starts_with("run 'tiny': Cannot make the new model"), "{}", refusal.message);
    away.bring_back();
    let run = coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    assert_eq!((run.rounds[0].outcome, coordinator.tiny_value(1).await), (RoundOutcome::Complete, 4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_be_read_for_a_while_delays_its_round_and_stays_in() {
    let (coordinator, guests) = Guest::in_round(&["read", "unreadable"]).await;
    guests[1].sends(1, 6.0).await;
    // Given an update that is in, and cannot be opened when it is to be combined,
    let closed = Closed::take(&coordinator.incoming()[0]);
    guests[0].sends(1, 2.0).await;
    let run = coordinator.until("tiny", "that it is told", cannot_combine).await;
    assert!(run.waiting.contains(guests[1].id.as_str()), "{}", run.waiting);
    refused(503, ErrorCode::Unavailable, ready(&coordinator)).await;
    // once it can, the round goes on with it.
    closed.open();
    let run = coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    assert_eq!((run.rounds[0].outcome, coordinator.tiny_value(1).await), (RoundOutcome::Complete, 4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_whose_folder_is_away_for_a_while_stay_in() {
    let (coordinator, guests) = Guest::in_round(&["in", "late"]).await;
    guests[0].sends(1, 2.0).await;
    let away = Away::take(&coordinator, "incoming");
    coordinator.order(CLOSE).await;
    coordinator.until("tiny", "that it is told", cannot_combine).await;
    away.bring_back();
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_gone_for_good_ends_its_round_by_name() {
    let (coordinator, guests) = Guest::in_round(&["here", "gone"]).await;
    guests[1].sends(1, 6.0).await;
    fs::remove_file(&coordinator.incoming()[0]).unwrap();
    guests[0].sends(1, 2.0).await;
    let run = coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    let round = &run.rounds[0];
    assert!(round.reason.contains(guests[1].id.as_str()), "{}", round.reason);
    assert_eq!((round.outcome, run.version), (RoundOutcome::Void, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_closed_stays_closed_over_a_restart() {
    // Given a round that the operator has closed with one update of two, and that is not combined yet,
    let (mut coordinator, guests) = Guest::in_round(&["in", "late"]).await;
    let away = Away::take(&coordinator, "models");
    guests[0].sends(1, 4.0).await;
    coordinator.order(CLOSE).await;
    // when the coordinator is started again,
    coordinator.stop().await;
    away.bring_back();
    coordinator.start_again().await;
    // then it is combined as it was closed, and nobody is waited for.
    refused(410, ErrorCode::RoundClosed, guests[1].full_of(1, 2.0)).await;
    let run = coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    let round = &run.rounds[0];
    assert_eq!(
        (round.outcome, round.reason.as_str()),
        (RoundOutcome::Complete, "closed by the operator with 1 of 2 updates")
    );
    assert_eq!(coordinator.tiny_value(1).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_was_damaged_on_disk_is_asked_for_again_and_the_others_are_not() {
    let (mut coordinator, guests) = Guest::in_round(&["whole", "damaged", "late"]).await;
    guests[0].sends(1, 1.0).await;
    let first = coordinator.incoming();
    guests[1].sends(1, 2.0).await;
    let second = coordinator.incoming().into_iter().find(|path| !first.contains(path)).unwrap();
    coordinator.stop().await;
    // While it is away, one byte of an update turns.
    let mut bytes = fs::read(&second).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&second, bytes).unwrap();
    coordinator.start_again().await;
    let round = coordinator.snapshot("tiny").await.round.unwrap();
    assert_eq!(round.updated, [guests[0].id.clone()]);
    assert_eq!(guests[1].asked().await.round, 1);
    guests[1].sends(1, 2.0).await;
    guests[2].sends(1, 3.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_cannot_be_read_at_start_is_waited_for_and_not_lost() {
    let (mut coordinator, guests) = Guest::in_round(&["in", "late"]).await;
    guests[0].sends(1, 1.0).await;
    let update = coordinator.incoming().remove(0);
    coordinator.stop().await;
    let closed = Closed::take(&update);
    coordinator.start_again().await;
    // Nothing says that it is damaged: the run waits for it, and says for which file.
    let refusal = refused(503, ErrorCode::Unavailable, coordinator.anybody(Method::GET, "/runs/tiny")).await;
    assert!(refusal.message.contains(update.to_str().unwrap()), "{}", refusal.message);
    refused(503, ErrorCode::Unavailable, ready(&coordinator)).await;
    closed.open();
    is_back(&coordinator).await;
    assert_eq!(coordinator.snapshot("tiny").await.round.unwrap().updated, [guests[0].id.clone()]);
    guests[1].sends(1, 3.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_model_is_damaged_is_out_of_order_until_the_file_is_back_and_the_others_are_not() {
    let (mut coordinator, guests) = Guest::in_round(&["guest"]).await;
    guests[0].sends(1, 2.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1 && run.round.is_none()).await;
    // Named by what is in it: version 1 is the newest file.
    let models = fs::read_dir(coordinator.folder().join("models")).unwrap().map(|file| file.unwrap().path());
    let newest = models.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();
    coordinator.stop().await;
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[1..]).unwrap();
    coordinator.start_again().await;
    let refusal = refused(503, ErrorCode::Unavailable, coordinator.anybody(Method::GET, "/runs/tiny")).await;
    assert!(refusal.message.contains("is damaged"), "{}", refusal.message);
    assert_eq!(coordinator.snapshot("default").await.version, 0, "the other run is there");
    fs::write(&newest, &whole).unwrap();
    is_back(&coordinator).await;
    assert_eq!(guests[0].task(0).await, Task::Wait { state: ClientState::Ready, rejected: None });
    coordinator.order("/runs/tiny/rounds").await;
    guests[0].sends(2, 3.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 2).await;
}
