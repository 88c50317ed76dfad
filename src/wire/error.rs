//! Every reason for which a body is refused or cannot be made.

use super::limits::{MAX_HEADER_BYTES, MAX_ZSTD_WINDOW_LOG};
use super::tensor::{Dtype, SchemaError};
use app::api::Encoding;

/// Why parameters cannot be encoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// NaN or infinity among the values.
    #[error("tensor '{tensor}' has a value that is NaN or infinite at index {index}")]
    NotFinite {
        /// Which tensor.
        tensor: String,
        /// Which value, in row-major order.
        index: usize,
    },
    /// A change from the base that is infinite, or would be for the reader, who gets it as a multiple of a scale.
    #[error("tensor '{tensor}' changes too far at index {index}: rounded, the change or what it leads to is infinite")]
    ChangeTooLarge {
        /// Which tensor.
        tensor: String,
        /// Which value, in row-major order.
        index: usize,
    },
    /// The encoding tells values by what they are in a base, and there is none.
    #[error("this encoding needs a base version")]
    NoBase,
    /// Names and shapes alone pass the limit that decoders accept.
    #[error("the header has {0} bytes, at most {MAX_HEADER_BYTES} are allowed")]
    HeaderTooLong(usize),
    /// A model that cannot be sent in the encoding of its run.
    #[error(
        "tensor '{tensor}' has {value:e} at index {index}, which encoding {encoding} cannot express: its models are sent \
         as bf16, of at most {:e} either way; choose encoding f32, or smaller values",
        super::LARGEST_BF16
    )]
    Inexpressible {
        /// Which tensor.
        tensor: String,
        /// Which value, in row-major order.
        index: usize,
        /// What it is.
        value: f32,
        /// The run's.
        encoding: Encoding,
    },
    /// A name that safetensors keeps for itself.
    #[error("a tensor cannot be named '__metadata__': safetensors keeps that name for itself; rename the tensor")]
    ReservedName,
    /// A library failed: for want of memory, as far as we know.
    #[error("{library} failed: {reason}")]
    Library {
        /// Which one.
        library: &'static str,
        /// What it says.
        reason: String,
    },
}

/// Why bytes are no acceptable parameters. Nothing of them is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    // What holds of the body as a whole.
    /// Another format.
    #[error("the body does not begin with the signature of application/vnd.fedlearn.params")]
    Signature,
    /// Another format, which is known by its first bytes.
    #[error("the body is not {expected}: it begins like {found}")]
    Foreign {
        /// What it should be.
        expected: &'static str,
        /// What it looks like, and what to do about it.
        found: &'static str,
    },
    /// Another version of our format.
    #[error("format version {0}, this program reads version 1")]
    Version(u32),
    /// Less than its own header says, or than any body must have.
    #[error("the body ends after {found} bytes, {expected} are needed")]
    Truncated {
        /// Bytes needed.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// More than its own header says.
    #[error("the body should end after {expected} bytes and has {found}")]
    Trailing {
        /// Bytes accounted for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Over [`MAX_HEADER_BYTES`].
    #[error("the header has {0} bytes, at most {MAX_HEADER_BYTES} are allowed")]
    HeaderTooLong(u64),
    /// The header changed on its way.
    #[error("the header's checksum is {found:08x}, its bytes have {computed:08x}")]
    HeaderChecksum {
        /// As sent.
        found: u32,
        /// As it should be.
        computed: u32,
    },
    /// Not the structure that a header has.
    #[error("the header cannot be read: {0}")]
    Header(String),
    /// More list elements in the header than any schema may have.
    #[error("the header lists {count} {what}, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// How many may be.
        limit: u64,
    },
    /// More values than the caller wants to hold.
    #[error("{values} values, at most {limit} are allowed")]
    TooManyValues {
        /// How many.
        values: u64,
        /// How many may be.
        limit: u64,
    },

    // What holds of tensors.
    /// A dtype that is not F32, I64 or, in safetensors, F16 or BF16.
    #[error(
        "tensor '{tensor}' has dtype {dtype}; known are F32, F16 and BF16 for parameters, and I64 for counters: convert it, \
         in PyTorch with .float() or .long()"
    )]
    UnknownDtype {
        /// Which tensor.
        tensor: String,
        /// Its dtype: the container's code, or safetensors' word.
        dtype: String,
    },
    /// An encoding of the whole body that is not known.
    #[error("unknown encoding {0}")]
    UnknownEncoding(u8),
    /// An encoding of a tensor that is not known, or not for its dtype.
    #[error("tensor '{tensor}' is {dtype:?} and cannot have the encoding {encoding}")]
    TensorEncoding {
        /// Which tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// The code of its encoding.
        encoding: u8,
    },
    /// Tensors must come in the order of their names' bytes.
    #[error("tensor '{tensor}' comes after '{previous}', the order is by name")]
    TensorOrder {
        /// Which tensor.
        tensor: String,
        /// The one before it.
        previous: String,
    },
    /// The tensors are no schema: a name twice, or a limit passed.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The header contradicts itself.
    #[error("the header's schema digest is not that of its tensors")]
    SchemaDigest,
    /// The model has a tensor that the body has not.
    #[error("tensor '{0}' is missing")]
    MissingTensor(String),
    /// The body has a tensor that the model has not.
    #[error("tensor '{0}' is not one of the model's")]
    UnknownTensor(String),
    /// Model and body disagree on a dtype.
    #[error("tensor '{tensor}' has dtype {found:?}, the model's is {expected:?}")]
    DtypeMismatch {
        /// Which tensor.
        tensor: String,
        /// The model's.
        expected: Dtype,
        /// The body's.
        found: Dtype,
    },
    /// Model and body disagree on a shape.
    #[error("tensor '{tensor}' has shape {found:?}, the model's is {expected:?}")]
    ShapeMismatch {
        /// Which tensor.
        tensor: String,
        /// The model's.
        expected: Vec<u64>,
        /// The body's.
        found: Vec<u64>,
    },
    /// NaN or infinity among the values.
    #[error("tensor '{tensor}' has a value that is NaN or infinite at index {index}")]
    NotFinite {
        /// Which tensor.
        tensor: String,
        /// Which value, in row-major order.
        index: usize,
    },

    // What holds of the container's blocks.
    /// Blocks of no values, or above the limit.
    #[error("blocks of {found} values, allowed are 1 to {limit}")]
    BlockValues {
        /// Values a block.
        found: u32,
        /// The most there may be.
        limit: usize,
    },
    /// Blocks leave values uncovered, or cover some twice.
    #[error("{found} blocks, the tensors need {expected}")]
    BlockCount {
        /// How many the tensors need.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A block changed on its way.
    #[error("block {block} has the checksum {found:08x}, its bytes have {computed:08x}")]
    BlockChecksum {
        /// Which block, from 0.
        block: usize,
        /// As sent.
        found: u32,
        /// As it should be.
        computed: u32,
    },
    /// The bytes of a block are not as many as its content says.
    #[error("block {block} has {found} bytes, its content {expected}")]
    BlockLength {
        /// Which block, from 0.
        block: usize,
        /// Bytes of its content.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Neither raw nor zstd.
    #[error("block {block} has a plane of the unknown method {method}")]
    PlaneMethod {
        /// Which block, from 0.
        block: usize,
        /// The code of the method.
        method: u8,
    },
    /// A plane does not have, or does not expand to, as many bytes as the block's values need.
    #[error("block {block} has a plane of {found} bytes, its values need {expected}")]
    PlaneSize {
        /// Which block, from 0.
        block: usize,
        /// Bytes its values need.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A plane is not one zstd frame.
    #[error("block {block} has a plane that is no zstd frame: {reason}")]
    PlaneZstd {
        /// Which block, from 0.
        block: usize,
        /// What the zstd library says.
        reason: String,
    },

    /// Something beside the last code of a block with an odd number of them.
    #[error("block {block} has an odd number of codes and something beside the last one")]
    Padding {
        /// Which block, from 0.
        block: usize,
    },
    /// The positions of a sparse block are not as many as it says, or not within it.
    #[error("block {block} says it has {count} entries among its {values} values, and its gaps do not fit that")]
    Positions {
        /// Which block, from 0.
        block: usize,
        /// How many entries it says it has.
        count: u64,
        /// How many values it has.
        values: usize,
    },

    // What holds of differences.
    /// Values are told by what they are in a base, and the body does not name one.
    #[error("the body is a difference and does not say to which version")]
    NoBase,
    /// The version that the body is a difference to is not at hand.
    #[error("the body is a difference to version {0}, which is not the one at hand")]
    UnknownBase(u64),

    // What holds of safetensors, and of zstd around a whole body.
    /// A gap before a tensor, or an overlap with the one before.
    #[error("tensor '{tensor}' begins at byte {found} of the data, it should at {expected}")]
    Offset {
        /// Which tensor.
        tensor: String,
        /// Where the one before ends.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// The bytes of a tensor are not as many as its shape needs.
    #[error("tensor '{tensor}' has {found} bytes, its shape needs {expected}")]
    TensorSize {
        /// Which tensor.
        tensor: String,
        /// Bytes its shape needs.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The body is not zstd, or asks for a window above 2^[`MAX_ZSTD_WINDOW_LOG`] bytes.
    #[error("the body is no zstd of a window up to 2^{MAX_ZSTD_WINDOW_LOG} bytes: {0}")]
    Zstd(String),
    /// The body expands to more than it may.
    #[error("the body expands to more than {limit} bytes")]
    Expands {
        /// The most there may be.
        limit: u64,
    },
}
