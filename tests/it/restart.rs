//! A coordinator that stops and starts again: nothing acknowledged is lost, and everybody goes on.

use crate::harness::{Agent, Coordinator, Guest, fashion_mnist, refused, take};
use app::api::{ClientState, ErrorCode, Phase, RoundOutcome, RunSnapshot, Task};
use reqwest::Method;
use serde_json::json;

/// What must be the same after a restart. Nobody has been heard of then, and nothing is in work.
fn lasting(run: &RunSnapshot) -> RunSnapshot {
    let mut run = run.clone();
    run.seq = 0;
    run.waiting.clear();
    for client in &mut run.clients {
        if !matches!(client.state, ClientState::Pending | ClientState::Kicked) {
            client.state = ClientState::Offline;
        }
        client.progress = None;
        client.seen_ms = 0;
    }
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_after_a_restart_what_it_was_before() {
    // Given a run with two rounds behind it, and clients of every standing,
    let mut coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    let kicked = Guest::join(&coordinator, "tiny", "kicked").await;
    let ban = coordinator.operator(Method::POST, &format!("/runs/tiny/clients/{}/kick", kicked.id));
    take(202, ban.json(&json!({"ban": true}))).await;
    coordinator.autorun("tiny", 2).await;
    for round in 1..=2 {
        assert_eq!(guest.asked().await.round, round);
        guest.sends(round, round as f32).await;
    }
    coordinator.until("tiny", "two rounds are over", |run| run.rounds.len() == 2).await;
    coordinator.configure("tiny", json!({"admission": "approval", "train": {"seed": 7}})).await;
    let pending = Guest::join(&coordinator, "tiny", "pending").await;
    let before = coordinator.snapshot("tiny").await;
    let model = take(200, guest.request(Method::GET, "/models/2")).await.bytes().await.unwrap();
    // when the coordinator is started again on the same folder,
    coordinator.stop().await;
    coordinator.start_again().await;
    // then all of it is there, down to the bytes of the model,
    let after = coordinator.snapshot("tiny").await;
    assert_eq!(lasting(&after), lasting(&before));
    assert_eq!(take(200, guest.request(Method::GET, "/models/2")).await.bytes().await.unwrap(), model);
    // the tokens are good, and the answers the same,
    assert!(matches!(guest.task(0).await, Task::Wait { state: ClientState::Ready, .. }));
    assert_eq!(pending.task(0).await, Task::Wait { state: ClientState::Pending, rejected: None });
    assert!(matches!(kicked.task(0).await, Task::Stop { .. }));
    refused(403, ErrorCode::Kicked, kicked.own(Method::PUT, "/status").json(&json!({"state": "ready"}))).await;
    let again = coordinator.anybody(Method::POST, "/runs/tiny/clients").json(&json!({"name": "kicked", "samples": 1}));
    refused(403, ErrorCode::Kicked, again).await;
    take(200, guest.full_of(2, 2.0)).await;
    // and the next round is the third.
    coordinator.order("/runs/tiny/rounds").await;
    assert_eq!((guest.asked().await.round, guest.asked().await.version), (3, 2));
    guest.sends(3, 3.0).await;
    coordinator.until("tiny", "the third is over", |run| run.version == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autorun_goes_on_where_it_was() {
    // Given an autorun of three, stopped in its second round with half of the updates in,
    let mut coordinator = Coordinator::tiny(&[]).await;
    coordinator.configure("tiny", json!({"min_clients": 2})).await;
    let (a, b) = (Guest::join(&coordinator, "tiny", "a").await, Guest::join(&coordinator, "tiny", "b").await);
    coordinator.autorun("tiny", 3).await;
    a.sends(1, 1.0).await;
    b.sends(1, 1.0).await;
    assert_eq!(a.asked().await.round, 2);
    a.sends(2, 2.0).await;
    // when it is started again,
    coordinator.stop().await;
    coordinator.start_again().await;
    // then the same round goes on with what was in: who has sent does nothing anew,
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.version, run.rounds.len(), run.phase), (1, 1, Phase::Training));
    let round = run.round.unwrap();
    assert_eq!((round.number, &round.updated), (2, &vec![a.id.clone()]));
    assert_eq!(a.task(0).await, Task::Wait { state: ClientState::Finish, rejected: None });
    take(200, a.full_of(2, 2.0)).await;
    // who has not is still asked for it,
    assert_eq!((b.asked().await.round, b.asked().await.version), (2, 1));
    b.sends(2, 4.0).await;
    let run = coordinator.until("tiny", "the second is over", |run| run.version == 2).await;
    assert_eq!((run.rounds[1].outcome, run.rounds[1].updates), (RoundOutcome::Complete, 2));
    assert_eq!(coordinator.tiny_value(2).await, 3.0, "both count, and once");
    // and the round that was left follows.
    assert_eq!((a.asked().await.round, b.asked().await.round), (3, 3));
    a.sends(3, 1.0).await;
    b.sends(3, 1.0).await;
    let run = coordinator.until("tiny", "the autorun is over", |run| run.phase == Phase::Idle).await;
    assert_eq!((run.version, run.rounds.len(), run.autorun), (3, 3, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_cannot_fall_between_a_round_and_its_place_in_the_autorun() {
    use sqlx::{ConnectOptions, Executor};
    // Given a database that notes every new version that leaves the autorun as it was,
    let coordinator = Coordinator::tiny(&[]).await;
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(coordinator.folder().join("fedlearn.sqlite"));
    let mut database = database.connect().await.unwrap();
    let note = "CREATE TABLE torn (version INTEGER); \
        CREATE TRIGGER tear AFTER UPDATE OF version ON runs WHEN NEW.autorun_rounds = OLD.autorun_rounds \
        BEGIN INSERT INTO torn VALUES (NEW.version); END";
    database.execute(note).await.unwrap();
    // when an autorun of two runs,
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.autorun("tiny", 2).await;
    for round in 1..=2 {
        assert_eq!(guest.asked().await.round, round);
        guest.sends(round, 1.0).await;
    }
    coordinator.until("tiny", "the autorun is over", |run| run.phase == Phase::Idle).await;
    // then there was no moment at which a restart would have run one round too many.
    let torn: Vec<(i64,)> = sqlx::query_as("SELECT version FROM torn").fetch_all(&mut database).await.unwrap();
    assert_eq!(torn, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_survives_a_restart_and_goes_on() {
    let mut coordinator = Coordinator::start(&["--set", "train.batch_size=32"]).await;
    let agent = Agent::start(&coordinator, "agent", fashion_mnist(0, 600));
    coordinator.autorun("default", 1_000).await;
    let before = coordinator.until("default", "two rounds are over", |run| run.version == 2).await;
    // In the middle of whatever it does,
    coordinator.stop().await;
    coordinator.start_again().await;
    let after = coordinator.snapshot("default").await;
    assert!(after.version >= 2 && after.rounds.starts_with(&before.rounds), "{:?}", after.rounds);
    assert!(after.best.is_some_and(|best| best.test_accuracy >= before.best.unwrap().test_accuracy));
    // it goes on, as the client it was.
    let wanted = after.version + 2;
    let run = coordinator.until("default", "two rounds more", |run| run.version >= wanted).await;
    assert_eq!((run.clients.len(), &run.clients[0].id), (1, &before.clients[0].id));
    agent.leaves().await;
}
