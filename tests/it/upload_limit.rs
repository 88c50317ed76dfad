//! Runs whose updates do not fit into what `--max-upload-mb` allows: rejected when they are made or changed, shown where
//! they exist.

use crate::harness::{Coordinator, refused, take};
use app::api::ErrorCode;
use reqwest::{Method, header};
use serde_json::json;

/// A run whose update has 0.7 MB in the encoding bf16, and 1.3 MB as f32.
const LARGER: [&str; 6] = ["--dataset", "none", "--channels", "1", "--classes", "1000"];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_updates_do_not_fit_is_rejected_and_so_is_an_encoding() {
    let coordinator = Coordinator::start(&[&LARGER[..], &["--max-upload-mb", "1"]].concat()).await;
    // The smallest ResNet has 11 million parameters.
    let create = |encoding: &str| {
        let model = json!({"architecture": "resnet18", "channels": 1, "classes": 10});
        let body = json!({"run": "large", "model": model, "config": {"encoding": encoding}});
        coordinator.operator(Method::POST, "/runs").json(&body)
    };
    let refusal = refused(422, ErrorCode::Invalid, create("bf16")).await;
    let words = "--max-upload-mb 1 of the coordinator allows 1048576: choose one of the encodings topk, or restart the \
                 coordinator with --max-upload-mb 22 or more";
    assert!(refusal.problems[0].starts_with("an update of this model in the encoding bf16 can have 22"), "{refusal:?}");
    assert!(refusal.problems[0].contains(words), "{refusal:?}");
    take(201, create("topk")).await;
    // Of the run that is there already, the encodings that do not fit are rejected as well; all else can be changed.
    let patch =
        |body| coordinator.operator(Method::PATCH, "/runs/default").header(header::IF_MATCH, "\"1\"").json(&body);
    let refusal = refused(422, ErrorCode::Invalid, patch(json!({"encoding": "f32"}))).await;
    assert!(
        refusal.problems[0].contains("in the encoding f32")
            && refusal.problems[0].contains("--max-upload-mb 2 or more")
    );
    take(200, patch(json!({"encoding": "q8"}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_fit_any_more_says_so_until_its_encoding_is_changed() {
    let mut coordinator = Coordinator::start(&[&LARGER[..], &["--max-upload-mb", "8"]].concat()).await;
    coordinator.configure("default", json!({"encoding": "f32"})).await;
    coordinator.stop().await;
    coordinator.limit_uploads(1);
    coordinator.start_again().await;
    let waiting = coordinator.snapshot("default").await.waiting;
    assert!(
        waiting.starts_with("Updates may be rejected: an update of this model in the encoding f32 can have "),
        "{waiting}"
    );
    assert!(waiting.contains("--max-upload-mb 1 of the coordinator allows 1048576"), "{waiting}");
    assert!(waiting.ends_with(" Idle: start an auto-run or one round."), "{waiting}");
    // The admin token is that of the first start.
    coordinator.configure("default", json!({"min_clients": 2})).await;
    coordinator.configure("default", json!({"encoding": "bf16"})).await;
    assert_eq!(coordinator.snapshot("default").await.waiting, "Idle: start an auto-run or one round.");
}
