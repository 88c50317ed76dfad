//! What an update weighs: its samples, within the share of a round that one client may have.

use crate::harness::{Coordinator, Guest, refused, take};
use app::api::{ErrorCode, RoundOutcome, RoundSummary};
use fedlearn::wire::{self, Dtype, ModelFormat, Parameters, SAFETENSORS, Schema, TensorSpec, Values};
use reqwest::{Method, header};
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
    assert_eq!(coordinator.snapshot("own").await.rounds, [ended]);
    let page =
        take(200, coordinator.http.get(format!("{}/runs/own", coordinator.origin()))).await.text().await.unwrap();
    assert!(page.contains(sentence), "{page}");
    let csv = take(200, coordinator.anybody(Method::GET, "/runs/own/export.csv")).await.text().await.unwrap();
    let rows: Vec<&str> = csv.lines().collect();
    assert!(rows[0].ends_with(",lowered_weights,reason"), "{csv}");
    assert!(rows[1].contains(&format!(",{},\"", guests[2].id)), "{csv}");
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
        assert!(body.problems[0].starts_with(&format!("max_weight_share is {share}, ")), "{body:?}");
    }
    let config = coordinator.snapshot("own").await.config;
    assert_eq!(config.max_weight_share, 0.5, "the default");
}
