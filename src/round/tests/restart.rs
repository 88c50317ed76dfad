//! A round goes on after its coordinator was away.

use super::super::OFFLINE_AFTER_MS;
use super::*;
use app::api::{Admission, Autorun, BelowQuorum, Phase};

/// In round 1 with these updates in, and then the coordinator was away for that time.
fn restarted(config: RunConfig, names: &[&str], updates: &[&str], ms: u64) -> World {
    let mut world = World::in_round(config, names);
    for name in updates {
        world.ok(update(name, 1));
    }
    world.restart(ms);
    world
}

#[test]
fn an_open_round_goes_on_with_what_was_counted() {
    let mut world = restarted(quorum(2), &["alice", "bob", "carol"], &["alice"], 1_000);
    assert_eq!((world.machine.phase(), world.round()), (Phase::Training, Some(1)));
    assert_eq!(world.parts(), [("alice".to_owned(), 0)]);
    let twice = Reject::AlreadyUpdated { client: id("alice"), round: 1 };
    assert_eq!(world.refused(update("alice", 1)), twice);
    world.ok(update("bob", 1));
    world.ok(update("carol", 1));
    world.ok(committed(1));
    let round = world.ended()[0];
    assert_eq!((round.reason.as_str(), round.samples, round.received_bytes), ("all updates in (3)", 300, 3_000));
    assert_eq!((round.train_loss, round.opened_ms), (Some(1.0), START_MS));
}

#[test]
fn who_was_at_work_goes_on_and_need_not_ask_again() {
    let mut world = restarted(quorum(1), &["alice"], &[], 1_000);
    assert!(!world.machine.is_cancelled(&id("alice"), 1));
    world.ok(report("alice", ReportedState::Training, Some(1)));
    assert_eq!(world.state("alice"), ClientState::Training);
    assert_eq!(world.task("alice"), Some((1, 0)));
}

#[test]
fn a_client_whose_update_is_in_is_at_finish_once_heard_of() {
    let mut world = restarted(quorum(1), &["alice", "bob"], &["alice"], 1_000);
    assert_eq!(world.state("alice"), ClientState::Offline);
    world.ok(seen("alice"));
    assert_eq!(world.state("alice"), ClientState::Finish);
}

#[test]
fn it_does_not_close_because_nobody_has_come_back_yet() {
    let mut world = restarted(quorum(1), &["alice", "bob", "carol"], &["alice"], 1_000);
    world.machine.handle_timeout(world.now);
    world.pass_with(&["alice"], OFFLINE_AFTER_MS - 1);
    assert_eq!(world.machine.phase(), Phase::Training);
}

#[test]
fn it_closes_without_those_who_do_not_come_back_in_time() {
    let mut world = restarted(quorum(1), &["alice", "bob", "carol"], &["alice"], 1_000);
    world.ok(update("bob", 1));
    world.pass(OFFLINE_AFTER_MS - 1);
    assert_eq!(world.machine.phase(), Phase::Training);
    assert_eq!(world.machine.poll_timeout(), Some(world.now + 1));
    world.pass(1);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!(world.last().1, "2 of 3 updates in, the other clients are gone");
}

#[test]
fn once_all_are_back_and_done_it_closes() {
    let mut world = restarted(quorum(1), &["alice", "bob"], &["alice"], 1_000);
    world.ok(seen("bob"));
    assert_eq!(world.machine.phase(), Phase::Training);
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn once_those_who_are_missing_have_left_it_closes() {
    let mut world = restarted(quorum(1), &["alice", "bob"], &["alice"], 1_000);
    world.ok(Command::Leave { client: id("bob") });
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn a_deadline_that_passed_meanwhile_leaves_the_clients_time_to_come_back() {
    let mut world = restarted(quorum(1), &["alice", "bob"], &["alice"], 10 * DEADLINE_MS);
    let back = world.now + OFFLINE_AFTER_MS;
    world.machine.handle_timeout(world.now);
    assert_eq!((world.machine.phase(), world.machine.open_round().unwrap().deadline_ms), (Phase::Training, back));
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);

    let mut world = restarted(quorum(2), &["alice", "bob"], &["alice"], 10 * DEADLINE_MS);
    world.pass(OFFLINE_AFTER_MS);
    assert_eq!(world.last(), (RoundOutcome::Void, "deadline with 1 of 2 updates, min_clients is 2"));
}

#[test]
fn a_deadline_that_is_further_away_stays_where_it_is() {
    let world = restarted(quorum(1), &["alice"], &[], 100_000);
    assert_eq!(world.machine.open_round().unwrap().deadline_ms, START_MS + DEADLINE_MS);
}

#[test]
fn a_deadline_that_had_moved_is_where_it_was() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(configure(RunConfig { deadline_s: 3_600, ..quorum(1) }, 2));
    world.restart(1_000);
    assert_eq!(world.machine.open_round().unwrap().deadline_ms, START_MS + 3_600_000);
}

#[test]
fn what_of_a_new_configuration_was_taken_at_once_still_holds() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    let extend = RunConfig { below_quorum: BelowQuorum::Extend, deadline_s: 100, ..quorum(1) };
    world.ok(configure(extend.clone(), 2));
    world.restart(1_000);
    world.pass_with(&["alice"], 99_000);
    assert_eq!(world.machine.open_round().unwrap().deadline_ms, START_MS + 200_000);
    assert!(!world.ok(configure(extend, 3)).contains(&Effect::DeadlineMoved));
}

#[test]
fn what_was_being_aggregated_is_aggregated_anew() {
    for updates in [&["alice", "bob"][..], &["alice"]] {
        let mut world = World::in_round(quorum(1), &["alice", "bob"]);
        updates.iter().for_each(|name| _ = world.ok(update(name, 1)));
        if updates.len() == 1 {
            world.ok(Command::Leave { client: id("bob") });
        }
        assert_eq!(world.machine.phase(), Phase::Aggregating);
        let effects = world.restart_and_tick(5_000);
        assert_eq!(effects, [Effect::Aggregate { round: 1 }]);
        assert_eq!(world.parts().len(), updates.len());
    }
}

#[test]
fn where_the_last_one_was_in_but_not_yet_told_it_is_aggregated_at_the_first_input() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    let before = world.ledger.round.clone();
    world.ok(update("alice", 1));
    world.ledger.round.as_mut().unwrap().closed = before.unwrap().closed; // it died before that was stored
    world.restart(5_000);
    assert_eq!((world.machine.poll_effect(), world.machine.phase()), (None, Phase::Training));
    assert_eq!(world.restart_and_tick(0), [Effect::Aggregate { round: 1 }, Effect::Course]);
}

#[test]
fn as_many_as_were_wanted_is_all() {
    let config = RunConfig { over_selection: 1.0, ..cohort_of(1, 1) };
    let mut world = World::in_round(config, &["alice", "bob"]);
    world.ok(update("alice", 1));
    assert_eq!(world.restart_and_tick(5_000), [Effect::Aggregate { round: 1 }]);
}

#[test]
fn who_was_removed_meanwhile_is_not_waited_for() {
    let mut world = World::in_round(quorum(1), &["alice", "bob", "carol", "dave"]);
    world.ok(Command::Leave { client: id("alice") });
    world.ok(kick("bob", false));
    for _ in 0..3 {
        world.ok(strike("carol"));
    }
    world.restart(1_000);
    world.ok(update("dave", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn an_update_that_a_kick_took_out_stays_out() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(kick("alice", false));
    world.restart(1_000);
    assert_eq!(world.parts(), []);
    world.ok(admit("alice"));
    world.ok(update("alice", 1));
}

#[test]
fn the_update_of_one_that_was_kicked_while_the_coordinator_aggregated_is_not_counted_again() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(update("bob", 1));
    world.ok(kick("alice", false));
    world.restart_and_tick(1_000);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    assert_eq!(world.parts(), [("bob".to_owned(), 0)]);
}

#[test]
fn a_round_that_lost_its_quorum_by_a_kick_while_it_was_aggregated_is_open_again() {
    let mut world = World::in_round(quorum(2), &["alice", "bob", "carol"]);
    world.ok(update("alice", 1));
    world.ok(update("bob", 1));
    world.pass_with(&["carol"], DEADLINE_MS);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(kick("alice", false));
    world.restart_and_tick(1_000);
    assert_eq!(world.machine.phase(), Phase::Training);
    world.ok(update("carol", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn the_update_of_one_that_left_stays_in() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::Leave { client: id("alice") });
    world.restart(1_000);
    assert_eq!(world.parts().len(), 1);
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn a_round_that_the_operator_closed_stays_closed() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::Order(Order::Aggregate));
    assert_eq!(world.restart_and_tick(1_000), [Effect::Aggregate { round: 1 }]);
    assert_eq!(world.refused(update("bob", 1)), Reject::RoundClosed { round: 1 });
    world.ok(committed(1));
    assert_eq!(world.last(), (RoundOutcome::Complete, "closed by the operator with 1 of 2 updates"));
}

#[test]
fn restarts_one_after_the_other_lose_nothing() {
    let mut world = World::with(quorum(3), &["alice", "bob", "carol"]);
    world.ok(Command::Order(Order::StartAutorun { rounds: 2 }));
    for name in ["alice", "bob"] {
        world.restart(30_000);
        world.ok(update(name, 1));
        world.restart(30_000);
    }
    world.ok(update("carol", 1));
    world.ok(committed(1));
    assert_eq!((world.ended()[0].updates, world.machine.autorun()), (3, Some(Autorun { rounds: 1 })));
    for name in ["alice", "bob", "carol"] {
        world.ok(seen(name));
    }
    assert_eq!(world.round(), Some(2));
}

#[test]
fn what_the_operator_closed_stays_closed_without_one_that_was_kicked() {
    let mut world = World::in_round(quorum(2), &["alice", "bob", "carol"]);
    world.ok(update("alice", 1));
    world.ok(update("bob", 1));
    world.ok(Command::Order(Order::Aggregate));
    world.ok(kick("alice", false));
    for _ in 0..2 {
        world.restart_and_tick(1_000);
        assert_eq!((world.machine.phase(), world.parts()), (Phase::Aggregating, vec![("bob".to_owned(), 0)]));
    }
}

#[test]
fn who_waits_for_an_admission_that_is_open_by_now_is_let_in() {
    let mut world = World::new(RunConfig { admission: Admission::Approval, ..quorum(1) });
    world.ok(join("alice"));
    // It died when the configuration was stored, and nothing else of it.
    world.ledger.command(&world.machine, &configure(quorum(1), 2));
    world.restart(1_000);
    let effects = world.restart_and_tick(0);
    assert_eq!(effects, [store("alice", Standing::Admitted)]);
    world.ok(seen("alice"));
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.cohort(), ["alice"]);
}

#[test]
fn a_clock_that_was_set_back_meanwhile_moves_nothing_into_the_far_future() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.now -= 86_400_000;
    world.restart_and_tick(0);
    let round = world.machine.open_round().unwrap();
    assert_eq!((round.opened_ms, round.deadline_ms), (world.now, world.now + DEADLINE_MS));
    world.ok(seen("bob"));
    world.pass(OFFLINE_AFTER_MS);
    assert_eq!(world.state("bob"), ClientState::Offline);
}

#[test]
fn a_deadline_that_is_set_anew_leaves_the_time_to_come_back() {
    let mut world = restarted(quorum(1), &["alice", "bob"], &[], 10 * DEADLINE_MS);
    let back = world.now + OFFLINE_AFTER_MS;
    world.ok(configure(RunConfig { deadline_s: 3 * quorum(1).deadline_s, ..quorum(1) }, 2));
    assert_eq!((world.machine.phase(), world.machine.open_round().unwrap().deadline_ms), (Phase::Training, back));
}
