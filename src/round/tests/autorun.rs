//! Rounds that follow by themselves.

use super::super::{OFFLINE_AFTER_MS, VOID_PAUSE_MS};
use super::*;
use app::api::{Autorun, Phase};

fn start(rounds: u32) -> Command {
    Command::Order(Order::StartAutorun { rounds })
}

#[test]
fn an_autorun_waits_for_enough_clients_and_then_opens_by_itself() {
    let mut world = World::new(quorum(2));
    world.ok(start(3));
    assert_eq!(world.machine.phase(), Phase::Waiting);
    world.ok(join("alice"));
    assert_eq!(world.machine.phase(), Phase::Waiting);
    let effects = world.ok(join("bob"));
    assert_eq!(effects, [Effect::RoundOpened, show("bob"), Effect::Course]);
    assert_eq!(world.cohort(), ["alice", "bob"]);
}

#[test]
fn a_lower_quorum_opens_a_round_that_waits() {
    let mut world = World::with(quorum(2), &["alice"]);
    world.ok(start(1));
    world.ok(configure(quorum(1), 2));
    assert_eq!(world.round(), Some(1));
}

#[test]
fn an_autorun_completes_its_rounds_and_stops() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(start(2));
    world.ok(update("alice", 1));
    let effects = world.ok(committed(1));
    assert!(matches!(effects[..2], [Effect::RoundEnded(_), Effect::RoundOpened]), "{effects:?}");
    assert_eq!(world.machine.autorun(), Some(Autorun { rounds: 1 }));
    world.ok(update("alice", 2));
    world.ok(committed(2));
    assert_eq!((world.machine.autorun(), world.machine.phase()), (None, Phase::Idle));
}

#[test]
fn an_autorun_started_in_mid_round_counts_that_round() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(start(1));
    world.ok(update("alice", 1));
    world.ok(committed(1));
    assert_eq!((world.machine.autorun(), world.machine.phase()), (None, Phase::Idle));
}

#[test]
fn a_stopped_autorun_finishes_the_open_round() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(start(5));
    world.ok(Command::Order(Order::StopAutorun));
    assert_eq!((world.machine.autorun(), world.machine.phase()), (None, Phase::Training));
    world.ok(update("alice", 1));
    world.ok(committed(1));
    assert_eq!(world.machine.phase(), Phase::Idle);
}

#[test]
fn a_stopped_autorun_that_waited_is_idle() {
    let mut world = World::new(quorum(1));
    world.ok(start(5));
    world.ok(Command::Order(Order::StopAutorun));
    assert_eq!(world.machine.phase(), Phase::Idle);
}

#[test]
fn a_void_round_does_not_count_and_the_next_opens_after_a_pause() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(start(1));
    world.pass_with(&["alice"], DEADLINE_MS);
    assert_eq!(world.last().0, RoundOutcome::Void);
    assert_eq!((world.machine.phase(), world.machine.autorun()), (Phase::Waiting, Some(Autorun { rounds: 1 })));
    world.pass(VOID_PAUSE_MS - 1);
    assert_eq!(world.round(), None);
    world.pass(1);
    assert_eq!(world.round(), Some(2));
}

#[test]
fn the_operator_need_not_sit_out_the_pause() {
    let with_pause = || {
        let mut world = World::with(quorum(1), &["alice"]);
        world.ok(start(2));
        world.ok(update("alice", 1));
        world.ok(Command::AggregationFailed { reason: "disk full".to_owned() });
        assert_eq!(world.round(), None);
        world
    };
    for command in [start(2), Command::Order(Order::StartRound)] {
        let mut world = with_pause();
        world.ok(command);
        assert_eq!(world.round(), Some(2));
        // And the pause is over, not only interrupted.
        world.ok(update("alice", 2));
        world.ok(committed(1));
        assert_eq!(world.round(), Some(3));
    }
}

#[test]
fn an_autorun_outlives_the_loss_of_all_clients() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.ok(start(1));
    world.pass(3 * DEADLINE_MS);
    assert_eq!(world.state("alice"), ClientState::Offline);
    assert_eq!(world.ended().len(), 1, "no round is opened for nobody");
    world.ok(seen("alice"));
    assert_eq!(world.round(), Some(2));
}

#[test]
fn a_restored_autorun_goes_on_once_a_client_is_heard_of() {
    let mut world = World::with(quorum(1), &["alice"]);
    world.pass(OFFLINE_AFTER_MS);
    world.ok(start(4));
    world.restart(1_000);
    assert_eq!((world.machine.phase(), world.machine.autorun()), (Phase::Waiting, Some(Autorun { rounds: 4 })));
    world.ok(seen("alice"));
    assert_eq!(world.round(), Some(1));
}
