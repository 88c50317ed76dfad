//! Why is it waiting: the sentence of each situation, word for word.

use super::super::OFFLINE_AFTER_MS;
use super::*;

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
    world.ok(Command::StartAutorun { rounds: 2 });
    says(
        &world,
        "Waiting for clients: 1 of at least 3 is ready; 2 offline or in error (bob, carol); \
         round 1 opens by itself once enough are.",
    );
    world.ok(Command::Seen { client: id("carol") });
    says(
        &world,
        "Waiting for clients: 2 of at least 3 are ready; 1 offline or in error (bob); \
         round 1 opens by itself once enough are.",
    );
}

#[test]
fn in_a_round_it_says_who_is_missing_and_what_the_deadline_will_do() {
    let mut world = World::in_round(quorum(1), &["alice", "bob", "carol"]);
    says(
        &world,
        "Round 1: waiting for 3 of 3 clients (alice, bob, carol); \
         at the deadline it is void unless it has 1 update, 0 so far.",
    );
    world.ok(update("carol", 1));
    says(&world, "Round 1: waiting for 2 of 3 clients (alice, bob); at the deadline it closes with what is in.");
    world.ok(report("bob", ReportedState::Error, Some(1)));
    says(
        &world,
        "Round 1: waiting for 1 of 3 clients (alice), 1 offline or in error (bob); \
         at the deadline it closes with what is in.",
    );
}

#[test]
fn in_a_round_where_only_the_absent_could_help_it_says_so() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(report("bob", ReportedState::Error, Some(1)));
    says(
        &world,
        "Round 1: 1 of at least 2 updates in, 1 offline or in error (bob) may come back; \
         at the deadline it is void unless it has 2 updates, 1 so far.",
    );
}

#[test]
fn of_many_clients_it_names_the_first_few() {
    let world = World::in_round(quorum(1), &["a", "b", "c", "d", "e"]);
    assert!(world.machine.waiting().starts_with("Round 1: waiting for 5 of 5 clients (a, b, c and 2 more); "));
}

#[test]
fn while_aggregating_it_says_what_follows() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(Command::StartAutorun { rounds: 2 });
    world.ok(update("alice", 1));
    says(&world, "Round 1: combining and evaluating 1 update; then the next round opens.");
    world.ok(Command::StartAutorun { rounds: 1 });
    says(&world, "Round 1: combining and evaluating 1 update; then the auto-run is complete.");
    world.ok(Command::StopAutorun);
    says(&world, "Round 1: combining and evaluating 1 update; then the run is idle.");
}

#[test]
fn after_a_void_round_it_says_why_it_was_void() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(Command::StartAutorun { rounds: 2 });
    world.pass_with(&["alice"], DEADLINE_MS);
    says(
        &world,
        "Round 1 is void: deadline with 0 of 1 updates, min_clients is 1; the next one opens after a short pause.",
    );
}

#[test]
fn a_course_that_stays_as_it_is_is_not_announced() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    assert_eq!(world.ok(report("alice", ReportedState::Training, Some(1))), [Effect::ShowClient(id("alice"))]);
    assert_eq!(world.ok(Command::Seen { client: id("alice") }), [Effect::ShowClient(id("alice"))]);
}
