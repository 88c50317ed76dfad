//! Bodies in a negotiated format: their heads, and whole ones.

use super::error::{DecodeError, EncodeError};
use super::negotiate::{BodyFormat, ModelFormat};
use super::plan::{Base, BlockSource, Plan, ReadError};
use super::tensor::{Parameters, Schema, Values};
use super::{bf16, container, header, limits, safe};
use app::api::Encoding;

impl Plan {
    /// How many bytes the head has, from the body's first bytes; none if these are too few to say.
    ///
    /// # Errors
    /// It is no body of that format, or its head is over the limit.
    pub fn head_bytes(format: BodyFormat, first: &[u8]) -> Result<Option<usize>, DecodeError> {
        match format {
            BodyFormat::Container => header::head_bytes(first),
            BodyFormat::Safetensors { .. } => safe::head_bytes(first),
        }
    }

    /// Reads the head: as many bytes as [`Self::head_bytes`] says. Of safetensors with zstd, expanded.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn read(format: BodyFormat, head: &[u8]) -> Result<Self, DecodeError> {
        match format {
            BodyFormat::Container => header::read_head(head),
            BodyFormat::Safetensors { .. } => safe::read_head(head),
        }
    }

    /// The plan of a body that is in memory as a whole.
    ///
    /// # Errors
    /// Whatever is wrong with its head, or its length.
    pub fn of(format: BodyFormat, body: &[u8]) -> Result<Self, DecodeError> {
        let found = body.len() as u64;
        let head = Self::head_bytes(format, body)?.unwrap_or(header::PRELUDE_BYTES);
        let head = body.get(..head).ok_or(DecodeError::Truncated { expected: head as u64, found })?;
        let plan = Self::read(format, head)?;
        plan.expect_length(found)?;
        Ok(plan)
    }

    /// The plan of a body of `found` bytes that is there as a whole, wherever it is.
    ///
    /// # Errors
    /// Whatever is wrong with its head, or its length; or it cannot be read.
    pub fn of_source(format: BodyFormat, source: &(impl BlockSource + ?Sized), found: u64) -> Result<Self, ReadError> {
        let mut scratch = Vec::new();
        let first = source.read(0..found.min(header::PRELUDE_BYTES as u64), &mut scratch)?;
        let head = Self::head_bytes(format, first)?.unwrap_or(header::PRELUDE_BYTES) as u64;
        if head > found {
            return Err(DecodeError::Truncated { expected: head, found }.into());
        }
        let plan = Self::read(format, source.read(0..head, &mut scratch)?)?;
        plan.expect_length(found)?;
        Ok(plan)
    }
}

impl BodyFormat {
    /// Reads a body of exactly these tensors, in an encoding that needs no base.
    ///
    /// # Errors
    /// Anything that does not hold of the body.
    pub fn read(self, body: &[u8], schema: &Schema) -> Result<Parameters, DecodeError> {
        match self {
            Self::Container => container::decode(body, schema),
            Self::Safetensors { zstd: false } => safe::read(body, schema),
            Self::Safetensors { zstd: true } => {
                let most = usize::try_from(limits::max_body_bytes(schema)).unwrap_or(usize::MAX);
                safe::read(&safe::decompress(body, most)?, schema)
            }
        }
    }
}

/// Checks that a run can send these parameters in every format that its clients may ask for, where its updates are of that
/// encoding.
///
/// # Errors
/// Names what it cannot send.
pub fn check_model(parameters: &Parameters, encoding: Encoding) -> Result<(), EncodeError> {
    let schema = parameters.schema();
    if schema.tensors().iter().any(|spec| spec.name == safe::METADATA) {
        return Err(EncodeError::ReservedName);
    }
    let header = safe::header_bytes(schema)?.max(container::header_bytes(schema, encoding)?);
    if header > limits::MAX_HEADER_BYTES {
        return Err(EncodeError::HeaderTooLong(header));
    }
    if encoding == Encoding::F32 {
        return Ok(());
    }
    for (spec, values) in parameters.iter() {
        if let Values::F32(values) = values
            && let Some(index) = bf16::first_beyond(values)
        {
            let (tensor, value) = (spec.name.clone(), values[index]);
            return Err(EncodeError::Inexpressible { tensor, index, value, encoding });
        }
    }
    Ok(())
}

impl ModelFormat {
    /// Writes a global model. `base`: of `bf16-delta`.
    ///
    /// # Errors
    /// The parameters cannot be encoded so.
    pub fn write(self, parameters: &Parameters, base: Option<Base<'_>>) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Container(Encoding::Bf16Delta) => {
                container::encode_delta(parameters, base.ok_or(EncodeError::NoBase)?)
            }
            Self::Container(encoding) => container::encode(parameters, encoding, None),
            Self::Safetensors { zstd: false } => safe::write(parameters),
            Self::Safetensors { zstd: true } => safe::compress(&safe::write(parameters)?),
        }
    }
}
