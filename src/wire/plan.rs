//! How a body is read: which bytes hold which values, known from its head, so that blocks can be read as they arrive,
//! side by side, and from wherever the bytes are.

use super::block::{BlockDecoder, Sink};
use super::changes::{ChangeSink, Changes};
use super::error::DecodeError;
use super::layout::{self, Block, Slot, Stretch};
use super::tensor::{Parameters, Schema, Values};
use app::api::Encoding;
use rayon::prelude::*;
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What a body holds, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(super) schema: Arc<Schema>,
    /// What the sender was asked for, as the container says; each tensor says for itself how it is written.
    pub(super) encoding: Option<Encoding>,
    pub(super) base_version: Option<u64>,
    pub(super) blocks: Vec<PlannedBlock>,
    /// Of the whole body.
    pub(super) bytes: u64,
}

/// A block and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PlannedBlock {
    /// Where in the body. Blocks follow one another without gaps.
    pub range: Range<u64>,
    /// CRC-32, where there is one.
    pub checksum: Option<u32>,
    pub block: Block,
}

/// A version that both sides hold.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Its number.
    pub version: u64,
    /// Its values.
    pub parameters: &'a Parameters,
}

/// Where the bytes of a body are.
pub trait BlockSource: Sync {
    /// These bytes; `scratch` is for those who have none to lend.
    ///
    /// # Errors
    /// They cannot be read.
    fn read<'a>(&'a self, range: Range<u64>, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]>;
}

impl BlockSource for [u8] {
    fn read<'a>(&'a self, range: Range<u64>, _: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        range.and_then(|(start, end)| self.get(start..end)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Why blocks were not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The body is not acceptable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Its bytes are not to be had.
    #[error("cannot read the body: {0}")]
    Source(#[from] io::Error),
}

thread_local! {
    /// Of each worker thread: so that memory depends on the number of cores, not on that of bodies.
    static WORKER: RefCell<(BlockDecoder, Vec<u8>)> = RefCell::default();
}

impl Plan {
    /// What the body holds.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// What the sender of a container was asked for.
    pub fn encoding(&self) -> Option<Encoding> {
        self.encoding
    }

    /// The version that the body is a difference to, or that its sender trained from; none if it does not say.
    pub fn base_version(&self) -> Option<u64> {
        self.base_version
    }

    /// Bytes of the whole body.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many blocks it has.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Of each piece of a block, in order: which tensor of the schema, and which of its values.
    pub fn pieces(&self, block: usize) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let pieces = self.blocks.get(block).map(|b| b.block.pieces.as_slice()).unwrap_or_default();
        pieces.iter().map(|piece| (piece.tensor, piece.values.clone()))
    }

    /// How many blocks the first so many bytes of the body hold.
    pub fn blocks_within(&self, bytes: u64) -> usize {
        self.blocks.partition_point(|block| block.range.end <= bytes)
    }

    /// Checks that the body has as many bytes as it should.
    ///
    /// # Errors
    /// It has less or more.
    pub fn expect_length(&self, found: u64) -> Result<(), DecodeError> {
        let expected = self.bytes;
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => Err(DecodeError::Truncated { expected, found }),
            std::cmp::Ordering::Greater => Err(DecodeError::Trailing { expected, found }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    /// Checks that the body holds exactly these tensors.
    ///
    /// # Errors
    /// Names the first tensor in which it does not.
    pub fn expect_schema(&self, expected: &Schema) -> Result<(), DecodeError> {
        let mut theirs = self.schema.tensors().iter().peekable();
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
    ///
    /// # Errors
    /// There are more.
    pub fn expect_at_most(&self, limit: u64) -> Result<(), DecodeError> {
        let values = self.schema.values();
        if values > limit { Err(DecodeError::TooManyValues { values, limit }) } else { Ok(()) }
    }

    /// Checks that the base at hand is the one that the body needs; one that needs none is content with any.
    ///
    /// # Errors
    /// It is not, or there is none.
    pub fn expect_base(&self, base: Option<Base<'_>>) -> Result<(), DecodeError> {
        if !self.blocks.iter().any(|b| b.block.encoding.needs_base()) {
            return Ok(());
        }
        match (self.base_version, base) {
            (Some(version), Some(base)) if version == base.version => Ok(()),
            (Some(version), _) => Err(DecodeError::UnknownBase(version)),
            (None, _) => Err(DecodeError::NoBase),
        }
    }

    /// Reads some of the blocks, side by side; each into its own of `sinks`, which come back in that order.
    ///
    /// # Errors
    /// One of them is not acceptable or not to be had. Then part of the values may have been passed already.
    pub fn read_blocks<S: Sink + Send>(
        &self,
        source: &(impl BlockSource + ?Sized),
        base: Option<Base<'_>>,
        blocks: Range<usize>,
        sinks: Vec<S>,
    ) -> Result<Vec<S>, ReadError> {
        self.expect_base(base)?;
        let base = base.map(|base| base.parameters);
        let first = blocks.start;
        let blocks = self.blocks.get(blocks).unwrap_or_default();
        let each = blocks.par_iter().zip(sinks).enumerate().map(|(index, (planned, mut sink))| {
            WORKER.with_borrow_mut(|(decoder, scratch)| {
                let bytes = source.read(planned.range.clone(), scratch)?;
                let number = first + index;
                let computed = crc32fast::hash(bytes);
                if let Some(found) = planned.checksum
                    && found != computed
                {
                    return Err(DecodeError::BlockChecksum { block: number, found, computed }.into());
                }
                decoder.read(number, &planned.block, bytes, &self.schema, base, &mut sink)?;
                Ok(sink)
            })
        });
        each.collect()
    }

    /// Reads what some of the blocks of an update change, side by side; each into its own of `sinks`, which come back in
    /// that order.
    ///
    /// # Errors
    /// As [`Self::read_blocks`].
    ///
    /// # Panics
    /// If the base is not of the body's schema.
    pub fn read_changes<S: ChangeSink + Send>(
        &self,
        source: &(impl BlockSource + ?Sized),
        base: Base<'_>,
        blocks: Range<usize>,
        sinks: Vec<S>,
    ) -> Result<Vec<S>, ReadError> {
        assert_eq!(self.schema.digest(), base.parameters.schema().digest(), "parameters of one model");
        let of = self.blocks.get(blocks.clone()).unwrap_or_default().iter().map(|planned| &planned.block);
        let sinks = of.zip(sinks).map(|(block, sink)| Changes { block, base: base.parameters, sink }).collect();
        let read = self.read_blocks(source, Some(base), blocks, sinks)?;
        Ok(read.into_iter().map(|changes| changes.sink).collect())
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// As [`Self::read_blocks`].
    pub fn load(&self, source: &(impl BlockSource + ?Sized), base: Option<Base<'_>>) -> Result<Parameters, ReadError> {
        self.expect_base(base)?; // before memory is taken
        let mut values: Vec<_> = self.schema.tensors().iter().map(Values::zeros).collect();
        let slots = self.cut(values.iter_mut().map(Slot::of));
        self.read_blocks(source, base, 0..self.blocks.len(), slots.into_iter().map(Copy).collect())?;
        Ok(Parameters::new(self.schema.clone(), values))
    }

    /// Cuts the memory of whole tensors, in the schema's order, into that of each block's pieces.
    pub fn cut<S: Stretch>(&self, tensors: impl Iterator<Item = S>) -> Vec<Vec<S>> {
        layout::cut(self.blocks.iter().map(|b| &b.block), tensors)
    }
}

/// Copies values to where they belong.
struct Copy<'a>(Vec<Slot<'a>>);

impl Sink for Copy<'_> {
    fn floats(&mut self, piece: usize, at: usize, values: &[f32]) {
        if let Some(Slot::F32(slot)) = self.0.get_mut(piece) {
            slot[at..at + values.len()].copy_from_slice(values);
        }
    }

    fn integers(&mut self, piece: usize, at: usize, values: &[i64]) {
        if let Some(Slot::I64(slot)) = self.0.get_mut(piece) {
            slot[at..at + values.len()].copy_from_slice(values);
        }
    }
}
