//! What goes in equal comes out equal, small changes arrive, and what an encoding cannot express is rejected in time.

use crate::harness::{Coordinator, Guest, NO_DATASET, refused, safetensors, take};
use app::api::{Encoding, ErrorCode, RoundOutcome};
use fedlearn::wire::{
    self, Base, CONTAINER, Dtype, Feedback, ModelFormat, Parameters, SAFETENSORS, Schema, TensorSpec, UpdateRecipe,
    Values,
};
use reqwest::{Method, RequestBuilder, header};
use serde_json::json;
use std::sync::Arc;

/// A matrix `w` of these values, and a counter.
fn model(w: Vec<f32>, n: i64) -> Parameters {
    let spec = |name: &str, dtype, shape| TensorSpec { name: name.into(), dtype, shape };
    let specs = vec![spec("n", Dtype::I64, vec![1]), spec("w", Dtype::F32, vec![1, w.len() as u64])];
    Parameters::new(Arc::new(Schema::new(specs).unwrap()), vec![Values::I64(vec![n]), Values::F32(w)])
}

fn floats(parameters: &Parameters) -> &[f32] {
    match &parameters.values()[1] {
        Values::F32(values) => values,
        Values::I64(_) => panic!("integers"),
    }
}

fn create(coordinator: &Coordinator, query: &str, body: Vec<u8>) -> RequestBuilder {
    coordinator.operator(Method::POST, &format!("/runs?{query}")).header(header::CONTENT_TYPE, SAFETENSORS).body(body)
}

fn patch(coordinator: &Coordinator, run: &str, patch: &serde_json::Value) -> RequestBuilder {
    coordinator.operator(Method::PATCH, &format!("/runs/{run}")).header(header::IF_MATCH, "*").json(patch)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_send_back_what_they_received_change_no_bit() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    // Given a mask at the smallest value of F32, -1e9, and a counter that F64 cannot hold
    let body = safetensors(&model(vec![f32::MIN, -1e9, 0.1, -0.0], (1 << 53) + 1));
    take(201, create(&coordinator, "run=frozen&encoding=f32", body.clone())).await;
    coordinator.configure("frozen", json!({"min_clients": 2})).await;
    let one = Guest::with_samples(&coordinator, "frozen", "one", 100).await;
    let other = Guest::with_samples(&coordinator, "frozen", "other", 50).await;
    coordinator.autorun("frozen", 3).await;
    for round in 1..=3 {
        for (guest, samples) in [(&one, 100), (&other, 50)] {
            let task = guest.asked().await;
            let fetch = guest.request(Method::GET, &format!("/models/{}", task.version));
            let received = take(200, fetch).await.bytes().await.unwrap();
            let update = guest.update_of(round, &format!("samples={samples}"));
            take(202, update.header(header::CONTENT_TYPE, SAFETENSORS).body(received)).await;
        }
        let run = coordinator.until("frozen", "the round is over", |run| run.version == round).await;
        assert_eq!(run.rounds.last().unwrap().outcome, RoundOutcome::Complete);
        let latest = one.request(Method::GET, &format!("/models/{round}"));
        assert_eq!(take(200, latest).await.bytes().await.unwrap(), body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_steps_arrive_though_each_client_takes_part_once() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    let first: Vec<f32> = (0..20_000).map(|i| 0.5 + i as f32 / 20_000.0).collect();
    for encoding in [Encoding::F32, Encoding::Bf16, Encoding::Bf16Delta, Encoding::Q8, Encoding::Q4] {
        let run = format!("steps-{encoding}");
        let query = format!("run={run}&encoding={encoding}");
        take(201, create(&coordinator, &query, safetensors(&model(first.clone(), 1)))).await;
        for round in 1..=20 {
            let guest = Guest::join(&coordinator, &run, &format!("guest-{round}")).await;
            coordinator.order(&format!("/runs/{run}/rounds")).await;
            let task = guest.asked().await;
            // When a client fetches the model as an agent does, and adds 0.001
            let fetch = guest.request(Method::GET, &format!("/models/{}", task.version));
            let body = take(200, fetch.header(header::ACCEPT, CONTAINER)).await.bytes().await.unwrap();
            let received = wire::decode(&body, model(first.clone(), 1).schema()).unwrap();
            let update = model(floats(&received).iter().map(|value| value + 0.001).collect(), 1);
            let base = Base { version: task.version, parameters: &received };
            let recipe = UpdateRecipe { encoding: task.encoding, topk_fraction: 1.0, seed: round };
            let (body, _) = wire::encode_update(&update, base, recipe, &Feedback::default()).unwrap();
            let content_type = ModelFormat::Container(encoding).content_type();
            take(202, guest.update(round).header(header::CONTENT_TYPE, content_type).body(body)).await;
            coordinator.until(&run, "the round is over", |run| run.version == round).await;
            guest.leaves().await;
        }
        // Then the weights have moved by 0.02 on average, as safetensors show
        let last = coordinator.operator(Method::GET, &format!("/runs/{run}/models/20"));
        let last = take(200, last).await.bytes().await.unwrap();
        let last = wire::safe::read(&last, model(first.clone(), 1).schema()).unwrap();
        let moved = floats(&last).iter().zip(&first).map(|(last, first)| f64::from(last - first)).sum::<f64>() / 2e4;
        assert!((0.0196..0.0204).contains(&moved), "{encoding}: {moved} of 0.02");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_values_its_encoding_cannot_express_is_rejected_at_creation_and_by_patch() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    let body = || safetensors(&model(vec![1.0, f32::MIN], 1));
    for (query, encoding) in [("run=mask", "bf16"), ("run=mask&encoding=q4", "q4")] {
        let refusal = refused(422, ErrorCode::Invalid, create(&coordinator, query, body())).await;
        let problem = format!(
            "tensor 'w' has -3.4028235e38 at index 1, which encoding {encoding} cannot express: its models are sent as \
             bf16, of at most 3.3895314e38 either way; choose encoding f32, or smaller values"
        );
        assert_eq!(refusal.problems, [problem]);
    }
    refused(400, ErrorCode::BadRequest, create(&coordinator, "run=mask&encoding=q3", body())).await;
    take(201, create(&coordinator, "run=mask&encoding=f32", body())).await;
    for encoding in ["bf16", "bf16-delta", "q8", "q4", "topk"] {
        let refusal =
            refused(422, ErrorCode::Invalid, patch(&coordinator, "mask", &json!({"encoding": encoding}))).await;
        assert!(refusal.problems[0].contains(&format!("which encoding {encoding} cannot express")), "{refusal:?}");
    }
    take(200, patch(&coordinator, "mask", &json!({"min_clients": 3}))).await;
    assert_eq!(coordinator.snapshot("mask").await.config.encoding, Encoding::F32);
    // A client that asks for bf16 all the same, or a run that trained to such a value, gets the largest there is.
    let guest = Guest::join(&coordinator, "mask", "guest").await;
    let fetch = guest.request(Method::GET, "/models/0").header(header::ACCEPT, format!("{CONTAINER}; encoding=bf16"));
    let received = take(200, fetch).await.bytes().await.unwrap();
    let received = wire::decode(&received, model(vec![0.0; 2], 1).schema()).unwrap();
    assert_eq!(floats(&received), [1.0, -wire::LARGEST_BF16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_it_is_sent_as_is_rejected_with_what_it_looks_like() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    let zip = [&b"PK\x03\x04"[..], &[0; 60]].concat();
    let refusal = refused(422, ErrorCode::Invalid, create(&coordinator, "run=pt", zip)).await;
    for part in ["not safetensors", ".pt", "safetensors.torch.save_file"] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    let header = r#"{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    let doubles = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    let refusal = refused(422, ErrorCode::Invalid, create(&coordinator, "run=doubles", doubles)).await;
    assert_eq!(
        refusal.message,
        "tensor 'w' has dtype F64; known are F32, F16 and BF16 for parameters, and I64 for counters: convert it, in \
         PyTorch with .float() or .long()"
    );
    let reserved = r#"{"__metadata__":{},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let sound = [&(reserved.len() as u64).to_le_bytes()[..], reserved.as_bytes(), &[0; 4]].concat();
    take(201, create(&coordinator, "run=sound", sound)).await;
}
