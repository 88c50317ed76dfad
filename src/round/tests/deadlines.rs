//! What a deadline does below quorum, and how a new configuration moves it.

use super::super::VOID_PAUSE_MS;
use super::*;
use app::api::{Autorun, BelowQuorum, Phase};

fn extend(min_clients: u32) -> RunConfig {
    RunConfig { below_quorum: BelowQuorum::Extend, ..quorum(min_clients) }
}

fn deadline_s(config: RunConfig, deadline_s: u32) -> Command {
    configure(RunConfig { deadline_s, ..config }, 2)
}

fn deadline_ms(world: &World) -> u64 {
    world.machine.open_round().unwrap().deadline_ms
}

#[test]
fn where_that_is_the_policy_a_deadline_moves_on_as_often_as_it_takes() {
    let mut world = World::in_round(extend(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    for times in 2..5 {
        let effects = world.pass_with(&["alice", "bob"], DEADLINE_MS);
        assert_eq!(effects.iter().filter(|e| **e == Effect::DeadlineMoved).count(), 1);
        assert_eq!(effects.iter().filter(|e| **e == Effect::Course).count(), 1);
        assert_eq!(deadline_ms(&world), START_MS + times * DEADLINE_MS);
    }
    let Ok(Task::Train(task)) = world.machine.task(world.now, &id("bob")) else { panic!("nothing to train") };
    assert_eq!(task.deadline_ms, START_MS + 4 * DEADLINE_MS);
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn a_deadline_that_moved_on_closes_the_round_once_there_is_a_quorum() {
    let mut world = World::in_round(extend(1), &["alice", "bob"]);
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    world.ok(update("alice", 1));
    world.pass_with(&["alice", "bob"], DEADLINE_MS - 1);
    assert_eq!(world.machine.phase(), Phase::Training);
    world.pass(1);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!(world.last().1, "deadline with 1 of 2 updates");
}

#[test]
fn a_deadline_noticed_late_moves_on_from_when_it_is_noticed() {
    let mut world = World::in_round(extend(1), &["alice"]);
    world.now += 10 * DEADLINE_MS;
    world.ok(Command::Seen { client: id("alice") });
    assert_eq!(deadline_ms(&world), world.now + DEADLINE_MS);
}

#[test]
fn a_deadline_does_not_move_on_for_those_who_are_away() {
    let mut world = World::in_round(extend(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass_with(&["alice"], DEADLINE_MS);
    assert_eq!(world.last(), (RoundOutcome::Void, "deadline with 1 of 2 updates, min_clients is 2"));
}

#[test]
fn even_so_a_round_that_cannot_reach_quorum_any_more_is_void_at_once() {
    let mut world = World::in_round(extend(2), &["alice", "bob"]);
    world.ok(Command::Leave { client: id("bob") });
    assert_eq!(world.last().0, RoundOutcome::Void);
}

#[test]
fn a_void_round_sends_all_home_and_the_next_starts_from_the_same_version() {
    let mut world = World::with(quorum(2), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 1 }));
    world.ok(update("alice", 1));
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    for name in ["alice", "bob"] {
        assert_eq!(world.state(name), ClientState::Ready);
        assert!(world.machine.is_cancelled(&id(name), 1));
        assert_eq!(world.refused(update(name, 1)), Reject::RoundClosed { round: 1 });
    }
    assert_eq!(world.machine.parts(), []);
    world.pass(VOID_PAUSE_MS);
    let round = world.machine.open_round().unwrap();
    assert_eq!((round.number, round.base_version), (2, 0));
    world.ok(update("alice", 2));
    assert_eq!(world.machine.autorun(), Some(Autorun { rounds: 1 }));
}

#[test]
fn a_new_deadline_moves_that_of_the_open_round_from_its_opening() {
    for (seconds, more) in [(900, 300_000), (300, 0)] {
        let mut world = World::in_round(quorum(2), &["alice", "bob"]);
        world.pass_with(&["alice", "bob"], 100_000);
        let effects = world.ok(deadline_s(quorum(2), seconds));
        assert_eq!(effects, [Effect::DeadlineMoved, Effect::Course]);
        assert_eq!(deadline_ms(&world), START_MS + u64::from(seconds) * 1_000);
        assert!(world.machine.waiting().contains(if more > 0 { "at 22:28:20 UTC" } else { "at 22:18:20 UTC" }));
        world.pass_with(&["alice", "bob"], 199_999 + more * 2);
        assert_eq!(world.machine.phase(), Phase::Training);
        world.pass(1);
        assert_eq!(world.round(), None);
    }
}

#[test]
fn a_new_deadline_that_has_passed_already_closes_the_round_at_once() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.pass_with(&["alice", "bob"], 100_000);
    world.ok(update("alice", 1));
    let effects = world.ok(deadline_s(quorum(1), 100));
    assert_eq!(effects, [Effect::DeadlineMoved, Effect::Aggregate { round: 1 }, Effect::Course]);

    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.pass_with(&["alice", "bob"], 100_000);
    world.ok(deadline_s(quorum(2), 1));
    assert_eq!(world.last(), (RoundOutcome::Void, "deadline with 0 of 2 updates, min_clients is 2"));

    let mut world = World::in_round(extend(2), &["alice", "bob"]);
    world.pass_with(&["alice", "bob"], 100_000);
    world.ok(deadline_s(extend(2), 50));
    assert_eq!(deadline_ms(&world), START_MS + 150_000);
}

#[test]
fn a_deadline_that_is_not_changed_stays_where_it_has_moved_to() {
    let mut world = World::in_round(extend(2), &["alice", "bob"]);
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    assert!(!world.ok(deadline_s(extend(1), 600)).contains(&Effect::DeadlineMoved));
    assert_eq!(deadline_ms(&world), START_MS + 2 * DEADLINE_MS);
}

#[test]
fn while_a_round_is_aggregated_a_new_deadline_moves_nothing() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(update("alice", 1));
    assert_eq!(world.ok(deadline_s(quorum(1), 60)), []);
    assert_eq!(deadline_ms(&world), START_MS + DEADLINE_MS);
}

#[test]
fn what_becomes_of_a_round_below_quorum_is_taken_at_once() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    assert_eq!(world.ok(configure(extend(2), 2)), [Effect::Course], "the sentence says it");
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    assert_eq!(world.round(), Some(1));
    world.ok(configure(quorum(2), 3));
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    assert_eq!(world.last().0, RoundOutcome::Void);
}

#[test]
fn an_open_round_keeps_the_rest_of_its_configuration_and_the_next_takes_the_new_one() {
    let mut world = World::in_round(quorum(1), &["alice", "bob", "carol"]);
    let mut new = RunConfig {
        cohort: CohortSize::Size(2),
        min_clients: 2,
        mode: Mode::Async,
        over_selection: 1.0,
        buffer_size: 7,
        ..RunConfig::default()
    };
    new.train.local_epochs = 3;
    assert_eq!(world.ok(configure(new.clone(), 2)), []);
    assert_eq!((world.machine.config(), world.machine.config_version()), (&new, 2));

    let Ok(Task::Train(task)) = world.machine.task(world.now, &id("alice")) else { panic!("nothing to train") };
    assert_eq!(task.train.local_epochs, 1);
    world.ok(join("dave"));
    world.ok(ask("dave"));
    assert_eq!(world.cohort(), ["alice", "bob", "carol"]);
    world.ok(update("alice", 1));
    world.ok(Command::Leave { client: id("bob") });
    world.ok(Command::Leave { client: id("dave") });
    world.ok(kick("carol", false));
    world.ok(committed(1));
    assert_eq!((world.ended()[0].config_version, world.last().1), (1, "1 of 3 updates in, the other clients are gone"));

    assert_eq!(world.refused(Command::Order(Order::StartRound)), Reject::TooFewClients { eligible: 1, min_clients: 2 });
    world.ok(join("erin"));
    world.ok(Command::Order(Order::StartRound));
    let round = world.machine.open_round().unwrap();
    assert_eq!((round.config_version, round.target, round.cohort.len()), (2, 7, 2));
    let Ok(Task::Train(task)) = world.machine.task(world.now, &id("alice")) else { panic!("nothing to train") };
    assert_eq!(task.train.local_epochs, 3);
}
