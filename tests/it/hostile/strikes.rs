//! Rejected updates as the operator sees them, and which of them are strikes.

use super::open_round;
use crate::harness::{Coordinator, Guest, container, refused, safetensors, with};
use app::api::{ClientState, ClientView, ErrorCode};
use fedlearn::wire::{CONTAINER, SAFETENSORS};
use reqwest::{RequestBuilder, header};
use serde_json::json;

/// Two clients that are asked in round 1. The second one sends nothing, so that the round stays open.
async fn round() -> (Coordinator, Guest) {
    let (coordinator, mut guests) = Guest::in_round(&["guest", "bystander"]).await;
    (coordinator, guests.swap_remove(0))
}

async fn view(coordinator: &Coordinator, guest: &Guest) -> ClientView {
    coordinator.snapshot("tiny").await.client(&guest.id).unwrap().clone()
}

fn sends(guest: &Guest, query: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    guest.update_of(1, query).header(header::CONTENT_TYPE, content_type).body(body)
}

/// Safetensors whose second tensor does not begin where the first one ends.
fn lie(begin: u64) -> Vec<u8> {
    let n = json!({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]});
    let w = json!({"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, 32]});
    let header = json!({"n": n, "w": w}).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 32]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_lie_sent_twice_is_one_strike_and_three_lies_are_quarantine() {
    let (coordinator, guest) = round().await;
    let strikes = async || view(&coordinator, &guest).await.strikes;
    let lies =
        async |begin| refused(422, ErrorCode::Invalid, sends(&guest, "samples=10", SAFETENSORS, lie(begin))).await;
    lies(12).await;
    lies(12).await;
    assert_eq!(strikes().await, 1);
    lies(4).await;
    assert_eq!(strikes().await, 2);
    assert_eq!(view(&coordinator, &guest).await.state, ClientState::Error);
    lies(16).await;
    let view = view(&coordinator, &guest).await;
    assert_eq!((view.strikes, view.state), (3, ClientState::Quarantine));
    guest.is_refused(1, 403, ErrorCode::Quarantined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_honest_mistake_is_shown_in_the_clients_row_and_in_what_the_run_waits_for_and_is_no_strike() {
    let (coordinator, guest) = round().await;
    let sound = safetensors(&with(1.0));
    let not_finite = [&sound[..sound.len() - 24], &f32::NAN.to_le_bytes().repeat(6)].concat();
    let sends = |query: &str, content_type: &str, body: &[u8]| sends(&guest, query, content_type, body.to_vec());
    let damaged = [&container(&with(1.0), 0)[..120], b"!"].concat();
    let far = format!("samples=10&sha256={}&offset=4294967296", "0".repeat(64));
    for (status, request, words) in [
        (422, sends("samples=0", SAFETENSORS, &sound), "samples must be between 1 and 10^12, got 0"),
        (422, sends("samples=10&loss=inf", SAFETENSORS, &sound), "loss must be a finite number, got inf"),
        (400, sends("samples=-1", SAFETENSORS, &sound), "samples"),
        (413, sends(&far, SAFETENSORS, &sound), "no update of this run's model has more"),
        (415, sends("samples=10", "application/json", b"{}"), "application/json"),
        (422, sends("samples=10", SAFETENSORS, &not_finite), "NaN or infinite"),
        (422, sends("samples=10", CONTAINER, &container(&with(1.0), 7)), "version 7"),
        (422, sends("samples=10", CONTAINER, &damaged), "the body ends after"),
        (422, sends("samples=10", CONTAINER, &sound), "signature"),
    ] {
        let answer = crate::harness::take(status, request).await.text().await.unwrap();
        let run = coordinator.snapshot("tiny").await;
        let view = run.client(&guest.id).unwrap();
        assert_eq!((view.state, view.strikes), (ClientState::Error, 0), "{answer}");
        let reason = view.error.as_ref().unwrap();
        assert!(reason.contains(words), "'{words}' is not in '{reason}'");
        assert!(answer.contains(words), "'{words}' is not in '{answer}'");
        let start: String = reason.chars().take(30).collect();
        assert!(run.waiting.contains(&format!("; guest's update was rejected: {start}")), "{}", run.waiting);
    }
    // A sound update is still accepted, and then nothing of that is shown any more.
    guest.sends(1, 1.0).await;
    let run = coordinator.snapshot("tiny").await;
    assert_eq!(run.client(&guest.id).unwrap().error, None);
    assert!(!run.waiting.contains("rejected"), "{}", run.waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_awaits_is_held_against_nobody() {
    let (coordinator, guest) = open_round(&[]).await;
    let late = Guest::join(&coordinator, "tiny", "late").await;
    refused(403, ErrorCode::NotAdmitted, sends(&late, "samples=0", SAFETENSORS, lie(12))).await;
    guest.sends(1, 1.0).await;
    refused(409, ErrorCode::Conflict, sends(&guest, "samples=10", SAFETENSORS, lie(12))).await;
    for guest in [late, guest] {
        let view = view(&coordinator, &guest).await;
        assert_eq!((view.strikes, view.error), (0, None));
    }
}
