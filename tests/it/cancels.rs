//! What ends a client's work ends it at once: nobody trains for a round that is over.

use crate::harness::{Agent, Coordinator, Guest, Watch, fashion_mnist, refused, soon, take};
use app::api::{Change, ClientId, ClientState, ErrorCode, RoundOutcome, Task};
use reqwest::{Method, header};
use serde_json::json;

/// A run whose rounds take a client for ever.
const FOR_EVER: [&str; 4] = ["--set", "train.local_epochs=1000", "--set", "train.batch_size=16"];

/// What a client that works for round 1 is told, which it waits for.
fn news(guest: &Guest) -> reqwest::RequestBuilder {
    guest.own(Method::GET, "/task?wait_s=60&round=1")
}

async fn told(request: reqwest::RequestBuilder) -> Task {
    take(200, request).await.json().await.unwrap()
}

/// Waits until the client is in that state, by the events; returns the states on the way there.
async fn until(watch: &mut Watch, id: &ClientId, state: ClientState) -> Vec<ClientState> {
    let mut states = Vec::new();
    while states.last() != Some(&state) {
        let event = soon("a state", watch.next()).await.unwrap();
        if let Change::Client { client } = event.change
            && client.id == *id
        {
            states.push(client.state);
        }
    }
    states
}

/// Given a run with an agent that trains for ever, in a round that has opened, and a client beside it.
async fn training_for_ever(coordinator: &Coordinator) -> (Agent, ClientId, Guest, Watch) {
    let guest = Guest::join(coordinator, "default", "guest").await;
    let agent = Agent::start(coordinator, "agent", fashion_mnist(0, 600));
    let mut watch = coordinator.watch("default").await;
    let run = watch.until("the agent is there", |run| run.clients.len() == 2).await;
    let id = run.clients.iter().find(|client| client.name == "agent").unwrap().id.clone();
    coordinator.order("/runs/default/rounds").await;
    let trains = |run: &app::api::RunSnapshot| run.client(&id).unwrap().progress.is_some();
    watch.until("it trains", trains).await;
    (agent, id, guest, watch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_works_for_a_round_is_told_when_that_is_over() {
    let coordinator = Coordinator::tiny(&[]).await;
    let (slow, fast) =
        (Guest::join(&coordinator, "tiny", "slow").await, Guest::join(&coordinator, "tiny", "fast").await);
    coordinator.order("/runs/tiny/rounds").await;
    // As long as its round is open it is told that it has to train, in the end,
    let none = told(slow.own(Method::GET, "/task?round=1")).await;
    assert!(matches!(none, Task::Train(task) if task.round == 1));
    let work = tokio::spawn(told(news(&slow)));
    // and as soon as it is not, it hears of that.
    fast.sends(1, 1.0).await;
    coordinator.order("/runs/tiny/rounds/current/aggregate").await;
    assert!(matches!(soon("news", work).await.unwrap(), Task::Wait { .. }));
    // Who comes with a round that is over does not wait at all.
    assert!(matches!(told(news(&slow)).await, Task::Wait { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_kicked_from_its_work_is_told_so() {
    let coordinator = Coordinator::tiny(&[]).await;
    let (guest, other) = (Guest::join(&coordinator, "tiny", "a").await, Guest::join(&coordinator, "tiny", "b").await);
    coordinator.order("/runs/tiny/rounds").await;
    let mut watch = coordinator.watch("tiny").await;
    let work = tokio::spawn(async move { refused(403, ErrorCode::Kicked, news(&guest)).await });
    soon("its heartbeat", watch.next()).await.unwrap();
    let id = &watch.run.clients.iter().find(|client| client.name == "a").unwrap().id;
    take(202, coordinator.operator(Method::POST, &format!("/runs/tiny/clients/{id}/kick"))).await;
    soon("news", work).await.unwrap();
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stops_training_for_a_round_that_is_closed_and_is_ready_for_the_next_one() {
    let coordinator = Coordinator::start(&FOR_EVER).await;
    let (agent, id, guest, mut watch) = training_for_ever(&coordinator).await;
    // When the round is closed without it,
    let model = guest.request(Method::GET, "/models/0").header(header::ACCEPT, "application/vnd.safetensors");
    let model = take(200, model).await.bytes().await.unwrap();
    let update = guest.update(1).header(header::CONTENT_TYPE, "application/vnd.safetensors").body(model);
    take(202, update).await;
    coordinator.order("/runs/default/rounds/current/aggregate").await;
    // then it stops, long before its thousand epochs are over,
    until(&mut watch, &id, ClientState::Ready).await;
    // and trains in the next round, of which it has an update this time.
    coordinator.configure("default", json!({"train": {"local_epochs": 1}})).await;
    guest.leaves().await;
    watch.until("the round is over", |run| run.version == 1).await;
    coordinator.order("/runs/default/rounds").await;
    let run = watch.until("the next round is over", |run| run.version == 2).await;
    assert_eq!(run.rounds.iter().map(|round| round.updates).collect::<Vec<_>>(), [1, 1]);
    agent.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stops_training_when_the_operator_stops_the_run() {
    let coordinator = Coordinator::start(&FOR_EVER).await;
    let (agent, id, _guest, mut watch) = training_for_ever(&coordinator).await;
    take(202, coordinator.operator(Method::DELETE, "/runs/default/rounds/current")).await;
    until(&mut watch, &id, ClientState::Ready).await;
    let round = &coordinator.snapshot("default").await.rounds[0];
    assert_eq!((round.outcome, round.reason.as_str()), (RoundOutcome::Void, "cancelled by the operator"));
    let cancel = coordinator.operator(Method::DELETE, "/runs/default/rounds/current");
    assert_eq!(refused(409, ErrorCode::Conflict, cancel).await.message, "no round is open");
    agent.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_kicked_stops_training_and_comes_back_when_it_is_admitted() {
    let coordinator = Coordinator::start(&FOR_EVER).await;
    let (agent, id, guest, mut watch) = training_for_ever(&coordinator).await;
    take(202, coordinator.operator(Method::POST, &format!("/runs/default/clients/{id}/kick"))).await;
    until(&mut watch, &id, ClientState::Kicked).await;
    coordinator.configure("default", json!({"train": {"local_epochs": 1}})).await;
    guest.leaves().await;
    // When it is admitted again, it is there for the next round: it does not train for the old one any more.
    take(202, coordinator.operator(Method::POST, &format!("/runs/default/clients/{id}/admit"))).await;
    watch.until("the first round is void", |run| run.rounds.len() == 1).await;
    coordinator.order("/runs/default/rounds").await;
    watch.until("the next round is over", |run| run.version == 1).await;
    agent.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stops_training_when_its_run_is_archived_or_deleted() {
    // An agent that asks a moment later finds the run archived, or none.
    for (method, path, now, later) in [
        (Method::POST, "/runs/default/archive", "the operator has archived run 'default'", "is archived"),
        (Method::DELETE, "/runs/default", "the operator has deleted run 'default'", "there is no run 'default'"),
    ] {
        let coordinator = Coordinator::start(&FOR_EVER).await;
        let (agent, ..) = training_for_ever(&coordinator).await;
        take(204, coordinator.operator(method, path).query(&[("force", "true")])).await;
        let end = agent.gives_up().await.to_string();
        assert!(end.contains(now) || end.contains(later), "{end}");
    }
}
