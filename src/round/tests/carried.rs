//! Of asynchronous runs: who still trains when a round closes goes on, and counts in a later one.

use super::super::{Assignment, OFFLINE_AFTER_MS, VOID_PAUSE_MS};
use super::*;
use app::api::Phase;

/// In round 1 of an auto-run; all have begun.
fn begun(config: RunConfig, names: &[&str]) -> World {
    let mut world = World::with(config, names);
    world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
    for name in names {
        assert_eq!(world.begin(name), Some((1, 0)));
    }
    world
}

/// In round 2, where bob still works for round 1, and alice has been asked anew.
fn carried() -> World {
    let mut world = begun(asynchronous(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(committed(1));
    assert_eq!(world.round(), Some(2));
    world
}

fn closed(round: u64) -> Reject {
    Reject::RoundClosed { round }
}

#[test]
fn who_still_trains_goes_on_and_counts_in_the_next_round_with_its_staleness() {
    let mut world = carried();
    assert_eq!(world.cohort(), ["alice", "bob"]);
    let bob = world.machine.client(&id("bob")).unwrap();
    assert_eq!((bob.state, bob.progress.is_some()), (ClientState::Training, true), "its state is not reset");
    assert_eq!(world.state("alice"), ClientState::Ready);
    assert!(!world.machine.is_cancelled(&id("bob"), 1));
    let work = Assignment { round: 1, version: 0 };
    assert_eq!(world.machine.carried().collect::<Vec<_>>(), [(&id("bob"), work)]);
    assert_eq!((world.machine.assignment(&id("bob")), world.machine.oldest_round()), (Some(work), 1));

    assert_eq!(world.refused(update("bob", 2)), Reject::NotInCohort { client: id("bob"), round: 2 });
    world.ok(update("bob", 1));
    assert_eq!(world.parts(), [("bob".to_owned(), 1)]);
    world.ok(committed(2));
    assert_eq!((world.ended()[1].number, world.ended()[1].mean_staleness), (2, Some(1.0)));
    assert_eq!(world.machine.oldest_round(), 3);
}

#[test]
fn an_update_counts_in_one_round_only() {
    let mut world = carried();
    world.ok(update("bob", 1));
    assert_eq!(world.refused(update("bob", 1)), Reject::AlreadyUpdated { client: id("bob"), round: 1 });
    world.ok(committed(2));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    assert_eq!(world.refused(update("alice", 1)), closed(1));
    assert_eq!(world.begin("bob"), Some((3, 2)));
}

#[test]
fn who_had_not_begun_is_asked_anew() {
    let mut world = World::with(asynchronous(1), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
    world.begin("alice");
    world.ok(update("alice", 1));
    world.ok(committed(1));
    assert_eq!(world.task("bob"), Some((2, 1)));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
}

#[test]
fn one_that_asks_again_begins_anew() {
    let mut world = carried();
    assert_eq!(world.task("bob"), Some((1, 0)), "what it works on");
    assert_eq!(world.ok(ask("bob")), [step("bob", CohortStep::Asked), show("bob")]);
    assert_eq!(world.task("bob"), Some((2, 1)));
    assert!(world.machine.is_cancelled(&id("bob"), 1));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    world.ok(update("bob", 2));
    assert_eq!(world.parts(), [("bob".to_owned(), 0)]);
}

#[test]
fn staleness_adds_up_and_has_its_bound() {
    let mut world = begun(RunConfig { max_staleness: 2, ..asynchronous(1) }, &["alice", "bob"]);
    for round in 1..=2 {
        world.begin("alice");
        world.ok(update("alice", round));
        world.ok(committed(round));
    }
    let mut other =
        World { effects: Vec::new(), machine: world.machine.clone(), ledger: world.ledger.clone(), now: world.now };
    other.ok(update("bob", 1));
    assert_eq!(other.parts(), [("bob".to_owned(), 2)]);

    world.begin("alice");
    world.ok(update("alice", 3));
    world.ok(committed(3));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    assert!(world.machine.is_cancelled(&id("bob"), 1));
    assert_eq!((world.state("bob"), world.machine.client(&id("bob")).unwrap().progress), (ClientState::Ready, None));
    assert_eq!(world.begin("bob"), Some((4, 3)));
}

#[test]
fn with_no_staleness_allowed_nobody_goes_on_over_a_new_version() {
    let mut world = begun(RunConfig { max_staleness: 0, ..asynchronous(1) }, &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::AggregationFailed { reason: "disk full".to_owned() });
    world.pass(VOID_PAUSE_MS);
    world.ok(update("bob", 1));
    assert_eq!(world.parts(), [("bob".to_owned(), 0)], "the version is still the same");
}

#[test]
fn while_aggregating_an_update_is_told_to_come_again() {
    let mut world = begun(asynchronous(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    assert_eq!(world.refused(update("bob", 1)), Reject::Aggregating { round: 1 });
    assert!(!world.machine.is_cancelled(&id("bob"), 1));
    world.ok(report("bob", ReportedState::Training, Some(1)));
    assert_eq!(world.state("bob"), ClientState::Training);
    assert_eq!(world.refused(update("alice", 1)), Reject::AlreadyUpdated { client: id("alice"), round: 1 });
    world.ok(committed(1));
    world.ok(update("bob", 1));
}

#[test]
fn between_rounds_too() {
    let mut world = begun(RunConfig { min_clients: 2, ..asynchronous(2) }, &["alice", "bob", "carol"]);
    world.ok(update("alice", 1));
    world.pass_with(&["alice", "bob", "carol"], DEADLINE_MS);
    assert_eq!((world.round(), world.machine.phase()), (None, Phase::Waiting));
    assert_eq!(world.refused(update("bob", 1)), Reject::Aggregating { round: 1 });
    assert!(!world.machine.is_cancelled(&id("bob"), 1));
    assert_eq!((world.state("bob"), world.state("alice")), (ClientState::Training, ClientState::Ready));
    assert_eq!(world.refused(update("alice", 1)), closed(1), "that of a void round is lost");
    world.pass(VOID_PAUSE_MS);
    assert_eq!(world.cohort(), ["alice", "bob", "carol"]);
    world.ok(update("bob", 1));
    assert_eq!(world.task("alice"), Some((2, 0)));
}

#[test]
fn the_end_of_the_auto_run_sends_all_home() {
    for stop in [Command::Order(Order::StopAutorun), Command::Order(Order::StartAutorun { rounds: 1 })] {
        let mut world = begun(asynchronous(1), &["alice", "bob"]);
        world.ok(stop);
        world.ok(update("alice", 1));
        world.ok(committed(1));
        assert_eq!((world.round(), world.machine.phase()), (None, Phase::Idle));
        assert!(world.machine.is_cancelled(&id("bob"), 1));
        assert_eq!(world.refused(update("bob", 1)), closed(1));
        assert_eq!((world.state("bob"), world.machine.oldest_round()), (ClientState::Ready, 2));
    }
}

#[test]
fn so_does_its_end_between_rounds() {
    let mut world = begun(asynchronous(2), &["alice", "bob"]);
    world.ok(kick("alice", false));
    world.pass_with(&["bob"], DEADLINE_MS);
    assert_eq!(world.machine.phase(), Phase::Waiting);
    world.ok(Command::Order(Order::StopAutorun));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    assert!(world.machine.is_cancelled(&id("bob"), 1));
    let bob = world.machine.client(&id("bob")).unwrap();
    assert_eq!((bob.state, &bob.progress), (ClientState::Ready, &None));
}

#[test]
fn a_round_by_hand_is_followed_by_none_and_carries_nobody() {
    let mut world = World::in_round(asynchronous(1), &["alice", "bob"]);
    world.begin("bob");
    world.ok(update("alice", 1));
    world.ok(committed(1));
    assert_eq!((world.refused(update("bob", 1)), world.state("bob")), (closed(1), ClientState::Ready));
}

#[test]
fn a_restart_in_the_middle_loses_no_work() {
    let mut world = carried();
    world.begin("alice");
    world.restart(1_000);
    assert_eq!(world.machine.assignment(&id("bob")), Some(Assignment { round: 1, version: 0 }));
    world.ok(update("bob", 1));
    assert_eq!(world.parts(), [("bob".to_owned(), 1)]);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.restart_and_tick(1_000);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    assert_eq!(world.parts(), [("bob".to_owned(), 1)], "the machine has put the staleness right");
    world.ok(committed(2));
    world.ok(seen("alice"));
    assert_eq!(world.machine.assignment(&id("alice")), Some(Assignment { round: 2, version: 1 }));
    world.ok(update("alice", 2));
    assert_eq!(world.parts(), [("alice".to_owned(), 1)]);
}

#[test]
fn after_a_restart_one_that_had_begun_anew_still_has() {
    let mut world = carried();
    world.begin("bob");
    world.restart(1_000);
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    world.ok(update("bob", 2));
    assert_eq!(world.parts(), [("bob".to_owned(), 0)]);
}

#[test]
fn one_that_was_kicked_left_or_failed_meanwhile_is_carried_no_further() {
    type Go = fn(&mut World);
    let gone: [Go; 4] = [
        |w| _ = w.ok(Command::Leave { client: id("bob") }),
        |w| _ = w.ok(kick("bob", false)),
        |w| (0..3).for_each(|_| _ = w.ok(strike("bob"))),
        |w| _ = w.ok(report("bob", ReportedState::Error, Some(1))),
    ];
    for go in gone {
        for is_aggregating in [false, true] {
            let mut world = begun(asynchronous(2), &["alice", "bob", "carol"]);
            world.ok(update("alice", 1));
            if !is_aggregating {
                go(&mut world);
            }
            world.ok(update("carol", 1));
            if is_aggregating {
                go(&mut world);
            }
            world.ok(committed(1));
            assert_eq!(world.machine.carried().count(), 0);
            // One that failed has another chance, from the new version.
            let anew = ["alice", "bob", "carol"].into_iter().filter(|name| world.task(name) == Some((2, 1)));
            let has_failed = world.machine.client(&id("bob")).is_some_and(|bob| bob.state == ClientState::Ready);
            assert_eq!(anew.count(), if has_failed { 3 } else { 2 });
        }
    }
}

#[test]
fn one_that_is_offline_keeps_its_work_and_holds_no_place() {
    let config = RunConfig { cohort: CohortSize::Size(2), ..asynchronous(1) };
    let mut world = World::with(config, &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
    world.begin("alice");
    world.begin("bob");
    world.ok(join("carol"));
    world.pass_with(&["alice", "carol"], OFFLINE_AFTER_MS);
    assert_eq!(world.state("bob"), ClientState::Offline);
    world.ok(update("alice", 1));
    world.ok(committed(1));
    assert_eq!(world.cohort(), ["alice", "bob", "carol"]);
    world.ok(update("bob", 1));
    assert_eq!(world.parts(), [("bob".to_owned(), 1)]);
}

#[test]
fn one_that_was_kicked_between_rounds_and_taken_back_begins_anew() {
    let mut world = begun(RunConfig { min_clients: 2, ..asynchronous(2) }, &["alice", "bob", "carol"]);
    world.pass_with(&["alice", "bob", "carol"], DEADLINE_MS);
    world.ok(kick("bob", false));
    world.ok(admit("bob"));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    world.pass(VOID_PAUSE_MS);
    assert_eq!(world.task("bob"), Some((2, 0)));
}

#[test]
fn from_synchronous_to_asynchronous_nobody_is_carried() {
    let mut world = begun(quorum(1), &["alice", "bob"]);
    world.ok(configure(asynchronous(1), 2));
    world.ok(update("alice", 1));
    assert_eq!(world.machine.phase(), Phase::Training, "it is a synchronous round yet");
    world.ok(Command::Order(Order::Aggregate));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    world.ok(committed(1));
    assert_eq!(world.begin("bob"), Some((2, 1)));
    world.ok(update("alice", 2));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn from_asynchronous_to_synchronous_all_are_sent_home() {
    let mut world = begun(asynchronous(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(configure(quorum(1), 2));
    world.ok(committed(1));
    assert!(world.machine.is_cancelled(&id("bob"), 1));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    assert_eq!((world.state("bob"), world.task("bob")), (ClientState::Ready, Some((2, 1))));
    world.ok(update("alice", 2));
    assert_eq!(world.machine.phase(), Phase::Training, "a synchronous round waits for all");
    world.ok(update("bob", 2));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn also_if_that_is_changed_in_the_pause_between_two_rounds() {
    let mut world = begun(RunConfig { min_clients: 2, ..asynchronous(2) }, &["alice", "bob"]);
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    world.ok(configure(quorum(1), 2));
    world.pass(VOID_PAUSE_MS);
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    assert_eq!((world.state("bob"), world.task("bob")), (ClientState::Ready, Some((2, 0))));
}

#[test]
fn who_was_at_work_when_the_coordinator_died_between_two_rounds_goes_on() {
    // Given that alice, who was asked for more, leaves, and nobody is there but bob, who is at work for round 1,
    let mut world = begun(RunConfig { min_clients: 2, ..asynchronous(2) }, &["alice", "bob", "carol"]);
    world.ok(update("alice", 1));
    world.ok(update("carol", 1));
    world.ok(Command::Leave { client: id("alice") });
    world.ok(Command::Leave { client: id("carol") });
    world.ok(committed(1));
    assert_eq!(world.round(), None);
    // when the coordinator was away,
    world.restart_and_tick(5_000);
    // then bob's work is still wanted,
    assert!(!world.machine.is_cancelled(&id("bob"), 1));
    world.ok(seen("bob"));
    world.ok(join("dave"));
    // and counted by the next round.
    assert_eq!((world.round(), world.task("bob")), (Some(2), Some((1, 0))));
    world.ok(update("bob", 1));
    assert_eq!(world.parts(), [("bob".to_owned(), 1)]);
}

#[test]
fn a_restart_after_the_autorun_was_stopped_carries_nothing() {
    let mut world = begun(asynchronous(1), &["alice", "bob"]);
    world.ok(Command::Order(Order::StopAutorun));
    world.ok(update("alice", 1));
    world.ok(committed(1));
    world.restart_and_tick(5_000);
    assert_eq!(world.refused(update("bob", 1)), closed(1));
    assert!(world.machine.is_cancelled(&id("bob"), 1));
}

#[test]
fn one_that_asks_while_no_round_is_open_begins_anew_with_the_next() {
    let mut world = begun(asynchronous(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(ask("bob"));
    world.ok(committed(1));
    assert_eq!(world.task("bob"), Some((2, 1)));
    assert_eq!(world.refused(update("bob", 1)), closed(1));
}

#[test]
fn there_is_a_place_for_whom_the_round_has_not_asked() {
    let mut world = begun(asynchronous(2), &["alice"]);
    assert!(!world.machine.has_place(&id("alice")), "it has one");
    world.ok(join("bob"));
    assert!(world.machine.has_place(&id("bob")));
    world.ok(report("bob", ReportedState::Error, None));
    assert!(!world.machine.has_place(&id("bob")) && !world.machine.has_place(&id("nobody")));
}
