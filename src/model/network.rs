//! A network with its parameters.

use super::ModelError;
use super::cnn::Cnn;
use super::resnet::{Block, Resnet};
use crate::wire::{Dtype, Parameters, Schema, TensorSpec, Values};
use app::api::{Architecture, ModelSpec};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor, no_grad};

/// A network on a device. It can be sent to another thread, not shared between threads.
#[derive(Debug)]
pub struct Network {
    spec: ModelSpec,
    store: VarStore,
    layers: Layers,
    schema: Arc<Schema>,
    /// The tensors of `store`, in the schema's order.
    variables: Vec<Tensor>,
}

#[derive(Debug)]
enum Layers {
    Cnn(Cnn),
    Resnet(Resnet),
}

impl Layers {
    fn new(spec: &ModelSpec, path: &Path) -> Result<Self, ModelError> {
        let (channels, classes) = (i64::from(spec.channels), i64::from(spec.classes));
        let (block, depths) = match spec.architecture {
            Architecture::Cnn => return Ok(Self::Cnn(Cnn::new(path, channels, classes)?)),
            Architecture::Resnet18 => (Block::Basic, [2, 2, 2, 2]),
            Architecture::Resnet34 => (Block::Basic, [3, 4, 6, 3]),
            Architecture::Resnet50 => (Block::Bottleneck, [3, 4, 6, 3]),
        };
        Ok(Self::Resnet(Resnet::new(path, block, depths, spec.stem, channels, classes)?))
    }
}

impl Network {
    /// The network of `spec` with initial parameters drawn from its seed: the same on every machine.
    ///
    /// # Errors
    /// The spec is out of bounds, or the device has no memory for it.
    pub fn new(spec: &ModelSpec, device: Device) -> Result<Self, ModelError> {
        let mut network = Self::blank(spec, device)?;
        network.initialise()?;
        Ok(network)
    }

    /// With zeros for weights.
    pub(super) fn blank(spec: &ModelSpec, device: Device) -> Result<Self, ModelError> {
        let problems = spec.problems();
        if !problems.is_empty() {
            return Err(ModelError::Spec(problems));
        }
        let store = VarStore::new(device);
        let layers = Layers::new(spec, &store.root())?;
        let mut named: Vec<_> = store.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let (tensors, variables) = named
            .into_iter()
            .map(|(name, variable)| {
                let shape = variable.size().into_iter().map(i64::cast_unsigned).collect();
                (TensorSpec { name, dtype: Dtype::F32, shape }, variable)
            })
            .unzip();
        let schema = Arc::new(Schema::new(tensors)?);
        Ok(Self { spec: spec.clone(), store, layers, schema, variables })
    }

    /// Draws the weights as torchvision does: convolutions Kaiming-normal by fan-out (He et al. 2015,
    /// arXiv:1502.01852), linear layers uniform within 1 / sqrt(inputs); biases stay 0 and normalisations the identity.
    ///
    /// Each tensor has a ChaCha stream of its own, numbered by its place in the schema, so that no value depends on
    /// the order in which layers are made.
    fn initialise(&mut self) -> Result<(), ModelError> {
        for (stream, (tensor, variable)) in (0..).zip(self.schema.tensors().iter().zip(&mut self.variables)) {
            let mut rng = ChaCha8Rng::seed_from_u64(self.spec.seed);
            rng.set_stream(stream);
            let count = variable.numel();
            let values: Vec<f32> = match *tensor.shape {
                [outputs, _, height, width] => {
                    let deviation = (2.0 / (outputs * height * width) as f32).sqrt();
                    let normal = StandardNormal.sample_iter(&mut rng).take(count);
                    normal.map(|z: f32| z * deviation).collect()
                }
                [_, inputs] => {
                    let bound = 1.0 / (inputs as f32).sqrt();
                    (0..count).map(|_| rng.random_range(-bound..bound)).collect()
                }
                _ => continue,
            };
            fill(variable, &values)?;
        }
        Ok(())
    }

    /// What the network was made from.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.store.device()
    }

    /// Its parameters and its running statistics, by name.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// How many values training changes: all but the running statistics.
    pub fn trainable_values(&self) -> u64 {
        self.store.trainable_variables().iter().map(|v| v.numel() as u64).sum()
    }

    /// A copy of its parameters and its running statistics.
    ///
    /// # Errors
    /// The device fails.
    pub fn parameters(&self) -> Result<Parameters, ModelError> {
        let values = self.variables.iter().map(|variable| {
            let mut values = vec![0f32; variable.numel()];
            variable.f_copy_data(&mut values, variable.numel())?;
            Ok(Values::F32(values))
        });
        Ok(Parameters::new(self.schema.clone(), values.collect::<Result<_, ModelError>>()?))
    }

    /// Takes over parameters and running statistics.
    ///
    /// # Errors
    /// They are of another schema: nothing is changed. Or the device fails.
    pub fn load(&mut self, parameters: &Parameters) -> Result<(), ModelError> {
        if **parameters.schema() != *self.schema {
            return Err(other_schema(parameters.schema(), &self.schema));
        }
        for (variable, values) in self.variables.iter_mut().zip(parameters.values()) {
            // Our schema has no other dtype.
            if let Values::F32(values) = values {
                fill(variable, values)?;
            }
        }
        Ok(())
    }

    /// Normalised images, N x C x H x W, to scores, N x classes.
    pub(super) fn forward(&self, images: &Tensor, training: bool) -> Result<Tensor, ModelError> {
        match &self.layers {
            Layers::Cnn(cnn) => cnn.forward(images),
            Layers::Resnet(resnet) => resnet.forward(images, training),
        }
    }

    /// For an optimizer.
    pub(super) fn store(&self) -> &VarStore {
        &self.store
    }
}

fn fill(variable: &mut Tensor, values: &[f32]) -> Result<(), ModelError> {
    let values = Tensor::f_from_slice(values)?.f_view(variable.size().as_slice())?;
    Ok(no_grad(|| variable.f_copy_(&values))?)
}

fn other_schema(found: &Schema, expected: &Schema) -> ModelError {
    let (found, expected) = (found.tensors(), expected.tensors());
    let parts = (0..).find(|&i| found.get(i) != expected.get(i)).unwrap_or(0);
    let show = |tensors: &[TensorSpec]| match tensors.get(parts) {
        Some(TensorSpec { name, dtype, shape }) => format!("{name} {dtype:?} {shape:?}"),
        None => "nothing".to_owned(),
    };
    let first = format!("{} instead of {}", show(found), show(expected));
    ModelError::OtherSchema { found: found.len(), expected: expected.len(), first }
}

#[cfg(test)]
mod tests;
