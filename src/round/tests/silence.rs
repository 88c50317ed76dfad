//! Clients that train without a heartbeat, clients whose heartbeats stop, and clients that register again after a crash.

use super::super::{HEARTBEAT_INTERVAL_S, OFFLINE_AFTER_MS, VOID_PAUSE_MS};
use super::*;
use app::api::{BelowQuorum, Phase};

fn heartbeat(name: &str) -> Command {
    Command::Heartbeat { client: id(name) }
}

/// The client is given its task.
fn take(name: &str) -> Command {
    Command::Take { client: id(name) }
}

/// A second client of that name, under an id of its own.
fn join_as(client: &str, name: &str) -> Command {
    Command::Join { client: id(client), name: name.to_owned(), samples: 100, device: "cpu".to_owned() }
}

#[test]
fn a_client_that_trains_for_90_s_in_silence_is_awaited_and_its_update_counts() {
    // Given two clients that have joined and asked; one delivers at once, the other sends nothing but its update,
    let mut world = World::new(quorum(1));
    world.ok(join("quick"));
    world.ok(join("silent"));
    world.ok(Command::Order(Order::StartRound));
    world.ok(take("quick"));
    world.ok(take("silent"));
    assert_eq!(world.state("silent"), ClientState::Training, "not `join`");
    world.ok(update("quick", 1));
    // when 90 s pass,
    world.pass_with(&["quick"], 90_000);
    // then the round still waits for it, and counts its update.
    assert_eq!((world.state("silent"), world.machine.phase()), (ClientState::Training, Phase::Training));
    world.ok(update("silent", 1));
    world.ok(committed(1));
    assert_eq!((world.ended()[0].updates, world.last().1), (2, "all updates in (2)"));
}

#[test]
fn a_client_without_a_task_takes_none() {
    let mut world = World::new(quorum(1));
    world.ok(join("alice"));
    assert_eq!(world.ok(take("alice")), []);
    assert_eq!(world.state("alice"), ClientState::Join);
    // A task that is asked for again is shown once.
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.ok(take("alice")), [show("alice")]);
    assert_eq!(world.ok(take("alice")), []);
}

#[test]
fn a_silent_client_is_given_up_at_the_deadline() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(take("alice"));
    world.ok(update("bob", 1));
    world.pass_with(&["bob"], DEADLINE_MS - 1);
    assert_eq!((world.state("alice"), world.machine.phase()), (ClientState::Training, Phase::Training));
    world.pass(1);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!((world.last().1, world.state("alice")), ("deadline with 1 of 2 updates", ClientState::Offline));
}

#[test]
fn a_deadline_does_not_move_on_for_silent_clients_alone() {
    let config = RunConfig { below_quorum: BelowQuorum::Extend, ..quorum(2) };
    let mut world = World::in_round(config, &["alice", "bob"]);
    world.ok(take("alice"));
    world.ok(update("bob", 1));
    world.pass_with(&["bob"], DEADLINE_MS);
    assert_eq!(world.last(), (RoundOutcome::Void, "deadline with 1 of 2 updates, min_clients is 2"));
}

#[test]
fn a_client_that_has_begun_to_send_heartbeats_is_given_up_after_three_missing_ones() {
    for first in [heartbeat("alice"), report("alice", ReportedState::Update, Some(1))] {
        let mut world = World::in_round(quorum(1), &["alice", "bob"]);
        world.ok(take("alice"));
        world.pass_with(&["bob"], 90_000); // as long as it takes to load its images
        world.ok(first);
        world.ok(update("bob", 1));
        world.pass_with(&["bob"], 3 * u64::from(HEARTBEAT_INTERVAL_S) * 1_000 - 1);
        assert_eq!(world.machine.phase(), Phase::Training);
        world.pass(1);
        assert_eq!((world.state("alice"), world.machine.phase()), (ClientState::Offline, Phase::Aggregating));
    }
}

#[test]
fn a_client_that_has_not_taken_its_task_is_given_up_as_before() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("bob", 1));
    world.pass_with(&["bob"], OFFLINE_AFTER_MS);
    assert_eq!((world.state("alice"), world.machine.phase()), (ClientState::Offline, Phase::Aggregating));
}

#[test]
fn a_client_that_reports_an_error_after_silence_has_failed_and_is_not_awaited() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(take("alice"));
    world.ok(update("bob", 1));
    world.ok(report("alice", ReportedState::Error, Some(1)));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn silence_ends_with_its_round() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(take("alice"));
    world.ok(update("bob", 1));
    world.ok(Command::Order(Order::Aggregate));
    world.ok(committed(1));
    assert_eq!(world.state("alice"), ClientState::Ready);
    world.pass_with(&["bob"], OFFLINE_AFTER_MS);
    assert_eq!(world.state("alice"), ClientState::Offline, "it has no task any more");
}

#[test]
fn the_task_states_the_interval_of_heartbeats_and_the_deadline() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(take("alice"));
    let Ok(Task::Train(task)) = world.machine.task(world.now, &id("alice")) else { panic!("nothing to train") };
    assert_eq!((task.heartbeat_interval_s, task.deadline_ms), (20, START_MS + DEADLINE_MS));
    assert_eq!(OFFLINE_AFTER_MS, 60_000, "three of them");
}

#[test]
fn in_asynchronous_runs_a_silent_client_keeps_its_work_and_is_shown_to_train() {
    let mut world = World::with(asynchronous(1), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
    world.ok(ask("alice"));
    world.ok(take("alice"));
    for round in 1..=3 {
        world.ok(ask("bob"));
        world.ok(update("bob", round));
        world.ok(committed(round));
        world.pass_with(&["bob"], 40_000);
        assert_eq!(world.state("alice"), ClientState::Training);
    }
    world.ok(update("alice", 1));
    assert_eq!(world.parts(), [("alice".to_owned(), 3)]);
}

#[test]
fn a_round_that_misses_only_a_client_that_registered_again_is_void_at_once() {
    // Given two clients that must both deliver, of which one dies in training,
    let mut world = World::with(quorum(2), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 1 }));
    for name in ["alice", "bob"] {
        world.begin(name);
    }
    world.ok(update("alice", 1));
    world.pass_with(&["alice"], 5_000);
    // and is started again without its identity, while the one before is still taken for present,
    world.ok(join_as("bob-2", "bob"));
    assert_eq!((world.state("bob"), world.machine.phase()), (ClientState::Training, Phase::Training));
    // when its predecessor has gone offline, then no update can come any more, and the next round asks the new client.
    world.pass_with(&["alice", "bob-2"], OFFLINE_AFTER_MS);
    let reason = "at most 1 of 2 updates can still come, 1 registered again, min_clients is 2";
    assert_eq!(world.last(), (RoundOutcome::Void, reason));
    world.pass_with(&["alice", "bob-2"], VOID_PAUSE_MS);
    assert_eq!(world.cohort(), ["alice", "bob-2"]);
}

#[test]
fn a_client_that_registers_again_when_its_predecessor_is_offline_already_ends_the_wait_at_once() {
    let mut world = World::with(quorum(2), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 1 }));
    world.ok(update("alice", 1));
    world.pass_with(&["alice"], OFFLINE_AFTER_MS);
    assert_eq!((world.state("bob"), world.round()), (ClientState::Offline, Some(1)));
    world.ok(join_as("bob-2", "bob"));
    assert_eq!((world.last().0, world.round()), (RoundOutcome::Void, None));
}

#[test]
fn clients_of_one_name_that_are_both_there_are_both_awaited() {
    let mut world = World::new(quorum(2));
    world.ok(join_as("first", "python"));
    world.ok(join_as("second", "python"));
    world.ok(Command::Order(Order::StartRound));
    world.ok(take("first"));
    world.ok(take("second"));
    world.ok(join_as("third", "python"));
    world.ok(update("second", 1));
    world.pass_with(&["second", "third"], 90_000);
    assert_eq!((world.state("first"), world.machine.phase()), (ClientState::Training, Phase::Training));
    world.ok(update("first", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn a_predecessor_that_comes_back_is_awaited_again() {
    let mut world = World::in_round(quorum(2), &["alice", "bob", "carol"]);
    world.pass_with(&["alice", "bob"], OFFLINE_AFTER_MS);
    world.ok(join_as("carol-2", "carol"));
    assert_eq!(world.machine.phase(), Phase::Training, "two can still deliver");
    world.ok(seen("carol"));
    world.ok(Command::Leave { client: id("bob") });
    assert_eq!(world.machine.phase(), Phase::Training);
    world.ok(update("alice", 1));
    world.ok(update("carol", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn after_a_restart_nobody_counts_as_replaced_until_all_had_time_to_come_back() {
    let mut world = World::new(quorum(2));
    world.ok(join_as("first", "python"));
    world.ok(join_as("second", "python"));
    world.ok(Command::Order(Order::StartRound));
    world.restart_and_tick(1_000);
    assert_eq!(world.round(), Some(1));
    world.ok(report("first", ReportedState::Training, Some(1)));
    world.ok(update("second", 1));
    world.pass_with(&["second"], OFFLINE_AFTER_MS - 1);
    world.ok(update("first", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn after_a_restart_a_client_that_never_sent_a_heartbeat_is_awaited_until_the_deadline() {
    let mut world = World::new(quorum(1));
    world.ok(join("quick"));
    world.ok(join("silent"));
    world.ok(Command::Order(Order::StartRound));
    world.ok(take("silent"));
    world.ok(update("quick", 1));
    world.restart_and_tick(1_000);
    world.pass_with(&["quick"], 90_000);
    assert_eq!((world.state("silent"), world.machine.phase()), (ClientState::Training, Phase::Training));
    world.ok(update("silent", 1));
    assert_eq!(world.parts().len(), 2);
}

#[test]
fn after_a_restart_a_client_that_has_sent_heartbeats_has_60_s_to_come_back() {
    let mut world = World::new(quorum(1));
    world.ok(join("quick"));
    world.ok(join("agent"));
    world.ok(Command::Order(Order::StartRound));
    world.ok(take("agent"));
    assert_eq!(world.ok(heartbeat("agent"))[0], Effect::HeartbeatsBegan(id("agent")));
    assert_eq!(world.ok(heartbeat("agent")), [show("agent")], "stored once");
    world.ok(update("quick", 1));
    world.restart_and_tick(1_000);
    assert_eq!(world.state("agent"), ClientState::Offline);
    world.pass_with(&["quick"], OFFLINE_AFTER_MS);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}
