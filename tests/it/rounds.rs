//! The operator's controls, with clients that do what the test says.

use crate::harness::{Coordinator, Guest, NO_DATASET, refused, take};
use app::api::{ClientState, ErrorCode, Phase, RoundOutcome, RunSnapshot, Task};
use reqwest::{Method, header};
use serde_json::{Value, json};

fn is_over(round: usize) -> impl Fn(&RunSnapshot) -> bool {
    move |run| run.rounds.len() >= round && run.round.is_none() && run.phase != Phase::Aggregating
}

fn patch(coordinator: &Coordinator, version: u64, patch: Value) -> reqwest::RequestBuilder {
    let request = coordinator.operator(Method::PATCH, "/runs/tiny");
    request.header(header::IF_MATCH, format!("\"{version}\"")).json(&patch)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_round_by_hand_makes_the_mean_weighted_by_samples() {
    // Given two clients in an open round,
    let coordinator = Coordinator::tiny(&[]).await;
    let guests =
        [Guest::join(&coordinator, "tiny", "a").await, Guest::with_samples(&coordinator, "tiny", "b", 30).await];
    coordinator.order("/runs/tiny/rounds").await;
    assert_eq!((guests[0].asked().await.version, guests[1].asked().await.round), (0, 1));
    // when one sends 1 behind 10 samples, and the other 5 behind 30,
    guests[0].sends(1, 1.0).await;
    let five = crate::harness::safetensors(&crate::harness::with(5.0));
    let update =
        guests[1].update_of(1, "samples=30&loss=0.5").header(header::CONTENT_TYPE, "application/vnd.safetensors");
    take(202, update.body(five)).await;
    // then version 1 is (10 * 1 + 30 * 5) / 40, and the run is idle again.
    let run = coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!(coordinator.tiny_value(1).await, 4.0);
    assert_eq!((run.phase, run.version, run.rounds[0].samples), (Phase::Idle, 1, 40));
    assert_eq!(run.rounds[0].train_loss, Some(0.5));
    assert_eq!(run.rounds[0].test_accuracy, None, "nothing to evaluate on");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_in_mid_round_takes_part_from_the_next_one() {
    let (coordinator, guests) = Guest::in_round(&["early"]).await;
    let late = Guest::join(&coordinator, "tiny", "late").await;
    // Not in this round,
    assert!(matches!(late.task(0).await, Task::Wait { .. }));
    late.is_refused(1, 403, ErrorCode::NotAdmitted).await;
    guests[0].sends(1, 1.0).await;
    coordinator.until("tiny", "round 1 is over", is_over(1)).await;
    // but in the next.
    coordinator.order("/runs/tiny/rounds").await;
    assert_eq!(late.asked().await.round, 2);
    late.sends(2, 2.0).await;
    guests[0].sends(2, 2.0).await;
    coordinator.until("tiny", "round 2 is over", is_over(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_or_is_kicked_in_mid_round_does_not_hold_it_up() {
    let (coordinator, guests) = Guest::in_round(&["stays", "leaves", "kicked"]).await;
    guests[0].sends(1, 3.0).await;
    assert!(!guests[2].trains(1).await.cancel);
    guests[1].leaves().await;
    coordinator.order(&format!("/runs/tiny/clients/{}/kick", guests[2].id)).await;
    let run = coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!((run.rounds[0].cohort, run.rounds[0].updates), (3, 1));
    assert_eq!(run.rounds[0].reason, "1 of 3 updates in, the other clients are gone");
    assert_eq!(coordinator.tiny_value(1).await, 3.0);
    assert_eq!(run.clients.len(), 2, "who has left is not on the roster, who was kicked is");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sent_before_it_was_kicked_is_taken_out_of_the_round() {
    let (coordinator, guests) = Guest::in_round(&["a", "b"]).await;
    guests[0].sends(1, 1.0).await;
    coordinator.order(&format!("/runs/tiny/clients/{}/kick", guests[0].id)).await;
    guests[1].sends(1, 3.0).await;
    let run = coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!((run.rounds[0].updates, coordinator.tiny_value(1).await), (1, 3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_nobody_can_finish_is_void() {
    let (coordinator, guests) = Guest::in_round(&["only"]).await;
    guests[0].leaves().await;
    let run = coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!((run.rounds[0].outcome, run.version), (RoundOutcome::Void, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_aggregates_what_is_in() {
    let (coordinator, guests) = Guest::in_round(&["fast", "slow"]).await;
    let aggregate = "/runs/tiny/rounds/current/aggregate";
    refused(409, ErrorCode::Conflict, coordinator.operator(Method::POST, aggregate)).await;
    guests[0].sends(1, 7.0).await;
    coordinator.order(aggregate).await;
    let run = coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!((run.rounds[0].updates, coordinator.tiny_value(1).await), (1, 7.0));
    assert!(guests[1].trains(1).await.cancel, "the other one is told to stop");
    guests[1].is_refused(1, 410, ErrorCode::RoundClosed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cohort_of_two_takes_turns_among_four() {
    let (coordinator, mut guests) = (Coordinator::tiny(&[]).await, Vec::new());
    coordinator.configure("tiny", json!({"cohort": {"size": 2}, "min_clients": 2})).await;
    for name in ["a", "b", "c", "d"] {
        guests.push(Guest::join(&coordinator, "tiny", name).await);
    }
    let mut asked = Vec::new();
    for round in 1..=2 {
        coordinator.order("/runs/tiny/rounds").await;
        let cohort = coordinator.snapshot("tiny").await.round.unwrap().cohort;
        assert_eq!(cohort.len(), 2);
        for guest in guests.iter().filter(|guest| cohort.contains(&guest.id)) {
            guest.sends(round as u64, 1.0).await;
        }
        coordinator.until("tiny", "the round is over", is_over(round)).await;
        asked.extend(cohort);
    }
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 4, "in two rounds everybody was asked once");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_approval_a_client_is_pending_until_it_is_admitted() {
    // Given a run that asks for approval,
    let coordinator = Coordinator::tiny(&[]).await;
    coordinator.configure("tiny", json!({"admission": "approval"})).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    // when a client registers, it has to wait, and nothing counts it in:
    assert_eq!(guest.task(0).await, Task::Wait { state: ClientState::Pending, rejected: None });
    refused(409, ErrorCode::Conflict, coordinator.operator(Method::POST, "/runs/tiny/rounds")).await;
    refused(403, ErrorCode::NotAdmitted, guest.request(Method::GET, "/models/0")).await;
    coordinator.autorun("tiny", 1).await;
    assert_eq!(coordinator.snapshot("tiny").await.phase, Phase::Waiting);
    // once admitted, it is asked at once.
    coordinator.order(&format!("/runs/tiny/clients/{}/admit", guest.id)).await;
    assert_eq!(guest.asked().await.round, 1);
    guest.sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", is_over(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_client_may_be_taken_back_and_a_banned_name_not_register() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "mallory").await;
    let path = format!("/runs/tiny/clients/{}", guest.id);
    take(202, coordinator.operator(Method::POST, &format!("{path}/kick")).json(&json!({"ban": true}))).await;
    let again = coordinator.anybody(Method::POST, "/runs/tiny/clients").json(&json!({"name": "mallory", "samples": 1}));
    refused(403, ErrorCode::Kicked, again.try_clone().unwrap()).await;
    let reason = "the operator has banned the name 'mallory' from this run".to_owned();
    assert_eq!(guest.task(0).await, Task::Stop { reason });
    coordinator.order(&format!("{path}/admit")).await;
    assert_eq!(guest.task(0).await, Task::Wait { state: ClientState::Join, rejected: None });
    take(201, again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autorun_of_three_stops_after_three_and_another_when_told() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.autorun("tiny", 3).await;
    for round in 1..=3 {
        assert_eq!(guest.asked().await.round, round);
        guest.sends(round, round as f32).await;
    }
    let run = coordinator.until("tiny", "three rounds are over", is_over(3)).await;
    assert_eq!((run.phase, run.autorun, run.version), (Phase::Idle, None, 3));

    coordinator.autorun("tiny", 100).await;
    assert_eq!(guest.asked().await.round, 4);
    take(202, coordinator.operator(Method::DELETE, "/runs/tiny/autorun")).await;
    guest.sends(4, 4.0).await;
    let run = coordinator.until("tiny", "the fourth is over", is_over(4)).await;
    assert_eq!((run.phase, run.rounds.len()), (Phase::Idle, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_changes_only_for_who_knows_its_version() {
    let coordinator = Coordinator::tiny(&[]).await;
    let request = coordinator.anybody(Method::GET, "/runs/tiny");
    assert_eq!(take(200, request).await.headers()["etag"], "\"1\"");
    // Without a version, with a version that is past, with values that may not be:
    let change = json!({"train": {"local_epochs": 2}});
    let unconditional = coordinator.operator(Method::PATCH, "/runs/tiny").json(&change);
    refused(428, ErrorCode::PreconditionRequired, unconditional).await;
    refused(412, ErrorCode::PreconditionFailed, patch(&coordinator, 7, change.clone())).await;
    let bad = json!({"min_clients": 0, "deadline_s": 0});
    assert_eq!(refused(422, ErrorCode::Invalid, patch(&coordinator, 1, bad)).await.problems.len(), 2);
    refused(422, ErrorCode::Invalid, patch(&coordinator, 1, json!({"no_such": 1}))).await;
    refused(422, ErrorCode::Invalid, patch(&coordinator, 1, json!([1]))).await;
    // of two who know the same version, only the first,
    take(200, patch(&coordinator, 1, change.clone())).await;
    refused(412, ErrorCode::PreconditionFailed, patch(&coordinator, 1, change)).await;
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.config_version, run.config.train.local_epochs), (2, 2));
    // Any version, one of several, and what changes nothing.
    let patch = |tags: &'static str| coordinator.operator(Method::PATCH, "/runs/tiny").header("if-match", tags);
    for (tags, deadline_s, version) in [("*", 5, 3), ("\"1\", \"3\"", 6, 4), ("\"4\"", 6, 4)] {
        let reply = take(200, patch(tags).json(&json!({"deadline_s": deadline_s}))).await;
        assert_eq!(reply.headers()["etag"], format!("\"{version}\""), "{tags}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_round_keeps_the_configuration_it_opened_with() {
    let (coordinator, guests) = Guest::in_round(&["guest"]).await;
    coordinator.configure("tiny", json!({"train": {"local_epochs": 9}})).await;
    assert_eq!(guests[0].asked().await.train.local_epochs, 1);
    guests[0].sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", is_over(1)).await;
    coordinator.order("/runs/tiny/rounds").await;
    assert_eq!(guests[0].asked().await.train.local_epochs, 9);
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.rounds[0].config_version, run.round.unwrap().config_version), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_side_by_side_do_not_disturb_each_other() {
    let coordinator = Coordinator::tiny(&[]).await;
    let (here, there) = (Guest::join(&coordinator, "tiny", "x").await, Guest::join(&coordinator, "default", "x").await);
    coordinator.order("/runs/tiny/rounds").await;
    assert_eq!(here.asked().await.round, 1);
    assert!(matches!(there.task(0).await, Task::Wait { .. }));
    here.sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!(coordinator.snapshot("default").await.version, 0);
    let lines: Value = take(200, coordinator.anybody(Method::GET, "/runs")).await.json().await.unwrap();
    assert_eq!(
        (&lines[0]["run"], &lines[1]["run"], &lines[1]["version"]),
        (&json!("default"), &json!("tiny"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_could_not_be_stored_is_not_folded_in_twice() {
    use sqlx::{ConnectOptions, Executor};
    // Given two clients in a round, and a database that somebody else holds,
    let (coordinator, guests) = Guest::in_round(&["a", "b"]).await;
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(coordinator.folder().join("fedlearn.sqlite"));
    let mut other = database.connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    // when an update is refused for that reason, and sent once more when it has passed,
    guests[0].is_refused(1, 503, ErrorCode::Unavailable).await;
    other.execute("ROLLBACK").await.unwrap();
    guests[0].sends(1, 1.0).await;
    guests[1].sends(1, 4.0).await;
    // then it weighs as much as the other.
    coordinator.until("tiny", "the round is over", is_over(1)).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_is_made_as_the_flags_say() {
    let settings = ["admission=approval", "cohort.size=3", "train.local_epochs=4", "max_weight_share=0.4"];
    let flags: Vec<_> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let flags = [&NO_DATASET[..], &["--min-clients", "2", "--encoding", "f32"], &flags].concat();
    let coordinator = Coordinator::start(&flags).await;
    let run = coordinator.snapshot("default").await;
    let said = serde_json::to_value(&run.config).unwrap();
    assert_eq!((&said["admission"], &said["cohort"]), (&json!("approval"), &json!({"size": 3})));
    assert_eq!((&said["min_clients"], &said["encoding"]), (&json!(2), &json!("f32")));
    assert_eq!(said["max_weight_share"], json!(0.4));
    assert_eq!((run.config.train.local_epochs, run.config_version, run.version), (4, 1, 0));
}
