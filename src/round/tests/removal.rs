//! Strikes and quarantine, what a kick takes out, and updates that come late.

use super::*;
use app::api::Phase;

/// In round 1, where this one has been struck so often.
fn struck(times: u32) -> World {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    for _ in 0..times {
        world.ok(strike("alice"));
    }
    world
}

const QUARANTINED: u32 = 3; // RunConfig::default().max_strikes

#[test]
fn a_strike_for_what_nobody_awaits_leaves_its_client_at_work() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(report("alice", ReportedState::Training, Some(1)));
    assert_eq!(world.ok(strike("alice")), [store("alice", Standing::Struck)]);
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.strikes, alice.state), (1, ClientState::Training));
    assert_eq!(alice.error.as_deref(), Some("block 0 has an odd number of codes"));
    assert_eq!(world.task("alice"), Some((1, 0)));
    world.ok(update("alice", 1));
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.strikes, &alice.error), (1, &None), "strikes stay, the reason goes");
}

#[test]
fn a_strike_is_a_sign_of_life() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.pass(super::super::OFFLINE_AFTER_MS);
    assert_eq!(world.state("alice"), ClientState::Offline);
    world.ok(strike("alice"));
    assert_eq!(world.state("alice"), ClientState::Ready);
}

#[test]
fn one_strike_too_many_is_quarantine() {
    let mut world = struck(QUARANTINED - 1);
    assert_eq!(world.ok(strike("alice")), [store("alice", Standing::Quarantined), Effect::Course]);
    assert_eq!(world.state("alice"), ClientState::Quarantine);
}

#[test]
fn of_a_client_in_quarantine_nothing_is_taken_and_nothing_is_asked() {
    let mut world = struck(QUARANTINED);
    assert_eq!(world.task("alice"), None);
    assert!(world.machine.is_cancelled(&id("alice"), 1));
    let quarantined = Reject::Quarantined(id("alice"));
    assert_eq!(world.refused(update("alice", 1)), quarantined);
    assert_eq!(world.refused(Command::Leave { client: id("alice") }), quarantined);
    for state in ReportedState::ALL {
        world.ok(report("alice", *state, Some(1)));
        world.ok(ask("alice"));
        assert_eq!(world.state("alice"), ClientState::Quarantine);
    }
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating, "it is not waited for");
    world.ok(committed(1));
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.cohort(), ["bob"]);
    world.pass_with(&["bob"], super::super::OFFLINE_AFTER_MS);
    assert_eq!(world.state("alice"), ClientState::Quarantine);
}

#[test]
fn the_operator_releases_from_quarantine_with_a_clean_slate() {
    let mut world = struck(QUARANTINED);
    assert_eq!(world.ok(admit("alice")), [store("alice", Standing::Admitted), Effect::Course]);
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.state, alice.strikes, &alice.error), (ClientState::Join, 0, &None));
    assert_eq!(world.task("alice"), Some((1, 0)), "it has its place again");
    world.ok(update("alice", 1));
}

#[test]
fn quarantine_takes_out_what_its_client_has_in_the_open_round() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(strike("alice"));
    world.ok(strike("alice"));
    assert_eq!(world.parts().len(), 1);
    let effects = world.ok(strike("alice"));
    assert_eq!(effects, [store("alice", Standing::Quarantined), step("alice", CohortStep::Dropped), Effect::Course]);
    assert_eq!(world.parts(), []);
}

#[test]
fn fewer_strikes_allowed_count_from_the_next_one_on() {
    let mut world = struck(2);
    world.ok(configure(RunConfig { max_strikes: 1, ..quorum(1) }, 2));
    assert_eq!(world.state("alice"), ClientState::Ready);
    world.ok(strike("alice"));
    assert_eq!(world.state("alice"), ClientState::Quarantine);
}

#[test]
fn the_reason_of_a_strike_is_cut() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(rejected("alice", 1, &"ä".repeat(10_000), None));
    assert_eq!(world.machine.client(&id("alice")).unwrap().error.as_ref().unwrap().chars().count(), 500);
}

#[test]
fn a_client_struck_twice_for_updates_sent_at_once_is_in_quarantine_but_once() {
    let mut world = struck(QUARANTINED + 1);
    assert_eq!(world.machine.client(&id("alice")).unwrap().strikes, QUARANTINED + 1);
    world.ok(kick("alice", false));
    assert_eq!(world.refused(strike("alice")), Reject::Kicked(id("alice")));
    assert_eq!(world.refused(strike("nobody")), Reject::UnknownClient(id("nobody")));
}

#[test]
fn a_kick_takes_an_update_out_of_the_open_round() {
    let mut world = World::in_round(quorum(2), &["alice", "bob", "carol"]);
    world.ok(update("alice", 1));
    let effects = world.ok(kick("alice", false));
    assert_eq!(effects, [store("alice", Standing::Kicked), step("alice", CohortStep::Dropped), Effect::Course]);
    assert_eq!((world.parts(), world.machine.open_round().unwrap().updated.len()), (vec![], 0));
    world.ok(update("bob", 1));
    world.ok(update("carol", 1));
    world.ok(committed(1));
    assert_eq!((world.ended()[0].updates, world.ended()[0].samples), (2, 200));
}

#[test]
fn a_kick_that_makes_the_quorum_impossible_voids_the_round() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(kick("alice", false));
    assert_eq!(world.last(), (RoundOutcome::Void, "at most 1 of 2 updates can still come, min_clients is 2"));
}

#[test]
fn one_that_is_taken_back_in_the_same_round_is_asked_again() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(kick("alice", false));
    world.ok(admit("alice"));
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(world.task("alice"), Some((1, 0)));
    world.ok(update("alice", 1));
    assert_eq!(world.parts(), [("alice".to_owned(), 0)]);
    world.ok(update("bob", 1));
    world.ok(committed(1));
    assert_eq!(world.ended()[0].updates, 2);
}

#[test]
fn while_a_round_is_aggregated_a_kick_takes_nothing_out() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(update("bob", 1));
    assert_eq!(world.ok(kick("alice", false)), [store("alice", Standing::Kicked)]);
    assert_eq!(world.parts().len(), 2);
    world.ok(admit("alice"));
    assert_eq!(world.state("alice"), ClientState::Finish);
    world.ok(kick("alice", false));
    world.ok(committed(1));
    assert_eq!((world.ended()[0].updates, world.state("alice")), (2, ClientState::Kicked));
}

#[test]
fn the_update_of_a_client_that_left_by_itself_stays_in() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::Leave { client: id("alice") });
    world.ok(update("bob", 1));
    assert_eq!(world.parts().len(), 2);
}

#[test]
fn late_updates_are_counted_and_a_sign_of_life() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.pass(super::super::OFFLINE_AFTER_MS);
    for _ in 0..2 {
        assert_eq!(world.ok(Command::Late { client: id("alice") }), [show("alice")]);
    }
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.late_updates, alice.state, alice.strikes), (2, ClientState::Ready, 0));
    world.ok(kick("alice", false));
    assert_eq!(world.refused(Command::Late { client: id("alice") }), Reject::Kicked(id("alice")));
}
