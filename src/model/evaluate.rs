//! How good a network is on labelled images.

use super::batches::{DeviceImages, normalise};
use super::{Images, ModelError, Network};
use tch::{Kind, Reduction, Tensor, no_grad};

/// Images at a time: the activations of a ResNet-50 on 32x32 images then take less than 1 GB.
const BATCH: usize = 256;

/// What [`evaluate`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of the images whose class has the highest score: 0 to 1.
    pub accuracy: f64,
    /// How many images that is over.
    pub samples: u64,
}

/// Loss and accuracy of the network on the images. Changes nothing: batch normalisation uses its running statistics.
///
/// The loss may be NaN or infinite where the parameters are bad: that is a finding, not an error.
///
/// # Errors
/// There are no images, they do not fit the network, or the device fails.
pub fn evaluate(network: &Network, images: &Images) -> Result<Evaluation, ModelError> {
    let data = DeviceImages::new(images, network)?;
    no_grad(|| {
        // Summed on the device and read once: a read makes the CPU wait for the GPU.
        let mut loss = Tensor::f_zeros([1], (Kind::Double, network.device()))?;
        let mut correct = Tensor::f_zeros([1], (Kind::Int64, network.device()))?;
        for start in (0..images.len()).step_by(BATCH) {
            let (start, count) = (start as i64, BATCH.min(images.len() - start) as i64);
            let labels = data.labels.f_narrow(0, start, count)?;
            let scores = network.forward(&normalise(&data.pixels.f_narrow(0, start, count)?)?, false)?;
            let sum = scores.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0)?;
            let hits = scores.f_argmax(1, false)?.f_eq_tensor(&labels)?.f_sum(Kind::Int64)?;
            let _ = loss.f_add_(&sum)?;
            let _ = correct.f_add_(&hits)?;
        }
        let samples = images.len() as u64;
        Ok(Evaluation {
            loss: loss.f_double_value(&[0])? / samples as f64,
            accuracy: correct.f_int64_value(&[0])? as f64 / samples as f64,
            samples,
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Parameters, Values};
    use app::api::{Architecture, Dataset, ModelSpec};

    /// A network that gives class 0 a score of 2 and every other class 0, whatever the image.
    fn partial_to_class_0() -> Network {
        let spec = ModelSpec::for_dataset(Architecture::Cnn, Dataset::Mnist);
        let mut network = Network::blank(&spec, tch::Device::Cpu).unwrap();
        let parameters = network.parameters().unwrap();
        let values = parameters.iter().map(|(tensor, values)| match tensor.name.as_str() {
            "fc2.bias" => Values::F32([&[2.0], &[0.0; 9][..]].concat()),
            _ => values.clone(),
        });
        network.load(&Parameters::new(parameters.schema().clone(), values.collect())).unwrap();
        network
    }

    fn labelled(labels: Vec<u8>) -> Images {
        Images { channels: 1, height: 28, width: 28, classes: 10, pixels: vec![9; 28 * 28 * labels.len()], labels }
    }

    #[test]
    fn loss_and_accuracy_are_means_over_all_images_and_batches() {
        // Given images for a full batch and a bit more, three quarters of them of class 0,
        let images = labelled([0, 0, 5, 0].repeat(BATCH / 4 + 1));
        // when a network is evaluated that believes in class 0,
        let found = evaluate(&partial_to_class_0(), &images).unwrap();
        // then it is right on three quarters, and its loss is ln(sum of exp) less the true class's score.
        let log_sum = (2f64.exp() + 9.0).ln();
        assert_eq!((found.accuracy, found.samples), (0.75, BATCH as u64 + 4));
        assert!((found.loss - (log_sum - 0.75 * 2.0)).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn evaluation_changes_no_running_statistics() {
        let spec = ModelSpec::for_dataset(Architecture::Resnet18, Dataset::Mnist);
        let network = Network::blank(&spec, tch::Device::Cpu).unwrap();
        let before = network.parameters().unwrap();
        evaluate(&network, &labelled(vec![1])).unwrap();
        assert_eq!(network.parameters().unwrap(), before);
    }

    #[test]
    fn no_images_are_refused() {
        assert!(matches!(evaluate(&partial_to_class_0(), &labelled(vec![])), Err(ModelError::NoImages)));
    }
}
