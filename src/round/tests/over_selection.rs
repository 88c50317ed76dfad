//! Rounds that ask more clients than they need, and do not wait for the slowest.

use super::*;
use app::api::Phase;

fn over(cohort: CohortSize, over_selection: f64) -> RunConfig {
    RunConfig { cohort, over_selection, ..RunConfig::default() }
}

/// How many are asked, and how many are wanted.
fn asked(config: RunConfig, clients: usize) -> (usize, u32) {
    let names: Vec<_> = (0..clients).map(|n| n.to_string()).collect();
    let world = World::in_round(config, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let round = world.machine.open_round().unwrap();
    (round.cohort.len(), round.target)
}

#[test]
fn a_share_more_than_the_cohort_is_asked_rounded_up() {
    assert_eq!(asked(over(CohortSize::Size(4), 0.0), 9), (4, 4));
    assert_eq!(asked(over(CohortSize::Size(4), 0.25), 9), (5, 4));
    assert_eq!(asked(over(CohortSize::Size(4), 0.3), 9), (6, 4));
    assert_eq!(asked(over(CohortSize::Fraction(0.5), 0.5), 8), (6, 4));
}

#[test]
fn no_more_are_asked_than_there_are() {
    assert_eq!(asked(over(CohortSize::Size(4), 10.0), 9), (9, 4));
    assert_eq!(asked(over(CohortSize::Fraction(1.0), 10.0), 3), (3, 3));
    assert_eq!(asked(over(CohortSize::Size(1_000_000), 10.0), 3), (3, 3));
}

#[test]
fn a_tenth_of_a_hundred_is_ten() {
    assert_eq!(asked(over(CohortSize::Size(100), 0.1), 120), (110, 100));
}

#[test]
fn the_share_is_on_top_of_the_quorum_where_that_is_more_than_the_cohort() {
    let config = RunConfig { min_clients: 4, ..over(CohortSize::Fraction(0.1), 0.5) };
    assert_eq!(asked(config, 9), (6, 4));
}

#[test]
fn the_round_closes_once_as_many_updates_are_in_as_without_them() {
    let mut world = World::in_round(over(CohortSize::Size(2), 1.0), &["alice", "bob", "carol", "dave"]);
    assert_eq!(world.cohort(), ["alice", "bob", "carol", "dave"]);
    world.ok(update("dave", 1));
    assert_eq!(world.machine.phase(), Phase::Training);
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!(world.last(), (RoundOutcome::Complete, "2 of 4 updates in, as many as were wanted"));
}

#[test]
fn stragglers_are_told_to_stop_and_their_updates_are_late() {
    let mut world = World::in_round(over(CohortSize::Size(1), 1.0), &["alice", "bob"]);
    world.ok(report("bob", ReportedState::Training, Some(1)));
    world.ok(update("alice", 1));
    let closed = Reject::RoundClosed { round: 1 };
    for _ in 0..2 {
        assert!(world.machine.is_cancelled(&id("bob"), 1));
        assert_eq!(world.refused(update("bob", 1)), closed);
        assert!(matches!(world.machine.task(world.now, &id("bob")), Ok(Task::Wait { .. })));
        if world.machine.phase() == Phase::Aggregating {
            world.ok(committed(1));
        }
    }
    assert_eq!(world.state("bob"), ClientState::Ready);
}

#[test]
fn whoever_was_asked_in_excess_counts_as_asked() {
    let mut world = World::in_round(over(CohortSize::Size(1), 1.0), &["a", "b", "c", "d"]);
    let first: Vec<_> = world.cohort().into_iter().map(str::to_owned).collect();
    world.ok(update(&first[0], 1));
    world.ok(committed(1));
    world.ok(Command::Order(Order::StartRound));
    assert!(world.cohort().iter().all(|name| !first.contains(&(*name).to_owned())));
}

#[test]
fn the_loss_of_as_many_as_were_asked_in_excess_costs_nothing() {
    let config = RunConfig { min_clients: 2, ..over(CohortSize::Size(2), 0.5) };
    let mut world = World::in_round(config, &["alice", "bob", "carol"]);
    world.ok(Command::Leave { client: id("alice") });
    world.ok(update("bob", 1));
    world.ok(update("carol", 1));
    world.ok(committed(1));
    assert_eq!(world.last(), (RoundOutcome::Complete, "2 of 3 updates in, as many as were wanted"));
}
