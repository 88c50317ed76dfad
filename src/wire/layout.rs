//! Which values stand in which block.
//!
//! The tensors of one encoding, in the schema's order, are one sequence of values; each sequence is cut into blocks of
//! equal size, the last one shorter. Blocks cross the borders of tensors, so that BatchNorm's many small ones cost
//! nothing; and they are found by arithmetic, so that nothing can be left out or covered twice.

use super::tensor::{Dtype, Schema, TensorSpec, Values};
use app::api::Encoding;
use std::ops::Range;

/// How the values of one tensor are written. In the container, the sequences stand in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum TensorEncoding {
    /// F32 as it is.
    F32 = 0,
    /// F32 rounded to bf16, in two planes.
    Bf16 = 1,
    /// I64 in one plane.
    I64 = 2,
    /// F32 rounded to bf16, as a difference to the base.
    Bf16Delta = 3,
    /// F32 as the base and a multiple, up to 127, of a scale.
    Q8 = 4,
    /// F32 as the base and a multiple, up to 7, of a scale.
    Q4 = 5,
    /// F32 as the base, and a few values as with `Q8`.
    TopK = 6,
    // What safetensors know beside F32, without planes; never in a container.
    /// F32 from IEEE's half precision.
    RawF16 = 253,
    /// F32 from bf16.
    RawBf16 = 254,
    /// I64 as it is.
    RawI64 = 255,
}

impl TensorEncoding {
    /// Those of the container, in the order of their sequences.
    const ALL: [Self; 7] = [Self::F32, Self::Bf16, Self::I64, Self::Bf16Delta, Self::Q8, Self::Q4, Self::TopK];

    /// What a tensor gets in a body of an encoding.
    ///
    /// The lossy encodings are for weights: matrices and kernels, where nearly all values are and where the sum over many
    /// evens errors out. Vectors (biases; BatchNorm's scales and statistics, a variance among them, which must
    /// not become negative) get `bf16-delta` instead.
    pub fn of(encoding: Encoding, spec: &TensorSpec) -> Self {
        let weights = spec.shape.len() >= 2;
        match (spec.dtype, encoding) {
            (Dtype::I64, _) => Self::I64,
            (Dtype::F32, Encoding::F32) => Self::F32,
            (Dtype::F32, Encoding::Bf16) => Self::Bf16,
            (Dtype::F32, Encoding::Q8) if weights => Self::Q8,
            (Dtype::F32, Encoding::Q4) if weights => Self::Q4,
            (Dtype::F32, Encoding::TopK) if weights => Self::TopK,
            (Dtype::F32, Encoding::Bf16Delta | Encoding::Q8 | Encoding::Q4 | Encoding::TopK) => Self::Bf16Delta,
        }
    }

    /// The container's of that code, if it is for that dtype.
    pub fn from_code(code: u8, dtype: Dtype) -> Option<Self> {
        Self::ALL.into_iter().find(|&e| e as u8 == code && (e == Self::I64) == (dtype == Dtype::I64))
    }

    /// Whether the values are told by what they are in the base version.
    pub fn needs_base(self) -> bool {
        matches!(self, Self::Bf16Delta | Self::Q8 | Self::Q4 | Self::TopK)
    }

    /// Whether what the encoding loses is to be sent with the next update.
    pub fn is_lossy(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4 | Self::TopK)
    }
}

/// A stretch of one tensor's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its index in the schema.
    pub tensor: usize,
    /// Which of its values.
    pub values: Range<usize>,
}

/// What one block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// How it is written.
    pub encoding: TensorEncoding,
    /// How many values, at least 1.
    pub values: usize,
    /// Where they belong, in order.
    pub pieces: Vec<Piece>,
}

/// How many blocks there are: what `blocks(..)` has, without the memory. `encodings` are those of the tensors.
pub(super) fn block_count(schema: &Schema, encodings: &[TensorEncoding], block_values: usize) -> u64 {
    let sequence = |encoding| -> u64 {
        let tensors = schema.tensors().iter().zip(encodings).filter(|(_, e)| **e == encoding);
        tensors.filter_map(|(t, _)| t.values()).sum()
    };
    TensorEncoding::ALL.into_iter().map(|e| sequence(e).div_ceil(block_values as u64)).sum()
}

/// The blocks in the order of the body.
pub(super) fn blocks(schema: &Schema, encodings: &[TensorEncoding], block_values: usize) -> Vec<Block> {
    // Exactly as large as it must be: what holds blocks is the most that reading a head takes.
    let mut blocks: Vec<Block> = Vec::with_capacity(block_count(schema, encodings, block_values) as usize);
    for encoding in TensorEncoding::ALL {
        let mut room = 0;
        for (tensor, spec) in schema.tensors().iter().enumerate() {
            if encodings.get(tensor) != Some(&encoding) {
                continue;
            }
            // A schema's tensors have at most `MAX_VALUES` values: no truncation on the 64-bit targets we build for.
            let total = spec.values().unwrap_or(0) as usize;
            let mut start = 0;
            while start < total {
                if room == 0 {
                    blocks.push(Block { encoding, values: 0, pieces: Vec::with_capacity(1) });
                    room = block_values;
                }
                let end = total.min(start + room);
                if let Some(block) = blocks.last_mut() {
                    block.values += end - start;
                    block.pieces.push(Piece { tensor, values: start..end });
                }
                room -= end - start;
                start = end;
            }
        }
    }
    blocks
}

/// Memory for the values of a tensor, or of a piece of it.
pub trait Stretch: Sized {
    /// How many values it takes.
    fn len(&self) -> usize;

    /// Cuts off the first `len` values.
    fn split_off(&mut self, len: usize) -> Self;

    /// Whether it takes no values.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Stretch for &mut [T] {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn split_off(&mut self, len: usize) -> Self {
        let (cut, tail) = std::mem::take(self).split_at_mut(len);
        *self = tail;
        cut
    }
}

/// Memory for the values of a tensor, or of a piece of it, by dtype.
#[derive(Debug)]
pub enum Slot<'a> {
    /// For F32.
    F32(&'a mut [f32]),
    /// For I64.
    I64(&'a mut [i64]),
}

impl<'a> Slot<'a> {
    /// That of a whole tensor.
    pub fn of(values: &'a mut Values) -> Self {
        match values {
            Values::F32(values) => Self::F32(values),
            Values::I64(values) => Self::I64(values),
        }
    }
}

impl Stretch for Slot<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    fn split_off(&mut self, len: usize) -> Self {
        match self {
            Self::F32(rest) => Self::F32(rest.split_off(len)),
            Self::I64(rest) => Self::I64(rest.split_off(len)),
        }
    }
}

/// Cuts the memory of whole tensors, in the schema's order, into that of each block's pieces: so that blocks can be
/// worked on side by side.
///
/// # Panics
/// If the tensors have not as many values as the blocks were made for.
pub(super) fn cut<'b, S: Stretch>(
    blocks: impl Iterator<Item = &'b Block>,
    tensors: impl Iterator<Item = S>,
) -> Vec<Vec<S>> {
    let mut tensors: Vec<_> = tensors.collect();
    // The pieces of one tensor come in the order of its values.
    let cut = blocks.map(|b| b.pieces.iter().map(|p| tensors[p.tensor].split_off(p.values.len())).collect()).collect();
    assert!(tensors.iter().all(Stretch::is_empty), "the blocks cover all values");
    cut
}
