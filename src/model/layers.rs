//! The layers that networks are built of.
//!
//! tch has these too, but its `forward` panics where libtorch fails, and running out of memory at a large batch is a
//! matter of configuration. Weights are created without random values; [`super::Network`] fills them in.

use super::ModelError;
use tch::Tensor;
use tch::nn::{Init, Path};

/// A square 2D convolution over N x C x H x W, padded by half the kernel: with stride 1 and an odd kernel, height and
/// width stay.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
}

impl Conv {
    /// With a bias.
    pub(super) fn new(path: &Path, inputs: i64, outputs: i64, kernel: i64) -> Result<Self, ModelError> {
        let bias = Some(path.f_zeros("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(path, inputs, outputs, kernel, 1)? })
    }

    /// Without one, for where a batch normalisation follows: it would take the bias away again.
    pub(super) fn without_bias(
        path: &Path,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        stride: i64,
    ) -> Result<Self, ModelError> {
        let weight = path.f_zeros("weight", &[outputs, inputs, kernel, kernel])?;
        Ok(Self { weight, bias: None, stride })
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let padding = self.weight.size()[3] / 2;
        Ok(input.f_conv2d(&self.weight, self.bias.as_ref(), self.stride, padding, 1, 1)?)
    }
}

/// Batch normalisation over N x C x H x W (Ioffe and Szegedy 2015, arXiv:1502.03167) with PyTorch's defaults.
#[derive(Debug)]
pub(super) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// How far a batch moves the running statistics.
    const MOMENTUM: f64 = 0.1;
    const EPSILON: f64 = 1e-5;

    pub(super) fn new(path: &Path, channels: i64) -> Result<Self, ModelError> {
        Ok(Self {
            weight: path.f_var("weight", &[channels], Init::Const(1.0))?,
            bias: path.f_zeros("bias", &[channels])?,
            running_mean: path.f_zeros_no_train("running_mean", &[channels])?,
            running_var: path.f_ones_no_train("running_var", &[channels])?,
        })
    }

    pub(super) fn forward(&self, input: &Tensor, training: bool) -> Result<Tensor, ModelError> {
        // The unbiased variance of one value is 0 / 0: libtorch would make the running variance NaN without a word.
        if training && input.numel() as i64 == self.weight.size()[0] {
            return Err(ModelError::BatchOfOne);
        }
        Ok(input.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            training,
            Self::MOMENTUM,
            Self::EPSILON,
            true,
        )?)
    }
}

/// A fully connected layer over N x inputs.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(path: &Path, inputs: i64, outputs: i64) -> Result<Self, ModelError> {
        Ok(Self { weight: path.f_zeros("weight", &[outputs, inputs])?, bias: path.f_zeros("bias", &[outputs])? })
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }
}
