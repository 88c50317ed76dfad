//! What an update changes: its values less the base as its sender received it, in f64; of integers exactly.
//!
//! The sender of `bf16` or `bf16-delta` rounds what it trained from to bf16, as the models that it fetches are; F16 and
//! BF16 of safetensors are rounded likewise. So the base is rounded in the same way, and a value that is sent back as it
//! was received changes by exactly 0.

use super::bf16;
use super::block::Sink;
use super::layout::{Block, TensorEncoding};
use super::tensor::{Parameters, Values};
use half::f16;

/// Values that are subtracted at a time: as many as the decoder passes on.
const STRIP_VALUES: usize = 1024;

/// What becomes of the changes of a block. `piece` is an index of the block's pieces, `at` the place in it.
pub trait ChangeSink {
    /// Changes of an F32 tensor.
    fn floats(&mut self, piece: usize, at: usize, changes: &[f64]);
    /// Changes of an I64 tensor.
    fn integers(&mut self, piece: usize, at: usize, changes: &[i128]);
}

/// Subtracts the base from the values of a block.
pub(super) struct Changes<'a, S> {
    pub block: &'a Block,
    pub base: &'a Parameters,
    pub sink: S,
}

impl<S: ChangeSink> Sink for Changes<'_, S> {
    fn floats(&mut self, piece: usize, at: usize, values: &[f32]) {
        let of = &self.block.pieces[piece];
        let Some(Values::F32(base)) = self.base.values().get(of.tensor) else { return };
        let base = &base[of.values.start + at..][..values.len()];
        let mut changes = [0.0; STRIP_VALUES];
        let strips = values.chunks(STRIP_VALUES).zip(base.chunks(STRIP_VALUES)).enumerate();
        for (strip, (values, base)) in strips {
            let changes = &mut changes[..values.len()];
            match self.block.encoding {
                TensorEncoding::Bf16 | TensorEncoding::Bf16Delta | TensorEncoding::RawBf16 => {
                    subtract(values, base, |base| bf16::widen(bf16::round(base)), changes);
                }
                TensorEncoding::RawF16 => subtract(values, base, through_f16, changes),
                _ => subtract(values, base, |base| base, changes),
            }
            self.sink.floats(piece, at + strip * STRIP_VALUES, changes);
        }
    }

    fn integers(&mut self, piece: usize, at: usize, values: &[i64]) {
        let of = &self.block.pieces[piece];
        let Some(Values::I64(base)) = self.base.values().get(of.tensor) else { return };
        let base = &base[of.values.start + at..][..values.len()];
        let changes: Vec<_> =
            values.iter().zip(base).map(|(value, base)| i128::from(*value) - i128::from(*base)).collect();
        self.sink.integers(piece, at, &changes);
    }
}

fn subtract(values: &[f32], base: &[f32], received: impl Fn(f32) -> f32, changes: &mut [f64]) {
    for ((change, value), base) in changes.iter_mut().zip(values).zip(base) {
        *change = f64::from(*value) - f64::from(received(*base));
    }
}

/// The value rounded to F16; itself where F16 has no finite value for it, which nobody can have sent.
fn through_f16(value: f32) -> f32 {
    let rounded = f16::from_f32(value).to_f32();
    if rounded.is_finite() { rounded } else { value }
}

/// Sums side by side, because the compiler may not reorder one: so it can vectorise, and the result is the same on every
/// machine.
const LANES: usize = 16;

/// Adds up the squares of the changes of F32 tensors. Integers do not count: they are no parameters.
#[derive(Debug, Clone, Default)]
pub struct Distance {
    sums: [f64; LANES],
}

impl Distance {
    /// The sum of the squares.
    pub fn squared(&self) -> f64 {
        self.sums.iter().sum()
    }
}

impl ChangeSink for Distance {
    fn floats(&mut self, _: usize, _: usize, changes: &[f64]) {
        let mut add = |changes: &[f64]| {
            for (sum, change) in self.sums.iter_mut().zip(changes) {
                *sum += change * change;
            }
        };
        let (lanes, rest) = changes.as_chunks::<LANES>();
        lanes.iter().for_each(|changes| add(changes));
        add(rest);
    }

    fn integers(&mut self, _: usize, _: usize, _: &[i128]) {}
}
