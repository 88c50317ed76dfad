#![allow(clippy::unwrap_used)]
use super::*;
use crate::model::evaluate;
use app::api::{Architecture, ModelSpec, Stem};
use rand::RngExt;
use tch::Device;

fn network(architecture: Architecture) -> Network {
    let spec = ModelSpec { architecture, stem: Stem::Imagenet, channels: 1, classes: 2, seed: 1 };
    Network::new(&spec, Device::Cpu).unwrap()
}

/// Noise, with the upper half bright in class 0 and the lower half in class 1.
fn halves(count: usize) -> Images {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let side = 12;
    let labels: Vec<u8> = (0..count).map(|i| (i % 2) as u8).collect();
    let mut pixels = Vec::new();
    for &label in &labels {
        for y in 0..side {
            let bright = (y < side / 2) == (label == 0);
            pixels.extend((0..side).map(|_| rng.random_range(0..100u8) + if bright { 100 } else { 0 }));
        }
    }
    Images { channels: 1, height: side, width: side, classes: 2, pixels, labels }
}

fn config() -> TrainConfig {
    TrainConfig { local_epochs: 4, batch_size: 16, ..TrainConfig::default() }
}

fn proceed(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn training_learns_what_can_be_told_apart() {
    for optimizer in [Optimizer::Sgd, Optimizer::Adam] {
        let (mut network, images) = (network(Architecture::Cnn), halves(64));
        let config = TrainConfig {
            optimizer,
            learning_rate: if optimizer == Optimizer::Adam { 0.001 } else { 0.05 },
            ..config()
        };
        let before = evaluate(&network, &images).unwrap();
        let outcome = train(&mut network, &images, &config, 0, &mut proceed).unwrap();
        let after = evaluate(&network, &images).unwrap();
        assert!(after.loss < before.loss / 2.0 && after.accuracy > 0.98, "{optimizer}: {before:?} to {after:?}");
        assert!(matches!(outcome, TrainOutcome::Finished { samples: 64, loss } if loss < before.loss), "{outcome:?}");
    }
}

#[test]
fn batch_normalisation_learns_its_running_statistics() {
    let mut network = network(Architecture::Resnet18);
    let running_mean = |network: &Network| {
        let parameters = network.parameters().unwrap();
        parameters.iter().find(|(t, _)| t.name == "bn1.running_mean").unwrap().1.clone()
    };
    let before = running_mean(&network);
    let config = TrainConfig { local_epochs: 1, ..config() };
    train(&mut network, &halves(4), &config, 0, &mut proceed).unwrap();
    assert_ne!(running_mean(&network), before);
}

#[test]
fn equal_seeds_train_alike_and_other_seeds_do_not() {
    let trained = |seed| {
        let mut network = network(Architecture::Cnn);
        let config = TrainConfig { local_epochs: 1, augment: true, ..config() };
        train(&mut network, &halves(32), &config, seed, &mut proceed).unwrap();
        network.parameters().unwrap()
    };
    assert_eq!(trained(1), trained(1));
    assert_ne!(trained(1), trained(2));
}

#[test]
fn a_break_ends_training_after_that_batch() {
    let mut batches_seen = 0;
    let outcome = train(&mut network(Architecture::Cnn), &halves(64), &config(), 0, &mut |_| {
        batches_seen += 1;
        if batches_seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(outcome.unwrap(), TrainOutcome::Cancelled);
    assert_eq!(batches_seen, 3);
}

#[test]
fn every_batch_is_reported_with_its_place() {
    let mut seen = Vec::new();
    let config = TrainConfig { local_epochs: 2, ..config() };
    train(&mut network(Architecture::Cnn), &halves(40), &config, 0, &mut |p| {
        seen.push((p.epoch, p.epochs, p.batch, p.batches));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen, [(1, 2, 1, 3), (1, 2, 2, 3), (1, 2, 3, 3), (2, 2, 1, 3), (2, 2, 2, 3), (2, 2, 3, 3)]);
}

#[test]
fn the_last_loss_reported_is_the_outcomes() {
    let mut last = f64::NAN;
    let outcome = train(&mut network(Architecture::Cnn), &halves(40), &config(), 0, &mut |p| {
        last = p.loss;
        ControlFlow::Continue(())
    });
    assert_eq!(outcome.unwrap(), TrainOutcome::Finished { loss: last, samples: 40 });
}

#[test]
fn a_single_image_left_over_joins_the_batch_before() {
    assert_eq!(batches(9, 4), [0..4, 4..9]);
    assert_eq!(batches(10, 4), [0..4, 4..8, 8..10]);
    assert_eq!(batches(8, 4), [0..4, 4..8]);
    // Nothing to join, and nothing else wanted.
    assert_eq!(batches(1, 4), vec![0..1; 1]);
    assert_eq!(batches(3, 1), [0..1, 1..2, 2..3]);
    assert_eq!(batches(2, usize::MAX), vec![0..2; 1]);
}

#[test]
fn a_resnet_trains_where_one_image_is_left_over_and_refuses_one_image_alone() {
    let config = TrainConfig { local_epochs: 1, batch_size: 2, ..config() };
    let mut network = network(Architecture::Resnet18);
    train(&mut network, &halves(3), &config, 0, &mut proceed).unwrap();
    let refusal = train(&mut network, &halves(1), &config, 0, &mut proceed).unwrap_err();
    assert!(matches!(refusal, ModelError::BatchOfOne), "{refusal}");
}

#[test]
fn a_loss_that_is_not_finite_is_an_error() {
    let config = TrainConfig { learning_rate: 1e30, ..config() };
    let refusal = train(&mut network(Architecture::Cnn), &halves(64), &config, 0, &mut proceed).unwrap_err();
    assert!(matches!(refusal, ModelError::LossNotFinite { epoch: 1, .. }), "{refusal}");
}

#[test]
fn images_that_do_not_fit_the_network_are_refused() {
    let refusal =
        |images: &Images| train(&mut network(Architecture::Cnn), images, &config(), 0, &mut proceed).unwrap_err();
    let good = halves(4);
    assert!(matches!(refusal(&good.select(&[])), ModelError::NoImages));
    let colour = Images { channels: 3, pixels: good.pixels.repeat(3), ..good.clone() };
    assert!(matches!(refusal(&colour), ModelError::Channels { found: 3, expected: 1 }));
    let mislabelled = Images { labels: vec![0, 1, 2, 0], ..good.clone() };
    assert!(matches!(refusal(&mislabelled), ModelError::Label { label: 2, classes: 2 }));
    let short = Images { pixels: vec![0; 7], ..good };
    assert!(matches!(refusal(&short), ModelError::PixelBytes { found: 7, expected: 576 }));
}

#[test]
fn a_configuration_that_libtorch_would_choke_on_is_refused() {
    let refusal =
        |config: TrainConfig| train(&mut network(Architecture::Cnn), &halves(4), &config, 0, &mut proceed).unwrap_err();
    assert!(matches!(refusal(TrainConfig { batch_size: 0, ..config() }), ModelError::ZeroConfig("batch_size")));
    assert!(matches!(refusal(TrainConfig { local_epochs: 0, ..config() }), ModelError::ZeroConfig("local_epochs")));
    assert!(matches!(refusal(TrainConfig { learning_rate: -1.0, ..config() }), ModelError::Torch(_)));
}
