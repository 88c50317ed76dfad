//! Real agents that train on real images.

use crate::harness::{Agent, Coordinator, fashion_mnist};
use app::api::{ClientState, Phase, RoundOutcome};
use serde_json::json;

/// Two local epochs of small steps, on a share small enough for a test.
const TRAINING: [&str; 6] = ["--set", "train.local_epochs=2", "--set", "train.batch_size=32", "--min-clients", "3"];
const IMAGES: usize = 1_500;

#[tokio::test(flavor = "multi_thread")]
async fn three_agents_learn_fashion_mnist_together() {
    // Given three agents with 1,500 images each,
    let coordinator = Coordinator::start(&TRAINING).await;
    let agents = [0, 1, 2].map(|i| Agent::start(&coordinator, &format!("agent-{i}"), fashion_mnist(i, IMAGES)));
    // when four rounds run by themselves,
    coordinator.autorun("default", 4).await;
    let is_done = |run: &app::api::RunSnapshot| run.rounds.len() == 4 && run.phase == Phase::Idle;
    let run = coordinator.until("default", "four rounds are over", is_done).await;
    // then the global model tells the 10,000 test images apart,
    let accuracies: Vec<f64> = run.rounds.iter().map(|round| round.test_accuracy.unwrap()).collect();
    assert!(accuracies[3] >= 0.72, "{accuracies:?}");
    assert!(accuracies[3] > accuracies[0], "{accuracies:?}");
    // from everybody's images,
    assert!(
        run.rounds.iter().all(|round| (round.updates, round.samples) == (3, 3 * IMAGES as u64)),
        "{:?}",
        run.rounds
    );
    // and the best version is marked.
    let best = run.best.unwrap();
    assert_eq!(best.test_accuracy, accuracies.iter().copied().fold(0.0, f64::max));
    assert_eq!(run.rounds[best.round as usize - 1].version, Some(best.version));
    for agent in agents {
        agent.leaves().await;
    }
    coordinator.until("default", "all have left", |run| run.clients.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_joins_in_mid_run_takes_part_from_the_next_round() {
    let coordinator = Coordinator::start(&[]).await;
    let first = Agent::start(&coordinator, "first", fashion_mnist(0, 500));
    coordinator.autorun("default", 1_000).await;
    coordinator.until("default", "a round is over", |run| !run.rounds.is_empty()).await;
    let second = Agent::start(&coordinator, "second", fashion_mnist(1, 500));
    let both = |run: &app::api::RunSnapshot| run.rounds.last().is_some_and(|round| round.updates == 2);
    let run = coordinator.until("default", "a round with both", both).await;
    let cohorts: Vec<u32> = run.rounds.iter().map(|round| round.cohort).collect();
    assert!(cohorts.is_sorted(), "once in, it stays in: {cohorts:?}");
    // And when it leaves, the others go on.
    second.leaves().await;
    let rounds = coordinator.snapshot("default").await.rounds.len();
    let alone = |run: &app::api::RunSnapshot| {
        run.rounds[rounds..].iter().any(|round| (round.cohort, round.outcome) == (1, RoundOutcome::Complete))
    };
    coordinator.until("default", "a round without it", alone).await;
    first.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_kicked_drops_its_work_and_takes_it_up_when_admitted_again() {
    // Given an agent in the middle of work for many minutes,
    let coordinator = Coordinator::start(&["--set", "train.local_epochs=1000"]).await;
    let agent = Agent::start(&coordinator, "agent", fashion_mnist(0, 1_000));
    coordinator.autorun("default", 1).await;
    let trains = |run: &app::api::RunSnapshot| run.clients.iter().any(|c| c.state == ClientState::Training);
    let run = coordinator.until("default", "it trains", trains).await;
    // when it is kicked, its round is void at once,
    let client = format!("/runs/default/clients/{}", run.clients[0].id);
    coordinator.order(&format!("{client}/kick")).await;
    let run = coordinator.until("default", "the round is over", |run| run.round.is_none()).await;
    assert_eq!((run.rounds[0].outcome, run.clients[0].state), (RoundOutcome::Void, ClientState::Kicked));
    // and when it is admitted again, it is there for the next one: the network is back from the work it dropped.
    coordinator.configure("default", json!({"train": {"local_epochs": 1}})).await;
    coordinator.order(&format!("{client}/admit")).await;
    coordinator.until("default", "a round is complete", |run| run.version == 1).await;
    agent.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_training_diverges_says_so_and_goes_on_once_that_is_mended() {
    // Given a learning rate at which no loss stays a number,
    let coordinator = Coordinator::start(&[]).await;
    coordinator.configure("default", json!({"train": {"learning_rate": 1000}})).await;
    let agent = Agent::start(&coordinator, "agent", fashion_mnist(0, 600));
    coordinator.autorun("default", 1).await;
    // then the round is void at once, and the client is there to say why.
    let is_told = |run: &app::api::RunSnapshot| run.rounds.len() == 1 && run.clients[0].error.is_some();
    let run = coordinator.until("default", "the round is void", is_told).await;
    assert_eq!(run.rounds[0].outcome, RoundOutcome::Void);
    let reason = "at most 0 of 1 updates can still come, 1 failed, min_clients is 1; agent reported an error: the training loss is NaN";
    assert!(run.rounds[0].reason.starts_with(reason), "{}", run.rounds[0].reason);
    assert!(run.clients[0].error.as_ref().unwrap().contains("NaN"), "{:?}", run.clients[0].error);
    // When it is mended, the auto-run comes to its end without anybody being started again.
    coordinator.configure("default", json!({"train": {"learning_rate": 0.05}})).await;
    let run = coordinator.until("default", "the auto-run is over", |run| run.autorun.is_none()).await;
    assert_eq!((run.version, run.clients[0].error.as_ref()), (1, None));
    agent.leaves().await;
}
