//! Asynchronous rounds (FedBuff) over HTTP: nobody waits for the slow, whose work counts all the same, by its staleness.

use crate::harness::{Coordinator, Guest, refused, take};
use app::api::{ClientState, ErrorCode, RoundOutcome, Task};
use serde_json::json;

/// An asynchronous run whose rounds take one update each, with a fast and a slow client that train from version 0.
async fn fast_and_slow(max_staleness: u32) -> (Coordinator, Guest, Guest) {
    let coordinator = Coordinator::tiny(&[]).await;
    let config = json!({"mode": "async", "buffer_size": 1, "max_staleness": max_staleness, "max_norm_ratio": null});
    coordinator.configure("tiny", config).await;
    let fast = Guest::join(&coordinator, "tiny", "fast").await;
    let slow = Guest::join(&coordinator, "tiny", "slow").await;
    coordinator.autorun("tiny", 10).await;
    for guest in [&fast, &slow] {
        // Who came first began round 1 alone; nobody is shut out for that.
        assert_eq!((guest.asked().await.round, guest.asked().await.version), (1, 0));
    }
    (coordinator, fast, slow)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_counted_in_a_later_round_by_what_it_changes_with_less_weight() {
    let (mut coordinator, fast, slow) = fast_and_slow(5).await;
    fast.sends(1, 1.0).await;
    coordinator.until("tiny", "version 1", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 1.0);
    // The slow one is not told to stop, also not by a restart,
    assert!(!slow.trains(1).await.cancel);
    coordinator.stop().await;
    coordinator.start_again().await;
    assert!(!slow.trains(1).await.cancel);
    // and what it has made of version 0 is added to version 1: 1 + 4 / sqrt(1 + 1).
    slow.sends(1, 4.0).await;
    let run = coordinator.until("tiny", "version 2", |run| run.version == 2).await;
    assert_eq!((run.rounds[1].outcome, run.rounds[1].mean_staleness), (RoundOutcome::Complete, Some(1.0)));
    assert!((coordinator.tiny_value(2).await - (1.0 + 4.0 / 2_f32.sqrt())).abs() < 1e-6);
    // To send it again is harmless.
    take(200, slow.full_of(1, 4.0)).await;
    refused(409, ErrorCode::Conflict, slow.full_of(1, 5.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_too_far_behind_is_told_to_stop_and_begins_anew() {
    let (coordinator, fast, slow) = fast_and_slow(0).await;
    fast.sends(1, 1.0).await;
    coordinator.until("tiny", "version 1", |run| run.version == 1 && run.round.is_some()).await;
    assert!(slow.trains(1).await.cancel);
    slow.is_refused(1, 410, ErrorCode::RoundClosed).await;
    let slow_view = coordinator.snapshot("tiny").await.client(&slow.id).unwrap().clone();
    assert_eq!(slow_view.late_updates, 1);
    assert_eq!((slow.asked().await.round, slow.asked().await.version), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_later_takes_part_in_the_round_that_is_open() {
    let (coordinator, _fast, _slow) = fast_and_slow(5).await;
    let late = Guest::join(&coordinator, "tiny", "late").await;
    assert_eq!(late.asked().await.round, 1);
    late.sends(1, 2.0).await;
    assert!(!matches!(late.task(0).await, Task::Wait { state: ClientState::Kicked, .. }));
    coordinator.until("tiny", "version 1", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}
