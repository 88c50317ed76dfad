//! A block's bytes to values.
//!
//! Values pass through strips small enough for the first-level cache, so that decoding, checking and what a caller does
//! with the values (compare, add) are one pass over memory.

use super::super::error::DecodeError;
use super::super::layout::{Block, TensorEncoding};
use super::super::plane::BlockBytes;
use super::super::quantised::{self, GROUP_VALUES};
use super::super::tensor::{Parameters, Schema, Values};
use super::super::{bf16, delta, plain, sparse};
use zstd::bulk::Decompressor;

/// Values that are handled at a time: 4 KiB, and one group of the quantised encodings.
const STRIP_VALUES: usize = GROUP_VALUES;

/// What becomes of a block's values, strip by strip in their order. `piece` is an index of the block's pieces, `at` the
/// strip's place in it.
pub trait Sink {
    /// Values of an F32 tensor, all finite.
    fn floats(&mut self, piece: usize, at: usize, values: &[f32]);
    /// Values of an I64 tensor.
    fn integers(&mut self, piece: usize, at: usize, values: &[i64]);
}

/// The planes of a block, one code or byte a value or entry, and how many of its bytes are not of planes.
pub(in crate::wire) struct Planes<'a> {
    pub planes: Vec<&'a [u8]>,
    pub outside: usize,
}

/// Before the content of a plane: its method and its length.
const PLANE_HEAD_BYTES: usize = 5;
/// Before the planes of `topk`: the scale, the number of entries, the length of the gap plane.
const SPARSE_HEAD_BYTES: usize = 12;

/// Reads blocks. Its memory serves one after the other.
#[derive(Default)]
pub(in crate::wire) struct BlockDecoder {
    zstd: Decompressor<'static>,
    first: Vec<u8>,
    second: Vec<u8>,
    positions: Vec<u32>,
}

impl BlockDecoder {
    /// Expands the planes of a block; returns its scales, where it has some.
    fn expand<'b>(&mut self, number: usize, block: &Block, bytes: &'b [u8]) -> Result<&'b [[u8; 4]], DecodeError> {
        let Self { zstd, first, second, positions } = self;
        let mut rest = BlockBytes::new(number, bytes);
        let mut scales: &[[u8; 4]] = &[];
        match block.encoding {
            TensorEncoding::F32 => skip(&mut rest, 4 * block.values)?,
            TensorEncoding::RawF16 | TensorEncoding::RawBf16 => skip(&mut rest, 2 * block.values)?,
            TensorEncoding::RawI64 => skip(&mut rest, 8 * block.values)?,
            TensorEncoding::I64 => rest.plane(8 * block.values, first, zstd)?,
            TensorEncoding::Bf16 | TensorEncoding::Bf16Delta => {
                rest.plane(block.values, first, zstd)?;
                rest.plane(block.values, second, zstd)?;
            }
            TensorEncoding::Q8 | TensorEncoding::Q4 => {
                let groups: usize = block.pieces.iter().map(|p| p.values.len().div_ceil(GROUP_VALUES)).sum();
                scales = rest.take(4 * groups)?.as_chunks().0;
                if block.encoding == TensorEncoding::Q8 {
                    rest.plane(block.values, first, zstd)?;
                } else {
                    rest.plane(block.values.div_ceil(2), second, zstd)?;
                    first.resize(block.values, 0);
                    if quantised::unpack_halves(second, first) != 0 {
                        return Err(DecodeError::Padding { block: number });
                    }
                }
            }
            TensorEncoding::TopK => {
                scales = rest.take(4)?.as_chunks().0;
                let (count, gap_bytes) = (rest.take_u32()? as usize, rest.take_u32()? as usize);
                let bad = || DecodeError::Positions { block: number, count: count as u64, values: block.values };
                // Each gap is a byte, and each further byte skips 255 values.
                if count > block.values || gap_bytes < count || gap_bytes - count > block.values / 255 {
                    return Err(bad());
                }
                rest.plane(gap_bytes, second, zstd)?;
                sparse::read_gaps(second, block.values, positions).ok_or_else(bad)?;
                if positions.len() != count {
                    return Err(bad());
                }
                rest.plane(count, first, zstd)?;
            }
        }
        rest.end()?;
        Ok(scales)
    }

    /// The expanded planes of a block: what there was to compress.
    pub fn planes(&mut self, number: usize, block: &Block, bytes: &[u8]) -> Result<Planes<'_>, DecodeError> {
        self.expand(number, block, bytes)?;
        let (first, second) = (self.first.as_slice(), self.second.as_slice());
        let (planes, heads) = match block.encoding {
            TensorEncoding::Bf16 | TensorEncoding::Bf16Delta => (vec![first, second], 2 * PLANE_HEAD_BYTES),
            TensorEncoding::TopK => (vec![first, second], 2 * PLANE_HEAD_BYTES + SPARSE_HEAD_BYTES),
            TensorEncoding::Q8 | TensorEncoding::Q4 => {
                let groups: usize = block.pieces.iter().map(|p| p.values.len().div_ceil(GROUP_VALUES)).sum();
                (vec![first], PLANE_HEAD_BYTES + 4 * groups)
            }
            TensorEncoding::I64 => (vec![first], PLANE_HEAD_BYTES),
            _ => (vec![], bytes.len()),
        };
        Ok(Planes { planes, outside: heads })
    }

    /// Passes the values of a block to `sink`. Where it fails, part of them may have been passed already.
    pub fn read(
        &mut self,
        number: usize,
        block: &Block,
        bytes: &[u8],
        schema: &Schema,
        base: Option<&Parameters>,
        sink: &mut impl Sink,
    ) -> Result<(), DecodeError> {
        let scales = self.expand(number, block, bytes)?;
        let Self { first, second, positions, .. } = self;
        let mut scales = scales.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let sparse_scale = scales.clone().next().unwrap_or_default();
        let mut entries = positions.iter().zip(first.iter()).peekable();
        let (mut done, mut strip, mut integers) = (0, [0f32; STRIP_VALUES], [0i64; STRIP_VALUES]);
        for (index, piece) in block.pieces.iter().enumerate() {
            let base = base.map(|base| &base.values()[piece.tensor]);
            for at in (0..piece.values.len()).step_by(STRIP_VALUES) {
                let len = STRIP_VALUES.min(piece.values.len() - at);
                let from = done + at;
                let start = piece.values.start + at;
                let values = &mut strip[..len];
                let base = || match base {
                    Some(Values::F32(base)) => Ok(&base[start..start + len]),
                    _ => Err(DecodeError::NoBase),
                };
                match block.encoding {
                    TensorEncoding::F32 => plain::f32_from_le(&bytes[4 * from..], values),
                    TensorEncoding::RawF16 => plain::f16_from_le(&bytes[2 * from..], values),
                    TensorEncoding::RawBf16 => plain::bf16_from_le(&bytes[2 * from..], values),
                    TensorEncoding::Bf16 => bf16::join(&first[from..], &second[from..], values),
                    TensorEncoding::Bf16Delta => delta::join(&first[from..], &second[from..], base()?, values),
                    TensorEncoding::Q8 | TensorEncoding::Q4 => {
                        // A strip of a piece is a group.
                        let scale = scales.next().unwrap_or_default();
                        quantised::restore(&first[from..], scale, base()?, values);
                    }
                    TensorEncoding::TopK => {
                        values.copy_from_slice(base()?);
                        while let Some((position, code)) = entries.next_if(|(p, _)| (**p as usize) < from + len) {
                            values[*position as usize - from] += f32::from(*code as i8) * sparse_scale;
                        }
                    }
                    TensorEncoding::I64 | TensorEncoding::RawI64 => {
                        let source = if block.encoding == TensorEncoding::I64 { first.as_slice() } else { bytes };
                        plain::i64_from_le(&source[8 * from..], &mut integers[..len]);
                        sink.integers(index, at, &integers[..len]);
                        continue;
                    }
                }
                if !plain::all_finite(values) {
                    let index = start + plain::first_not_finite(values).unwrap_or_default();
                    let tensor = schema.tensors()[piece.tensor].name.clone();
                    return Err(DecodeError::NotFinite { tensor, index });
                }
                sink.floats(index, at, values);
            }
            done += piece.values.len();
        }
        Ok(())
    }
}

/// Checks that there are `len` bytes, which are read where they are.
fn skip(rest: &mut BlockBytes<'_>, len: usize) -> Result<(), DecodeError> {
    rest.take(len).map(|_| ())
}
