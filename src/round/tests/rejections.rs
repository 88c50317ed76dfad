//! Updates that were rejected for good: who sees it, whom the round still waits for, and what is a strike.

use super::*;
use app::api::BelowQuorum;

const TOO_LARGE: &str = "the body has 14834130 bytes";

#[test]
fn a_rejected_update_is_shown_and_its_client_is_asked_for_no_other_in_this_round() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(report("alice", ReportedState::Training, Some(1)));
    assert_eq!(world.ok(rejected("alice", 1, TOO_LARGE, None)), [store("alice", Standing::Rejected), Effect::Course],);
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.state, alice.strikes, alice.progress), (ClientState::Error, 0, None));
    assert_eq!(alice.error.as_deref(), Some(TOO_LARGE));
    assert_eq!(world.task("alice"), None);
    let waiting = world.machine.waiting();
    assert!(waiting.contains("; alice's update was rejected: the body has 14834130 bytes; at "), "{waiting}");
    // The round closes without it, and the next one asks it again.
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), app::api::Phase::Aggregating);
    world.ok(committed(1));
    world.ok(Command::Order(Order::StartRound));
    assert_eq!((world.cohort(), world.task("alice")), (vec!["alice", "bob"], Some((2, 1))));
    assert!(!world.machine.waiting().contains("rejected"), "{}", world.machine.waiting());
}

#[test]
fn an_error_that_a_client_reports_is_stored_once_a_round_and_said_in_what_the_run_waits_for() {
    let failed = |error: &str| {
        let (state, error) = (ReportedState::Error, Some(error.to_owned()));
        Command::Status { client: id("alice"), report: StatusReport { state, round: Some(1), progress: None, error } }
    };
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    // When a client reports that a proxy rejected its update, which never reached the coordinator,
    let effects = world.ok(failed("nginx rejected the body as too large"));
    assert!(effects.contains(&store("alice", Standing::Failed)), "{effects:?}");
    let waiting = world.machine.waiting();
    assert!(waiting.contains("; alice reported an error: nginx rejected the body as too large; at "), "{waiting}");
    // then repeating it, in other words or after training again, stores nothing,
    world.ok(report("alice", ReportedState::Training, Some(1)));
    let effects = world.ok(failed("once more"));
    assert!(!effects.contains(&store("alice", Standing::Failed)), "{effects:?}");
    // and the next round knows nothing of it.
    world.ok(update("bob", 1));
    world.ok(committed(1));
    world.ok(Command::Order(Order::StartRound));
    assert!(!world.machine.waiting().contains("reported"), "{}", world.machine.waiting());
}

#[test]
fn a_sound_update_is_accepted_after_one_that_was_rejected() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(rejected("alice", 1, TOO_LARGE, None));
    world.ok(update("alice", 1));
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.state, &alice.error), (ClientState::Finish, &None));
    assert!(!world.machine.waiting().contains("rejected"), "{}", world.machine.waiting());
}

#[test]
fn a_round_that_only_rejected_updates_could_complete_is_void_at_once_and_says_why() {
    let mut world = World::with(quorum(2), &["alice", "bob"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 1 }));
    world.ok(rejected("bob", 1, TOO_LARGE, None));
    let reason = "at most 1 of 2 updates can still come, 1 failed, min_clients is 2; \
                  bob's update was rejected: the body has 14834130 bytes";
    assert_eq!(world.last(), (RoundOutcome::Void, reason));
    assert!(world.machine.waiting().contains(reason), "{}", world.machine.waiting());
}

#[test]
fn a_rejection_that_repeats_itself_is_stored_once() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(rejected("alice", 1, TOO_LARGE, None));
    world.pass(1_000);
    assert_eq!(world.ok(rejected("alice", 1, TOO_LARGE, None)), [show("alice")]);
    assert_eq!(world.ok(rejected("alice", 1, "another", None))[0], store("alice", Standing::Rejected));
}

#[test]
fn the_same_bytes_rejected_twice_are_one_strike_whatever_the_round() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    let strikes = |world: &World| world.machine.client(&id("alice")).unwrap().strikes;
    assert_eq!(world.ok(rejected("alice", 1, "lies", Some("body")))[0], store("alice", Standing::Struck));
    world.ok(rejected("alice", 1, "lies", Some("body")));
    assert_eq!(strikes(&world), 1);
    world.ok(update("bob", 1));
    world.ok(committed(1));
    world.ok(Command::Order(Order::StartRound));
    world.ok(rejected("alice", 2, "lies", Some("body")));
    assert_eq!((strikes(&world), world.state("alice")), (1, ClientState::Error));
    world.ok(rejected("alice", 2, "lies", Some("another body")));
    assert_eq!(strikes(&world), 2);
    // The operator's release is a clean slate.
    world.ok(rejected("alice", 2, "lies", Some("a third")));
    assert_eq!(world.state("alice"), ClientState::Quarantine);
    world.ok(admit("alice"));
    world.ok(rejected("alice", 2, "lies", Some("body")));
    assert_eq!(strikes(&world), 1);
}

#[test]
fn an_honest_mistake_is_no_strike_however_often() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    for attempt in 0..10 {
        world.ok(rejected("alice", 1, &format!("mistake {attempt}"), None));
    }
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.strikes, alice.state), (0, ClientState::Error));
}

#[test]
fn a_rejection_that_comes_when_its_round_is_over_is_shown_and_fails_nothing() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("bob", 1));
    world.ok(Command::Order(Order::Aggregate));
    world.ok(committed(1));
    world.ok(rejected("alice", 1, TOO_LARGE, None));
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.state, alice.error.as_deref()), (ClientState::Ready, Some(TOO_LARGE)));
}

#[test]
fn a_deadline_that_moves_on_gives_those_whose_update_was_rejected_another_chance() {
    let mut world = World::in_round(RunConfig { below_quorum: BelowQuorum::Extend, ..quorum(1) }, &["alice", "bob"]);
    world.ok(rejected("alice", 1, TOO_LARGE, None));
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    assert_eq!(world.task("alice"), Some((1, 0)));
    assert!(!world.machine.waiting().contains("rejected"), "{}", world.machine.waiting());
}

#[test]
fn of_many_rejected_updates_the_first_few_are_named() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = World::in_round(quorum(1), &names);
    for name in &names[..5] {
        world.ok(rejected(name, 1, "NaN", None));
    }
    let waiting = world.machine.waiting();
    assert!(waiting.contains("; c's update was rejected: NaN; 2 more failed; at "), "{waiting}");
}
