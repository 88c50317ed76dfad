//! What an update weighs: the samples that its client has by now, within the share of a round that one client may have.

use crate::harness::{Agent, Coordinator, Guest, fashion_mnist, refused, take};
use app::api::{ClientState, ErrorCode, RoundOutcome, RoundSummary};
use fedlearn::wire::{self, Dtype, ModelFormat, Parameters, SAFETENSORS, Schema, TensorSpec, Values};
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// `w` of F32 [4], full of that value.
fn body(value: f32) -> Vec<u8> {
    let spec = TensorSpec { name: "w".to_owned(), dtype: Dtype::F32, shape: vec![4] };
    let parameters = Parameters::new(Arc::new(Schema::new(vec![spec]).unwrap()), vec![Values::F32(vec![value; 4])]);
    ModelFormat::Safetensors { zstd: false }.write(&parameters, None).unwrap()
}

/// A coordinator with the run `own`, of zeros and these settings beside the default ones.
async fn with_run(config: Value) -> Coordinator {
    let coordinator = Coordinator::start(&crate::harness::NO_DATASET).await;
    let create = coordinator.operator(Method::POST, "/runs?run=own&encoding=f32");
    take(201, create.header(header::CONTENT_TYPE, SAFETENSORS).body(body(0.0))).await;
    coordinator.configure("own", config).await;
    coordinator
}

/// One round in which clients of so many samples send these values. Returns the clients and the round.
async fn round(coordinator: &Coordinator, updates: &[(u64, f32)]) -> (Vec<Guest>, RoundSummary) {
    let mut guests = Vec::new();
    for (i, (samples, _)) in updates.iter().enumerate() {
        guests.push(Guest::with_samples(coordinator, "own", &format!("client-{}", i + 1), *samples).await);
    }
    coordinator.order("/runs/own/rounds").await;
    for (guest, (samples, value)) in guests.iter().zip(updates) {
        let number = guest.asked().await.round;
        let update = guest.update_of(number, &format!("samples={samples}"));
        take(202, update.header(header::CONTENT_TYPE, SAFETENSORS).body(body(*value))).await;
    }
    let run = coordinator.until("own", "the round is over", |run| run.rounds.len() == 1).await;
    assert_eq!(run.rounds[0].outcome, RoundOutcome::Complete, "{}", run.rounds[0].reason);
    (guests, run.rounds[0].clone())
}

/// The value that a version is full of.
async fn value_of(coordinator: &Coordinator, version: u64) -> f32 {
    let fetch = coordinator.operator(Method::GET, &format!("/runs/own/models/{version}"));
    let received = take(200, fetch).await.bytes().await.unwrap();
    let schema = Schema::new(vec![TensorSpec { name: "w".to_owned(), dtype: Dtype::F32, shape: vec![4] }]).unwrap();
    match &wire::safe::read(&received, &Arc::new(schema)).unwrap().values()[0] {
        Values::F32(values) => values[0],
        Values::I64(_) => panic!("integers"),
    }
}

/// Two clients of 100 samples that send 0.01, and one that claims 10,000,000.
const CLAIMS: [(u64, f32); 3] = [(100, 0.01), (100, 0.01), (10_000_000, -1.0)];

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_claims_ten_million_samples_does_not_decide_the_first_round_by_itself() {
    let coordinator = with_run(json!({})).await;
    round(&coordinator, &[CLAIMS[0], CLAIMS[1], (10_000_000, -500_000.0)]).await;
    // At most half of what it sends, whatever the ingest gate makes of it
    let value = value_of(&coordinator, 1).await;
    assert!((-250_000.1..=0.01).contains(&value), "{value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_round_records_whose_weight_was_lowered_and_the_page_shows_it() {
    // Given two clients of 100 samples and one that claims 10,000,000,
    let mut coordinator = with_run(json!({"max_norm_ratio": null})).await;
    let (guests, ended) = round(&coordinator, &CLAIMS).await;
    // then the last one weighs as much as the others together,
    let value = value_of(&coordinator, 1).await;
    assert!((value - -0.495).abs() < 1e-6, "{value}");
    let lowered = ended.lowered_weights.clone().unwrap();
    assert_eq!((lowered.clients, lowered.share), (vec![guests[2].id.clone()], 0.5));
    assert_eq!(lowered.claimed, 10_000_000.0 / 10_000_200.0);
    // and the record, the page and the export say so, also after a restart.
    let sentence = "the weight of client-3 was lowered from 100.0% to 50.0% of the round (max_weight_share)";
    assert_eq!(ended.reason, format!("all updates in (3); {sentence}"));
    coordinator.stop().await;
    coordinator.start_again().await;
    assert_eq!(coordinator.snapshot("own").await.rounds, std::slice::from_ref(&ended));
    let page =
        take(200, coordinator.http.get(format!("{}/runs/own", coordinator.origin()))).await.text().await.unwrap();
    assert!(page.contains(sentence), "{page}");
    let csv = take(200, coordinator.anybody(Method::GET, "/runs/own/export.csv")).await.text().await.unwrap();
    let rows: Vec<&str> = csv.lines().collect();
    assert!(rows[0].ends_with(",lowered_weights,reason"), "{csv}");
    assert!(rows[1].ends_with(&format!(",{},{}", guests[2].id, ended.reason)), "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_1_weighs_each_update_by_its_samples_alone() {
    let coordinator = with_run(json!({"max_norm_ratio": null, "max_weight_share": 1})).await;
    let (_, ended) = round(&coordinator, &CLAIMS).await;
    assert_eq!((ended.lowered_weights, ended.reason.as_str()), (None, "all updates in (3)"));
    let all = 10_000_200.0;
    let mean: f64 = CLAIMS.iter().map(|(samples, value)| *samples as f64 / all * f64::from(*value)).sum();
    assert_eq!(value_of(&coordinator, 1).await, mean as f32);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_weigh_what_their_samples_say() {
    let coordinator = with_run(json!({})).await;
    let (_, ended) = round(&coordinator, &[(100, 3.0), (50, 0.0)]).await;
    assert_eq!((ended.lowered_weights, value_of(&coordinator, 1).await), (None, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_round_has_the_same_bound() {
    let config = json!({"mode": "async", "buffer_size": 3, "min_clients": 3, "max_norm_ratio": null});
    let coordinator = with_run(config).await;
    let (guests, ended) = round(&coordinator, &CLAIMS).await;
    assert_eq!(ended.lowered_weights.unwrap().clients, [guests[2].id.clone()]);
    let value = value_of(&coordinator, 1).await;
    assert!((value - -0.495).abs() < 1e-6, "{value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_cannot_be_is_rejected_with_its_bounds() {
    let coordinator = with_run(json!({})).await;
    for share in [0.0, 0.001, 1.5, -1.0] {
        let patch = coordinator.operator(Method::PATCH, "/runs/own").header(header::IF_MATCH, "*");
        let body = refused(422, ErrorCode::Invalid, patch.json(&json!({"max_weight_share": share}))).await;
        assert!(
            body.problems[0].starts_with(&format!("max_weight_share must be between 0.01 and 1, got {share}")),
            "{body:?}"
        );
    }
    let config = coordinator.snapshot("own").await.config;
    assert_eq!(config.max_weight_share, 0.5, "the default");
}

/// The client says that it has that many images now.
fn change(guest: &Guest, samples: u64) -> RequestBuilder {
    guest.own(Method::PATCH, "").json(&json!({ "samples": samples }))
}

/// An update of the run `own` that claims that many samples.
fn update(guest: &Guest, round: u64, samples: u64, value: f32) -> RequestBuilder {
    let update = guest.update_of(round, &format!("samples={samples}"));
    update.header(header::CONTENT_TYPE, SAFETENSORS).body(body(value))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_data_grows_says_so_and_its_update_counts_with_the_new_number_also_after_a_restart() {
    // Given a client that has registered 100 samples and has 150 by now,
    let mut coordinator = with_run(json!({})).await;
    let guest = Guest::with_samples(&coordinator, "own", "grown", 100).await;
    let other = Guest::with_samples(&coordinator, "own", "other", 50).await;
    coordinator.order("/runs/own/rounds").await;
    let round = guest.asked().await.round;
    // when it sends them, however often, then the refusal says what to do, and is no strike.
    for value in [1.0, 2.0, 3.0, 4.0] {
        let body = refused(422, ErrorCode::Invalid, update(&guest, round, 150, value)).await;
        let fault = format!(
            "the update was rejected: samples must be at most 100, the number that client {id} has given, got 150: if it \
             has more now, send PATCH .../clients/{id} with {{\"samples\": 150}}, then the update again",
            id = guest.id
        );
        assert_eq!(body.message, fault);
    }
    let shown = coordinator.snapshot("own").await.clients.remove(0);
    assert_eq!((shown.strikes, shown.samples, shown.state), (0, 100, ClientState::Error));
    // When it does that, then the same update is accepted in the same round,
    take(204, change(&guest, 150)).await;
    take(202, update(&guest, round, 150, 4.0)).await;
    take(202, update(&other, round, 50, 0.0)).await;
    let run = coordinator.until("own", "the round is over", |run| run.version == 1).await;
    assert_eq!((run.rounds[0].samples, run.clients[0].samples, value_of(&coordinator, 1).await), (200, 150, 3.0));
    // and the number outlives a restart.
    coordinator.stop().await;
    coordinator.start_again().await;
    assert_eq!(coordinator.snapshot("own").await.clients[0].samples, 150);
    guest.task(0).await;
    coordinator.order("/runs/own/rounds").await;
    let round = guest.asked().await.round;
    take(202, update(&guest, round, 150, 4.0)).await;
    coordinator.until("own", "another round is over", |run| run.version == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_samples_is_changed_by_the_client_itself_and_within_the_bounds_of_the_run() {
    let coordinator = with_run(json!({"max_samples": 200})).await;
    let guest = Guest::with_samples(&coordinator, "own", "guest", 100).await;
    let other = Guest::with_samples(&coordinator, "own", "other", 100).await;
    let path = format!("/runs/own/clients/{}", guest.id);
    let of_another = coordinator.anybody(Method::PATCH, &path).bearer_auth(&other.token);
    let of_the_operator = coordinator.operator(Method::PATCH, &path);
    for request in [of_another, of_the_operator, coordinator.anybody(Method::PATCH, &path)] {
        refused(401, ErrorCode::Unauthorized, request.json(&json!({"samples": 150}))).await;
    }
    let none = refused(422, ErrorCode::Invalid, change(&guest, 0)).await;
    assert_eq!(none.problems, ["samples must be between 1 and 10^12, got 0"]);
    let many = refused(422, ErrorCode::Invalid, change(&guest, 201)).await;
    let words = "samples must be at most 200 (max_samples of the run), got 201: ask the operator to raise max_samples";
    assert_eq!(many.message, words);
    refused(422, ErrorCode::Invalid, guest.own(Method::PATCH, "").json(&json!({"name": "other"}))).await;
    assert_eq!(coordinator.snapshot("own").await.client(&guest.id).unwrap().samples, 100);
    take(204, change(&guest, 200)).await;
    take(204, change(&guest, 200)).await;
    assert_eq!(coordinator.snapshot("own").await.client(&guest.id).unwrap().samples, 200);
    coordinator.order(&format!("{path}/kick")).await;
    refused(403, ErrorCode::Kicked, change(&guest, 100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_with_more_images_says_so_by_itself() {
    // Given an agent that has registered with 100 images and starts again with 150
    let coordinator = Coordinator::start(&[]).await;
    let guest = Guest::with_samples(&coordinator, "default", "agent", 100).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("me.json");
    let identity = json!({
        "coordinator": coordinator.origin(), "run": "default", "client_id": guest.id, "token": guest.token
    });
    std::fs::write(&file, identity.to_string()).unwrap();
    let agent = Agent::resume(&coordinator, &file, fashion_mnist(0, 150));
    coordinator.autorun("default", 1).await;
    let run = coordinator.until("default", "the round is over", |run| !run.rounds.is_empty()).await;
    assert_eq!((run.version, run.rounds[0].samples), (1, 150), "{}", run.rounds[0].reason);
    assert_eq!((run.clients.len(), run.clients[0].samples, run.clients[0].strikes), (1, 150, 0));
    agent.leaves().await;
}
