//! Asynchronous rounds: who is asked, who may join, when one closes.

use super::*;
use app::api::Phase;

fn started(config: RunConfig, names: &[&str]) -> World {
    let mut world = World::with(config, names);
    world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
    world
}

fn sized(buffer_size: u32, cohort: u32) -> RunConfig {
    RunConfig { cohort: CohortSize::Size(cohort), ..asynchronous(buffer_size) }
}

#[test]
fn a_round_closes_once_the_buffer_is_full() {
    let mut world = started(asynchronous(2), &["alice", "bob", "carol"]);
    assert_eq!(world.machine.open_round().unwrap().target, 2);
    for name in ["alice", "bob", "carol"] {
        assert_eq!(world.begin(name), Some((1, 0)));
    }
    world.ok(update("alice", 1));
    assert_eq!(world.machine.phase(), Phase::Training);
    world.ok(update("carol", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!(world.last(), (RoundOutcome::Complete, "2 of 3 updates in, as many as were wanted"));
    assert_eq!(world.ended()[0].mean_staleness, Some(0.0));
}

#[test]
fn a_buffer_is_no_smaller_than_the_quorum() {
    let world = started(RunConfig { min_clients: 3, ..asynchronous(1) }, &["alice", "bob", "carol"]);
    assert_eq!(world.machine.open_round().unwrap().target, 3);
}

#[test]
fn a_round_closes_with_fewer_where_all_have_sent_theirs() {
    let mut world = started(asynchronous(10), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn a_buffer_larger_than_the_cohort_is_filled_by_those_who_ask_next() {
    let mut world = started(sized(3, 1), &["alice", "bob", "carol", "dave"]);
    let mut names = ["alice", "bob", "carol", "dave"];
    names.sort_by_key(|name| world.task(name).is_none());
    for name in &names[..3] {
        assert_eq!(world.machine.phase(), Phase::Training);
        assert_eq!(world.begin(name), Some((1, 0)));
        world.ok(update(name, 1));
    }
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn it_closes_with_fewer_once_nobody_is_left_who_could_ask() {
    let mut world = started(sized(9, 1), &["alice", "bob"]);
    let [first, second] = if world.task("alice").is_some() { ["alice", "bob"] } else { ["bob", "alice"] };
    world.ok(update(first, 1));
    world.pass_with(&[first], super::super::OFFLINE_AFTER_MS - 1);
    assert_eq!(world.machine.phase(), Phase::Training);
    world.pass(1);
    assert_eq!((world.state(second), world.machine.phase()), (ClientState::Offline, Phase::Aggregating));
}

#[test]
fn at_the_deadline_a_quorum_is_enough() {
    let mut world = started(asynchronous(10), &["alice", "bob"]);
    world.begin("bob");
    world.ok(update("alice", 1));
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!(world.last().1, "deadline with 1 of 2 updates");
}

#[test]
fn a_newcomer_that_asks_joins_the_open_round() {
    let mut world = started(asynchronous(3), &["alice", "bob"]);
    world.ok(join("carol"));
    assert_eq!(world.task("carol"), None);
    assert_eq!(world.ok(ask("carol")), [step("carol", CohortStep::Asked), show("carol"), Effect::Course]);
    assert_eq!(world.task("carol"), Some((1, 0)));
    assert_eq!(world.cohort(), ["alice", "bob", "carol"]);
    assert_eq!(world.ok(ask("carol")), [show("carol")], "it is told but once");
    world.ok(update("carol", 1));
    assert_eq!(world.parts(), [("carol".to_owned(), 0)]);
}

#[test]
fn to_be_seen_or_to_report_is_not_to_ask() {
    let mut world = started(asynchronous(3), &["alice"]);
    world.ok(join("bob"));
    world.ok(seen("bob"));
    world.ok(report("bob", ReportedState::Ready, None));
    assert_eq!((world.task("bob"), world.cohort()), (None, vec!["alice"]));
}

#[test]
fn so_many_are_at_work_at_once_as_the_cohort_size_allows() {
    let mut world = started(sized(9, 2), &["alice", "bob", "carol", "dave"]);
    let names = ["alice", "bob", "carol", "dave"];
    let (asked, free): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| world.task(name).is_some());
    assert_eq!((asked.len(), free.len()), (2, 2));
    assert_eq!(world.begin(free[0]), None, "both places are taken");
    world.ok(update(asked[0], 1));
    assert_eq!(world.begin(asked[0]), None, "its update of this round is in");
    assert_eq!(world.begin(free[0]), Some((1, 0)));
    assert_eq!(world.begin(free[1]), None);
    world.ok(report(asked[1], ReportedState::Error, Some(1)));
    assert_eq!(world.begin(free[1]), Some((1, 0)), "one in error holds no place");
    world.ok(report(asked[1], ReportedState::Ready, None));
    assert_eq!(world.begin(asked[1]), Some((1, 0)), "but it does not lose it");
}

#[test]
fn the_cohort_size_that_counts_is_that_of_the_open_round() {
    let mut world = started(sized(9, 1), &["alice", "bob"]);
    let [first, second] = if world.task("alice").is_some() { ["alice", "bob"] } else { ["bob", "alice"] };
    world.ok(configure(sized(9, 2), 2));
    assert_eq!((world.begin(first), world.begin(second)), (Some((1, 0)), None));
}

#[test]
fn a_cohort_below_the_quorum_is_of_the_quorums_size() {
    let config = RunConfig { min_clients: 2, cohort: CohortSize::Fraction(0.1), ..asynchronous(9) };
    let mut world = started(config, &["alice", "bob", "carol"]);
    let names = ["alice", "bob", "carol"];
    let (asked, free): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| world.task(name).is_some());
    assert_eq!(asked.len(), 2);
    world.ok(update(asked[0], 1));
    assert_eq!(world.begin(free[0]), Some((1, 0)));
}

#[test]
fn whoever_joined_by_asking_counts_as_asked() {
    let mut world = started(sized(2, 1), &["alice", "bob", "carol"]);
    let first = world.cohort()[0].to_owned();
    let others: Vec<_> = ["alice", "bob", "carol"].into_iter().filter(|name| *name != first).collect();
    world.ok(update(&first, 1));
    world.begin(others[0]);
    world.ok(update(others[0], 1));
    world.ok(committed(1));
    assert_eq!(world.cohort(), [others[1]]);
}

#[test]
fn one_that_is_out_may_not_join_by_asking() {
    let mut world = started(asynchronous(9), &["alice", "bob", "carol", "dave"]);
    world.ok(update("alice", 1));
    world.ok(kick("bob", false));
    for _ in 0..3 {
        world.ok(strike("carol"));
    }
    world.ok(configure(RunConfig { admission: Admission::Approval, ..asynchronous(9) }, 2));
    world.ok(join("erin"));
    assert_eq!(world.refused(ask("bob")), Reject::Kicked(id("bob")));
    assert_eq!((world.begin("alice"), world.begin("carol"), world.begin("erin")), (None, None, None));
    assert_eq!(world.cohort(), ["alice", "bob", "carol", "dave"]);
}

#[test]
fn a_round_that_ran_out_of_clients_goes_on_with_others() {
    let mut world = started(RunConfig { min_clients: 2, ..asynchronous(9) }, &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::Leave { client: id("bob") });
    assert_eq!(world.round(), Some(1));
    world.ok(join("carol"));
    assert_eq!(world.begin("carol"), Some((1, 0)));
    world.ok(update("carol", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn nobody_joins_a_round_that_is_aggregated_or_a_synchronous_one() {
    let mut world = started(asynchronous(1), &["alice"]);
    world.ok(update("alice", 1));
    world.ok(join("bob"));
    assert_eq!(world.begin("bob"), None);
    assert_eq!(world.cohort(), ["alice"]);

    let mut world = started(quorum(1), &["alice"]);
    world.ok(join("bob"));
    assert_eq!(world.begin("bob"), None);
    assert_eq!(world.cohort(), ["alice"]);
}

#[test]
fn a_client_taken_back_in_the_same_round_is_asked_again() {
    let mut world = started(asynchronous(9), &["alice", "bob"]);
    world.begin("alice");
    world.ok(update("alice", 1));
    world.ok(kick("alice", false));
    world.ok(admit("alice"));
    assert_eq!(world.begin("alice"), Some((1, 0)));
    world.ok(update("alice", 1));
    assert_eq!(world.parts().len(), 1);
}

#[test]
fn over_selection_is_no_matter_of_asynchronous_rounds() {
    let world = started(RunConfig { over_selection: 5.0, ..sized(1, 1) }, &["alice", "bob"]);
    assert_eq!(world.cohort().len(), 1);
}
