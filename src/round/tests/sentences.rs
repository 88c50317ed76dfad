//! Why is it waiting: the sentence of each situation, word for word.

use super::super::{OFFLINE_AFTER_MS, VOID_PAUSE_MS};
use super::*;
use app::api::BelowQuorum;

#[track_caller]
fn says(world: &World, sentence: &str) {
    assert_eq!(world.machine.waiting(), sentence);
}

#[test]
fn idle_it_says_how_to_start_and_who_asks_to_be_let_in() {
    let mut world = World::new(by_approval());
    says(&world, "Idle: start an auto-run or one round.");
    world.ok(join("bob"));
    world.ok(join("alice"));
    says(&world, "Idle: start an auto-run or one round; 2 awaiting admission (alice, bob).");
}

#[test]
fn between_rounds_it_says_how_many_clients_it_lacks() {
    let mut world = World::with(quorum(3), &["alice", "bob", "carol"]);
    world.ok(report("bob", ReportedState::Error, None));
    world.pass_with(&["alice"], OFFLINE_AFTER_MS);
    world.ok(Command::Order(Order::StartAutorun { rounds: 2 }));
    says(
        &world,
        "Waiting for clients since 22:14:20 UTC: 1 of at least 3 is ready; 2 offline or in error (bob, carol since 22:13:20 UTC); \
         round 1 opens by itself once enough are.",
    );
    world.ok(seen("carol"));
    says(
        &world,
        "Waiting for clients since 22:14:20 UTC: 2 of at least 3 are ready; 1 offline or in error (bob); \
         round 1 opens by itself once enough are.",
    );
}

#[test]
fn in_a_round_it_says_who_is_missing_since_when_and_what_the_deadline_will_do() {
    let mut world = World::in_round(quorum(1), &["alice", "bob", "carol"]);
    says(
        &world,
        "Round 1: waiting for 3 of 3 clients (alice, bob, carol) since 22:13:20 UTC; \
         at 22:23:20 UTC it is void unless it has 1 update by then, 0 so far.",
    );
    world.ok(update("carol", 1));
    says(
        &world,
        "Round 1: waiting for 2 of 3 clients (alice, bob) since 22:13:20 UTC; \
         at 22:23:20 UTC it closes with what is in.",
    );
    world.pass_with(&["alice", "carol"], OFFLINE_AFTER_MS);
    says(
        &world,
        "Round 1: waiting for 1 of 3 clients (alice) since 22:13:20 UTC, \
         1 offline or in error (bob since 22:13:20 UTC); at 22:23:20 UTC it closes with what is in.",
    );
}

#[test]
fn in_a_round_where_only_the_absent_could_help_it_says_so() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass_with(&["alice"], OFFLINE_AFTER_MS);
    says(
        &world,
        "Round 1: 1 of at least 2 updates in, 1 offline or in error (bob since 22:13:20 UTC) may come back; \
         at 22:23:20 UTC it is void unless it has 2 updates by then, 1 so far.",
    );
}

#[test]
fn in_an_asynchronous_round_that_has_run_out_of_clients_it_says_that_it_takes_others() {
    let mut world = World::in_round(RunConfig { mode: Mode::Async, ..quorum(2) }, &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::Leave { client: id("bob") });
    says(
        &world,
        "Round 1: 1 of at least 2 updates in, the next clients that ask are given the rest; \
         at 22:23:20 UTC it is void unless it has 2 updates by then, 1 so far.",
    );
}

#[test]
fn it_says_when_a_round_needs_fewer_updates_than_it_asked_clients() {
    let world = World::in_round(RunConfig { over_selection: 1.0, ..cohort_of(1, 1) }, &["alice", "bob"]);
    says(
        &world,
        "Round 1: waiting for 2 of 2 clients (alice, bob) since 22:13:20 UTC; \
         once 1 update is in it closes, at 22:23:20 UTC it is void unless it has 1 update by then, 0 so far.",
    );
}

#[test]
fn it_says_when_a_deadline_moves_on() {
    let world = World::in_round(RunConfig { below_quorum: BelowQuorum::Extend, ..quorum(1) }, &["alice"]);
    says(
        &world,
        "Round 1: waiting for 1 of 1 client (alice) since 22:13:20 UTC; \
         at 22:23:20 UTC its deadline moves on unless it has 1 update by then, 0 so far.",
    );
}

#[test]
fn after_a_restart_it_says_how_long_the_clients_have_to_come_back() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.restart(20_000);
    says(
        &world,
        "Round 1: 0 of at least 1 updates in, \
         2 offline or in error (alice since 22:13:20 UTC, bob since 22:13:20 UTC) may come back; \
         the coordinator was restarted, they have until 22:14:40 UTC to come back; \
         at 22:23:20 UTC it is void unless it has 1 update by then, 0 so far.",
    );
    world.ok(seen("alice"));
    world.ok(seen("bob"));
    says(
        &world,
        "Round 1: waiting for 2 of 2 clients (alice, bob) since 22:13:20 UTC; \
         at 22:23:20 UTC it is void unless it has 1 update by then, 0 so far.",
    );
}

#[test]
fn of_many_clients_it_names_the_first_few() {
    let world = World::in_round(quorum(1), &["a", "b", "c", "d", "e"]);
    assert!(world.machine.waiting().starts_with("Round 1: waiting for 5 of 5 clients (a, b, c and 2 more) since "));
}

#[test]
fn while_aggregating_it_says_what_follows() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 2 }));
    world.ok(update("alice", 1));
    says(&world, "Round 1: combining and evaluating 1 update since 22:13:20 UTC; then the next round opens.");
    world.ok(Command::Order(Order::StartAutorun { rounds: 1 }));
    says(&world, "Round 1: combining and evaluating 1 update since 22:13:20 UTC; then the auto-run is complete.");
    world.ok(Command::Order(Order::StopAutorun));
    says(&world, "Round 1: combining and evaluating 1 update since 22:13:20 UTC; then the run is idle.");
}

#[test]
fn after_a_void_round_it_says_why_it_was_void() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 2 }));
    world.pass_with(&["alice"], DEADLINE_MS);
    says(
        &world,
        "Round 1 is void: deadline with 0 of 1 updates, min_clients is 1; the next one opens at 22:23:25 UTC.",
    );
}

#[test]
fn a_course_that_stays_as_it_is_is_not_announced() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    assert_eq!(world.ok(report("alice", ReportedState::Training, Some(1))), [show("alice")]);
    assert_eq!(world.ok(seen("alice")), [show("alice")]);
}

/// It is heard of and yet absent: the sentence must not change without being announced.
#[test]
fn of_a_client_in_error_it_does_not_say_since_when() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(report("bob", ReportedState::Error, Some(1)));
    let before = world.machine.waiting();
    world.pass(1_000);
    assert_eq!(world.ok(seen("bob")), [show("bob")]);
    says(&world, &before);
}

#[test]
fn after_a_void_round_it_says_so_where_too_few_are_left_for_the_next_one() {
    let mut world = World::with(quorum(2), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 2 }));
    world.ok(Command::Leave { client: id("bob") });
    says(
        &world,
        "Round 1 is void: at most 1 of 2 updates can still come, min_clients is 2; \
         the next one opens once 2 clients are ready, 1 so far, at 22:13:25 UTC at the earliest.",
    );
    world.pass(VOID_PAUSE_MS);
    says(
        &world,
        "Waiting for clients since 22:13:20 UTC: 1 of at least 2 is ready; round 2 opens by itself once enough are.",
    );
}

#[test]
fn of_a_deadline_on_another_day_it_says_how_many_days_later() {
    for (deadline_s, says_at) in [(3_600, "at 23:13:20 UTC it"), (7_200, "at 00:13:20 UTC, a day later it")] {
        let world = World::in_round(RunConfig { deadline_s, ..quorum(1) }, &["alice"]);
        assert!(world.machine.waiting().contains(says_at), "{}", world.machine.waiting());
    }
    let world = World::in_round(RunConfig { deadline_s: 3 * 86_400, ..quorum(1) }, &["alice"]);
    assert!(
        world.machine.waiting().contains("at 22:13:20 UTC, 3 days later it is void"),
        "{}",
        world.machine.waiting()
    );
}
