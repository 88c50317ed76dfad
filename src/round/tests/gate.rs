//! The ingest gate: what of a sound update is implausible.

use super::*;

fn bounds(max_update_norm: Option<f64>, max_norm_ratio: Option<f64>) -> RunConfig {
    RunConfig { max_update_norm, max_norm_ratio, ..RunConfig::default() }
}

fn with_norm(name: &str, round: u64, norm: f64) -> Command {
    Command::Update { client: id(name), round, update: Counted { norm, ..counted(100, None, 1) } }
}

fn fault(world: &World, norm: f64) -> Option<String> {
    world.machine.fault(&id("z"), 100, norm)
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
    assert_eq!(fault(&world, 3.5).unwrap(), "its distance from the base version is 3.5000, max_update_norm is 3");
}

#[test]
fn what_is_no_finite_number_is_a_fault_whatever_the_bounds() {
    let world = counting(bounds(None, None), &[]);
    assert_eq!(fault(&world, f64::NAN).unwrap(), "its distance from the base version is NaN");
    assert_eq!(fault(&world, f64::INFINITY).unwrap(), "its distance from the base version is inf");
    assert_eq!(fault(&world, f64::MAX), None);
}

#[test]
fn from_three_updates_on_the_median_of_the_round_is_the_measure() {
    let config = bounds(None, Some(2.0));
    let world = counting(config.clone(), &[5.0, 1.0]);
    assert_eq!(fault(&world, 1e9), None, "two updates are no measure");

    let world = counting(config.clone(), &[5.0, 1.0, 3.0]);
    assert_eq!(fault(&world, 6.0), None);
    assert_eq!(
        fault(&world, 6.1).unwrap(),
        "its distance from the base version is 6.1000, more than 2 (max_norm_ratio) times the median, which is 3.0000"
    );

    let world = counting(config, &[5.0, 1.0, 3.0, 1.0, 1.0]);
    assert_eq!((fault(&world, 2.0), fault(&world, 2.1).is_some()), (None, true));
}

#[test]
fn before_that_it_is_the_median_of_the_last_complete_round() {
    let mut world = counting(bounds(None, Some(2.0)), &[5.0, 1.0, 3.0]);
    world.ok(Command::AggregateNow);
    world.ok(committed(1));
    assert!(fault(&world, 6.1).is_some(), "between rounds too");
    world.ok(Command::StartRound);
    assert!(fault(&world, 6.1).is_some());
    for name in ["a", "b", "c"] {
        assert!(fault(&world, 6.1).is_some());
        world.ok(with_norm(name, 2, 6.0));
    }
    assert_eq!(fault(&world, 12.0), None);
    world.ok(Command::AggregateNow);
    world.ok(Command::AggregationFailed { reason: "disk full".to_owned() });
    assert!(fault(&world, 6.1).is_some(), "a void round is no measure");
}

#[test]
fn the_first_few_who_send_next_to_nothing_do_not_have_all_others_refused() {
    // Given a round of 8 in which 3 are in with next to nothing,
    let mut world = counting(bounds(None, Some(2.0)), &[1e-6, 1e-6, 1e-6]);
    world.ok(Command::AggregateNow);
    world.ok(Command::AggregationFailed { reason: "it does not matter".to_owned() });
    for name in ["d", "e", "f", "g"] {
        world.ok(join(name));
    }
    world.ok(Command::StartRound);
    for name in ["a", "b", "c"] {
        world.ok(with_norm(name, 2, 1e-6));
    }
    // then they rule nobody,
    assert_eq!(fault(&world, 1.0), None);
    // and half of the round does,
    world.ok(with_norm("d", 2, 1.0));
    world.ok(with_norm("e", 2, 1.0));
    world.ok(with_norm("f", 2, 1.0));
    assert_eq!((fault(&world, 2.0), fault(&world, 2.1).is_some()), (None, true));
}

#[test]
fn a_median_below_that_of_the_last_complete_round_makes_the_bound_no_tighter() {
    let mut world = counting(bounds(None, Some(2.0)), &[5.0, 1.0, 3.0]);
    world.ok(Command::AggregateNow);
    world.ok(committed(1));
    world.ok(Command::StartRound);
    for name in ["a", "b", "c"] {
        world.ok(with_norm(name, 2, 1e-6));
    }
    assert_eq!((fault(&world, 6.0), fault(&world, 6.1).is_some()), (None, true));
}

#[test]
fn a_median_of_zero_says_nothing() {
    let world = counting(bounds(None, Some(2.0)), &[0.0, 0.0, 0.0]);
    assert_eq!(fault(&world, 1e9), None);
}

#[test]
fn an_update_that_is_out_again_is_no_part_of_the_measure() {
    let mut world = counting(bounds(None, Some(2.0)), &[1.0, 100.0, 100.0]);
    assert_eq!(fault(&world, 200.0), None);
    world.ok(kick("b", false));
    assert_eq!(fault(&world, 1e9), None, "two updates are no measure");
    world.ok(with_norm("d", 1, 1.0));
    assert_eq!((fault(&world, 2.0), fault(&world, 2.1).is_some()), (None, true));
}

#[test]
fn nobody_has_more_images_than_it_registered_with() {
    let world = counting(RunConfig::default(), &[]);
    let fault = |samples| world.machine.fault(&id("z"), samples, 1.0);
    assert_eq!(fault(100), None);
    assert_eq!(fault(101).unwrap(), "samples is 101, this client has at most 100");
    assert!(fault(u64::MAX).is_some());
    assert!(world.machine.fault(&id("nobody"), 1, 1.0).is_some());
}

#[test]
fn nor_more_than_any_client_may_have_by_now() {
    let mut world = counting(RunConfig::default(), &[]);
    world.ok(configure(RunConfig { max_samples: 50, ..RunConfig::default() }, 2));
    let fault = world.machine.fault(&id("z"), 51, 1.0).unwrap();
    assert_eq!(fault, "samples is 51, this client has at most 50");
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
    let mut world = counting(bounds(None, None), &[1.0, 1.0, 1.0]);
    assert_eq!(fault(&world, 10.0), None);
    world.ok(configure(bounds(None, Some(2.0)), 2));
    assert!(fault(&world, 10.0).is_some());
    world.ok(configure(bounds(Some(5.0), None), 3));
    assert!(fault(&world, 10.0).is_some());
}

#[test]
fn the_measure_outlives_a_restart() {
    let mut world = counting(bounds(None, Some(2.0)), &[5.0, 1.0, 3.0]);
    world.restart(1_000);
    assert!(fault(&world, 6.1).is_some(), "of the open round");
    world.ok(Command::AggregateNow);
    world.ok(committed(1));
    world.restart(1_000);
    assert!(fault(&world, 6.1).is_some(), "of the last round");
}
