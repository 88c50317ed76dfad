//! Clients that send nothing between their task and their update, as most clients of one's own do.

use crate::harness::{Coordinator, Guest, soon};
use app::api::{ClientState, Phase, RunSnapshot, Task};
use serde_json::json;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// The client of the README, word for word, that takes part in the run `tiny` and trains until it gets a line of input.
fn client_of_the_readme(coordinator: &Coordinator) -> Child {
    let readme = include_str!("../../README.md");
    let script = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let here = format!("{}/api/v1/runs/tiny", coordinator.origin());
    let there = script.replace("http://127.0.0.1:3000/api/v1/runs/default", &here);
    let upload = "        call(\"PUT\", f\"/rounds/";
    let script = there.replace(upload, &format!("        input()\n{upload}"));
    assert!(script.contains(&here) && script.contains("input()"), "{script}");
    let mut python = Command::new("python3");
    python.args(["-c", &script]).stdin(Stdio::piped()).kill_on_drop(true);
    python.spawn().unwrap()
}

fn state_of(run: &RunSnapshot, name: &str) -> Option<ClientState> {
    run.clients.iter().find(|client| client.name == name).map(|client| client.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_the_readme_trains_for_90_s_without_a_heartbeat_and_its_update_counts() {
    // Given the README's client and another one,
    let coordinator = Coordinator::tiny(&[]).await;
    let quick = Guest::join(&coordinator, "tiny", "quick").await;
    let mut python = client_of_the_readme(&coordinator);
    coordinator.until("tiny", "both have registered", |run| run.clients.len() == 2).await;
    coordinator.autorun("tiny", 1).await;
    let task = quick.asked().await;
    assert_eq!((task.heartbeat_interval_s, task.deadline_ms - task.server_ms > 500_000), (20, true));
    quick.sends(task.round, 3.0).await;
    // which is shown to train as soon as it has its task,
    coordinator.until("tiny", "it trains", |run| state_of(run, "python") == Some(ClientState::Training)).await;
    // when 90 s have passed by the coordinator's clock, and the other one is heard of,
    coordinator.clock().put_forward(Duration::from_secs(90));
    assert!(matches!(quick.task(0).await, Task::Wait { .. }));
    // then the round still waits for it,
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.phase, state_of(&run, "python")), (Phase::Training, Some(ClientState::Training)));
    // and counts its update once it comes.
    python.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.rounds[0].updates, 2);
    python.kill().await.unwrap();
    soon("the end of the script", python.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_heartbeats_stop_is_given_up_after_three() {
    let (coordinator, guests) = Guest::in_round(&["agent", "quick"]).await;
    let (agent, quick) = (&guests[0], &guests[1]);
    let round = agent.asked().await.round;
    agent.trains(round).await;
    quick.sends(round, 3.0).await;
    coordinator.clock().put_forward(Duration::from_secs(61));
    quick.task(0).await;
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.rounds[0].reason, "1 of 2 updates in, the other clients are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_sent_a_heartbeat_is_awaited_over_a_restart() {
    let (mut coordinator, guests) = Guest::in_round(&["silent", "quick"]).await;
    let (silent, quick) = (&guests[0], &guests[1]);
    let round = silent.asked().await.round;
    quick.sends(round, 1.0).await;
    coordinator.stop().await;
    coordinator.start_again().await;
    coordinator.clock().put_forward(Duration::from_secs(90));
    quick.task(0).await;
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.phase, state_of(&run, "silent")), (Phase::Training, Some(ClientState::Training)));
    silent.sends(round, 3.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_registers_again_after_a_crash_does_not_wait_for_its_predecessor() {
    // Given a round that needs two clients, of which one has delivered, and one crashes in training and registers again,
    let coordinator = Coordinator::tiny(&[]).await;
    coordinator.configure("tiny", json!({"min_clients": 2})).await;
    let alice = Guest::join(&coordinator, "tiny", "alice").await;
    let bob = Guest::join(&coordinator, "tiny", "bob").await;
    coordinator.autorun("tiny", 1).await;
    let round = bob.asked().await.round;
    bob.trains(round).await;
    alice.sends(round, 1.0).await;
    let again = Guest::join(&coordinator, "tiny", "bob").await;
    // when its predecessor has gone offline,
    coordinator.clock().put_forward(Duration::from_secs(61));
    alice.task(0).await;
    // then the round is over at once, and the next one completes with the new client.
    let is_void = |run: &RunSnapshot| run.rounds.iter().any(|ended| ended.reason.contains("1 registered again"));
    coordinator.until("tiny", "the round is void", is_void).await;
    coordinator.clock().put_forward(Duration::from_secs(5));
    again.task(0).await;
    let last = alice.asked().await.round;
    alice.sends(last, 1.0).await;
    again.sends(last, 1.0).await;
    coordinator.until("tiny", "a round is complete", |run| run.version == 1).await;
}
