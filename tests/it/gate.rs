//! Updates out of proportion: judged when the round closes, by the round itself, and their clients learn of it.

use crate::harness::{Agent, Coordinator, Guest, NO_DATASET, fashion_mnist, safetensors, take};
use app::api::{ClientState, Phase, Rejection, RoundOutcome, RunSnapshot, Task, TrainTask};
use fedlearn::wire::{Dtype, Parameters, SAFETENSORS, Schema, TensorSpec, Values, safe};
use reqwest::{Method, header};
use serde_json::json;
use std::sync::Arc;

const RUN: &str = "four";

/// `w` F32 [4], full of that value.
fn model(value: f32) -> Parameters {
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![4] };
    Parameters::new(Arc::new(Schema::new(vec![spec]).unwrap()), vec![Values::F32(vec![value; 4])])
}

/// A run of `w` at zero with three clients of 100 samples; its configuration as by default, but for this.
async fn three(patch: serde_json::Value) -> (Coordinator, Vec<Guest>) {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    let create = coordinator.operator(Method::POST, &format!("/runs?run={RUN}&encoding=f32"));
    take(201, create.header(header::CONTENT_TYPE, SAFETENSORS).body(safetensors(&model(0.0)))).await;
    coordinator.configure(RUN, json!({"min_clients": 3})).await;
    coordinator.configure(RUN, patch).await;
    let mut guests = Vec::new();
    for name in ["one", "two", "three"] {
        guests.push(Guest::with_samples(&coordinator, RUN, name, 100).await);
    }
    (coordinator, guests)
}

/// The value that the run's newest model is full of.
async fn value(coordinator: &Coordinator) -> f32 {
    let version = coordinator.snapshot(RUN).await.version;
    let model_now = coordinator.operator(Method::GET, &format!("/runs/{RUN}/models/{version}"));
    let body = take(200, model_now).await.bytes().await.unwrap();
    let parameters = safe::read(&body, model(0.0).schema()).unwrap();
    let Values::F32(values) = &parameters.values()[0] else { panic!("not F32") };
    values[0]
}

/// Sends the base plus that change.
async fn sends(guest: &Guest, round: u64, base: f32, change: f32) {
    let update = guest.update_of(round, "samples=100").header(header::CONTENT_TYPE, SAFETENSORS);
    take(202, update.body(safetensors(&model(base + change)))).await;
}

/// One round in which the clients change the model so; what it was like when it was over.
async fn round(coordinator: &Coordinator, guests: &[Guest], changes: [f32; 3]) -> RunSnapshot {
    let before = coordinator.snapshot(RUN).await.rounds.len();
    coordinator.order(&format!("/runs/{RUN}/rounds")).await;
    let base = value(coordinator).await;
    for (guest, change) in guests.iter().zip(changes) {
        sends(guest, guest.asked().await.round, base, change).await;
    }
    coordinator.until(RUN, "the round is over", |run| run.rounds.len() == before + 1).await
}

async fn verdict(guest: &Guest) -> Option<Rejection> {
    match guest.task(0).await {
        Task::Train(TrainTask { rejected, .. }) | Task::Wait { rejected, .. } => rejected,
        Task::Stop { .. } | Task::Unknown => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_clients_agree_on_is_combined_whatever_earlier_rounds_were_like() {
    let (coordinator, guests) = three(json!({})).await;
    round(&coordinator, &guests, [0.001; 3]).await;
    // When all three send 30 times as large a change, as at the end of a warm-up,
    let run = round(&coordinator, &guests, [0.03; 3]).await;
    let run = if run.version == 2 { round(&coordinator, &guests, [30.0; 3]).await } else { run };
    // then it is in the model, and nobody has a strike.
    assert!((value(&coordinator).await - 30.031).abs() < 1e-4);
    assert!(run.rounds.iter().all(|round| (round.updates, round.rejected) == (3, 0)), "{:?}", run.rounds);
    assert!(run.clients.iter().all(|client| client.strikes == 0 && client.error.is_none()), "{:?}", run.clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_with_a_thousand_times_the_norm_never_reaches_the_model() {
    let (coordinator, guests) = three(json!({})).await;
    // In the first round,
    let run = round(&coordinator, &guests, [0.01, 0.01, -500_000.0]).await;
    assert!((value(&coordinator).await - 0.01).abs() < 1e-6);
    assert_eq!((run.rounds[0].updates, run.rounds[0].rejected), (2, 1));
    // after the operator has changed what clients train by,
    coordinator.configure(RUN, json!({"train": {"learning_rate": 0.5}})).await;
    round(&coordinator, &guests, [1.0, 1.0, 1_000.0]).await;
    assert!((value(&coordinator).await - 1.01).abs() < 1e-5);
    // and in asynchronous rounds of one update.
    coordinator.configure(RUN, json!({"mode": "async", "buffer_size": 1, "min_clients": 1})).await;
    coordinator.autorun(RUN, 2).await;
    for (guest, change) in guests.iter().rev().zip([1_000.0, 1.0, 1.0]) {
        let task = guest.asked().await;
        sends(guest, task.round, 1.01, change).await;
    }
    coordinator.until(RUN, "the asynchronous round is over", |run| run.rounds.len() == 3).await;
    assert!((value(&coordinator).await - 2.01).abs() < 1e-5);
    let run = coordinator.snapshot(RUN).await;
    assert!(run.clients.iter().all(|client| client.strikes == 0), "{:?}", run.clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_a_rejected_update_learns_why_with_its_next_task_also_after_a_restart() {
    let (mut coordinator, guests) = three(json!({})).await;
    round(&coordinator, &guests, [0.001, 0.001, 0.1]).await;
    let expected = Rejection {
        round: 1,
        reason:
            "its norm (the distance from the base version) is 0.2000, more than 20 times the median of this round's \
                 3 updates, which is 0.002000; if it is honest, the operator can raise max_norm_ratio (20)"
                .to_owned(),
    };
    assert_eq!(verdict(&guests[2]).await.as_ref(), Some(&expected));
    assert_eq!(verdict(&guests[0]).await, None);
    let row = coordinator.snapshot(RUN).await.client(&guests[2].id).unwrap().clone();
    assert_eq!((row.rejected.as_ref(), row.strikes, row.state), (Some(&expected), 0, ClientState::Ready));
    let csv = coordinator.anybody(Method::GET, &format!("/runs/{RUN}/export.csv"));
    let csv = take(200, csv).await.text().await.unwrap();
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "rejected").unwrap();
    assert_eq!(csv.lines().nth(1).unwrap().split(',').nth(column), Some("1"));
    coordinator.stop().await;
    coordinator.start_again().await;
    assert_eq!((verdict(&guests[0]).await, verdict(&guests[1]).await), (None, None));
    assert_eq!(verdict(&guests[2]).await.as_ref(), Some(&expected));
    assert_eq!(coordinator.snapshot(RUN).await.rounds[0].rejected, 1);
    // Until another update of it is received.
    round(&coordinator, &guests, [0.001; 3]).await;
    assert_eq!(verdict(&guests[2]).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_awaits_its_verdict_outlives_a_restart() {
    // Given an attacker whose update is in first,
    let (mut coordinator, guests) = three(json!({})).await;
    coordinator.order(&format!("/runs/{RUN}/rounds")).await;
    for guest in &guests {
        guest.asked().await;
    }
    sends(&guests[2], 1, 0.0, 1_000.0).await;
    sends(&guests[0], 1, 0.0, 1.0).await;
    // when the coordinator is started again before the round closes,
    coordinator.stop().await;
    coordinator.start_again().await;
    sends(&guests[1], 1, 0.0, 1.0).await;
    // then it is judged all the same.
    let run = coordinator.until(RUN, "the round is over", |run| run.rounds.len() == 1).await;
    assert_eq!((run.rounds[0].updates, run.rounds[0].rejected), (2, 1));
    assert_eq!(value(&coordinator).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_update_out_of_proportion_to_those_of_other_clients_makes_its_round_void() {
    let (coordinator, guests) = three(json!({"min_clients": 1})).await;
    round(&coordinator, &guests, [1.0, 1.0, 1.0]).await;
    coordinator.order(&format!("/runs/{RUN}/rounds")).await;
    sends(&guests[0], guests[0].asked().await.round, 1.0, 1_000.0).await;
    coordinator.order(&format!("/runs/{RUN}/rounds/current/aggregate")).await;
    let run = coordinator.until(RUN, "the round is over", |run| run.rounds.len() == 2).await;
    let last = run.rounds.last().unwrap();
    assert_eq!((last.outcome, last.rejected, run.version), (RoundOutcome::Void, 1, 1));
    assert!(last.reason.contains("max_norm_ratio"), "{}", last.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_go_on_when_the_operator_raises_the_learning_rate_500_times() {
    let small = ["--set", "train.learning_rate=0.0001", "--min-clients", "3"];
    let coordinator = Coordinator::start(&small).await;
    let agents = [0, 1, 2].map(|i| Agent::start(&coordinator, &format!("agent-{i}"), fashion_mnist(i, 300)));
    let is_over = |rounds| move |run: &RunSnapshot| run.rounds.len() == rounds && run.phase == Phase::Idle;
    coordinator.autorun("default", 1).await;
    coordinator.until("default", "a round of small steps", is_over(1)).await;
    coordinator.configure("default", json!({"train": {"learning_rate": 0.05, "local_epochs": 2}})).await;
    coordinator.autorun("default", 1).await;
    let run = coordinator.until("default", "a round of large steps", is_over(2)).await;
    coordinator.configure("default", json!({"train": {"optimizer": "adam", "learning_rate": 0.001}})).await;
    coordinator.autorun("default", 1).await;
    let after = coordinator.until("default", "a round of adam", is_over(3)).await;
    for run in [run, after] {
        assert!(run.rounds.iter().all(|round| (round.updates, round.rejected) == (3, 0)), "{:?}", run.rounds);
        assert!(run.clients.iter().all(|client| client.strikes == 0), "{:?}", run.clients);
    }
    for agent in agents {
        agent.leaves().await;
    }
}
