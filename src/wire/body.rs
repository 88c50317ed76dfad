//! Whole bodies in a negotiated format.

use super::error::{DecodeError, EncodeError};
use super::negotiate::{BodyFormat, ModelFormat};
use super::plan::Base;
use super::tensor::{Parameters, Schema, Values};
use super::{bf16, container, limits, safe};
use app::api::Encoding;

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
