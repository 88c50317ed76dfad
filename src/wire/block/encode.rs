//! Values to a block's bytes.

use super::super::error::EncodeError;
use super::super::layout::{Block, Piece, Slot, TensorEncoding};
use super::super::plane::PlaneWriter;
use super::super::quantised::{self, GROUP_VALUES};
use super::super::tensor::{Parameters, Values};
use super::super::{bf16, delta, plain, sparse};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The largest multiple of the scale either way.
const fn most(encoding: TensorEncoding) -> f32 {
    if matches!(encoding, TensorEncoding::Q4) { 7.0 } else { 127.0 }
}

/// What blocks are written from.
#[derive(Clone, Copy)]
pub(in crate::wire) struct Source<'a> {
    pub parameters: &'a Parameters,
    /// For the encodings that need one.
    pub base: Option<&'a Parameters>,
    /// What earlier updates lost, to be added; for the lossy encodings.
    pub residual: Option<&'a Parameters>,
    /// For each tensor, the magnitude from which `topk` sends a difference.
    pub thresholds: &'a [f32],
    /// Of rounding at random. Without one bf16 is rounded to nearest, which is for models, and nothing else can be written.
    pub seed: Option<u64>,
}

/// Writes blocks. Its memory serves one after the other.
pub(in crate::wire) struct BlockEncoder {
    planes: PlaneWriter,
    first: Vec<u8>,
    second: Vec<u8>,
    differences: Vec<f32>,
    codes: Vec<i8>,
    rounded: Vec<u16>,
    positions: Vec<u32>,
}

impl BlockEncoder {
    pub fn new() -> Result<Self, EncodeError> {
        Ok(Self {
            planes: PlaneWriter::new()?,
            first: Vec::new(),
            second: Vec::new(),
            differences: Vec::new(),
            codes: Vec::new(),
            rounded: Vec::new(),
            positions: Vec::new(),
        })
    }

    /// Appends a block to `body`. `lost` is where a lossy encoding leaves what it loses, for each piece.
    pub fn write(
        &mut self,
        source: &Source<'_>,
        number: usize,
        block: &Block,
        lost: Vec<Slot<'_>>,
        body: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut at = 0;
        match block.encoding {
            TensorEncoding::F32 => {
                let start = body.len();
                body.resize(start + 4 * block.values, 0);
                let bytes = &mut body[start..];
                for piece in &block.pieces {
                    let values = floats(source.parameters, piece);
                    if !plain::all_finite(values) {
                        return Err(not_finite(source, piece));
                    }
                    plain::f32_to_le(values, &mut bytes[4 * at..]);
                    at += values.len();
                }
                Ok(())
            }
            TensorEncoding::Bf16 | TensorEncoding::Bf16Delta => {
                let (high, low) = (&mut self.first, &mut self.second);
                high.resize(block.values, 0);
                low.resize(block.values, 0);
                self.rounded.resize(block.values, 0);
                let mut random = source.seed.map(|seed| random(seed, number));
                for piece in &block.pieces {
                    let values = floats(source.parameters, piece);
                    if !plain::all_finite(values) {
                        return Err(not_finite(source, piece));
                    }
                    let rounded = &mut self.rounded[at..at + values.len()];
                    match &mut random {
                        Some(random) => bf16::round_at_random(values, base(source, piece)?, random, rounded),
                        None => rounded.iter_mut().zip(values).for_each(|(to, value)| *to = bf16::round(*value)),
                    }
                    if block.encoding == TensorEncoding::Bf16 {
                        bf16::split(rounded, &mut high[at..], &mut low[at..]);
                    } else {
                        delta::split(rounded, base(source, piece)?, &mut high[at..], &mut low[at..]);
                    }
                    at += values.len();
                }
                let repeats = block.encoding == TensorEncoding::Bf16Delta;
                self.planes.write(high, repeats, body)?;
                self.planes.write(low, repeats, body)
            }
            TensorEncoding::I64 => {
                let bytes = &mut self.first;
                bytes.resize(8 * block.values, 0);
                for piece in &block.pieces {
                    let values = integers(source.parameters, piece);
                    plain::i64_to_le(values, &mut bytes[8 * at..]);
                    at += values.len();
                }
                self.planes.write(bytes, true, body)
            }
            TensorEncoding::Q8 | TensorEncoding::Q4 => {
                self.subtract(source, block)?;
                self.quantise(source, number, block, body)?;
                if block.encoding == TensorEncoding::Q4 {
                    quantised::pack_halves(&self.codes, &mut self.first);
                } else {
                    self.first.clear();
                    self.first.extend(self.codes.iter().map(|code| *code as u8));
                }
                self.planes.write(&self.first, true, body)?;
                self.keep(lost);
                Ok(())
            }
            TensorEncoding::TopK => {
                self.subtract(source, block)?;
                self.sparsify(source, number, block, body)?;
                self.keep(lost);
                Ok(())
            }
            TensorEncoding::RawF16 | TensorEncoding::RawBf16 | TensorEncoding::RawI64 => {
                unreachable!("the container has no such encoding")
            }
        }
    }

    /// Fills `differences` with what is to be sent: values less base, and what was lost before.
    fn subtract(&mut self, source: &Source<'_>, block: &Block) -> Result<(), EncodeError> {
        self.differences.clear();
        for piece in &block.pieces {
            let (values, base) = (floats(source.parameters, piece), base(source, piece)?);
            let start = self.differences.len();
            self.differences.extend(values.iter().zip(base).map(|(value, base)| value - base));
            let differences = &mut self.differences[start..];
            if let Some(residual) = source.residual {
                let residual = floats(residual, piece);
                differences.iter_mut().zip(residual).for_each(|(difference, lost)| *difference += lost);
            }
            // A value may be so, or its distance from the base.
            if let Some(at) = plain::first_not_finite(differences) {
                return Err(too_far(source, piece, at));
            }
        }
        Ok(())
    }

    /// Turns `differences` into `codes` and what is lost; appends the scales to `body`.
    fn quantise(
        &mut self,
        source: &Source<'_>,
        number: usize,
        block: &Block,
        body: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut random = random(source.seed.unwrap_or_default(), number);
        self.codes.resize(block.values, 0);
        let (mut differences, mut codes) = (self.differences.as_mut_slice(), self.codes.as_mut_slice());
        for piece in &block.pieces {
            let (here, rest) = differences.split_at_mut(piece.values.len());
            let (codes_here, codes_rest) = codes.split_at_mut(piece.values.len());
            (differences, codes) = (rest, codes_rest);
            let bases = base(source, piece)?.chunks(GROUP_VALUES).enumerate();
            let groups = here.chunks_mut(GROUP_VALUES).zip(codes_here.chunks_mut(GROUP_VALUES));
            for ((group, codes), (index, base)) in groups.zip(bases) {
                let scale = quantised::scale(group, most(block.encoding));
                body.extend(scale.to_le_bytes());
                quantised::quantise(group, scale, most(block.encoding), &mut random, codes);
                if let Some(at) = quantised::first_beyond_f32(codes, scale, base) {
                    return Err(too_far(source, piece, index * GROUP_VALUES + at));
                }
            }
        }
        Ok(())
    }

    /// Turns `differences` into what is lost, and appends those above the threshold to `body`.
    fn sparsify(
        &mut self,
        source: &Source<'_>,
        number: usize,
        block: &Block,
        body: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.positions.clear();
        let mut at = 0;
        for piece in &block.pieces {
            let threshold = source.thresholds.get(piece.tensor).copied().unwrap_or(f32::MIN_POSITIVE);
            let here = &self.differences[at..at + piece.values.len()];
            let large = here.iter().enumerate().filter(|(_, difference)| difference.abs() >= threshold);
            self.positions.extend(large.map(|(index, _)| (at + index) as u32)); // a block has at most 2^18 values
            at += piece.values.len();
        }
        let mut sent: Vec<f32> = self.positions.iter().map(|at| self.differences[*at as usize]).collect();
        let scale = quantised::scale(&sent, most(block.encoding));
        self.codes.resize(sent.len(), 0);
        let mut random = random(source.seed.unwrap_or_default(), number);
        quantised::quantise(&mut sent, scale, most(block.encoding), &mut random, &mut self.codes);
        for (at, lost) in self.positions.iter().zip(&sent) {
            self.differences[*at as usize] = *lost;
        }
        let (mut entries, mut from) = (self.positions.iter().zip(&self.codes).peekable(), 0);
        for piece in &block.pieces {
            let (base, end) = (base(source, piece)?, from + piece.values.len());
            while let Some((at, code)) = entries.next_if(|(at, _)| (**at as usize) < end) {
                let at = *at as usize - from;
                if quantised::first_beyond_f32(&[*code], scale, &base[at..=at]).is_some() {
                    return Err(too_far(source, piece, at));
                }
            }
            from = end;
        }
        self.first.clear();
        sparse::write_gaps(&self.positions, &mut self.first);
        self.second.clear();
        self.second.extend(self.codes.iter().map(|code| *code as u8));
        body.extend(scale.to_le_bytes());
        body.extend((self.positions.len() as u32).to_le_bytes());
        body.extend((self.first.len() as u32).to_le_bytes());
        self.planes.write(&self.first, false, body)?;
        self.planes.write(&self.second, false, body)
    }

    /// Hands `differences`, by now what was lost, to who keeps it.
    fn keep(&self, lost: Vec<Slot<'_>>) {
        let mut differences = self.differences.as_slice();
        for slot in lost {
            if let Slot::F32(slot) = slot {
                let (here, rest) = differences.split_at(slot.len());
                slot.copy_from_slice(here);
                differences = rest;
            }
        }
    }
}

/// Each block draws its own, so that the order of work does not matter.
fn random(seed: u64, block: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(block as u64);
    random
}

fn floats<'a>(parameters: &'a Parameters, piece: &Piece) -> &'a [f32] {
    match &parameters.values()[piece.tensor] {
        Values::F32(values) => &values[piece.values.clone()],
        Values::I64(_) => unreachable!("an encoding is chosen by the dtype"),
    }
}

fn integers<'a>(parameters: &'a Parameters, piece: &Piece) -> &'a [i64] {
    match &parameters.values()[piece.tensor] {
        Values::I64(values) => &values[piece.values.clone()],
        Values::F32(_) => unreachable!("an encoding is chosen by the dtype"),
    }
}

fn base<'a>(source: &Source<'a>, piece: &Piece) -> Result<&'a [f32], EncodeError> {
    source.base.map(|base| floats(base, piece)).ok_or(EncodeError::NoBase)
}

/// Names the value of a piece whose change cannot be sent.
fn too_far(source: &Source<'_>, piece: &Piece, at: usize) -> EncodeError {
    let tensor = source.parameters.schema().tensors()[piece.tensor].name.clone();
    let index = piece.values.start + at;
    if floats(source.parameters, piece)[at].is_finite() {
        EncodeError::ChangeTooLarge { tensor, index }
    } else {
        EncodeError::NotFinite { tensor, index }
    }
}

/// Names the value of a piece that is NaN or infinite.
fn not_finite(source: &Source<'_>, piece: &Piece) -> EncodeError {
    let tensor = source.parameters.schema().tensors()[piece.tensor].name.clone();
    let at = plain::first_not_finite(floats(source.parameters, piece)).unwrap_or_default();
    EncodeError::NotFinite { tensor, index: piece.values.start + at }
}
