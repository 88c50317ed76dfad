//! Who is let in, put out, missed, and welcomed back.

use super::super::{MAX_CLIENTS, OFFLINE_AFTER_MS};
use super::*;
use app::api::{ClientView, Task};

#[test]
fn with_open_admission_whoever_joins_is_in() {
    let mut world = World::new(quorum(2));
    let effects = world.ok(join("alice"));
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(effects, [Effect::StoreClient(id("alice"))]);
}

#[test]
fn with_admission_by_approval_a_client_waits_for_the_operator() {
    let mut world = World::new(by_approval());
    world.ok(join("alice"));
    assert_eq!(world.state("alice"), ClientState::Pending);
    let not_admitted = Reject::NotAdmitted(id("alice"));
    assert_eq!(world.machine.may_update(&id("alice"), 1), Err(not_admitted));
    assert_eq!(world.machine.task(world.now, &id("alice")), Ok(Task::Wait { state: ClientState::Pending }));

    let effects = world.ok(Command::Admit { client: id("alice") });
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(effects[0], Effect::StoreClient(id("alice")));
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
    world.ok(Command::Configure { config: Box::new(quorum(1)), config_version: 2 });
    assert_eq!(world.state("alice"), ClientState::Join);
    assert_eq!(world.state("bob"), ClientState::Kicked);
}

#[test]
fn to_join_twice_is_to_be_seen() {
    let mut world = World::new(quorum(1));
    world.ok(join("alice"));
    assert_eq!(world.ok(join("alice")), [Effect::ShowClient(id("alice"))]);
}

#[test]
fn a_full_roster_takes_nobody() {
    let mut world = World::new(quorum(1));
    for n in 0..MAX_CLIENTS {
        world.machine.handle(world.now, join(&n.to_string())).unwrap();
    }
    // Not by `refused`: what it compares is large.
    assert_eq!(world.machine.handle(world.now, join("alice")), Err(Reject::RosterFull(MAX_CLIENTS)));
}

#[test]
fn a_client_that_leaves_is_off_the_roster() {
    let mut world = World::with(quorum(1), &["alice"]);
    let view = world.machine.client(&id("alice")).unwrap().clone();
    assert_eq!(world.ok(Command::Leave { client: id("alice") }), [Effect::RemoveClient(Box::new(view))]);
    assert_eq!(world.machine.clients().count(), 0);
    assert_eq!(world.refused(Command::Seen { client: id("alice") }), Reject::UnknownClient(id("alice")));
}

#[test]
fn a_kicked_client_stays_on_record_and_can_do_nothing() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(kick("alice", false));
    assert_eq!(world.state("alice"), ClientState::Kicked);
    let kicked = Reject::Kicked(id("alice"));
    assert_eq!(world.refused(Command::Seen { client: id("alice") }), kicked);
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

    world.ok(Command::Admit { client: id("alice") });
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
    world.ok(Command::Admit { client: id("alice") });
    assert_eq!(world.state("alice"), ClientState::Offline);
}

#[test]
fn a_silent_client_goes_offline_and_comes_back_when_heard_of() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.pass(OFFLINE_AFTER_MS - 1);
    assert_eq!(world.state("alice"), ClientState::Ready);
    let effects = world.pass(1);
    assert_eq!(world.state("alice"), ClientState::Offline);
    assert_eq!(effects, [Effect::ShowClient(id("alice"))]);
    world.ok(Command::Seen { client: id("alice") });
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
    world.ok(Command::Seen { client: id("alice") });
    assert_eq!(world.state("alice"), ClientState::Finish);
}

#[test]
fn a_client_in_error_is_not_asked_until_it_reports_that_it_goes_on() {
    let mut world = World::with(quorum(1), &["alice", "bob"]);
    world.ok(report("alice", ReportedState::Error, None));
    assert_eq!(world.machine.client(&id("alice")).unwrap().error.as_deref(), Some("no memory"));
    world.ok(Command::Seen { client: id("alice") });
    assert_eq!(world.state("alice"), ClientState::Error);
    world.ok(Command::StartRound);
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
    let view = |name: &str, state| ClientView {
        state,
        progress: Some(Progress { epoch: 1, epochs: 1, batch: 1, batches: 2, loss: 0.5 }),
        ..World::with(quorum(1), &[name]).machine.client(&id(name)).unwrap().clone()
    };
    let roster = vec![
        view("alice", ClientState::Training),
        view("bob", ClientState::Pending),
        view("carol", ClientState::Kicked),
    ];
    let mut world = World::from(Restored {
        roster,
        banned: ["carol".to_owned()].into(),
        next_round: 8,
        version: 5,
        ..Restored::fresh(quorum(1), 7)
    });
    assert_eq!(world.state("alice"), ClientState::Offline);
    assert_eq!(world.machine.client(&id("alice")).unwrap().progress, None);
    assert_eq!(world.state("bob"), ClientState::Pending);
    assert_eq!(world.state("carol"), ClientState::Kicked);
    assert!(world.machine.is_banned("carol"));

    world.ok(Command::Seen { client: id("alice") });
    world.ok(Command::StartRound);
    let round = world.machine.open_round().unwrap();
    assert_eq!((round.number, round.base_version), (8, 5));
    assert_eq!(world.machine.may_update(&id("alice"), 7), Err(Reject::RoundClosed { round: 7 }));
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
