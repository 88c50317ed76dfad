//! `application/vnd.safetensors` (<https://github.com/huggingface/safetensors#format>): what every PyTorch user can
//! read and write in three lines.
//!
//! The `safetensors` crate writes. The reading is done here, because on hostile input its reader (0.8) takes the last of
//! two tensors of one name in silence, adds up offsets unchecked (near 2^64 it panics where overflow checks are on), and
//! names no tensor in most of its errors.

use super::container::load;
use super::error::{DecodeError, EncodeError};
use super::foreign;
use super::layout::{Block, Piece, TensorEncoding};
use super::limits::{MAX_BLOCK_VALUES, MAX_HEADER_BYTES, MAX_ZSTD_WINDOW_LOG, ZSTD_LEVEL};
use super::negotiate::BodyFormat;
use super::plain;
use super::plan::{Plan, PlannedBlock, ReadError};
use super::tensor::{Dtype, MAX_DIMENSIONS, MAX_TENSORS, Parameters, Schema, TensorSpec, Values};
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo, View};
use serde::de::{Deserialize, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

/// The key of the header that is no tensor.
pub(super) const METADATA: &str = "__metadata__";
/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// Writes safetensors, F32 and I64.
///
/// # Errors
/// A value is NaN or infinite, a tensor has the name `__metadata__`, or names and shapes alone pass the header's limit.
pub fn write(parameters: &Parameters) -> Result<Vec<u8>, EncodeError> {
    let mut tensors = Vec::new();
    for (spec, values) in parameters.iter() {
        if spec.name == METADATA {
            return Err(EncodeError::ReservedName);
        }
        if let Values::F32(values) = values
            && let Some(index) = plain::first_not_finite(values)
        {
            return Err(EncodeError::NotFinite { tensor: spec.name.clone(), index });
        }
        tensors.push((&spec.name, Tensor { shape: file_shape(spec), values }));
    }
    let file = safetensors::serialize(tensors, None)
        .map_err(|e| EncodeError::Library { library: "safetensors", reason: e.to_string() })?;
    let header = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length)) as usize;
    if header > MAX_HEADER_BYTES { Err(EncodeError::HeaderTooLong(header)) } else { Ok(file) }
}

struct Tensor<'a> {
    shape: Vec<usize>,
    values: &'a Values,
}

impl View for Tensor<'_> {
    fn dtype(&self) -> FileDtype {
        file_dtype(self.values.dtype())
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        match self.values {
            Values::F32(values) => plain::f32_to_le(values, &mut bytes),
            Values::I64(values) => plain::i64_to_le(values, &mut bytes),
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        match self.values {
            Values::F32(values) => 4 * values.len(),
            Values::I64(values) => 8 * values.len(),
        }
    }
}

/// Reads safetensors of exactly these tensors. F16 and BF16 are taken for F32.
///
/// # Errors
/// Anything that does not hold of the file. No memory is taken for values before names and shapes are the expected.
pub fn read(file: &[u8], schema: &Schema) -> Result<Parameters, DecodeError> {
    let plan = Plan::of(PLAIN, file)?;
    plan.expect_schema(schema)?;
    load(&plan, file, None)
}

/// Reads safetensors of whatever tensors there are, up to `max_values` values together. F16 and BF16 become F32.
///
/// # Errors
/// Anything that does not hold of the file. No memory is taken for values before they are counted.
pub fn read_any(file: &[u8], max_values: u64) -> Result<Parameters, DecodeError> {
    let plan = Plan::of(PLAIN, file)?;
    plan.expect_at_most(max_values)?;
    load(&plan, file, None)
}

const PLAIN: BodyFormat = BodyFormat::Safetensors { zstd: false };

/// What the header says of a tensor.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    #[serde(deserialize_with = "shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A list that ends where a shape must: one of `0,0,0,` would take several times the memory of the header.
fn shape<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct ShapeVisitor;
    impl<'de> Visitor<'de> for ShapeVisitor {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MAX_DIMENSIONS} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dimension) = list.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(A::Error::invalid_length(shape.len() + 1, &self));
                }
                shape.push(dimension);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(ShapeVisitor)
}

/// The header in its own order, with names as often as they appear: a map would hide the second of two.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// How many bytes come before the data, from the first of them; none if these are too few to say.
pub(super) fn head_bytes(first: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some((length, _)) = first.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u64::from_le_bytes(*length);
    match usize::try_from(length) {
        Ok(header) if header <= MAX_HEADER_BYTES => Ok(Some(LENGTH_BYTES + header)),
        _ => Err(foreign::recognise("safetensors", first).unwrap_or(DecodeError::HeaderTooLong(length))),
    }
}

/// How long the header of a file with these tensors is.
pub(super) fn header_bytes(schema: &Schema) -> Result<usize, EncodeError> {
    let mut at = 0;
    let infos = schema.tensors().iter().map(|spec| {
        let dtype = file_dtype(spec.dtype);
        let begin = at;
        at += spec.values().unwrap_or(0) as usize * if spec.dtype == Dtype::F32 { 4 } else { 8 };
        (spec.name.clone(), TensorInfo { dtype, shape: file_shape(spec), data_offsets: (begin, at) })
    });
    let header = Metadata::new(None, infos.collect()).map_err(|error| error.to_string());
    let header = header.and_then(|header| serde_json::to_vec(&header).map_err(|error| error.to_string()));
    match header {
        Ok(header) => Ok(header.len().next_multiple_of(LENGTH_BYTES)),
        Err(reason) => Err(EncodeError::Library { library: "safetensors", reason }),
    }
}

fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::I64 => FileDtype::I64,
    }
}

/// Dimensions beyond `usize` need one of 0 beside them: no memory could hold the values otherwise.
fn file_shape(spec: &TensorSpec) -> Vec<usize> {
    spec.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect()
}

/// Reads everything before the data: as many bytes as [`head_bytes`] says. Every byte of the data belongs to one
/// tensor, and none to two.
pub(super) fn read_head(head: &[u8]) -> Result<Plan, DecodeError> {
    let header = head.get(LENGTH_BYTES..).unwrap_or_default();
    let Entries(mut entries) = serde_json::from_slice(header).map_err(|e| DecodeError::Header(e.to_string()))?;
    if entries.len() > MAX_TENSORS {
        let (count, limit) = (entries.len() as u64, MAX_TENSORS as u64);
        return Err(DecodeError::TooMany { what: "tensors", count, limit });
    }

    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut stored = Vec::with_capacity(entries.len());
    let mut end = 0;
    for (tensor, entry) in entries {
        let (encoding, dtype, value_bytes) = match entry.dtype.as_str() {
            "F32" => (TensorEncoding::F32, Dtype::F32, 4),
            "F16" => (TensorEncoding::RawF16, Dtype::F32, 2),
            "BF16" => (TensorEncoding::RawBf16, Dtype::F32, 2),
            "I64" => (TensorEncoding::RawI64, Dtype::I64, 8),
            _ => return Err(DecodeError::UnknownDtype { tensor, dtype: entry.dtype }),
        };
        let (begin, stop) = entry.data_offsets;
        if begin != end {
            return Err(DecodeError::Offset { tensor, expected: end, found: begin });
        }
        end = stop;
        let spec = TensorSpec { name: tensor, dtype, shape: entry.shape };
        let expected = spec.values().and_then(|n| n.checked_mul(value_bytes)).unwrap_or(u64::MAX);
        let found = stop.saturating_sub(begin);
        if expected != found || stop < begin {
            return Err(DecodeError::TensorSize { tensor: spec.name, expected, found });
        }
        stored.push((spec, encoding, value_bytes));
    }
    let schema = Schema::new(stored.iter().map(|(spec, ..)| spec.clone()).collect())?;
    let mut blocks = Vec::new();
    let mut end = head.len() as u64;
    for (spec, encoding, value_bytes) in stored {
        // It is one of the schema's, which has at most `MAX_VALUES` values: no truncation, no overflow.
        let tensor = schema.tensors().partition_point(|t| t.name < spec.name);
        let total = spec.values().unwrap_or(0) as usize;
        for start in (0..total).step_by(MAX_BLOCK_VALUES) {
            let values = start..total.min(start + MAX_BLOCK_VALUES);
            let range = end..end + values.len() as u64 * value_bytes;
            end = range.end;
            let block = Block { encoding, values: values.len(), pieces: vec![Piece { tensor, values }] };
            blocks.push(PlannedBlock { range, checksum: None, block });
        }
    }
    Ok(Plan { schema: Arc::new(schema), encoding: None, base_version: None, blocks, bytes: end })
}

/// One zstd frame of all the bytes: the body of `Content-Encoding: zstd`.
///
/// # Errors
/// The library fails.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>, EncodeError> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(|e| EncodeError::Library { library: "zstd", reason: e.to_string() })
}

/// Expands a body of `Content-Encoding: zstd`. Holds at most `max_bytes` and a window of 2^[`MAX_ZSTD_WINDOW_LOG`].
///
/// # Errors
/// As [`expand`].
pub fn decompress(bytes: &[u8], max_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    let mut expanded = Vec::new();
    expand(bytes, &mut expanded, max_bytes as u64).map_err(|error| match error {
        ReadError::Decode(error) => error,
        ReadError::Source(error) => DecodeError::Zstd(error.to_string()),
    })?;
    Ok(expanded)
}

/// Expands a body of `Content-Encoding: zstd`, piece by piece, and returns how many bytes it became.
///
/// # Errors
/// No zstd, cut short, or more than `max_bytes`: if the frame says so, nothing is expanded; else not beyond that. Those of
/// `from` and `to`.
pub fn expand(mut from: impl BufRead, to: &mut impl Write, max_bytes: u64) -> Result<u64, ReadError> {
    // The library's own errors have no number of the operating system's; those of `from` have one.
    let invalid = |error: io::Error| match error.raw_os_error() {
        Some(_) => ReadError::Source(error),
        None => DecodeError::Zstd(error.to_string()).into(),
    };
    let declared = zstd::zstd_safe::get_frame_content_size(from.fill_buf()?).ok().flatten().unwrap_or(0);
    if declared > max_bytes {
        return Err(DecodeError::Expands { limit: max_bytes }.into());
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(from).map_err(invalid)?;
    decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(invalid)?;
    let (mut piece, mut total) = (vec![0; PIECE_BYTES], 0);
    loop {
        let read = decoder.read(&mut piece).map_err(invalid)?;
        total += read as u64;
        if read == 0 {
            return Ok(total);
        }
        if total > max_bytes {
            return Err(DecodeError::Expands { limit: max_bytes }.into());
        }
        to.write_all(&piece[..read])?;
    }
}

/// Bytes that are expanded at a time.
const PIECE_BYTES: usize = 128 << 10;
