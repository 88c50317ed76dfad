//! The container's beginning: signature, format version, header, checksum. The layout is in `docs/wire-format.md`.
//!
//! The checksums are CRC-32 (the one of gzip and PNG). It finds every single flipped bit and every burst up to 32 bits
//! for certain, not just likely; runs at many GB/s on any CPU with carry-less multiplication, where SHA-256 without
//! its own instructions would be the slowest part of decoding; and is in every language's standard library. It is no
//! defence against forgery and need not be: who may send is decided by the token, and what may be sent by the checks
//! that follow. Where a body needs an identity (ETag, file name), that is its SHA-256, outside of it.

use super::error::{DecodeError, EncodeError};
use super::foreign::{self, SIGNATURE};
use super::layout::{self, TensorEncoding, block_count};
use super::limits::{MAX_BLOCK_VALUES, MAX_BLOCKS, MAX_HEADER_BYTES};
use super::plan::{Plan, PlannedBlock};
use super::tensor::{Dtype, MAX_DIMENSIONS, MAX_TENSORS, Schema, TensorSpec};
use app::api::Encoding;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The version of the format that is written and read here.
pub(super) const VERSION: u32 = 1;
/// Bytes before the header: signature, version, the header's length.
pub(super) const PRELUDE_BYTES: usize = 16;
/// Bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Bytes of a row of the block table: length and checksum, each 4 bytes, so that the length of the header is known before
/// the blocks are.
const ROW_BYTES: usize = 8;

/// A row of the block table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// How long the block is.
    pub bytes: u32,
    /// CRC-32 of its bytes.
    pub checksum: u32,
}

/// How a tensor stands in the header.
#[derive(Serialize)]
struct TensorEntry<'a> {
    name: &'a str,
    dtype: u8,
    encoding: u8,
    shape: &'a [u64],
}

/// How the header is written: postcard (<https://postcard.jamesmunns.com/wire-format>) of this.
#[derive(Serialize)]
struct HeaderOut<'a> {
    schema_digest: &'a [u8; 32],
    encoding: u8,
    base_version: Option<u64>,
    tensors: Vec<TensorEntry<'a>>,
    block_values: u32,
    rows: Vec<[[u8; 4]; 2]>,
}

fn encoding_code(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::F32 => 0,
        Encoding::Bf16 => 1,
        Encoding::Bf16Delta => 2,
        Encoding::Q8 => 3,
        Encoding::Q4 => 4,
        Encoding::TopK => 5,
    }
}

/// Everything before the blocks.
pub(super) fn write(
    schema: &Schema,
    encoding: Encoding,
    base_version: Option<u64>,
    tensor_encodings: &[TensorEncoding],
    block_values: usize,
    rows: &[Row],
) -> Result<Vec<u8>, EncodeError> {
    let tensors = schema.tensors().iter().zip(tensor_encodings);
    let header = HeaderOut {
        schema_digest: schema.digest(),
        encoding: encoding_code(encoding),
        base_version,
        tensors: tensors
            .map(|(t, e)| TensorEntry { name: &t.name, dtype: t.dtype as u8, encoding: *e as u8, shape: &t.shape })
            .collect(),
        block_values: block_values as u32, // at most MAX_BLOCK_VALUES
        rows: rows.iter().map(|row| [row.bytes.to_le_bytes(), row.checksum.to_le_bytes()]).collect(),
    };
    let header = postcard::to_stdvec(&header)
        .map_err(|e| EncodeError::Library { library: "postcard", reason: e.to_string() })?;
    if header.len() > MAX_HEADER_BYTES {
        return Err(EncodeError::HeaderTooLong(header.len()));
    }
    let mut head = SIGNATURE.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((header.len() as u32).to_le_bytes());
    head.extend(header);
    head.extend(crc32fast::hash(&head).to_le_bytes());
    Ok(head)
}

/// How many bytes come before the blocks, from the first of them; none if these are too few to say.
pub(super) fn head_bytes(first: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some(prelude) = first.get(..PRELUDE_BYTES) else { return Ok(None) };
    let (signature, numbers) = prelude.split_at(SIGNATURE.len());
    if signature != SIGNATURE {
        return Err(foreign::recognise("application/vnd.fedlearn.params", first).unwrap_or(DecodeError::Signature));
    }
    let (version, header_bytes) = numbers.split_at(4);
    if u32_le(version) != VERSION {
        return Err(DecodeError::Version(u32_le(version)));
    }
    let header_bytes = u32_le(header_bytes) as usize;
    if header_bytes > MAX_HEADER_BYTES {
        return Err(DecodeError::HeaderTooLong(header_bytes as u64));
    }
    Ok(Some(PRELUDE_BYTES + header_bytes + CHECKSUM_BYTES))
}

/// Reads everything before the blocks: as many bytes as [`head_bytes`] says.
pub(super) fn read_head(head: &[u8]) -> Result<Plan, DecodeError> {
    let truncated = || DecodeError::Truncated { expected: head.len() as u64 + 1, found: head.len() as u64 };
    let (covered, checksum) = head.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(truncated)?;
    let header = covered.get(PRELUDE_BYTES..).ok_or_else(truncated)?;
    let (found, computed) = (u32::from_le_bytes(*checksum), crc32fast::hash(covered));
    if found != computed {
        return Err(DecodeError::HeaderChecksum { found, computed });
    }
    parse(header, head.len() as u64)
}

fn u32_le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn parse(header: &[u8], blocks_start: u64) -> Result<Plan, DecodeError> {
    let mut fields = Fields(header);
    let schema_digest: [u8; 32] = fields.take()?;
    let code: u8 = fields.take()?;
    let known = Encoding::ALL.iter().copied().find(|e| encoding_code(*e) == code);
    let encoding = known.ok_or(DecodeError::UnknownEncoding(code))?;
    let base_version = fields.take()?;

    let count = fields.count("tensors", MAX_TENSORS)?;
    let mut specs: Vec<TensorSpec> = Vec::new();
    let mut tensor_encodings = Vec::new();
    for _ in 0..count {
        let (spec, encoding) = fields.tensor()?;
        if let Some(previous) = specs.last()
            && spec.name < previous.name
        {
            return Err(DecodeError::TensorOrder { tensor: spec.name, previous: previous.name.clone() });
        }
        specs.push(spec);
        tensor_encodings.push(encoding);
    }
    let schema = Schema::new(specs)?;
    if *schema.digest() != schema_digest {
        return Err(DecodeError::SchemaDigest);
    }

    let block_values: u32 = fields.take()?;
    if block_values == 0 || block_values as usize > MAX_BLOCK_VALUES {
        return Err(DecodeError::BlockValues { found: block_values, limit: MAX_BLOCK_VALUES });
    }
    let expected = block_count(&schema, &tensor_encodings, block_values as usize);
    let found = fields.count("blocks", MAX_BLOCKS)? as u64;
    if found != expected {
        return Err(DecodeError::BlockCount { expected, found });
    }
    let (table, rest) = fields.0.as_chunks::<ROW_BYTES>();
    if table.len() as u64 != found || !rest.is_empty() {
        let found = fields.0.len();
        return Err(DecodeError::Header(format!("a block table of {found} bytes for {expected} blocks")));
    }
    let mut end = blocks_start;
    let blocks = layout::blocks(&schema, &tensor_encodings, block_values as usize);
    let planned = blocks.into_iter().zip(table).map(|(block, row)| {
        let range = end..end + u64::from(u32_le(&row[..4]));
        end = range.end;
        PlannedBlock { range, checksum: Some(u32_le(&row[4..])), block }
    });
    let blocks = planned.collect();
    Ok(Plan { schema: Arc::new(schema), encoding: Some(encoding), base_version, blocks, bytes: end })
}

/// What is still to be read of the header. Lists are read element by element, so that no count is believed.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<T: Deserialize<'a>>(&mut self) -> Result<T, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(self.0).map_err(|e| DecodeError::Header(e.to_string()))?;
        self.0 = rest;
        Ok(value)
    }

    fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let count: u64 = self.take()?;
        match usize::try_from(count) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(DecodeError::TooMany { what, count, limit: limit as u64 }),
        }
    }

    fn tensor(&mut self) -> Result<(TensorSpec, TensorEncoding), DecodeError> {
        let name: &str = self.take()?;
        let name = name.to_owned();
        let dtype = match self.take::<u8>()? {
            0 => Dtype::F32,
            1 => Dtype::I64,
            code => return Err(DecodeError::UnknownDtype { tensor: name, dtype: code.to_string() }),
        };
        let code: u8 = self.take()?;
        let Some(encoding) = TensorEncoding::from_code(code, dtype) else {
            return Err(DecodeError::TensorEncoding { tensor: name, dtype, encoding: code });
        };
        let dimensions = self.count("dimensions", MAX_DIMENSIONS)?;
        let shape = (0..dimensions).map(|_| self.take()).collect::<Result<_, _>>()?;
        Ok((TensorSpec { name, dtype, shape }, encoding))
    }
}
