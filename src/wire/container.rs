//! `application/vnd.fedlearn.params`: a header, then blocks that stand for themselves, so that they can be written and
//! read side by side and as they come. The specification is `docs/wire-format.md`.

use super::block::{BlockEncoder, Source};
use super::error::{DecodeError, EncodeError};
use super::header::{self, Row};
use super::layout::{self, Block, Slot, TensorEncoding};
use super::limits::MAX_BLOCK_VALUES;
use super::negotiate::BodyFormat;
use super::plan::{Base, Plan, ReadError};
use super::sparse;
use super::tensor::{Parameters, Schema, Values};
use app::api::Encoding;
use rayon::prelude::*;
use std::cell::RefCell;
use std::io::{self, Write};

/// Writes a container in an encoding that needs no base; `bf16` is rounded to nearest, and to the largest where a value is
/// beyond that. The same input gives the same bytes, with the same version of zstd.
///
/// `base_version` is the global version that a client trained from; none for a global model itself.
///
/// # Errors
/// A value is NaN or infinite, or names and shapes alone pass the header's limit. The encoding needs a base.
pub fn encode(parameters: &Parameters, encoding: Encoding, base_version: Option<u64>) -> Result<Vec<u8>, EncodeError> {
    let source = Source { parameters, base: None, residual: None, thresholds: &[], seed: None };
    encode_blocks_of(MAX_BLOCK_VALUES, &source, encoding, base_version, None)
}

/// Writes a model in `bf16-delta`: the parameters, rounded to nearest, for a reader that holds the base.
///
/// # Errors
/// As [`encode`].
///
/// # Panics
/// If base and parameters are not of one schema.
pub fn encode_delta(parameters: &Parameters, base: Base<'_>) -> Result<Vec<u8>, EncodeError> {
    assert_eq!(parameters.schema().digest(), base.parameters.schema().digest(), "parameters of one model");
    let source = Source { parameters, base: Some(base.parameters), residual: None, thresholds: &[], seed: None };
    encode_blocks_of(MAX_BLOCK_VALUES, &source, Encoding::Bf16Delta, Some(base.version), None)
}

/// What a client's updates have lost so far in the lossy encodings, to be made good by the next ones (error feedback).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Feedback {
    residual: Option<Parameters>,
}

impl Feedback {
    /// What is still owed; none before the first lossy update.
    pub fn residual(&self) -> Option<&Parameters> {
        self.residual.as_ref()
    }
}

/// How an update is to be written.
#[derive(Debug, Clone, Copy)]
pub struct UpdateRecipe {
    /// The encoding.
    pub encoding: Encoding,
    /// Of `topk`: the share of a tensor's values that is sent, above 0, at most 1; of each at least 1,024.
    pub topk_fraction: f64,
    /// Of rounding at random, which all encodings but `f32` do. Each update needs another one.
    pub seed: u64,
}

/// Writes an update: parameters that were trained from a base. Returns what is owed from then on, which holds once the
/// update is accepted.
///
/// # Errors
/// As [`encode`]; or a change is beyond what the encoding has a multiple for.
///
/// # Panics
/// If the base or the feedback is not of the parameters' schema.
pub fn encode_update(
    parameters: &Parameters,
    base: Base<'_>,
    recipe: UpdateRecipe,
    feedback: &Feedback,
) -> Result<(Vec<u8>, Feedback), EncodeError> {
    update_blocks_of(MAX_BLOCK_VALUES, parameters, base, recipe, feedback)
}

/// [`encode_update`] with blocks of `block_values` values, 1 to [`MAX_BLOCK_VALUES`].
pub(super) fn update_blocks_of(
    block_values: usize,
    parameters: &Parameters,
    base: Base<'_>,
    recipe: UpdateRecipe,
    feedback: &Feedback,
) -> Result<(Vec<u8>, Feedback), EncodeError> {
    let schema = parameters.schema();
    let of_one_model = [Some(base.parameters), feedback.residual()];
    for other in of_one_model.into_iter().flatten() {
        assert_eq!(schema.digest(), other.schema().digest(), "parameters of one model");
    }
    let mut source = Source {
        parameters,
        base: Some(base.parameters),
        residual: feedback.residual(),
        thresholds: &[],
        seed: Some(recipe.seed),
    };
    let encodings = encodings(schema, recipe.encoding);
    let thresholds;
    if recipe.encoding == Encoding::TopK {
        thresholds = self::thresholds(&source, &encodings, recipe.topk_fraction);
        source.thresholds = &thresholds;
    }
    let mut lost =
        encodings.iter().any(|e| e.is_lossy()).then(|| schema.tensors().iter().map(Values::zeros).collect::<Vec<_>>());
    let body = encode_blocks_of(block_values, &source, recipe.encoding, Some(base.version), lost.as_deref_mut())?;
    Ok((body, Feedback { residual: lost.map(|lost| Parameters::new(schema.clone(), lost)) }))
}

fn encodings(schema: &Schema, encoding: Encoding) -> Vec<TensorEncoding> {
    schema.tensors().iter().map(|spec| TensorEncoding::of(encoding, spec)).collect()
}

/// For each tensor, the magnitude that the largest of its differences reach.
fn thresholds(source: &Source<'_>, encodings: &[TensorEncoding], fraction: f64) -> Vec<f32> {
    let tensors = source.parameters.values().par_iter().zip(encodings).enumerate();
    let each = tensors.map(|(index, (values, encoding))| {
        let of = |parameters: Option<&Parameters>, at: usize| match parameters.map(|p| &p.values()[index]) {
            Some(Values::F32(values)) => values[at],
            _ => 0.0,
        };
        match values {
            Values::F32(values) if *encoding == TensorEncoding::TopK => {
                let at = 0..values.len();
                let owed = at.map(|at| values[at] - of(source.base, at) + of(source.residual, at));
                sparse::threshold(owed.map(f32::abs).collect(), fraction)
            }
            _ => 0.0,
        }
    });
    each.collect()
}

thread_local! {
    /// Of each worker thread: so that memory depends on the number of cores, not on that of bodies.
    static WORKER: RefCell<Option<BlockEncoder>> = const { RefCell::new(None) };
}

/// Writes each block by itself, side by side, and makes something of its bytes.
fn each_block<T: Send>(
    source: &Source<'_>,
    blocks: &[Block],
    lost: Vec<Vec<Slot<'_>>>,
    make: impl Fn(Vec<u8>) -> T + Sync,
) -> Result<Vec<T>, EncodeError> {
    let work = blocks.par_iter().zip(lost).enumerate().map(|(number, (block, lost))| {
        WORKER.with_borrow_mut(|worker| {
            let mut bytes = Vec::new();
            let encoder = match worker {
                Some(encoder) => encoder,
                None => worker.insert(BlockEncoder::new()?),
            };
            encoder.write(source, number, block, lost, &mut bytes)?;
            Ok(make(bytes))
        })
    });
    work.collect()
}

/// At most 8 MiB and a few bytes: fits.
fn row(bytes: &[u8]) -> Row {
    Row { bytes: bytes.len() as u32, checksum: crc32fast::hash(bytes) }
}

/// Writes a container with blocks of `block_values` values, 1 to [`MAX_BLOCK_VALUES`]. `lost`: all tensors of the schema.
pub(super) fn encode_blocks_of(
    block_values: usize,
    source: &Source<'_>,
    encoding: Encoding,
    base_version: Option<u64>,
    lost: Option<&mut [Values]>,
) -> Result<Vec<u8>, EncodeError> {
    let schema = source.parameters.schema();
    let encodings = encodings(schema, encoding);
    let blocks = layout::blocks(schema, &encodings, block_values);
    let lost = match lost {
        Some(lost) => layout::cut(blocks.iter(), lost.iter_mut().map(Slot::of)),
        None => blocks.iter().map(|_| Vec::new()).collect(),
    };
    let written = each_block(source, &blocks, lost, |bytes| (row(&bytes), bytes))?;
    let rows: Vec<_> = written.iter().map(|(row, _)| *row).collect();
    let mut body = header::write(schema, encoding, base_version, &encodings, block_values, &rows)?;
    body.reserve(rows.iter().map(|row| row.bytes as usize).sum());
    for (_, bytes) in written {
        body.extend(bytes);
    }
    Ok(body)
}

/// How long the header of a body in that encoding is, at most.
pub(super) fn header_bytes(schema: &Schema, encoding: Encoding) -> Result<usize, EncodeError> {
    let encodings = encodings(schema, encoding);
    let rows = vec![Row { bytes: 0, checksum: 0 }; layout::block_count(schema, &encodings, MAX_BLOCK_VALUES) as usize];
    let head = header::write(schema, encoding, Some(u64::MAX), &encodings, MAX_BLOCK_VALUES, &rows)?;
    Ok(head.len() - header::PRELUDE_BYTES - header::CHECKSUM_BYTES)
}

/// Writes a container of `f32` to a file or the like, a few blocks at a time rather than as a whole in memory.
///
/// # Errors
/// As [`encode`], and those of `out`.
pub fn write_f32(parameters: &Parameters, out: &mut (impl Write + ?Sized)) -> Result<(), io::Error> {
    let source = Source { parameters, base: None, residual: None, thresholds: &[], seed: None };
    let schema = parameters.schema();
    let encodings = encodings(schema, Encoding::F32);
    let blocks = layout::blocks(schema, &encodings, MAX_BLOCK_VALUES);
    let nothing = |blocks: &[Block]| blocks.iter().map(|_| Vec::new()).collect();
    // The head, with the checksums of all blocks, comes first: so the blocks are made twice, which costs next to nothing.
    let rows = each_block(&source, &blocks, nothing(&blocks), |bytes| row(&bytes)).map_err(io::Error::other)?;
    let head = header::write(schema, Encoding::F32, None, &encodings, MAX_BLOCK_VALUES, &rows);
    out.write_all(&head.map_err(io::Error::other)?)?;
    for (first, few) in blocks.chunks(FEW_BLOCKS).enumerate() {
        debug_assert!(few.iter().all(|b| !b.encoding.is_lossy()), "blocks that draw nothing from their number {first}");
        for bytes in each_block(&source, few, nothing(few), |bytes| bytes).map_err(io::Error::other)? {
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}

/// Blocks that [`write_f32`] holds at a time.
const FEW_BLOCKS: usize = 8;

/// Reads a container of exactly these tensors, in an encoding that needs no base.
///
/// # Errors
/// Anything that does not hold of the body. No memory is taken for values before names and shapes are the expected.
pub fn decode(body: &[u8], schema: &Schema) -> Result<Parameters, DecodeError> {
    decode_against(body, schema, None)
}

/// Reads a container of exactly these tensors. `base`: the version that it may be a difference to.
///
/// # Errors
/// As [`decode`].
pub fn decode_against(body: &[u8], schema: &Schema, base: Option<Base<'_>>) -> Result<Parameters, DecodeError> {
    let plan = Plan::of(BodyFormat::Container, body)?;
    plan.expect_schema(schema)?;
    load(&plan, body, base)
}

/// Reads a container of whatever tensors it names, up to `max_values` values together, in an encoding that needs no
/// base.
///
/// # Errors
/// Anything that does not hold of the body. No memory is taken for values before they are counted.
pub fn decode_any(body: &[u8], max_values: u64) -> Result<Parameters, DecodeError> {
    let plan = Plan::of(BodyFormat::Container, body)?;
    plan.expect_at_most(max_values)?;
    load(&plan, body, None)
}

/// Reads a body that is in memory as a whole.
pub(super) fn load(plan: &Plan, body: &[u8], base: Option<Base<'_>>) -> Result<Parameters, DecodeError> {
    plan.load(body, base).map_err(|error| match error {
        ReadError::Decode(error) => error,
        // Of bytes in memory: their number has been checked.
        ReadError::Source(_) => DecodeError::Truncated { expected: plan.bytes(), found: body.len() as u64 },
    })
}
