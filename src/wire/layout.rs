//! Which values stand in which block.
//!
//! The tensors of one encoding, in the schema's order, are one sequence of values; each sequence is cut into blocks of
//! equal size, the last one shorter. Blocks cross the borders of tensors, so that BatchNorm's many small ones cost
//! nothing; and they are found by arithmetic, so that nothing can be left out or covered twice.

use super::tensor::{Dtype, Schema};
use app::api::Encoding;
use std::ops::Range;

/// How the values of one tensor are written. The sequences stand in the body in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum TensorEncoding {
    /// F32 as it is.
    F32 = 0,
    /// F32 rounded to bf16, in two planes.
    Bf16 = 1,
    /// I64 in one plane.
    I64 = 2,
}

impl TensorEncoding {
    const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::I64];

    /// What tensors of a dtype get in a body of an encoding.
    pub fn of(encoding: Encoding, dtype: Dtype) -> Self {
        match (dtype, encoding) {
            (Dtype::I64, _) => Self::I64,
            (Dtype::F32, Encoding::F32) => Self::F32,
            (Dtype::F32, Encoding::Bf16) => Self::Bf16,
        }
    }

    /// The one of that code, if it is for that dtype.
    pub fn from_code(code: u8, dtype: Dtype) -> Option<Self> {
        Self::ALL.into_iter().find(|&e| e as u8 == code && (e == Self::I64) == (dtype == Dtype::I64))
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
    let mut blocks: Vec<Block> = Vec::new();
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
                    blocks.push(Block { encoding, values: 0, pieces: Vec::new() });
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
