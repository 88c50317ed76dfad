//! Who is let in, put out, missed, and welcomed back.

use super::super::{MAX_CLIENTS, OFFLINE_AFTER_MS, VOID_PAUSE_MS};
use super::*;

#[test]
fn with_open_admission_whoever_joins_is_in() {
    let mut world = World::new(quorum(2));
    let effects = world.ok(join("alice"));
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(effects, [show("alice")], "it is stored before it joins");
}

#[test]
fn with_admission_by_approval_a_client_waits_for_the_operator() {
    let mut world = World::new(by_approval());
    world.ok(join("alice"));
    assert_eq!(world.state("alice"), ClientState::Pending);
    let not_admitted = Reject::NotAdmitted(id("alice"));
    assert_eq!(world.machine.may_update(&id("alice"), 1), Err(not_admitted));
    assert_eq!(
        world.machine.task(world.now, &id("alice")),
        Ok(Task::Wait { state: ClientState::Pending, rejected: None })
    );

    let effects = world.ok(admit("alice"));
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(effects[0], store("alice", Standing::Admitted));
}

#[test]
fn a_pending_client_stays_pending_whatever_it_reports() {
    let mut world = World::new(by_approval());
    world.ok(join("alice"));
    world.ok(report("alice", ReportedState::Training, Some(1)));
    world.pass(OFFLINE_AFTER_MS);
    assert_eq!(world.state("alice"), ClientState::Pending);
}

#[test]
fn a_run_that_turns_open_lets_in_those_who_waited() {
    let mut world = World::new(by_approval());
    world.ok(join("alice"));
    world.ok(join("bob"));
    world.ok(kick("bob", false));
    world.ok(configure(quorum(1), 2));
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(world.state("bob"), ClientState::Kicked);
}

#[test]
fn to_join_twice_is_to_be_seen() {
    let mut world = World::new(quorum(1));
    world.ok(join("alice"));
    assert_eq!(world.ok(join("alice")), [show("alice")]);
}

/// As many as there may be; all have joined at the same time, were asked in round 1 or not, and are gone.
fn full(asked: bool) -> World {
    let mut world = World::new(quorum(1));
    for n in 0..MAX_CLIENTS {
        world.machine.handle(world.now, join(&n.to_string())).unwrap();
    }
    if asked {
        world.machine.handle(world.now, Command::Order(Order::StartRound)).unwrap();
    }
    // Not by `refused`: what it compares is large.
    assert_eq!(world.machine.handle(world.now, join("alice")), Err(Reject::RosterFull(MAX_CLIENTS)));
    world.now += OFFLINE_AFTER_MS;
    world.machine.handle_timeout(world.now);
    while world.machine.poll_effect().is_some() {}
    world
}

#[test]
fn on_a_full_roster_a_newcomer_takes_the_place_of_one_that_was_never_asked_and_is_gone() {
    let mut world = full(false);
    world.machine.handle(world.now, seen("0")).unwrap();
    while world.machine.poll_effect().is_some() {}
    world.machine.handle(world.now, join("alice")).unwrap();
    let effect = world.machine.poll_effect();
    assert!(matches!(effect, Some(Effect::RemoveClient(client)) if client.id == id("1")), "the next by id");
    assert!(world.machine.client(&id("alice")).is_some());
}

#[test]
fn but_not_of_one_that_may_be_at_work_in_silence() {
    let mut world = full(true);
    assert_eq!(world.machine.handle(world.now, join("alice")), Err(Reject::RosterFull(MAX_CLIENTS)));
}

#[test]
fn a_client_that_leaves_is_off_the_roster() {
    let mut world = World::with(quorum(1), &["alice"]);
    let view = world.machine.client(&id("alice")).unwrap().clone();
    assert_eq!(world.ok(Command::Leave { client: id("alice") }), [Effect::RemoveClient(Box::new(view))]);
    assert_eq!(world.machine.clients().count(), 0);
    assert_eq!(world.refused(seen("alice")), Reject::UnknownClient(id("alice")));
}

#[test]
fn a_kicked_client_stays_on_record_and_can_do_nothing() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(kick("alice", false));
    assert_eq!(world.state("alice"), ClientState::Kicked);
    let kicked = Reject::Kicked(id("alice"));
    assert_eq!(world.refused(seen("alice")), kicked);
    assert_eq!(world.refused(report("alice", ReportedState::Ready, None)), kicked);
    assert_eq!(world.refused(update("alice", 1)), kicked);
    assert_eq!(world.refused(Command::Leave { client: id("alice") }), kicked);
    assert_eq!(world.machine.task(world.now, &id("alice")), Err(kicked));
    assert!(world.machine.is_cancelled(&id("alice"), 1));
}

#[test]
fn a_banned_name_may_not_register_until_its_client_is_admitted_again() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(kick("alice", true));
    assert!(world.machine.is_banned("alice"));
    let again = Command::Join { client: id("other"), name: "alice".to_owned(), samples: 1, device: String::new() };
    assert_eq!(world.refused(again.clone()), Reject::Banned("alice".to_owned()));

    world.ok(admit("alice"));
    assert_eq!(world.state("alice"), ClientState::Join);
    world.ok(again);
}

#[test]
fn a_kick_without_a_ban_leaves_the_name_free() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(kick("alice", false));
    assert!(!world.machine.is_banned("alice"));
}

#[test]
fn whoever_is_admitted_after_a_long_silence_is_offline_until_heard_of() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(kick("alice", false));
    world.pass(OFFLINE_AFTER_MS);
    world.ok(admit("alice"));
    assert_eq!(world.state("alice"), ClientState::Offline);
}

#[test]
fn a_silent_client_goes_offline_and_comes_back_when_heard_of() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.pass(OFFLINE_AFTER_MS - 1);
    assert_eq!(world.state("alice"), ClientState::Ready);
    let effects = world.pass(1);
    assert_eq!(world.state("alice"), ClientState::Offline);
    assert_eq!(effects, [show("alice")]);
    world.ok(seen("alice"));
    assert_eq!(world.state("alice"), ClientState::Ready);
}

#[test]
fn progress_reports_keep_a_client_online() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    for _ in 0..5 {
        world.pass(OFFLINE_AFTER_MS - 1);
        world.ok(report("alice", ReportedState::Training, Some(1)));
    }
    assert_eq!(world.state("alice"), ClientState::Training);
}

#[test]
fn a_client_that_comes_back_after_its_update_is_at_finish_again() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass_with(&["bob"], OFFLINE_AFTER_MS);
    assert_eq!(world.state("alice"), ClientState::Offline);
    world.ok(seen("alice"));
    assert_eq!(world.state("alice"), ClientState::Finish);
}

#[test]
fn a_client_in_error_is_not_asked_until_it_reports_that_it_goes_on() {
    let mut world = World::with(quorum(1), &["alice", "bob"]);
    world.ok(report("alice", ReportedState::Error, None));
    assert_eq!(world.machine.client(&id("alice")).unwrap().error.as_deref(), Some("no memory"));
    world.ok(seen("alice"));
    assert_eq!(world.state("alice"), ClientState::Error);
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.cohort(), ["bob"]);

    world.ok(report("alice", ReportedState::Ready, None));
    assert_eq!(world.state("alice"), ClientState::Ready);
    assert_eq!(world.machine.client(&id("alice")).unwrap().error, None);
}

#[test]
fn a_long_error_text_is_cut() {
    let mut world = World::with(quorum(1), &["alice"]);
    let error = Some("ä".repeat(10_000));
    let report = StatusReport { state: ReportedState::Error, round: None, progress: None, error };
    world.ok(Command::Status { client: id("alice"), report });
    let view = world.machine.client(&id("alice")).unwrap();
    assert_eq!(view.error.as_ref().unwrap().chars().count(), 500);
}

#[test]
fn a_restart_keeps_the_roster_and_takes_nobody_for_present() {
    let mut world = World::with(by_approval(), &["alice", "bob", "carol", "dave"]);
    world.ok(admit("alice"));
    world.ok(report("alice", ReportedState::Training, None));
    world.ok(kick("carol", true));
    for _ in 0..RunConfig::default().max_strikes {
        world.ok(strike("dave"));
    }
    world.restart(1_000);
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.state, alice.progress), (ClientState::Offline, None));
    assert_eq!(world.state("bob"), ClientState::Pending);
    assert_eq!((world.state("carol"), world.machine.is_banned("carol")), (ClientState::Kicked, true));
    assert_eq!((world.state("dave"), world.machine.is_banned("dave")), (ClientState::Quarantine, false));

    world.ok(seen("alice"));
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.cohort(), ["alice"]);
}

#[test]
fn a_restart_goes_on_with_the_next_version_and_number() {
    let mut world = World::with(quorum(1), &["alice"]);
    for round in 1..=2 {
        world.ok(Command::Order(Order::StartRound));
        world.ok(update("alice", round));
        world.ok(committed(round));
    }
    world.restart(1_000);
    world.ok(seen("alice"));
    world.ok(Command::Order(Order::StartRound));
    let round = world.machine.open_round().unwrap();
    assert_eq!((round.number, round.base_version), (3, 2));
    assert_eq!(world.machine.may_update(&id("alice"), 2), Err(Reject::RoundClosed { round: 2 }));
}

#[test]
fn a_restart_forgets_nobody_who_waits_to_be_asked() {
    let mut world = World::with(cohort_of(1, 1), &["a", "b", "c"]);
    let mut asked = Vec::new();
    for round in 1..=3 {
        world.ok(Command::Order(Order::StartRound));
        asked.push(world.cohort()[0].to_owned());
        world.ok(update(&asked[round - 1], round as u64));
        world.ok(committed(round as u64));
        world.restart(1_000);
        for name in ["a", "b", "c"] {
            world.ok(seen(name));
        }
    }
    asked.sort();
    assert_eq!(asked, ["a", "b", "c"]);
}

#[test]
fn clients_are_listed_by_time_of_registration() {
    let mut world = World::new(quorum(1));
    for name in ["carol", "alice", "bob"] {
        world.ok(join(name));
        world.pass(1);
    }
    let names: Vec<_> = world.machine.clients().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["carol", "alice", "bob"]);
}

#[test]
fn an_error_in_a_round_is_over_with_the_round() {
    let mut world = World::with(quorum(2), &["alice", "bob", "carol"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
    // Given that those who are asked fail, as where a learning rate is too high,
    world.ok(report("alice", ReportedState::Error, Some(1)));
    assert_eq!((world.state("alice"), world.task("alice")), (ClientState::Error, None));
    world.ok(report("bob", ReportedState::Error, Some(1)));
    assert_eq!(world.last().0, RoundOutcome::Void);
    // then the next round asks them again, and what was wrong can be looked up until they do better.
    world.pass(VOID_PAUSE_MS);
    assert_eq!((world.round(), world.cohort().len()), (Some(2), 3));
    assert!(world.machine.client(&id("alice")).unwrap().error.is_some());
    world.ok(update("alice", 2));
    assert_eq!(world.machine.client(&id("alice")).unwrap().error, None);
}

#[test]
fn an_error_in_a_round_that_is_over_is_noted_and_keeps_nobody_from_the_next_one() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("bob", 1));
    world.ok(Command::Order(Order::Aggregate));
    world.ok(report("alice", ReportedState::Error, Some(1)));
    assert_eq!(world.state("alice"), ClientState::Ready);
    assert!(world.machine.client(&id("alice")).unwrap().error.is_some());
}

#[test]
fn one_that_was_in_error_and_then_silent_is_offline_once_its_round_is_over() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(report("alice", ReportedState::Error, Some(1)));
    world.pass_with(&["bob"], OFFLINE_AFTER_MS);
    world.ok(update("bob", 1));
    world.ok(committed(1));
    assert_eq!(world.state("alice"), ClientState::Offline);
}
