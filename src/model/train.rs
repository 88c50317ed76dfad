//! Local training.

use super::augment::augment;
use super::batches::{DeviceImages, normalise};
use super::{Images, ModelError, Network};
use app::api::{Optimizer, Progress, TrainConfig};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::ops::{ControlFlow, Range};
use tch::nn::{self, OptimizerConfig};
use tch::{Kind, Reduction, Tensor};

/// Batches between two looks at the loss on a GPU: each look makes the CPU wait for it.
const GPU_BATCHES_PER_READ: usize = 8;

/// How [`train`] ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainOutcome {
    /// All epochs are done.
    Finished {
        /// Mean loss of the last epoch, taken while the parameters changed under it.
        loss: f64,
        /// Images in an epoch.
        samples: u64,
    },
    /// `on_batch` said so: the parameters are somewhere in between.
    Cancelled,
}

/// Trains the network on the images by cross-entropy, with a fresh optimizer.
///
/// The images are shuffled each epoch. A last batch of a single image joins the one before it, because batch
/// normalisation finds no variance in one image: such a batch has `batch_size` + 1.
///
/// `seed` decides order and augmentation; `config.seed` is not looked at here, because each client and round draws
/// its own from it. On the CPU with one thread, equal arguments give equal parameters, bit for bit.
///
/// `on_batch` is called after every batch, its loss the mean of the epoch so far (on a GPU up to 7 batches old);
/// `Break` ends training at once.
///
/// # Errors
/// There are no images, they do not fit the network, a count in the configuration is 0, the loss is not finite, or
/// the device fails. The parameters are then unfit for use.
pub fn train(
    network: &mut Network,
    images: &Images,
    config: &TrainConfig,
    seed: u64,
    on_batch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<TrainOutcome, ModelError> {
    for (name, count) in [("local_epochs", config.local_epochs), ("batch_size", config.batch_size)] {
        if count == 0 {
            return Err(ModelError::ZeroConfig(name));
        }
    }
    let data = DeviceImages::new(images, network)?;
    let device = network.device();
    let mut optimizer = optimizer(network, config)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<i64> = (0..images.len() as i64).collect();
    let batches = batches(images.len(), config.batch_size as usize);
    let read_every = if device.is_cuda() { GPU_BATCHES_PER_READ } else { 1 };
    let mut mean = f64::NAN;

    for epoch in 1..=config.local_epochs {
        order.shuffle(&mut rng);
        let order = Tensor::f_from_slice(&order)?.f_to_device(device)?;
        let mut sum = Tensor::f_zeros([1], (Kind::Double, device))?;
        for (i, batch) in batches.iter().enumerate() {
            let count = batch.end - batch.start;
            let chosen = order.f_narrow(0, batch.start, count)?;
            let labels = data.labels.f_index_select(0, &chosen)?;
            let mut pixels = data.pixels.f_index_select(0, &chosen)?;
            if config.augment {
                pixels = augment(&pixels, &mut rng)?;
            }
            let scores = network.forward(&normalise(&pixels)?, true)?;
            let loss = scores.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0)?;
            optimizer.zero_grad();
            loss.f_backward()?;
            optimizer.step();

            let _ = sum.f_add_(&loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(count)?)?;
            if i % read_every == 0 || i + 1 == batches.len() {
                mean = sum.f_double_value(&[0])? / batch.end as f64;
                if !mean.is_finite() {
                    return Err(ModelError::LossNotFinite { loss: mean, epoch, batch: i as u32 + 1 });
                }
            }
            let progress = Progress {
                epoch,
                epochs: config.local_epochs,
                batch: i as u32 + 1,
                batches: batches.len() as u32,
                loss: mean,
            };
            if on_batch(progress).is_break() {
                return Ok(TrainOutcome::Cancelled);
            }
        }
    }
    Ok(TrainOutcome::Finished { loss: mean, samples: images.len() as u64 })
}

fn optimizer(network: &Network, config: &TrainConfig) -> Result<nn::Optimizer, ModelError> {
    let (rate, decay) = (config.learning_rate, config.weight_decay);
    Ok(match config.optimizer {
        Optimizer::Sgd => nn::sgd(config.momentum, 0.0, decay, false).build(network.store(), rate)?,
        Optimizer::Adam => nn::adam(0.9, 0.999, decay).build(network.store(), rate)?,
    })
}

/// Cuts the shuffled images into batches; a single image left over joins the batch before it.
fn batches(images: usize, batch_size: usize) -> Vec<Range<i64>> {
    let mut ends: Vec<_> = (batch_size..images).step_by(batch_size).collect();
    if batch_size > 1 && images % batch_size == 1 {
        ends.pop();
    }
    ends.push(images);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, &end)| start as i64..end as i64).collect()
}

#[cfg(test)]
mod tests;
