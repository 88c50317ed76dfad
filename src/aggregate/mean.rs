//! Federated averaging: the mean of the updates, weighted by their samples (McMahan et al. 2017, arXiv:1602.05629).

use crate::wire::{Parameters, Schema, Values};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Why updates could not be combined.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// The update is of another model. The decoders see to it that this does not happen.
    #[error("the update's schema is not the run's")]
    Schema,
    /// No update was folded in.
    #[error("there is nothing to combine")]
    Nothing,
    /// The sum left the range of f32.
    #[error("the mean of tensor '{0}' is not finite")]
    NotFinite(String),
    /// libtorch, for instance out of memory.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// A running weighted sum on a device. Updates are folded in as they come, so that memory is that of one sum and one
/// update, however many clients there are.
#[derive(Debug)]
pub struct WeightedMean {
    schema: Arc<Schema>,
    device: Device,
    /// One a tensor, in the schema's order: f32 for floating point, f64 for integers (exact up to 2^53).
    sums: Vec<Tensor>,
    weight: f64,
}

impl WeightedMean {
    /// An empty sum.
    ///
    /// # Errors
    /// libtorch.
    pub fn new(schema: Arc<Schema>, device: Device) -> Result<Self, AggregateError> {
        let sums = schema.tensors().iter().map(|spec| {
            let kind = match spec.dtype {
                crate::wire::Dtype::F32 => Kind::Float,
                crate::wire::Dtype::I64 => Kind::Double,
            };
            let values = spec.values().and_then(|n| i64::try_from(n).ok()).ok_or(AggregateError::Schema)?;
            Ok(Tensor::f_zeros([values], (kind, device))?)
        });
        Ok(Self { sums: sums.collect::<Result<_, AggregateError>>()?, schema, device, weight: 0.0 })
    }

    /// Adds an update.
    ///
    /// # Errors
    /// Another schema; then the sum is unchanged. libtorch; then the sum is no longer of use.
    pub fn fold(&mut self, update: &Parameters, samples: u64) -> Result<(), AggregateError> {
        if update.schema().digest() != self.schema.digest() {
            return Err(AggregateError::Schema);
        }
        let weight = samples as f64; // counts of images are far below 2^53
        tch::no_grad(|| {
            for (sum, values) in self.sums.iter_mut().zip(update.values()) {
                let tensor = match values {
                    Values::F32(values) => Tensor::f_from_slice(values)?.f_to_device(self.device)?,
                    Values::I64(values) => {
                        Tensor::f_from_slice(values)?.f_to_device(self.device)?.f_to_kind(Kind::Double)?
                    }
                };
                let _ = sum.f_add_(&tensor.f_mul_scalar(weight)?)?;
            }
            Ok::<_, AggregateError>(())
        })?;
        self.weight += weight;
        Ok(())
    }

    /// The mean. Integers are rounded to the nearest.
    ///
    /// # Errors
    /// Nothing was folded in, or the result is not finite.
    pub fn finish(self) -> Result<Parameters, AggregateError> {
        if self.weight == 0.0 {
            return Err(AggregateError::Nothing);
        }
        let mut all = Vec::with_capacity(self.sums.len());
        for (sum, spec) in self.sums.into_iter().zip(self.schema.tensors()) {
            let mean = sum.f_div_scalar(self.weight)?.f_to_device(Device::Cpu)?;
            let values = match spec.dtype {
                crate::wire::Dtype::F32 => {
                    let values = Vec::<f32>::try_from(&mean)?;
                    if values.iter().any(|v| !v.is_finite()) {
                        return Err(AggregateError::NotFinite(spec.name.clone()));
                    }
                    Values::F32(values)
                }
                crate::wire::Dtype::I64 => Values::I64(Vec::<i64>::try_from(&mean.f_round()?.f_to_kind(Kind::Int64)?)?),
            };
            all.push(values);
        }
        Ok(Parameters::new(self.schema, all))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, TensorSpec};

    fn schema() -> Arc<Schema> {
        let spec = |name: &str, dtype, shape| TensorSpec { name: name.into(), dtype, shape };
        Arc::new(Schema::new(vec![spec("count", Dtype::I64, vec![]), spec("w", Dtype::F32, vec![2])]).unwrap())
    }

    fn update(count: i64, w: [f32; 2]) -> Parameters {
        Parameters::new(schema(), vec![Values::I64(vec![count]), Values::F32(w.to_vec())])
    }

    #[test]
    fn the_mean_is_weighted_by_samples() {
        let mut mean = WeightedMean::new(schema(), Device::Cpu).unwrap();
        mean.fold(&update(10, [1.0, -2.0]), 1).unwrap();
        mean.fold(&update(20, [5.0, 2.0]), 3).unwrap();
        // (1*10 + 3*20) / 4 = 17.5, rounded to even; (1 + 15) / 4; (-2 + 6) / 4
        assert_eq!(mean.finish().unwrap(), update(18, [4.0, 1.0]));
    }

    #[test]
    fn one_update_is_its_own_mean() {
        let mut mean = WeightedMean::new(schema(), Device::Cpu).unwrap();
        mean.fold(&update(3, [0.5, 0.25]), 7).unwrap();
        assert_eq!(mean.finish().unwrap(), update(3, [0.5, 0.25]));
    }

    #[test]
    fn nothing_has_no_mean() {
        let mean = WeightedMean::new(schema(), Device::Cpu).unwrap();
        assert!(matches!(mean.finish(), Err(AggregateError::Nothing)));
    }

    #[test]
    fn a_sum_beyond_f32_is_refused_by_name() {
        let mut mean = WeightedMean::new(schema(), Device::Cpu).unwrap();
        mean.fold(&update(0, [f32::MAX, 0.0]), 2).unwrap();
        assert!(matches!(mean.finish(), Err(AggregateError::NotFinite(name)) if name == "w"));
    }

    #[test]
    fn an_update_of_another_model_is_refused() {
        let other = Arc::new(Schema::new(vec![]).unwrap());
        let mut mean = WeightedMean::new(schema(), Device::Cpu).unwrap();
        assert!(matches!(mean.fold(&Parameters::new(other, vec![]), 1), Err(AggregateError::Schema)));
    }
}
