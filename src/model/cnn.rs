//! The small network: fast on one CPU core.

use super::ModelError;
use super::layers::{Conv, Linear};
use tch::Tensor;
use tch::nn::Path;

/// Two convolutions and two linear layers; 206,922 values with 1 channel and 10 classes.
#[derive(Debug)]
pub(super) struct Cnn {
    conv1: Conv,
    conv2: Conv,
    fc1: Linear,
    fc2: Linear,
}

impl Cnn {
    const CHANNELS: (i64, i64) = (16, 32);
    const HIDDEN: i64 = 128;
    /// Height and width after the second pooling, whatever the image's: 28x28 comes to this by itself.
    const POOLED: i64 = 7;

    pub(super) fn new(path: &Path, channels: i64, classes: i64) -> Result<Self, ModelError> {
        let (first, second) = Self::CHANNELS;
        Ok(Self {
            conv1: Conv::new(&(path / "conv1"), channels, first, 3)?,
            conv2: Conv::new(&(path / "conv2"), first, second, 3)?,
            fc1: Linear::new(&(path / "fc1"), second * Self::POOLED * Self::POOLED, Self::HIDDEN)?,
            fc2: Linear::new(&(path / "fc2"), Self::HIDDEN, classes)?,
        })
    }

    /// N x C x H x W to N x classes.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        // Pooling before the rectifier gives the same values and leaves it a quarter of the work.
        let hidden = self.conv1.forward(input)?.f_max_pool2d(2, 2, 0, 1, true)?.f_relu_()?;
        let (mut pooled, _) = self.conv2.forward(&hidden)?.f_adaptive_max_pool2d([Self::POOLED, Self::POOLED])?;
        let hidden = self.fc1.forward(&pooled.f_relu_()?.f_flatten(1, -1)?)?.f_relu_()?;
        self.fc2.forward(&hidden)
    }
}
