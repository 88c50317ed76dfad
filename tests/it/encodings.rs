//! Updates and models in every encoding, over HTTP.

use crate::harness::{Agent, Coordinator, Guest, fashion_mnist, refused, schema, take, with};
use app::api::{Encoding, ErrorCode, Phase};
use fedlearn::wire::{self, Base, CONTAINER, Feedback, ModelFormat, Parameters, Plan, UpdateRecipe};
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::json;

/// An update of `tiny` full of that value, trained from a version full of 0.
fn encoded(encoding: Encoding, version: u64, value: f32) -> Vec<u8> {
    let recipe = UpdateRecipe { encoding, topk_fraction: 1.0, seed: 1 };
    let base = Base { version, parameters: &with(0.0) };
    wire::encode_update(&with(value), base, recipe, &Feedback::default()).unwrap().0
}

fn sending(guest: &Guest, round: u64, encoding: Encoding, body: Vec<u8>) -> RequestBuilder {
    let content_type = ModelFormat::Container(encoding).content_type();
    guest.update(round).header(header::CONTENT_TYPE, content_type).body(body)
}

fn model(guest: &Guest, version: u64, accept: &str, query: &str) -> RequestBuilder {
    guest.request(Method::GET, &format!("/models/{version}{query}")).header(header::ACCEPT, accept)
}

fn encoding_of(response: &Response) -> String {
    response.headers()["content-type"].to_str().unwrap().rsplit('=').next().unwrap().to_owned()
}

/// A round in which one client sends that value; afterwards the global model is that.
async fn one_round(coordinator: &Coordinator, guest: &Guest, round: u64, value: f32) {
    coordinator.order("/runs/tiny/rounds").await;
    guest.sends(round, value).await;
    coordinator.until("tiny", "the round is over", |run| run.version == round).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_taken_in_any_encoding_whatever_the_run_asks_for() {
    for encoding in Encoding::ALL {
        let coordinator = Coordinator::tiny(&[]).await;
        let guest = Guest::join(&coordinator, "tiny", "guest").await;
        coordinator.order("/runs/tiny/rounds").await;
        take(202, sending(&guest, 1, *encoding, encoded(*encoding, 0, 1.0))).await;
        coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
        // All of its values are the largest: a multiple of the scale in the lossy encodings too.
        let body = take(200, model(&guest, 1, &format!("{CONTAINER}; encoding=f32"), "")).await.bytes().await.unwrap();
        assert_eq!(wire::decode(&body, &schema()).unwrap(), with(1.0), "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_to_another_version_or_to_none_is_refused_and_leaves_no_trace() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    let bystander = Guest::join(&coordinator, "tiny", "bystander").await;
    coordinator.order("/runs/tiny/rounds").await;
    for encoding in [Encoding::Bf16Delta, Encoding::Q8, Encoding::Q4, Encoding::TopK] {
        let other = sending(&guest, 1, encoding, encoded(encoding, 7, 1.0));
        let refusal = refused(422, ErrorCode::Invalid, other).await;
        assert!(refusal.message.contains("version 7"), "{}", refusal.message);
    }
    let unknown = guest.update(1).header(header::CONTENT_TYPE, format!("{CONTAINER}; encoding=q3")).body("");
    refused(415, ErrorCode::UnsupportedMediaType, unknown).await;
    // Then the round is open, and a sound update of this client is all that counts
    guest.sends(1, 2.0).await;
    bystander.leaves().await;
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.rounds[0].updates, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_update_is_refused_before_all_of_it_has_come() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    // Given a body whose head is of another model, and which then never ends
    let mut head = encoded(Encoding::F32, 0, 1.0);
    let at = head.windows(3).position(|w| w == [1, b'w', 0]).unwrap();
    head[at + 1] = b'v';
    let head_bytes = 16 + u32::from_le_bytes(head[12..16].try_into().unwrap()) as usize;
    head.truncate(head_bytes);
    head.extend(crc32fast::hash(&head).to_le_bytes());
    let stream = futures::stream::once(async { Ok::<_, std::io::Error>(head) });
    let endless = futures::StreamExt::chain(stream, futures::stream::pending());
    let request = guest.update(1).header(header::CONTENT_TYPE, CONTAINER).body(reqwest::Body::wrap_stream(endless));
    // Then the answer comes all the same
    refused(422, ErrorCode::Invalid, request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_version_gets_the_next_one_as_a_difference_where_that_is_smaller() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    one_round(&coordinator, &guest, 1, 1.0).await;
    let delta_only = format!("{CONTAINER}; encoding=bf16-delta");

    // For six values the header is nearly all: a difference is no smaller, unless nothing else will do.
    let whole = take(200, model(&guest, 1, CONTAINER, "?base=0")).await;
    assert_eq!(encoding_of(&whole), "bf16");
    let delta = take(200, model(&guest, 1, &delta_only, "?base=0")).await;
    assert_eq!(encoding_of(&delta), "bf16-delta");
    let body = delta.bytes().await.unwrap();
    let held = with(0.0);
    let base = Base { version: 0, parameters: &held };
    assert_eq!(wire::decode_against(&body, &schema(), Some(base)).unwrap(), with(1.0));
    assert_eq!(Plan::of(wire::BodyFormat::Container, &body).unwrap().base_version(), Some(0));

    // A version that is not there is no base: the whole model comes, if that will do.
    assert_eq!(encoding_of(&take(200, model(&guest, 1, CONTAINER, "?base=99")).await), "bf16");
    refused(406, ErrorCode::NotAcceptable, model(&guest, 1, &delta_only, "?base=99")).await;
    refused(406, ErrorCode::NotAcceptable, model(&guest, 1, &delta_only, "")).await;
    refused(406, ErrorCode::NotAcceptable, model(&guest, 1, &format!("{CONTAINER}; encoding=q8"), "?base=0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_encoding_of_a_run_can_be_changed_while_it_runs() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    one_round(&coordinator, &guest, 1, 1.0).await;
    coordinator.configure("tiny", json!({"encoding": "topk", "topk_fraction": 0.5})).await;
    coordinator.order("/runs/tiny/rounds").await;
    let task = guest.asked().await;
    assert_eq!((task.encoding, task.topk_fraction), (Encoding::TopK, 0.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_train_a_network_in_the_lossy_encodings() {
    for encoding in ["bf16-delta", "q8", "q4"] {
        let settings = ["--encoding", encoding, "--set", "train.batch_size=32", "--min-clients", "2"];
        let coordinator = Coordinator::start(&settings).await;
        let agents = [0, 1].map(|i| Agent::start(&coordinator, &format!("agent-{i}"), fashion_mnist(i, 1_500)));
        coordinator.autorun("default", 4).await;
        let is_done = |run: &app::api::RunSnapshot| run.rounds.len() == 4 && run.phase == Phase::Idle;
        let run = coordinator.until("default", "four rounds are over", is_done).await;
        let accuracies: Vec<f64> = run.rounds.iter().map(|round| round.test_accuracy.unwrap()).collect();
        assert!(accuracies[3] > 0.65, "{encoding}: {accuracies:?}");
        for agent in agents {
            agent.leaves().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_goes_on_after_its_end_is_refused_without_waiting_for_more() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    let longer = [encoded(Encoding::F32, 0, 1.0), vec![0]].concat();
    let stream = futures::stream::once(async { Ok::<_, std::io::Error>(longer) });
    let endless = futures::StreamExt::chain(stream, futures::stream::pending());
    let request = guest.update(1).header(header::CONTENT_TYPE, CONTAINER).body(reqwest::Body::wrap_stream(endless));
    refused(422, ErrorCode::Invalid, request).await;
}

/// What both ends hold must not drift apart: the same values by way of a difference and as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_differences_ends_at_the_model_itself() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    let mut held: Parameters = with(0.0);
    for round in 1..=4 {
        one_round(&coordinator, &guest, round, round as f32 * 0.37).await;
        let query = format!("?base={}", round - 1);
        let body = take(200, model(&guest, round, &format!("{CONTAINER}; encoding=bf16-delta"), &query)).await;
        let base = Base { version: round - 1, parameters: &held };
        held = wire::decode_against(&body.bytes().await.unwrap(), &schema(), Some(base)).unwrap();
    }
    let whole = take(200, model(&guest, 4, &format!("{CONTAINER}; encoding=bf16"), "")).await;
    assert_eq!(held, wire::decode(&whole.bytes().await.unwrap(), &schema()).unwrap());
}
