//! Residual networks (He et al. 2015, arXiv:1512.03385), with torchvision's variable names, so that its checkpoints
//! and ours are the same tensors (but for `num_batches_tracked`, which nothing reads where momentum is fixed).

use super::ModelError;
use super::layers::{BatchNorm, Conv, Linear};
use app::api::Stem;
use tch::nn::Path;
use tch::{Kind, Tensor};

/// What a residual block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// Two 3x3 convolutions: ResNet-18 and 34.
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions, the last four times as wide; the stride is on the 3x3 one ("ResNet v1.5").
    Bottleneck,
}

/// A convolution and its batch normalisation.
#[derive(Debug)]
struct Unit {
    conv: Conv,
    bn: BatchNorm,
}

impl Unit {
    /// `conv` and `bn` are the paths of its two halves.
    fn new(conv: &Path, bn: &Path, io: (i64, i64), kernel: i64, stride: i64) -> Result<Self, ModelError> {
        Ok(Self { conv: Conv::without_bias(conv, io.0, io.1, kernel, stride)?, bn: BatchNorm::new(bn, io.1)? })
    }

    fn forward(&self, input: &Tensor, training: bool) -> Result<Tensor, ModelError> {
        self.bn.forward(&self.conv.forward(input)?, training)
    }
}

#[derive(Debug)]
struct Residual {
    units: Vec<Unit>,
    /// Brings the input to the output's shape, where the two differ.
    downsample: Option<Unit>,
}

impl Residual {
    fn new(path: &Path, block: Block, inputs: i64, width: i64, stride: i64) -> Result<Self, ModelError> {
        let outputs = width * block.expansion();
        // Inputs, outputs, kernel, stride.
        let plan = match block {
            Block::Basic => vec![(inputs, width, 3, stride), (width, width, 3, 1)],
            Block::Bottleneck => vec![(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)],
        };
        let units = (1..)
            .zip(plan)
            .map(|(i, (inputs, outputs, kernel, stride))| {
                let (conv, bn) = (path / format!("conv{i}"), path / format!("bn{i}"));
                Unit::new(&conv, &bn, (inputs, outputs), kernel, stride)
            })
            .collect::<Result<_, _>>()?;
        let downsample = if stride != 1 || inputs != outputs {
            let path = path / "downsample";
            Some(Unit::new(&(&path / "0"), &(&path / "1"), (inputs, outputs), 1, stride)?)
        } else {
            None
        };
        Ok(Self { units, downsample })
    }

    fn forward(&self, input: &Tensor, training: bool) -> Result<Tensor, ModelError> {
        let mut hidden = input.shallow_clone();
        for (i, unit) in self.units.iter().enumerate() {
            hidden = unit.forward(&hidden, training)?;
            if i + 1 < self.units.len() {
                hidden = hidden.f_relu_()?;
            }
        }
        let shortcut = match &self.downsample {
            Some(unit) => unit.forward(input, training)?,
            None => input.shallow_clone(),
        };
        Ok(hidden.f_add_(&shortcut)?.f_relu_()?)
    }
}

impl Block {
    /// How much wider a block's output is than its 3x3 convolutions.
    fn expansion(self) -> i64 {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// A residual network for images of any size.
#[derive(Debug)]
pub(super) struct Resnet {
    stem: Unit,
    /// 3x3 max-pooling of stride 2 after the stem.
    pool: bool,
    blocks: Vec<Residual>,
    fc: Linear,
}

impl Resnet {
    /// `depths` is the number of blocks in each of the four layers.
    pub(super) fn new(
        path: &Path,
        block: Block,
        depths: [usize; 4],
        stem: Stem,
        channels: i64,
        classes: i64,
    ) -> Result<Self, ModelError> {
        let (kernel, stride, pool) = match stem {
            Stem::Imagenet => (7, 2, true),
            Stem::Cifar => (3, 1, false),
        };
        let mut inputs = 64;
        let stem = Unit::new(&(path / "conv1"), &(path / "bn1"), (channels, inputs), kernel, stride)?;
        let mut blocks = Vec::new();
        for (layer, (depth, width)) in depths.into_iter().zip([64, 128, 256, 512]).enumerate() {
            let path = path / format!("layer{}", layer + 1);
            for i in 0..depth {
                let stride = if layer > 0 && i == 0 { 2 } else { 1 };
                blocks.push(Residual::new(&(&path / i), block, inputs, width, stride)?);
                inputs = width * block.expansion();
            }
        }
        Ok(Self { stem, pool, blocks, fc: Linear::new(&(path / "fc"), inputs, classes)? })
    }

    /// N x C x H x W to N x classes.
    pub(super) fn forward(&self, input: &Tensor, training: bool) -> Result<Tensor, ModelError> {
        let mut hidden = self.stem.forward(input, training)?.f_relu_()?;
        if self.pool {
            hidden = hidden.f_max_pool2d(3, 2, 1, 1, false)?;
        }
        for block in &self.blocks {
            hidden = block.forward(&hidden, training)?;
        }
        self.fc.forward(&hidden.f_mean_dim([2i64, 3].as_slice(), false, None::<Kind>)?)
    }
}
