//! Federated averaging: the mean of the updates, weighted by their samples (McMahan et al. 2017, arXiv:1602.05629), or of
//! what they change, weighted by their staleness too (FedBuff, see [`super::Weights`]).

use crate::wire::{Base, BlockSource, Dtype, Parameters, Plan, ReadError, Schema, Sink, Slot, TensorSpec, Values};
use rayon::prelude::*;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Why updates could not be combined.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// The update is of another model. It is checked before it comes here.
    #[error("the update's schema is not the run's")]
    Schema,
    /// No update was folded in.
    #[error("there is nothing to combine")]
    Nothing,
    /// The sum left the range of f32.
    #[error("the mean of tensor '{0}' is not finite")]
    NotFinite(String),
    /// The body, which is checked before it comes here, or the file that it is in.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// libtorch, for instance out of memory.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// A running weighted sum. Updates are folded in block by block, so that memory is that of one sum and a few
/// blocks, however many clients there are and however large their updates.
#[derive(Debug)]
pub struct WeightedMean {
    schema: Arc<Schema>,
    sums: Sums,
    weight: f64,
}

/// One a tensor, in the schema's order: f32 for floating point, f64 for integers (exact up to 2^53).
#[derive(Debug)]
enum Sums {
    /// In memory, where blocks are added side by side, as they are decoded.
    Cpu(Vec<Sum>),
    /// On a device, to which decoded blocks are copied to be added there.
    Device(Device, Vec<Tensor>),
}

#[derive(Debug)]
enum Sum {
    F32(Vec<f32>),
    I64(Vec<f64>),
}

/// Blocks that are decoded side by side before they are copied to a device.
const BLOCKS_TO_DEVICE: usize = 16;

impl WeightedMean {
    /// An empty sum, in memory for [`Device::Cpu`], else on that device.
    ///
    /// # Errors
    /// libtorch.
    pub fn new(schema: Arc<Schema>, device: Device) -> Result<Self, AggregateError> {
        if device == Device::Cpu { Ok(Self::in_memory(schema)) } else { Self::on_device(schema, device) }
    }

    fn in_memory(schema: Arc<Schema>) -> Self {
        let sum = |spec: &TensorSpec| {
            let len = spec.values().unwrap_or(0) as usize; // of a schema: at most `MAX_VALUES`
            match spec.dtype {
                Dtype::F32 => Sum::F32(vec![0.0; len]),
                Dtype::I64 => Sum::I64(vec![0.0; len]),
            }
        };
        Self { sums: Sums::Cpu(schema.tensors().iter().map(sum).collect()), schema, weight: 0.0 }
    }

    fn on_device(schema: Arc<Schema>, device: Device) -> Result<Self, AggregateError> {
        let sum = |spec: &TensorSpec| {
            let kind = match spec.dtype {
                Dtype::F32 => Kind::Float,
                Dtype::I64 => Kind::Double,
            };
            let len = spec.values().and_then(|n| i64::try_from(n).ok()).ok_or(AggregateError::Schema)?;
            Ok::<_, AggregateError>(Tensor::f_zeros([len], (kind, device))?)
        };
        let sums = schema.tensors().iter().map(sum).collect::<Result<_, _>>()?;
        Ok(Self { sums: Sums::Device(device, sums), schema, weight: 0.0 })
    }

    /// Adds an update, which has been checked as a whole.
    ///
    /// # Errors
    /// Another schema; then the sum is unchanged. Whatever else; then the sum is no longer of use.
    pub fn fold(
        &mut self,
        plan: &Plan,
        source: &(impl BlockSource + ?Sized),
        base: Option<Base<'_>>,
        weight: f64,
    ) -> Result<(), AggregateError> {
        if plan.schema().digest() != self.schema.digest() {
            return Err(AggregateError::Schema);
        }
        match &mut self.sums {
            Sums::Cpu(sums) => {
                let slots = plan.cut(sums.iter_mut().map(|sum| match sum {
                    Sum::F32(sum) => Slot::F32(sum),
                    Sum::I64(sum) => Slot::I64(sum),
                }));
                let sinks = slots.into_iter().map(|slots| Add { slots, weight }).collect();
                plan.read_blocks(source, base, 0..plan.block_count(), sinks)?;
            }
            Sums::Device(device, sums) => {
                for first in (0..plan.block_count()).step_by(BLOCKS_TO_DEVICE) {
                    let blocks = first..plan.block_count().min(first + BLOCKS_TO_DEVICE);
                    let sinks = blocks.clone().map(|_| Collect::default()).collect();
                    let decoded = plan.read_blocks(source, base, blocks.clone(), sinks)?;
                    for (block, decoded) in blocks.zip(decoded) {
                        add_on_device(plan, block, &decoded, *device, sums, weight)?;
                    }
                }
            }
        }
        self.weight += weight;
        Ok(())
    }

    /// Adds parameters that are in memory; a negative weight takes them away.
    ///
    /// # Errors
    /// Another schema; then the sum is unchanged. libtorch.
    pub fn add(&mut self, parameters: &Parameters, weight: f64) -> Result<(), AggregateError> {
        if parameters.schema().digest() != self.schema.digest() {
            return Err(AggregateError::Schema);
        }
        let values: Vec<_> = parameters.iter().map(|(_, values)| values).collect();
        match &mut self.sums {
            Sums::Cpu(sums) => {
                sums.par_iter_mut().zip(values).for_each(|(sum, values)| match (sum, values) {
                    (Sum::F32(sum), Values::F32(values)) => {
                        let weight = weight as f32;
                        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                    }
                    (Sum::I64(sum), Values::I64(values)) => {
                        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * *value as f64);
                    }
                    _ => {} // not with the same schema
                });
            }
            Sums::Device(device, sums) => tch::no_grad(|| {
                for (sum, values) in sums.iter_mut().zip(values) {
                    let values = match values {
                        Values::F32(values) => Tensor::f_from_slice(values)?.f_to_device(*device)?,
                        Values::I64(values) => {
                            Tensor::f_from_slice(values)?.f_to_device(*device)?.f_to_kind(Kind::Double)?
                        }
                    };
                    let _ = sum.f_add_(&values.f_mul_scalar(weight)?)?;
                }
                Ok::<_, AggregateError>(())
            })?,
        }
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
        let sums = match self.sums {
            Sums::Cpu(sums) => sums,
            Sums::Device(_, tensors) => {
                tensors.iter().zip(self.schema.tensors()).map(to_memory).collect::<Result<_, _>>()?
            }
        };
        let weight = self.weight;
        let tensors = sums.into_par_iter().zip(self.schema.tensors());
        let all = tensors.map(|(sum, spec)| match sum {
            Sum::F32(mut values) => {
                let mut finite = true;
                for value in &mut values {
                    *value = (f64::from(*value) / weight) as f32;
                    finite &= value.is_finite();
                }
                if finite { Ok(Values::F32(values)) } else { Err(AggregateError::NotFinite(spec.name.clone())) }
            }
            // A mean of 64-bit integers is within their range.
            Sum::I64(sums) => Ok(Values::I64(sums.iter().map(|sum| (sum / weight).round_ties_even() as i64).collect())),
        });
        let all = all.collect::<Result<_, _>>()?;
        Ok(Parameters::new(self.schema, all))
    }
}

fn to_memory((tensor, spec): (&Tensor, &TensorSpec)) -> Result<Sum, AggregateError> {
    let tensor = tensor.f_to_device(Device::Cpu)?;
    Ok(match spec.dtype {
        Dtype::F32 => Sum::F32(Vec::try_from(&tensor)?),
        Dtype::I64 => Sum::I64(Vec::try_from(&tensor)?),
    })
}

/// Adds the values of a block, weighted, to the sums of their places.
struct Add<'a> {
    slots: Vec<Slot<'a, f64>>,
    weight: f64,
}

impl Sink for Add<'_> {
    fn floats(&mut self, piece: usize, at: usize, values: &[f32]) {
        let weight = self.weight as f32;
        if let Some(Slot::F32(sums)) = self.slots.get_mut(piece) {
            for (sum, value) in sums[at..at + values.len()].iter_mut().zip(values) {
                *sum += weight * value;
            }
        }
    }

    fn integers(&mut self, piece: usize, at: usize, values: &[i64]) {
        if let Some(Slot::I64(sums)) = self.slots.get_mut(piece) {
            for (sum, value) in sums[at..at + values.len()].iter_mut().zip(values) {
                *sum += self.weight * *value as f64;
            }
        }
    }
}

/// Keeps the values of a block: one of the two is empty.
#[derive(Default)]
struct Collect {
    floats: Vec<f32>,
    integers: Vec<i64>,
}

impl Sink for Collect {
    fn floats(&mut self, _: usize, _: usize, values: &[f32]) {
        self.floats.extend_from_slice(values);
    }

    fn integers(&mut self, _: usize, _: usize, values: &[i64]) {
        self.integers.extend_from_slice(values);
    }
}

/// Copies a decoded block to the device, and adds each of its pieces to the sum of its tensor.
fn add_on_device(
    plan: &Plan,
    block: usize,
    decoded: &Collect,
    device: Device,
    sums: &mut [Tensor],
    weight: f64,
) -> Result<(), AggregateError> {
    tch::no_grad(|| {
        let values = if decoded.integers.is_empty() {
            Tensor::f_from_slice(&decoded.floats)?.f_to_device(device)?
        } else {
            Tensor::f_from_slice(&decoded.integers)?.f_to_device(device)?.f_to_kind(Kind::Double)?
        };
        let values = values.f_mul_scalar(weight)?;
        let mut from = 0;
        for (tensor, place) in plan.pieces(block) {
            let (start, len) = (place.start as i64, place.len() as i64); // of a schema: at most `MAX_VALUES`
            let mut sum = sums[tensor].f_narrow(0, start, len)?;
            let _ = sum.f_add_(&values.f_narrow(0, from, len)?)?;
            from += len;
        }
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{self, BodyFormat};
    use app::api::Encoding;

    fn schema() -> Arc<Schema> {
        let spec = |name: &str, dtype, shape| TensorSpec { name: name.into(), dtype, shape };
        Arc::new(Schema::new(vec![spec("count", Dtype::I64, vec![]), spec("w", Dtype::F32, vec![2])]).unwrap())
    }

    fn update(count: i64, w: [f32; 2]) -> Parameters {
        Parameters::new(schema(), vec![Values::I64(vec![count]), Values::F32(w.to_vec())])
    }

    /// Both ways to add: in memory, and with tensors on a device (here the CPU, as any machine has one).
    fn both() -> [WeightedMean; 2] {
        [WeightedMean::in_memory(schema()), WeightedMean::on_device(schema(), Device::Cpu).unwrap()]
    }

    fn fold(mean: &mut WeightedMean, update: &Parameters, samples: u64) -> Result<(), AggregateError> {
        let body = wire::encode(update, Encoding::F32, None).unwrap();
        mean.fold(&Plan::of(BodyFormat::Container, &body).unwrap(), &body[..], None, samples as f64)
    }

    #[test]
    fn the_mean_is_weighted_by_samples() {
        for mut mean in both() {
            fold(&mut mean, &update(10, [1.0, -2.0]), 1).unwrap();
            fold(&mut mean, &update(20, [5.0, 2.0]), 3).unwrap();
            // (1*10 + 3*20) / 4 = 17.5, rounded to even; (1 + 15) / 4; (-2 + 6) / 4
            assert_eq!(mean.finish().unwrap(), update(18, [4.0, 1.0]));
        }
    }

    #[test]
    fn parameters_are_added_and_taken_away() {
        for mut mean in both() {
            fold(&mut mean, &update(10, [1.0, -2.0]), 2).unwrap();
            mean.add(&update(4, [0.5, 4.0]), 3.0).unwrap();
            mean.add(&update(2, [1.0, 1.0]), -1.0).unwrap();
            // (20 + 12 - 2) / 4 = 7.5, rounded to even; (2 + 1.5 - 1) / 4; (-4 + 12 - 1) / 4
            assert_eq!(mean.finish().unwrap(), update(8, [0.625, 1.75]));
        }
    }

    #[test]
    fn one_update_is_its_own_mean() {
        for mut mean in both() {
            fold(&mut mean, &update(3, [0.5, 0.25]), 7).unwrap();
            assert_eq!(mean.finish().unwrap(), update(3, [0.5, 0.25]));
        }
    }

    #[test]
    fn both_ways_give_the_same_for_tensors_that_share_blocks_and_blocks_that_cut_tensors() {
        let spec = |name: &str, shape| TensorSpec { name: name.into(), dtype: Dtype::F32, shape };
        let large = wire::MAX_BLOCK_VALUES as u64 + 5;
        let schema =
            Arc::new(Schema::new(vec![spec("a", vec![3]), spec("b", vec![large]), spec("c", vec![4])]).unwrap());
        let values = |len: u64| Values::F32((0..len).map(|i| i as f32 / 7.0).collect());
        let update = Parameters::new(schema.clone(), vec![values(3), values(large), values(4)]);

        let means = [WeightedMean::in_memory(schema.clone()), WeightedMean::on_device(schema, Device::Cpu).unwrap()];
        let [memory, device] = means.map(|mut mean| {
            fold(&mut mean, &update, 2).unwrap();
            fold(&mut mean, &update, 2).unwrap();
            mean.finish().unwrap()
        });
        assert!(memory == device && memory == update);
    }

    #[test]
    fn nothing_has_no_mean() {
        for mean in both() {
            assert!(matches!(mean.finish(), Err(AggregateError::Nothing)));
        }
    }

    #[test]
    fn a_sum_beyond_f32_is_refused_by_name() {
        for mut mean in both() {
            fold(&mut mean, &update(0, [f32::MAX, 0.0]), 2).unwrap();
            assert!(matches!(mean.finish(), Err(AggregateError::NotFinite(name)) if name == "w"));
        }
    }

    #[test]
    fn an_update_of_another_model_is_refused() {
        let other = Arc::new(Schema::new(vec![]).unwrap());
        for mut mean in both() {
            let refused = fold(&mut mean, &Parameters::new(other.clone(), vec![]), 1);
            assert!(matches!(refused, Err(AggregateError::Schema)));
        }
    }
}
