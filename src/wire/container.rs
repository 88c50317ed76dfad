//! `application/vnd.fedlearn.params`: a header, then blocks that stand for themselves, so that they can be written and
//! read side by side and as they come. The specification is `docs/wire-format.md`.

use super::block::{BlockDecoder, BlockEncoder, PLANE_HEAD_BYTES};
use super::error::{DecodeError, EncodeError};
use super::header::{self, Header, Row, read_header};
use super::layout::{self, TensorEncoding};
use super::limits::MAX_BLOCK_VALUES;
use super::tensor::{Parameters, Schema, Values};
use app::api::Encoding;
use std::sync::Arc;

/// Writes a container. The same input gives the same bytes, with the same version of zstd.
///
/// `base_version` is the global version that a client trained from; none for a global model itself.
///
/// # Errors
/// A value is NaN, infinite or beyond the encoding's range, or names and shapes alone pass the header's limit.
pub fn encode(parameters: &Parameters, encoding: Encoding, base_version: Option<u64>) -> Result<Vec<u8>, EncodeError> {
    encode_blocks_of(MAX_BLOCK_VALUES, parameters, encoding, base_version)
}

/// [`encode`] with blocks of `block_values` values, 1 to [`MAX_BLOCK_VALUES`].
pub(super) fn encode_blocks_of(
    block_values: usize,
    parameters: &Parameters,
    encoding: Encoding,
    base_version: Option<u64>,
) -> Result<Vec<u8>, EncodeError> {
    let schema = parameters.schema();
    let encodings: Vec<_> = schema.tensors().iter().map(|t| TensorEncoding::of(encoding, t.dtype)).collect();
    let blocks = layout::blocks(schema, &encodings, block_values);
    let mut body = header::open(schema, encoding, base_version, &encodings, block_values, blocks.len())?;
    let blocks_start = body.len();
    body.reserve(blocks.iter().map(|b| most_bytes(b.encoding, b.values)).sum());

    let mut encoder = BlockEncoder::new()?;
    let mut rows = Vec::with_capacity(blocks.len());
    for block in &blocks {
        let start = body.len();
        encoder.write(parameters, block, &mut body)?;
        let bytes = &body[start..];
        rows.push(Row { bytes: bytes.len() as u32, checksum: crc32fast::hash(bytes) }); // at most 8 MiB and 5 bytes
    }
    header::seal(&mut body[..blocks_start], &rows);
    Ok(body)
}

/// The most bytes that a block has.
fn most_bytes(encoding: TensorEncoding, values: usize) -> usize {
    match encoding {
        TensorEncoding::F32 => 4 * values,
        TensorEncoding::Bf16 => 2 * (PLANE_HEAD_BYTES + values),
        TensorEncoding::I64 => PLANE_HEAD_BYTES + 8 * values,
    }
}

/// Reads a container of exactly these tensors.
///
/// # Errors
/// Anything that does not hold of the body. No memory is taken for values before names and shapes are the expected.
pub fn decode(body: &[u8], schema: &Arc<Schema>) -> Result<Parameters, DecodeError> {
    let header = read_header(body)?;
    expect_schema(schema, &header.schema)?;
    read_blocks(body, &header, schema)
}

/// Reads a container of whatever tensors it names, up to `max_values` values together.
///
/// # Errors
/// Anything that does not hold of the body. No memory is taken for values before they are counted.
pub fn decode_any(body: &[u8], max_values: u64) -> Result<Parameters, DecodeError> {
    let header = read_header(body)?;
    expect_at_most(max_values, &header.schema)?;
    read_blocks(body, &header, &header.schema)
}

fn read_blocks(body: &[u8], header: &Header, schema: &Arc<Schema>) -> Result<Parameters, DecodeError> {
    let mut values: Vec<_> = schema.tensors().iter().map(Values::zeros).collect();
    let mut decoder = BlockDecoder::new();
    // `read_header` has checked that the rows' lengths add up to the rest of the body.
    let mut rest = body.get(header.blocks_start..).unwrap_or_default();
    let blocks = layout::blocks(schema, &header.tensor_encodings, header.block_values);
    for (number, (block, row)) in blocks.iter().zip(&header.rows).enumerate() {
        let (bytes, after) = rest.split_at_checked(row.bytes as usize).unwrap_or_default();
        let computed = crc32fast::hash(bytes);
        if computed != row.checksum {
            return Err(DecodeError::BlockChecksum { block: number, found: row.checksum, computed });
        }
        decoder.read(number, block, bytes, schema, &mut values)?;
        rest = after;
    }
    Ok(Parameters::new(Arc::clone(schema), values))
}

/// Names the first tensor in which `found` is not `expected`.
pub(super) fn expect_schema(expected: &Schema, found: &Schema) -> Result<(), DecodeError> {
    let mut theirs = found.tensors().iter().peekable();
    for ours in expected.tensors() {
        // Both are sorted by name.
        match theirs.next_if(|t| t.name <= ours.name) {
            Some(t) if t.name < ours.name => return Err(DecodeError::UnknownTensor(t.name.clone())),
            None => return Err(DecodeError::MissingTensor(ours.name.clone())),
            Some(t) => {
                let tensor = t.name.clone();
                if t.dtype != ours.dtype {
                    return Err(DecodeError::DtypeMismatch { tensor, expected: ours.dtype, found: t.dtype });
                }
                if t.shape != ours.shape {
                    let (expected, found) = (ours.shape.clone(), t.shape.clone());
                    return Err(DecodeError::ShapeMismatch { tensor, expected, found });
                }
            }
        }
    }
    theirs.next().map_or(Ok(()), |t| Err(DecodeError::UnknownTensor(t.name.clone())))
}

/// Refuses more values than the caller wants to hold.
pub(super) fn expect_at_most(limit: u64, schema: &Schema) -> Result<(), DecodeError> {
    let values = schema.values();
    if values > limit { Err(DecodeError::TooManyValues { values, limit }) } else { Ok(()) }
}
