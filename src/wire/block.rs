//! One block: the bytes of at most [`MAX_BLOCK_VALUES`](super::limits::MAX_BLOCK_VALUES) values of one encoding.
//!
//! `f32` is the values themselves. `bf16` and `i64` are planes, two and one: a method (0 raw, 1 zstd), a length (u32),
//! so many bytes.

use super::error::{DecodeError, EncodeError};
use super::layout::{Block, Piece, TensorEncoding};
use super::limits::ZSTD_LEVEL;
use super::tensor::{Parameters, Schema, Values};
use super::{bf16, plain};
use std::io;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::find_frame_compressed_size;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Bytes before a plane's own: method and length.
pub(super) const PLANE_HEAD_BYTES: usize = 5;

/// Writes blocks. Its memory serves one block after the other.
pub(super) struct BlockEncoder {
    zstd: Compressor<'static>,
    planes: [Vec<u8>; 2],
    compressed: Vec<u8>,
}

impl BlockEncoder {
    pub fn new() -> Result<Self, EncodeError> {
        Ok(Self {
            zstd: Compressor::new(ZSTD_LEVEL).map_err(failed)?,
            planes: Default::default(),
            compressed: Vec::new(),
        })
    }

    /// Appends the block to `body`.
    pub fn write(&mut self, parameters: &Parameters, block: &Block, body: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut at = 0;
        match block.encoding {
            TensorEncoding::F32 => {
                let start = body.len();
                body.resize(start + 4 * block.values, 0);
                let bytes = &mut body[start..];
                for piece in &block.pieces {
                    let values = f32_piece(parameters, piece);
                    if !plain::f32_to_le(values, &mut bytes[4 * at..]) {
                        return Err(not_finite(parameters.schema(), piece, values));
                    }
                    at += values.len();
                }
                Ok(())
            }
            TensorEncoding::Bf16 => {
                let [high, low] = &mut self.planes;
                high.resize(block.values, 0);
                low.resize(block.values, 0);
                for piece in &block.pieces {
                    let values = f32_piece(parameters, piece);
                    if !bf16::split(values, &mut high[at..], &mut low[at..]) {
                        return Err(not_finite(parameters.schema(), piece, values));
                    }
                    at += values.len();
                }
                self.plane(0, body)?;
                self.plane(1, body)
            }
            TensorEncoding::I64 => {
                let [bytes, _] = &mut self.planes;
                bytes.resize(8 * block.values, 0);
                for piece in &block.pieces {
                    let values = i64_piece(parameters, piece);
                    plain::i64_to_le(values, &mut bytes[8 * at..]);
                    at += values.len();
                }
                self.plane(0, body)
            }
        }
    }

    fn plane(&mut self, index: usize, body: &mut Vec<u8>) -> Result<(), EncodeError> {
        let raw = &self.planes[index];
        self.compressed.clear();
        self.compressed.reserve(zstd::compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, &mut self.compressed).map_err(failed)?;
        let (method, bytes) = if self.compressed.len() < raw.len() { (ZSTD, &self.compressed) } else { (RAW, raw) };
        body.push(method);
        body.extend((bytes.len() as u32).to_le_bytes()); // at most 8 bytes a value
        body.extend_from_slice(bytes);
        Ok(())
    }
}

fn failed(error: io::Error) -> EncodeError {
    EncodeError::Library { library: "zstd", reason: error.to_string() }
}

fn f32_piece<'a>(parameters: &'a Parameters, piece: &Piece) -> &'a [f32] {
    match &parameters.values()[piece.tensor] {
        Values::F32(values) => &values[piece.values.clone()],
        Values::I64(_) => unreachable!("an encoding is chosen by the dtype"),
    }
}

fn i64_piece<'a>(parameters: &'a Parameters, piece: &Piece) -> &'a [i64] {
    match &parameters.values()[piece.tensor] {
        Values::I64(values) => &values[piece.values.clone()],
        Values::F32(_) => unreachable!("an encoding is chosen by the dtype"),
    }
}

fn not_finite(schema: &Schema, piece: &Piece, values: &[f32]) -> EncodeError {
    let tensor = schema.tensors()[piece.tensor].name.clone();
    match plain::first_not_finite(values) {
        Some(at) => EncodeError::NotFinite { tensor, index: piece.values.start + at },
        None => {
            let at = bf16::first_not_finite(values).unwrap_or(0);
            EncodeError::BeyondBf16 { tensor, index: piece.values.start + at, value: values[at] }
        }
    }
}

/// Reads blocks. Its memory serves one block after the other.
pub(super) struct BlockDecoder {
    zstd: Decompressor<'static>,
    planes: [Vec<u8>; 2],
}

impl BlockDecoder {
    pub fn new() -> Self {
        Self { zstd: Decompressor::default(), planes: Default::default() }
    }

    /// Writes the values of the block with that number to where they belong. `values` fit the schema.
    pub fn read(
        &mut self,
        number: usize,
        block: &Block,
        bytes: &[u8],
        schema: &Schema,
        values: &mut [Values],
    ) -> Result<(), DecodeError> {
        let [first, second] = &mut self.planes;
        let mut planes = Planes { block: number, total: bytes.len(), bytes, zstd: &mut self.zstd };
        match block.encoding {
            TensorEncoding::F32 => planes.expect_total(4 * block.values)?,
            TensorEncoding::Bf16 => {
                planes.next(block.values, first)?;
                planes.next(block.values, second)?;
                planes.end()?;
            }
            TensorEncoding::I64 => {
                planes.next(8 * block.values, first)?;
                planes.end()?;
            }
        }
        let mut at = 0;
        for piece in &block.pieces {
            let finite = match &mut values[piece.tensor] {
                Values::F32(values) => {
                    let values = &mut values[piece.values.clone()];
                    let finite = match block.encoding {
                        TensorEncoding::Bf16 => bf16::join(&first[at..], &second[at..], values),
                        _ => plain::f32_from_le(&bytes[4 * at..], values),
                    };
                    if finite { None } else { plain::first_not_finite(values) }
                }
                Values::I64(values) => {
                    plain::i64_from_le(&first[8 * at..], &mut values[piece.values.clone()]);
                    None
                }
            };
            if let Some(index) = finite {
                let tensor = schema.tensors()[piece.tensor].name.clone();
                return Err(DecodeError::NotFinite { tensor, index: piece.values.start + index });
            }
            at += piece.values.len();
        }
        Ok(())
    }
}

/// What is still to be read of a block.
struct Planes<'a> {
    block: usize,
    /// Bytes of the whole block.
    total: usize,
    bytes: &'a [u8],
    zstd: &'a mut Decompressor<'static>,
}

impl Planes<'_> {
    /// Fills `plane` with the `size` bytes of the next plane; never with more.
    fn next(&mut self, size: usize, plane: &mut Vec<u8>) -> Result<(), DecodeError> {
        let read = self.total - self.bytes.len();
        let Some((&[method, a, b, c, d], rest)) = self.bytes.split_first_chunk::<PLANE_HEAD_BYTES>() else {
            return Err(self.length(read + PLANE_HEAD_BYTES));
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some((bytes, rest)) = rest.split_at_checked(length) else {
            return Err(self.length(read + PLANE_HEAD_BYTES + length));
        };
        self.bytes = rest;
        plane.resize(size, 0);
        let found = match method {
            RAW => {
                if length == size {
                    plane.copy_from_slice(bytes);
                }
                length as u64
            }
            ZSTD => self.expand(bytes, plane)?,
            method => return Err(DecodeError::PlaneMethod { block: self.block, method }),
        };
        if found == size as u64 {
            Ok(())
        } else {
            Err(DecodeError::PlaneSize { block: self.block, expected: size as u64, found })
        }
    }

    /// Checks that all of the block was read.
    fn end(&self) -> Result<(), DecodeError> {
        self.expect_total(self.total - self.bytes.len())
    }

    fn expect_total(&self, expected: usize) -> Result<(), DecodeError> {
        if self.total == expected { Ok(()) } else { Err(self.length(expected)) }
    }

    fn length(&self, expected: usize) -> DecodeError {
        DecodeError::BlockLength { block: self.block, expected: expected as u64, found: self.total as u64 }
    }

    /// Returns how many bytes there are; where the frame declares more than `plane` has, nothing is expanded.
    fn expand(&mut self, bytes: &[u8], plane: &mut [u8]) -> Result<u64, DecodeError> {
        let no_frame = |reason: String| DecodeError::PlaneZstd { block: self.block, reason };
        let frame = find_frame_compressed_size(bytes)
            .map_err(|code| no_frame(zstd::zstd_safe::get_error_name(code).to_owned()))?;
        if frame != bytes.len() {
            return Err(no_frame(format!("the frame ends after {frame} of {} bytes", bytes.len())));
        }
        if let Ok(Some(declared)) = zstd::zstd_safe::get_frame_content_size(bytes)
            && declared != plane.len() as u64
        {
            return Ok(declared);
        }
        let expanded = self.zstd.decompress_to_buffer(bytes, plane).map_err(|e| no_frame(e.to_string()))?;
        Ok(expanded as u64)
    }
}
