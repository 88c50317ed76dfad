#![allow(clippy::unwrap_used)]
use super::*;
use app::api::Stem;
use tch::Kind;

fn spec(architecture: Architecture, stem: Stem, channels: u32, classes: u32) -> ModelSpec {
    ModelSpec { architecture, stem, channels, classes, seed: 0 }
}

fn small(seed: u64) -> Network {
    Network::new(&ModelSpec { seed, ..spec(Architecture::Cnn, Stem::Cifar, 1, 3) }, Device::Cpu).unwrap()
}

fn shapes(network: &Network) -> Vec<(&str, &[u64])> {
    network.schema().tensors().iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect()
}

#[test]
fn resnets_have_the_published_number_of_trainable_values() {
    // As torchvision documents them for ImageNet.
    for (architecture, published) in [
        (Architecture::Resnet18, 11_689_512),
        (Architecture::Resnet34, 21_797_672),
        (Architecture::Resnet50, 25_557_032),
    ] {
        let network = Network::blank(&spec(architecture, Stem::Imagenet, 3, 1000), Device::Cpu).unwrap();
        assert_eq!(network.trainable_values(), published, "{architecture}");
    }
}

#[test]
fn a_resnet18_has_torchvisions_tensors() {
    let network = Network::blank(&spec(Architecture::Resnet18, Stem::Imagenet, 3, 1000), Device::Cpu).unwrap();
    let shapes = shapes(&network);
    for expected in [
        ("bn1.bias", &[64][..]),
        ("bn1.running_mean", &[64]),
        ("bn1.running_var", &[64]),
        ("bn1.weight", &[64]),
        ("conv1.weight", &[64, 3, 7, 7]),
        ("fc.bias", &[1000]),
        ("fc.weight", &[1000, 512]),
        ("layer1.0.conv1.weight", &[64, 64, 3, 3]),
        ("layer2.0.conv1.weight", &[128, 64, 3, 3]),
        ("layer2.0.downsample.0.weight", &[128, 64, 1, 1]),
        ("layer2.0.downsample.1.running_var", &[128]),
        ("layer4.1.bn2.running_mean", &[512]),
    ] {
        assert!(shapes.contains(&expected), "{expected:?}");
    }
    // torchvision's 122, less 20 of `num_batches_tracked`.
    assert_eq!(shapes.len(), 102);
}

#[test]
fn a_resnet50_has_torchvisions_bottlenecks() {
    let network = Network::blank(&spec(Architecture::Resnet50, Stem::Cifar, 3, 10), Device::Cpu).unwrap();
    let shapes = shapes(&network);
    for expected in [
        ("conv1.weight", &[64, 3, 3, 3][..]),
        ("layer1.0.conv1.weight", &[64, 64, 1, 1]),
        ("layer1.0.conv2.weight", &[64, 64, 3, 3]),
        ("layer1.0.conv3.weight", &[256, 64, 1, 1]),
        ("layer1.0.downsample.0.weight", &[256, 64, 1, 1]),
        ("layer4.2.bn3.weight", &[2048]),
        ("fc.weight", &[10, 2048]),
    ] {
        assert!(shapes.contains(&expected), "{expected:?}");
    }
    // torchvision's 320, less 53 of `num_batches_tracked`.
    assert_eq!(shapes.len(), 267);
}

#[test]
fn the_schema_counts_running_statistics_too() {
    let network = Network::blank(&spec(Architecture::Resnet18, Stem::Cifar, 3, 10), Device::Cpu).unwrap();
    let running: u64 =
        network.schema().tensors().iter().filter(|t| t.name.contains("running")).map(|t| t.shape[0]).sum();
    assert_eq!(network.schema().values(), network.trainable_values() + running);
}

#[test]
fn every_architecture_scores_images_of_either_size() {
    for &architecture in Architecture::ALL {
        for &stem in Stem::ALL {
            for (channels, side) in [(1, 28), (3, 32)] {
                // The weights do not matter here, and ResNets would take long to draw theirs.
                let network = Network::blank(&spec(architecture, stem, channels, 7), Device::Cpu).unwrap();
                let images = Tensor::zeros([2, i64::from(channels), side, side], (Kind::Float, Device::Cpu));
                let scores = no_grad(|| network.forward(&images, false)).unwrap();
                assert_eq!(scores.size(), [2, 7], "{architecture}, {stem}, {side}");
            }
        }
    }
}

#[test]
fn the_imagenet_stem_shrinks_images_fourfold_and_the_cifar_stem_does_not() {
    // What is left of 32x32 after the three halvings of layers 2 to 4 is the mean's window: 1x1 or 4x4. A batch of
    // one image is then refused or taken by the last batch normalisation.
    let image = Tensor::zeros([1, 3, 32, 32], (Kind::Float, Device::Cpu));
    let train = |stem| {
        let network = Network::blank(&spec(Architecture::Resnet18, stem, 3, 10), Device::Cpu).unwrap();
        no_grad(|| network.forward(&image, true)).map(|scores| scores.size())
    };
    assert!(matches!(train(Stem::Imagenet), Err(ModelError::BatchOfOne)));
    assert_eq!(train(Stem::Cifar).unwrap(), [1, 10]);
}

#[test]
fn one_seed_gives_one_network_and_another_seed_another() {
    let parameters = |seed| small(seed).parameters().unwrap();
    assert_eq!(parameters(7), parameters(7));
    assert_ne!(parameters(7), parameters(8));
}

#[test]
fn initial_weights_have_their_intended_spread_and_biases_are_zero() {
    let parameters = small(0).parameters().unwrap();
    let values = |name: &str| match parameters.iter().find(|(t, _)| t.name == name).unwrap().1 {
        Values::F32(values) => values.clone(),
        Values::I64(_) => panic!("{name} is not F32"),
    };
    let spread = |v: &[f32]| (v.iter().map(|x| x * x).sum::<f32>() / v.len() as f32).sqrt();
    // Kaiming-normal: sqrt(2 / (outputs x 3 x 3)). Uniform within b: b / sqrt(3).
    let conv2 = values("conv2.weight");
    let outputs = conv2.len() as f32 / 9.0 / values("conv1.bias").len() as f32;
    let fc1 = values("fc1.weight");
    let inputs = fc1.len() as f32 / values("fc1.bias").len() as f32;
    for (found, intended) in
        [(spread(&conv2), (2.0 / (outputs * 9.0)).sqrt()), (spread(&fc1), 1.0 / inputs.sqrt() / 3f32.sqrt())]
    {
        assert!((found / intended - 1.0).abs() < 0.05, "{found} for {intended}");
    }
    assert!(values("fc1.bias").iter().all(|&b| b == 0.0));
}

#[test]
fn parameters_loaded_into_another_network_make_it_the_same() {
    let (source, mut target) = (small(1), small(2));
    target.load(&source.parameters().unwrap()).unwrap();
    assert_eq!(target.parameters().unwrap(), source.parameters().unwrap());
}

#[test]
fn parameters_of_another_schema_are_refused_and_change_nothing() {
    let mut network = small(1);
    let before = network.parameters().unwrap();
    let other = Network::new(&spec(Architecture::Cnn, Stem::Cifar, 1, 4), Device::Cpu).unwrap();
    let refusal = network.load(&other.parameters().unwrap()).unwrap_err();
    assert!(matches!(&refusal, ModelError::OtherSchema { found: 8, expected: 8, .. }), "{refusal}");
    assert!(refusal.to_string().contains("fc2.bias F32 [4] instead of fc2.bias F32 [3]"), "{refusal}");
    assert_eq!(network.parameters().unwrap(), before);
}

#[test]
fn a_spec_out_of_bounds_is_refused() {
    let refusal = Network::new(&spec(Architecture::Cnn, Stem::Cifar, 0, 1), Device::Cpu).unwrap_err();
    assert!(matches!(refusal, ModelError::Spec(problems) if problems.len() == 2));
}

#[test]
fn a_network_can_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Network>();
}
