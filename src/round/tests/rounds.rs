//! One round: whom it asks, what it takes, when it closes.

use super::super::{OFFLINE_AFTER_MS, VOID_PAUSE_MS};
use super::*;
use app::api::{LoweredWeights, Phase};
use std::collections::BTreeMap;

#[test]
fn a_round_by_hand_runs_from_the_model_to_the_next_version() {
    let mut world = World::with(quorum(2), &["alice", "bob"]);
    assert_eq!(world.ok(Command::Order(Order::StartRound)), [Effect::RoundOpened, Effect::Course]);
    assert_eq!(world.machine.phase(), Phase::Training);
    assert_eq!(world.cohort(), ["alice", "bob"]);

    let Ok(Task::Train(task)) = world.machine.task(world.now, &id("alice")) else { panic!("nothing to train") };
    assert_eq!((task.round, task.version, task.deadline_ms), (1, 0, START_MS + DEADLINE_MS));

    world.ok(report("alice", ReportedState::Update, Some(1)));
    assert_eq!(world.state("alice"), ClientState::Update);
    world.ok(report("alice", ReportedState::Training, Some(1)));
    assert_eq!(world.state("alice"), ClientState::Training);
    assert!(world.machine.client(&id("alice")).unwrap().progress.is_some());

    assert_eq!(world.ok(update("alice", 1)), [step("alice", CohortStep::Counted), show("alice"), Effect::Course]);
    assert_eq!(world.state("alice"), ClientState::Finish);
    assert_eq!(
        world.machine.task(world.now, &id("alice")),
        Ok(Task::Wait { state: ClientState::Finish, rejected: None })
    );
    let closing = world.ok(update("bob", 1));
    assert_eq!(
        closing,
        [step("bob", CohortStep::Counted), Effect::Aggregate { round: 1 }, show("bob"), Effect::Course]
    );
    assert_eq!(world.machine.phase(), Phase::Aggregating);

    world.pass(100);
    let effects = world.ok(committed(1));
    assert!(matches!(effects[0], Effect::RoundEnded(_)));
    assert_eq!(effects.last(), Some(&Effect::Course));
    assert_eq!((world.machine.version(), world.machine.phase()), (1, Phase::Idle));
    assert_eq!(world.state("alice"), ClientState::Ready);
}

#[test]
fn a_round_is_on_record_with_all_its_figures() {
    let mut world = World::in_round(quorum(1), &["alice", "bob", "carol"]);
    let send = |name, n, loss| Command::Update { client: id(name), round: 1, update: received(n, loss, 10) };
    world.ok(send("alice", 100, Some(1.0)));
    world.ok(send("bob", 300, Some(2.0)));
    world.ok(send("carol", 1_000, None));
    world.pass(50);
    world.ok(committed(1));
    let expected = RoundSummary {
        number: 1,
        outcome: RoundOutcome::Complete,
        reason:
            "all updates in (3); the weight of carol was lowered from 71.4% to 50.0% of the round (max_weight_share)"
                .to_owned(),
        base_version: 0,
        version: Some(1),
        config_version: 1,
        cohort: 3,
        updates: 3,
        rejected: 0,
        samples: 1_400,
        received_bytes: 30,
        mean_staleness: None,
        lowered_weights: Some(LoweredWeights { clients: vec![id("carol")], claimed: 1_000.0 / 1_400.0, share: 0.5 }),
        train_loss: Some(1.75),
        test_loss: Some(0.5),
        test_accuracy: Some(0.9),
        opened_ms: START_MS,
        ended_ms: START_MS + 50,
    };
    assert_eq!(world.ended(), [&expected]);
}

#[test]
fn a_counted_update_is_added_to_its_clients_account() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(report("alice", ReportedState::Training, Some(1)));
    world.ok(update("alice", 1));
    let alice = world.machine.client(&id("alice")).unwrap();
    assert_eq!((alice.rounds, alice.sent_bytes, alice.last_loss, alice.progress), (1, 1_000, Some(1.0), None));
}

#[test]
fn a_loss_that_is_no_number_is_as_good_as_none() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    let update = received(u64::MAX, Some(f64::NAN), u64::MAX);
    world.ok(Command::Update { client: id("alice"), round: 1, update });
    world.ok(Command::Committed { version: 1, test_loss: Some(f64::NAN), test_accuracy: None });
    let summary = world.ended()[0];
    assert_eq!((summary.train_loss, summary.test_loss), (None, None));
}

#[test]
fn too_few_clients_start_no_round() {
    let mut world = World::with(quorum(2), &["alice"]);
    let expected = Reject::TooFewClients { eligible: 1, min_clients: 2 };
    assert_eq!(world.refused(Command::Order(Order::StartRound)), expected);
}

#[test]
fn there_is_one_round_at_a_time() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    assert_eq!(world.refused(Command::Order(Order::StartRound)), Reject::RoundInWork { round: 1 });
    world.ok(update("alice", 1));
    assert_eq!(world.refused(Command::Order(Order::StartRound)), Reject::RoundInWork { round: 1 });
}

#[test]
fn an_update_is_taken_once_from_the_cohort_while_its_round_is_open() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(join("carol"));
    assert_eq!(world.refused(update("dave", 1)), Reject::UnknownClient(id("dave")));
    assert_eq!(world.refused(update("carol", 1)), Reject::NotInCohort { client: id("carol"), round: 1 });
    assert_eq!(world.refused(update("alice", 2)), Reject::TooEarly { round: 2 });
    for round in [0, 3, 99_999, u64::MAX] {
        assert_eq!(world.refused(update("alice", round)), Reject::NoSuchRound { round, next: 2 });
    }
    world.ok(update("alice", 1));
    let twice = Reject::AlreadyUpdated { client: id("alice"), round: 1 };
    assert_eq!(world.refused(update("alice", 1)), twice);

    world.ok(Command::Order(Order::Aggregate));
    assert_eq!(world.refused(update("alice", 1)), twice);
    assert_eq!(world.refused(update("bob", 1)), Reject::RoundClosed { round: 1 });
    world.ok(committed(1));
    assert_eq!(world.refused(update("bob", 1)), Reject::RoundClosed { round: 1 });
}

#[test]
fn a_round_asks_as_many_as_the_cohort_size_says() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    assert_eq!(World::in_round(cohort_of(3, 1), &names).cohort().len(), 3);
    let half = RunConfig { cohort: CohortSize::Fraction(0.5), ..RunConfig::default() };
    assert_eq!(World::in_round(half.clone(), &names).cohort().len(), 4);
    let at_least = RunConfig { min_clients: 6, ..half };
    assert_eq!(World::in_round(at_least, &names).cohort().len(), 6);
}

#[test]
fn those_who_waited_longest_are_asked_first() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = World::with(cohort_of(2, 1), &names);
    let mut asked: BTreeMap<String, u32> = BTreeMap::new();
    for round in 1..=9 {
        world.ok(Command::Order(Order::StartRound));
        let cohort: Vec<_> = world.cohort().into_iter().map(str::to_owned).collect();
        assert!(cohort.is_sorted());
        for name in &cohort {
            *asked.entry(name.clone()).or_default() += 1;
            world.ok(update(name, round));
        }
        world.ok(committed(round));
    }
    assert_eq!(asked.into_values().collect::<Vec<_>>(), [3; 6]);
}

#[test]
fn seed_and_round_decide_between_equals() {
    let cohort = |seed, next_round| {
        let mut world = World::from({
            let mut config = cohort_of(4, 1);
            config.train.seed = seed;
            Restored { next_round, ..Restored::fresh(config) }
        });
        for n in 0..40 {
            world.ok(join(&n.to_string()));
        }
        world.ok(Command::Order(Order::StartRound));
        world.cohort().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(cohort(1, 1), cohort(1, 1));
    assert_ne!(cohort(1, 1), cohort(2, 1));
    assert_ne!(cohort(1, 1), cohort(1, 2));
}

#[test]
fn whoever_joins_in_mid_round_takes_part_from_the_next_one_on() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(join("bob"));
    assert_eq!(world.cohort(), ["alice"]);
    assert_eq!(world.machine.task(world.now, &id("bob")), Ok(Task::Wait { state: ClientState::Join, rejected: None }));
    world.ok(update("alice", 1));
    world.ok(committed(1));
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.cohort(), ["alice", "bob"]);
}

#[test]
fn one_that_leaves_is_kicked_fails_or_falls_silent_does_not_hold_up_the_others() {
    type Go = fn(&mut World);
    let gone: [(&str, Go); 4] = [
        ("leaves", |w| _ = w.ok(Command::Leave { client: id("carol") })),
        ("is kicked", |w| _ = w.ok(kick("carol", false))),
        ("fails", |w| _ = w.ok(report("carol", ReportedState::Error, Some(1)))),
        ("falls silent", |w| _ = w.pass_with(&["alice", "bob"], OFFLINE_AFTER_MS)),
    ];
    for (how, go) in gone {
        let mut world = World::in_round(quorum(2), &["alice", "bob", "carol"]);
        world.ok(update("alice", 1));
        world.ok(update("bob", 1));
        assert_eq!(world.machine.phase(), Phase::Training, "{how}");
        go(&mut world);
        assert_eq!(world.machine.phase(), Phase::Aggregating, "{how}");
        world.ok(committed(1));
        assert_eq!(world.last().1, "2 of 3 updates in, the other clients are gone", "{how}");
    }
}

#[test]
fn an_offline_client_that_is_back_before_the_close_still_counts() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass_with(&["alice"], 2 * OFFLINE_AFTER_MS);
    assert_eq!(world.state("bob"), ClientState::Offline);
    world.ok(report("bob", ReportedState::Training, Some(1)));
    assert_eq!(world.state("bob"), ClientState::Training);
    assert!(!world.machine.is_cancelled(&id("bob"), 1));
    world.ok(update("bob", 1));
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn an_update_counts_even_if_it_is_the_first_sign_of_life_in_a_while() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass(2 * OFFLINE_AFTER_MS);
    world.ok(update("bob", 1));
    assert_eq!(world.state("bob"), ClientState::Finish);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
}

#[test]
fn a_client_taken_back_in_mid_round_has_its_place_again() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(kick("alice", false));
    world.ok(admit("alice"));
    assert!(matches!(world.machine.task(world.now, &id("alice")), Ok(Task::Train(_))));
    world.ok(update("alice", 1));
    assert_eq!(world.state("alice"), ClientState::Finish);
}

#[test]
fn at_the_deadline_a_quorum_is_enough() {
    let mut world = World::in_round(quorum(2), &["alice", "bob", "carol"]);
    world.ok(report("carol", ReportedState::Training, Some(1)));
    world.ok(update("alice", 1));
    world.ok(update("bob", 1));
    world.pass_with(&["alice", "bob", "carol"], DEADLINE_MS - 1);
    assert_eq!(world.machine.phase(), Phase::Training);
    let effects = world.pass(1);
    assert_eq!(effects, [Effect::Aggregate { round: 1 }, Effect::Course]);
    assert!(world.machine.is_cancelled(&id("carol"), 1));
    world.ok(committed(1));
    assert_eq!(world.last(), (RoundOutcome::Complete, "deadline with 2 of 3 updates"));
    assert_eq!(world.state("carol"), ClientState::Ready);
    assert_eq!(world.machine.client(&id("carol")).unwrap().progress, None);
}

#[test]
fn at_the_deadline_a_round_below_quorum_is_void() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass_with(&["alice", "bob"], DEADLINE_MS);
    assert_eq!(world.last(), (RoundOutcome::Void, "deadline with 1 of 2 updates, min_clients is 2"));
    assert_eq!((world.machine.version(), world.round()), (0, None));
    assert_eq!(world.state("alice"), ClientState::Ready);
    assert_eq!((world.ended()[0].updates, world.ended()[0].samples), (1, 100));
}

#[test]
fn a_deadline_holds_even_if_its_timer_comes_late() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.now += DEADLINE_MS;
    world.ok(seen("alice"));
    assert_eq!(world.last().0, RoundOutcome::Void);
}

#[test]
fn a_round_that_cannot_reach_quorum_any_more_is_void_at_once() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.ok(Command::Leave { client: id("bob") });
    assert_eq!(world.last(), (RoundOutcome::Void, "at most 1 of 2 updates can still come, min_clients is 2"));
}

#[test]
fn a_round_whose_missing_clients_may_come_back_waits_for_the_deadline() {
    let mut world = World::in_round(quorum(2), &["alice", "bob"]);
    world.ok(update("alice", 1));
    world.pass_with(&["alice"], DEADLINE_MS - 1);
    assert_eq!((world.machine.phase(), world.state("bob")), (Phase::Training, ClientState::Offline));
    world.pass(1);
    assert_eq!(world.last().0, RoundOutcome::Void);
}

#[test]
fn a_round_that_too_many_have_failed_at_is_void_at_once() {
    let at_once = |config| {
        let mut world = World::in_round(config, &["alice", "bob"]);
        world.ok(update("alice", 1));
        world.ok(report("bob", ReportedState::Error, Some(1)));
        world
    };
    let reason = "at most 1 of 2 updates can still come, 1 failed, min_clients is 2; bob reported an error: no memory";
    assert_eq!(at_once(quorum(2)).last(), (RoundOutcome::Void, reason));
    let mut asynchronous = at_once(RunConfig { min_clients: 2, ..asynchronous(2) });
    assert_eq!(asynchronous.last(), (RoundOutcome::Void, reason));
    // Of an asynchronous one somebody else may make up for it.
    for name in ["carol", "dave"] {
        asynchronous.ok(join(name));
    }
    asynchronous.ok(Command::Order(Order::StartRound));
    for name in ["alice", "bob", "carol"] {
        asynchronous.ok(report(name, ReportedState::Error, Some(2)));
    }
    assert_eq!(asynchronous.ended().len(), 2);
}

#[test]
fn the_operator_may_close_a_round_below_quorum_but_not_without_an_update() {
    let mut world = World::with(quorum(3), &["alice", "bob", "carol"]);
    assert_eq!(world.refused(Command::Order(Order::Aggregate)), Reject::NoRound);
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.refused(Command::Order(Order::Aggregate)), Reject::TooFewUpdates { updates: 0, min_clients: 1 });
    world.ok(update("alice", 1));
    assert_eq!(world.ok(Command::Order(Order::Aggregate)), [Effect::Aggregate { round: 1 }, Effect::Course]);
    assert_eq!(world.refused(Command::Order(Order::Aggregate)), Reject::RoundInWork { round: 1 });
    world.ok(committed(1));
    assert_eq!(world.last(), (RoundOutcome::Complete, "closed by the operator with 1 of 3 updates"));
}

#[test]
fn a_round_that_cannot_be_aggregated_is_void() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    assert_eq!(world.refused(committed(1)), Reject::NotAggregating);
    world.ok(update("alice", 1));
    world.ok(Command::AggregationFailed { reason: "disk full".to_owned() });
    assert_eq!(world.last(), (RoundOutcome::Void, "aggregation failed: disk full"));
    assert_eq!((world.machine.version(), world.ended()[0].version), (0, None));
    let again = Command::AggregationFailed { reason: String::new() };
    assert_eq!(world.refused(again), Reject::NotAggregating);
}

#[test]
fn while_a_round_is_aggregated_its_deadline_is_no_concern() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(update("alice", 1));
    world.pass(2 * DEADLINE_MS);
    assert_eq!(world.machine.phase(), Phase::Aggregating);
    world.ok(committed(1));
    assert_eq!(world.last().0, RoundOutcome::Complete);
}

#[test]
fn work_for_a_round_that_is_over_is_cancelled_and_not_shown_as_work() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(report("bob", ReportedState::Training, Some(1)));
    assert!(!world.machine.is_cancelled(&id("bob"), 1));
    world.ok(update("alice", 1));
    world.ok(Command::Order(Order::Aggregate));
    world.ok(committed(1));
    world.ok(report("bob", ReportedState::Training, Some(1)));
    assert!(world.machine.is_cancelled(&id("bob"), 1));
    assert_eq!(world.state("bob"), ClientState::Ready);
}

#[test]
fn a_late_report_does_not_take_a_client_back_from_finish() {
    let mut world = World::in_round(quorum(1), &["alice", "bob"]);
    world.ok(update("alice", 1));
    for state in [ReportedState::Training, ReportedState::Ready, ReportedState::Update] {
        world.ok(report("alice", state, Some(1)));
        assert_eq!(world.state("alice"), ClientState::Finish);
    }
}

#[test]
fn nobody_is_asked_whose_time_to_go_offline_has_come_unnoticed() {
    let mut world = World::with(quorum(1), &["alice", "bob"]);
    world.now += OFFLINE_AFTER_MS;
    assert_eq!(world.refused(Command::Order(Order::StartRound)), Reject::TooFewClients { eligible: 0, min_clients: 1 });
    world.ok(join("carol"));
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(world.cohort(), ["carol"]);
}

#[test]
fn the_operator_can_stop_at_once() {
    for config in [quorum(1), asynchronous(2)] {
        let mut world = World::with(config, &["alice", "bob"]);
        assert_eq!(world.refused(Command::Order(Order::Cancel)), Reject::NoRound);
        world.ok(Command::Order(Order::StartAutorun { rounds: 9 }));
        world.begin("alice");
        world.begin("bob");
        world.ok(update("alice", 1));
        world.ok(Command::Order(Order::Cancel));
        assert_eq!(world.last(), (RoundOutcome::Void, "cancelled by the operator"));
        assert_eq!((world.machine.phase(), world.machine.autorun()), (Phase::Idle, None));
        assert!(world.machine.is_cancelled(&id("bob"), 1));
        assert_eq!(world.state("bob"), ClientState::Ready);
        let later = world.pass_with(&["alice", "bob"], 10 * VOID_PAUSE_MS);
        assert!(later.iter().all(|effect| matches!(effect, Effect::ShowClient(_))), "nothing follows: {later:?}");
    }
}

#[test]
fn what_is_being_combined_is_not_cancelled() {
    let mut world = World::in_round(quorum(1), &["alice"]);
    world.ok(update("alice", 1));
    assert_eq!(world.refused(Command::Order(Order::Cancel)), Reject::RoundInWork { round: 1 });
}
