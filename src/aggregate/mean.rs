//! Federated averaging: the new model is the current one and the mean of what the updates change, by each one's share of the
//! weight (McMahan et al. 2017, arXiv:1602.05629).
//!
//! Changes, sums and means of floats are f64, those of integers exact. A value that no update changes keeps its bits.

use crate::wire::{
    Base, BlockSource, ChangeSink, Dtype, Parameters, Plan, ReadError, Schema, Stretch, TensorSpec, Values,
};
use rayon::prelude::*;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Why updates could not be combined.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// The update is of another model. It is checked before it comes here.
    #[error("the update's schema is not the run's")]
    Schema,
    /// No update was added.
    #[error("there is nothing to combine")]
    Nothing,
    /// The new value is beyond f32.
    #[error("the mean of tensor '{0}' is not finite")]
    NotFinite(String),
    /// The body, which is checked before it comes here, or the file that it is in.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// libtorch, for instance out of memory.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// A running weighted sum of changes. Updates are added block by block, so that memory is that of one sum (8 bytes for a float,
/// 16 for an integer) and a few blocks, however many clients there are and however large their updates.
#[derive(Debug)]
pub struct WeightedMean {
    schema: Arc<Schema>,
    /// Where floats are added; in memory, if none.
    device: Option<Device>,
    /// One a tensor, in the schema's order.
    sums: Vec<Sum>,
    /// Of all updates together.
    shares: f64,
    /// The same in parts of [`WHOLE`].
    parts: i128,
}

#[derive(Debug)]
enum Sum {
    /// Floats in memory, where blocks are added side by side, as they are decoded.
    Memory(Vec<f64>),
    /// Floats on a device, to which the changes of decoded blocks are copied to be added there.
    Device(Tensor),
    /// Integers, each change times its parts.
    Integers(Vec<i128>),
}

/// A share of 1, in the arithmetic of integers: changes of up to 2^64 times this stay within i128.
const WHOLE: i128 = 1 << 60;

/// How far shares that add up to 1 may be from it, by rounding.
const ROUNDING: f64 = 1e-9;

/// Blocks that are decoded side by side before they are copied to a device.
const BLOCKS_TO_DEVICE: usize = 16;

/// Values that one thread works on at a time, at least.
const VALUES_A_TASK: usize = 1 << 15;

impl WeightedMean {
    /// An empty sum, in memory for [`Device::Cpu`], else on that device; integers are in memory in any case.
    ///
    /// # Errors
    /// libtorch.
    pub fn new(schema: Arc<Schema>, device: Device) -> Result<Self, AggregateError> {
        Self::on(schema, Some(device).filter(|device| *device != Device::Cpu))
    }

    fn on(schema: Arc<Schema>, device: Option<Device>) -> Result<Self, AggregateError> {
        let sum = |spec: &TensorSpec| {
            let len = spec.values().unwrap_or(0) as usize; // of a schema: at most `MAX_VALUES`
            Ok::<_, AggregateError>(match (spec.dtype, device) {
                (Dtype::I64, _) => Sum::Integers(vec![0; len]),
                (Dtype::F32, None) => Sum::Memory(vec![0.0; len]),
                (Dtype::F32, Some(device)) => Sum::Device(Tensor::f_zeros([len as i64], (Kind::Double, device))?),
            })
        };
        let sums = schema.tensors().iter().map(sum).collect::<Result<_, _>>()?;
        Ok(Self { schema, device, sums, shares: 0.0, parts: 0 })
    }

    /// Adds what an update, which has been checked as a whole, changes from the version that it was trained from.
    ///
    /// # Errors
    /// Another schema; then the sum is unchanged. Whatever else; then the sum is no longer of use.
    pub fn fold(
        &mut self,
        plan: &Plan,
        source: &(impl BlockSource + ?Sized),
        base: Base<'_>,
        share: f64,
    ) -> Result<(), AggregateError> {
        if plan.schema().digest() != self.schema.digest() {
            return Err(AggregateError::Schema);
        }
        let parts = (share * WHOLE as f64).round() as i128;
        let mut tensors: Vec<_> = self.sums.iter().map(Sum::tensor).collect();
        let mut slots = plan.cut(self.sums.iter_mut().map(Sum::slot)).into_iter();
        let count = plan.block_count();
        let batch = if self.device.is_some() { BLOCKS_TO_DEVICE } else { count.max(1) };
        for first in (0..count).step_by(batch) {
            let blocks = first..count.min(first + batch);
            let add = |slots| Add { slots, share, parts, elsewhere: Vec::new() };
            let sinks = slots.by_ref().take(blocks.len()).map(add).collect();
            let read = plan.read_changes(source, base, blocks.clone(), sinks)?;
            for (block, Add { elsewhere, .. }) in blocks.zip(read) {
                if let Some(device) = self.device.filter(|_| !elsewhere.is_empty()) {
                    add_on_device(plan, block, &elsewhere, device, &mut tensors, share)?;
                }
            }
        }
        self.shares += share;
        self.parts += parts;
        Ok(())
    }

    /// The current model, moved by the sum. The mean change of an integer is rounded to the nearest, ties to even.
    ///
    /// # Errors
    /// No update was added, or the result is not finite. libtorch.
    ///
    /// # Panics
    /// If the current model is not of the schema.
    pub fn finish(self, current: &Parameters) -> Result<Parameters, AggregateError> {
        assert_eq!(self.schema.digest(), current.schema().digest(), "parameters of one model");
        if self.shares == 0.0 {
            return Err(AggregateError::Nothing);
        }
        let whole = if (self.shares - 1.0).abs() < ROUNDING { self.parts } else { WHOLE };
        // One tensor after the other, so that a sum's memory is free before the next tensor takes some.
        let each = self.sums.into_iter().zip(current.iter()).map(|(sum, (spec, current))| match (sum, current) {
            (Sum::Memory(sum), Values::F32(current)) => moved(&sum, current, spec),
            (Sum::Device(sum), Values::F32(current)) => {
                moved(&Vec::try_from(&sum.f_to_device(Device::Cpu)?)?, current, spec)
            }
            (Sum::Integers(sum), Values::I64(current)) => Ok(counted(&sum, current, whole)),
            _ => Err(AggregateError::Schema),
        });
        let values = each.collect::<Result<_, _>>()?;
        Ok(Parameters::new(self.schema, values))
    }
}

impl Sum {
    /// The same memory of the device.
    fn tensor(&self) -> Option<Tensor> {
        if let Self::Device(tensor) = self { Some(tensor.shallow_clone()) } else { None }
    }

    fn slot(&mut self) -> Slot<'_> {
        match self {
            Self::Memory(sum) => Slot::Floats(sum),
            Self::Device(tensor) => Slot::Elsewhere(tensor.numel()),
            Self::Integers(sum) => Slot::Integers(sum),
        }
    }
}

/// Memory for the sums of a tensor, or of a piece of it.
enum Slot<'a> {
    Floats(&'a mut [f64]),
    Integers(&'a mut [i128]),
    /// That many floats on a device.
    Elsewhere(usize),
}

impl Stretch for Slot<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Floats(sums) => sums.len(),
            Self::Integers(sums) => sums.len(),
            Self::Elsewhere(len) => *len,
        }
    }

    fn split_off(&mut self, len: usize) -> Self {
        match self {
            Self::Floats(rest) => Self::Floats(rest.split_off(len)),
            Self::Integers(rest) => Self::Integers(rest.split_off(len)),
            Self::Elsewhere(rest) => {
                *rest -= len;
                Self::Elsewhere(len)
            }
        }
    }
}

/// Adds the changes of a block, weighted, to the sums of their places; keeps those that belong to a device.
struct Add<'a> {
    slots: Vec<Slot<'a>>,
    share: f64,
    parts: i128,
    elsewhere: Vec<f64>,
}

impl ChangeSink for Add<'_> {
    fn floats(&mut self, piece: usize, at: usize, changes: &[f64]) {
        if let Some(Slot::Floats(sums)) = self.slots.get_mut(piece) {
            for (sum, change) in sums[at..at + changes.len()].iter_mut().zip(changes) {
                *sum += self.share * change;
            }
        } else {
            self.elsewhere.extend_from_slice(changes);
        }
    }

    fn integers(&mut self, piece: usize, at: usize, changes: &[i128]) {
        if let Some(Slot::Integers(sums)) = self.slots.get_mut(piece) {
            for (sum, change) in sums[at..at + changes.len()].iter_mut().zip(changes) {
                *sum += self.parts * change;
            }
        }
    }
}

/// Copies the changes of a block to the device, and adds each of its pieces to the sum of its tensor.
fn add_on_device(
    plan: &Plan,
    block: usize,
    changes: &[f64],
    device: Device,
    sums: &mut [Option<Tensor>],
    share: f64,
) -> Result<(), AggregateError> {
    tch::no_grad(|| {
        let changes = Tensor::f_from_slice(changes)?.f_to_device(device)?.f_mul_scalar(share)?;
        let mut from = 0;
        for (tensor, place) in plan.pieces(block) {
            let (start, len) = (place.start as i64, place.len() as i64); // of a schema: at most `MAX_VALUES`
            if let Some(sum) = &sums[tensor] {
                let _ = sum.f_narrow(0, start, len)?.f_add_(&changes.f_narrow(0, from, len)?)?;
            }
            from += len;
        }
        Ok(())
    })
}

/// The values of a tensor, each moved by its change.
fn moved(changes: &[f64], current: &[f32], spec: &TensorSpec) -> Result<Values, AggregateError> {
    // Not by way of f64 where nothing changes: -0.0 would become 0.0.
    let value = |(change, value): (&f64, &f32)| match *change == 0.0 {
        true => *value,
        false => (f64::from(*value) + change) as f32,
    };
    let values: Vec<f32> = changes.par_iter().with_min_len(VALUES_A_TASK).zip(current).map(value).collect();
    let is_finite = values.par_chunks(VALUES_A_TASK).all(|values| values.iter().all(|value| value.is_finite()));
    if is_finite { Ok(Values::F32(values)) } else { Err(AggregateError::NotFinite(spec.name.clone())) }
}

/// The integers of a tensor, each moved by its sum in parts of the whole.
fn counted(sums: &[i128], current: &[i64], whole: i128) -> Values {
    let value = |(sum, value): (&i128, &i64)| {
        let (down, rest) = (sum.div_euclid(whole), sum.rem_euclid(whole));
        let change = match (2 * rest).cmp(&whole) {
            std::cmp::Ordering::Less => down,
            std::cmp::Ordering::Equal => down + (down & 1),
            std::cmp::Ordering::Greater => down + 1,
        };
        // A stale change may lead further than from its own base.
        (i128::from(*value) + change).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    };
    Values::I64(sums.iter().zip(current).map(value).collect())
}

#[cfg(test)]
mod tests;
