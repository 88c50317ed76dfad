//! The ingest gate: what of a sound update is implausible.

use super::*;
use app::api::{Rejection, TrainConfig, TrainTask};

fn bounds(max_update_norm: Option<f64>, max_norm_ratio: Option<f64>) -> RunConfig {
    RunConfig { max_update_norm, max_norm_ratio, ..RunConfig::default() }
}

fn with_norm(name: &str, round: u64, norm: f64) -> Command {
    Command::Update { client: id(name), round, update: Received { norm, ..received(100, None, 1) } }
}

fn fault(world: &World, norm: f64) -> Option<String> {
    world.machine.fault(&id("z"), 100, norm)
}

/// The names of the clients whose update the machine combines.
fn combined(world: &World) -> Vec<String> {
    world.machine.parts().into_iter().map(|part| part.client.to_string()).collect()
}

/// The open round, closed by the operator after updates of these norms from these clients: whose update is combined.
fn round(world: &mut World, number: u64, norms: &[(&str, f64)]) -> Vec<String> {
    for (name, norm) in norms {
        world.ok(with_norm(name, number, *norm));
    }
    if world.machine.closed().is_none() {
        world.ok(Command::Order(Order::Aggregate));
    }
    combined(world)
}

/// Ends the closed round, and opens the next one.
fn next_round(world: &mut World) {
    if combined(world).is_empty() {
        world.ok(Command::AggregationFailed { reason: "all updates are out of proportion".to_owned() });
    } else {
        world.ok(committed(world.machine.version() + 1));
    }
    if world.machine.open_round().is_none() {
        world.ok(Command::Order(Order::StartRound));
    }
}

fn rejection(world: &World, name: &str) -> Option<Rejection> {
    world.machine.client(&id(name)).unwrap().rejected.clone()
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "z"];

/// In a round where updates of these norms are counted.
fn counting(config: RunConfig, norms: &[f64]) -> World {
    let mut world = World::in_round(config, &NAMES);
    for (name, norm) in NAMES.iter().zip(norms) {
        world.ok(with_norm(name, 1, *norm));
    }
    world
}

#[test]
fn what_is_within_all_bounds_has_no_fault() {
    let world = counting(RunConfig::default(), &[1.0, 1.0, 1.0]);
    for norm in [0.0, 1.0, 20.0] {
        assert_eq!(fault(&world, norm), None);
    }
}

#[test]
fn a_norm_above_the_absolute_bound_is_a_fault() {
    let world = counting(bounds(Some(3.0), None), &[]);
    assert_eq!(fault(&world, 3.0), None);
    assert_eq!(
        fault(&world, 3.5).unwrap(),
        "its norm (the distance from the base version) is 3.500, max_update_norm is 3; if it is honest, the operator can \
         raise max_update_norm"
    );
}

#[test]
fn what_is_no_finite_number_is_a_fault_whatever_the_bounds() {
    let world = counting(bounds(None, None), &[]);
    for norm in [f64::NAN, f64::INFINITY] {
        let fault = fault(&world, norm).unwrap();
        assert!(fault.contains(&format!("is {norm}: training has diverged, a smaller learning_rate")), "{fault}");
    }
    assert_eq!(fault(&world, f64::MAX), None);
}

#[test]
fn when_a_round_closes_its_own_lower_median_is_the_measure() {
    let config = bounds(None, Some(2.0));
    let mut world = World::in_round(config.clone(), &NAMES);
    assert_eq!(round(&mut world, 1, &[("a", 3.0), ("b", 6.0), ("c", 6.1), ("d", 1.0)]), ["a", "b", "d"]);
    let rejection = rejection(&world, "c").unwrap();
    assert_eq!(rejection.round, 1);
    assert_eq!(
        rejection.reason,
        "its norm (the distance from the base version) is 6.100, more than 2 times the median of this round's 4 updates, \
         which is 3.000; if it is honest, the operator can raise max_norm_ratio (2)"
    );
}

#[test]
fn what_the_majority_of_a_round_agrees_on_is_not_rejected_for_an_older_number() {
    // Given three clients whose updates were small,
    let mut world = World::in_round(bounds(None, Some(20.0)), &["a", "b", "c"]);
    round(&mut world, 1, &[("a", 0.001), ("b", 0.001), ("c", 0.001)]);
    next_round(&mut world);
    // when all of them change by 1,000 times as much,
    let combined = round(&mut world, 2, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
    // then all are combined.
    assert_eq!(combined, ["a", "b", "c"]);
}

#[test]
fn one_of_three_with_a_thousand_times_the_norm_is_left_out_in_the_first_round_and_after_a_change() {
    let mut world = World::in_round(bounds(None, Some(20.0)), &["a", "b", "c"]);
    assert_eq!(round(&mut world, 1, &[("a", 1.0), ("b", 1.1), ("c", 1_000.0)]), ["a", "b"]);
    next_round(&mut world);
    let faster = TrainConfig { learning_rate: 5.0, ..TrainConfig::default() };
    world.ok(configure(RunConfig { train: faster, ..bounds(None, Some(20.0)) }, 2));
    assert_eq!(round(&mut world, 2, &[("a", 500.0), ("b", 501.0), ("c", 500_000.0)]), ["a", "b"]);
    let client = world.machine.client(&id("c")).unwrap();
    assert_eq!((client.strikes, client.state), (0, ClientState::Finish));
}

#[test]
fn of_two_updates_the_smaller_is_the_measure() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    assert_eq!(round(&mut world, 1, &[("a", 5.0), ("b", 1.0)]), ["b"]);
}

#[test]
fn of_two_updates_recent_norms_of_others_may_show_that_the_larger_is_the_usual_one() {
    // Given three clients with norms around 5,
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    round(&mut world, 1, &[("a", 5.0), ("b", 5.0), ("c", 5.0)]);
    next_round(&mut world);
    // when of two other clients one sends next to nothing,
    let combined = round(&mut world, 2, &[("d", 1e-6), ("e", 6.0)]);
    // then the other's update is not rejected for that.
    assert_eq!(combined, ["d", "e"]);
}

#[test]
fn one_update_alone_is_held_against_the_recent_norms_of_other_clients() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    assert_eq!(round(&mut world, 1, &[("a", 1e9)]), ["a"], "there is nothing to compare with");
    next_round(&mut world);
    round(&mut world, 2, &[("b", 1.0), ("c", 1.0), ("d", 1.0)]);
    next_round(&mut world);
    assert_eq!(round(&mut world, 3, &[("z", 2.1)]), [""; 0]);
    assert_eq!(
        rejection(&world, "z").unwrap().reason,
        "its norm (the distance from the base version) is 2.100, more than 2 times the median of this round's and recent \
         updates (5), which is 1.000; if it is honest, the operator can raise max_norm_ratio (2)"
    );
    next_round(&mut world);
    assert_eq!(round(&mut world, 4, &[("z", 2.0)]), ["z"]);
}

#[test]
fn a_changed_configuration_forgets_the_recent_norms() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    round(&mut world, 1, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
    next_round(&mut world);
    world.ok(configure(RunConfig { deadline_s: 601, ..bounds(None, Some(2.0)) }, 2));
    assert_eq!(round(&mut world, 2, &[("z", 100.0)]), ["z"]);
}

#[test]
fn a_round_whose_updates_are_all_rejected_is_void_and_strikes_nobody() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    round(&mut world, 1, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
    next_round(&mut world);
    round(&mut world, 2, &[("z", 100.0)]);
    next_round(&mut world);
    let ended = world.ended();
    let last = ended.last().unwrap();
    assert_eq!((last.outcome, last.updates, last.rejected), (RoundOutcome::Void, 1, 1));
    assert_eq!(world.machine.client(&id("z")).unwrap().strikes, 0);
}

#[test]
fn a_norm_of_zero_says_nothing() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    assert_eq!(round(&mut world, 1, &[("a", 0.0), ("b", 0.0), ("c", 1.0)]), ["a", "b", "c"]);
}

#[test]
fn without_a_ratio_nothing_is_out_of_proportion() {
    let mut world = World::in_round(bounds(None, None), &NAMES);
    assert_eq!(round(&mut world, 1, &[("a", 1.0), ("b", 1.0), ("c", 1e9)]), ["a", "b", "c"]);
}

#[test]
fn a_rejected_update_counts_for_the_quorum_and_not_for_the_figures_of_the_round() {
    let config = RunConfig { min_clients: 3, ..bounds(None, Some(2.0)) };
    let mut world = World::in_round(config, &["a", "b", "c"]);
    for (name, norm) in [("a", 1.0), ("b", 1.0), ("c", 9.0)] {
        world.ok(with_norm(name, 1, norm));
    }
    assert_eq!(combined(&world), ["a", "b"]);
    world.ok(committed(1));
    let ended = world.ended();
    let summary = ended.last().unwrap();
    assert_eq!((summary.updates, summary.rejected, summary.samples, summary.cohort), (2, 1, 200, 3));
}

#[test]
fn a_client_learns_the_verdict_with_its_next_task_until_another_update_of_it_is_in() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &["a", "b", "c"]);
    round(&mut world, 1, &[("a", 1.0), ("b", 1.0), ("c", 9.0)]);
    let verdict = |world: &World| match world.machine.task(world.now, &id("c")).unwrap() {
        Task::Train(TrainTask { rejected, .. }) | Task::Wait { rejected, .. } => rejected,
        Task::Stop { .. } | Task::Unknown => None,
    };
    assert_eq!(verdict(&world).unwrap().round, 1, "while the round is being combined");
    next_round(&mut world);
    assert_eq!(verdict(&world).unwrap().round, 1, "in the next round");
    world.ok(with_norm("c", 2, 1.0));
    assert_eq!(verdict(&world), None);
    assert_eq!(world.machine.task(world.now, &id("a")).unwrap(), world.machine.task(world.now, &id("b")).unwrap());
}

#[test]
fn an_asynchronous_round_waits_until_it_can_be_judged() {
    let config = RunConfig { mode: Mode::Async, buffer_size: 1, min_clients: 1, ..bounds(None, Some(20.0)) };
    let mut world = World::in_round(config, &["a", "b", "c"]);
    world.ok(with_norm("c", 1, 1_000.0));
    world.ok(with_norm("a", 1, 1.0));
    assert_eq!(world.machine.closed(), None, "two updates are no measure");
    world.ok(with_norm("b", 1, 1.0));
    assert_eq!(combined(&world), ["a", "b"]);
    next_round(&mut world);
    // From then on one update closes a round, and is held against those that came before.
    world.ok(Command::Ask { client: id("c") });
    world.ok(with_norm("c", 2, 1_000.0));
    assert!(world.machine.closed().is_some() && combined(&world).is_empty());
}

#[test]
fn an_asynchronous_run_of_one_client_waits_for_nobody() {
    let config = RunConfig { mode: Mode::Async, buffer_size: 1, ..bounds(None, Some(20.0)) };
    let mut world = World::in_round(config, &["a"]);
    world.ok(with_norm("a", 1, 1.0));
    assert_eq!(combined(&world), ["a"]);
}

#[test]
fn an_update_that_is_out_again_is_no_part_of_the_measure() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    for (name, norm) in [("a", 100.0), ("b", 1.0), ("c", 1.0), ("d", 100.0)] {
        world.ok(with_norm(name, 1, norm));
    }
    world.ok(kick("b", false));
    world.ok(kick("c", false));
    assert_eq!(round(&mut world, 1, &[]), ["a", "d"]);
}

#[test]
fn nobody_has_more_images_than_it_registered_with() {
    let world = counting(RunConfig::default(), &[]);
    let fault = |samples| world.machine.fault(&id("z"), samples, 1.0);
    assert_eq!(fault(100), None);
    assert_eq!(
        fault(101).unwrap(),
        "samples must be at most 100, the number that client z has given, got 101: if it has more now, send PATCH \
         .../clients/z with {\"samples\": 101}, then the update again"
    );
    assert!(fault(u64::MAX).is_some());
    assert!(world.machine.fault(&id("nobody"), 1, 1.0).is_some());
}

#[test]
fn nor_more_than_any_client_may_have_by_now() {
    let mut world = counting(RunConfig::default(), &[]);
    world.ok(configure(RunConfig { max_samples: 50, ..RunConfig::default() }, 2));
    let fault = world.machine.fault(&id("z"), 51, 1.0).unwrap();
    assert_eq!(
        fault,
        "samples must be at most 50 (max_samples of the run), got 51: ask the operator to raise max_samples"
    );
}

#[test]
fn a_client_that_changes_its_number_of_samples_may_send_that_many_from_then_on() {
    let mut world = counting(RunConfig { max_samples: 200, ..RunConfig::default() }, &[]);
    let change = |samples| Command::ChangeSamples { client: id("z"), samples };
    let effects = world.ok(change(150));
    assert!(effects.contains(&Effect::StoreClient { client: id("z"), what: Standing::SamplesChanged }));
    let fault = |world: &World, samples| world.machine.fault(&id("z"), samples, 1.0).is_some();
    assert_eq!([fault(&world, 150), fault(&world, 151)], [false, true]);
    assert_eq!(world.ok(change(150)), [Effect::ShowClient(id("z"))], "the same number is not stored again");
    world.restart(1_000);
    assert_eq!([fault(&world, 150), fault(&world, 151)], [false, true]);
    // But not beyond what the run allows, nor for a client that the operator removed.
    assert_eq!(world.refused(change(201)), Reject::TooManySamples { samples: 201, max_samples: 200 });
    world.ok(kick("z", false));
    assert_eq!(world.refused(change(100)), Reject::Kicked(id("z")));
}

#[test]
fn whoever_says_that_it_has_more_images_than_allowed_may_not_register() {
    let mut world = World::new(RunConfig { max_samples: 99, ..RunConfig::default() });
    assert_eq!(world.refused(join("alice")), Reject::TooManySamples { samples: 100, max_samples: 99 });
    world.ok(configure(RunConfig { max_samples: 100, ..RunConfig::default() }, 2));
    world.ok(join("alice"));
}

#[test]
fn the_bounds_are_the_newest_ones() {
    let mut world = counting(bounds(None, None), &[1.0, 1.0, 1.0, 10.0]);
    assert_eq!(fault(&world, 10.0), None);
    world.ok(configure(bounds(Some(5.0), None), 2));
    assert!(fault(&world, 10.0).is_some());
    world.ok(configure(bounds(None, Some(2.0)), 3));
    assert_eq!(round(&mut world, 1, &[]), ["a", "b", "c"]);
}

#[test]
fn verdict_and_measure_outlive_a_restart() {
    let mut world = World::in_round(bounds(None, Some(2.0)), &NAMES);
    round(&mut world, 1, &[("a", 1.0), ("b", 1.0), ("c", 9.0)]);
    let before = rejection(&world, "c");
    world.restart_and_tick(1_000);
    assert_eq!(combined(&world), ["a", "b"], "of the closed round");
    assert_eq!(rejection(&world, "c"), before);
    world.ok(committed(1));
    world.restart(1_000);
    for name in NAMES {
        world.ok(Command::Seen { client: id(name) });
    }
    world.ok(Command::Order(Order::StartRound));
    assert_eq!(round(&mut world, 2, &[("z", 2.1)]), [""; 0], "of the last round");
}
