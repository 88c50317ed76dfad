//! Every refusal of the protocol: its status, its code, and that nothing is kept of what was refused.

mod bodies;
mod floods;
mod memory;
mod models;
mod requests;
mod secrets;
mod slow;
mod strikes;

use crate::harness::{Coordinator, Guest};

/// The run `tiny` with a client that is asked in round 1, which is open.
async fn open_round(flags: &[&str]) -> (Coordinator, Guest) {
    let coordinator = Coordinator::tiny(flags).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    (coordinator, guest)
}

/// The same with another client that is asked, and sends nothing: the round stays open when the first one fails. Any number
/// of strikes is allowed.
async fn round_of_two() -> (Coordinator, Guest) {
    let coordinator = Coordinator::tiny(&[]).await;
    coordinator.configure("tiny", serde_json::json!({"max_strikes": 1_000})).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    Guest::join(&coordinator, "tiny", "bystander").await;
    coordinator.order("/runs/tiny/rounds").await;
    (coordinator, guest)
}

/// Nothing is kept, the round is open, and the right update of the same client is accepted.
async fn nothing_was_kept(coordinator: &Coordinator, guest: &Guest) {
    assert_eq!(coordinator.incoming(), Vec::<std::path::PathBuf>::new(), "no upload is left behind");
    let run = coordinator.snapshot("tiny").await;
    let round = run.round.as_ref().expect("the round is still open");
    assert_eq!((round.number, round.updated.len(), run.version), (1, 0, 0));
    guest.sends(1, 2.0).await;
    for other in run.clients.iter().filter(|client| client.id != guest.id) {
        coordinator.order(&format!("/runs/tiny/clients/{}/kick", other.id)).await;
    }
    let run = coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    assert_eq!((run.version, run.rounds[0].updates), (1, 1));
}
