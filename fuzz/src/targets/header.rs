//! The head of a container: of any bytes, and of fields that are right but for some.

use super::changes::Change;
use super::check;
use super::frame;
use super::model::{Dimension, Name};
use arbitrary::{Arbitrary, Unstructured};
use fedlearn::wire::{BodyFormat, DecodeError, Dtype, MAX_HEADER_BYTES, Plan, Schema, TensorSpec};

/// Input of the target.
#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// As the first bytes of a body.
    Raw(&'a [u8]),
    /// As a header, between what belongs before and after it.
    Framed(&'a [u8]),
    /// Fields.
    Fields(Fields, Vec<u16>, Vec<Change>),
}

/// The fields of a header before its block table.
#[derive(Debug, Arbitrary)]
pub struct Fields {
    encoding: u8,
    base_version: Option<u64>,
    tensors: Vec<Tensor>,
    block_values: BlockValues,
    /// Sorted, each name once, with codes that are known.
    sound: bool,
    digest: Option<[u8; 32]>,
    /// Added to the number of blocks.
    blocks_more: i8,
}

#[derive(Debug, Arbitrary)]
struct Tensor {
    name: Name,
    dtype: u8,
    encoding: u8,
    shape: Vec<Dimension>,
}

#[derive(Debug, Arbitrary)]
enum BlockValues {
    Full,
    Small(u8),
    Any(u32),
}

/// What the fields became.
#[derive(Debug)]
pub struct Written {
    /// In postcard.
    pub bytes: Vec<u8>,
    /// How many blocks the tensors need, if these can be counted.
    pub blocks: u64,
    /// Name, dtype, encoding, shape.
    pub tensors: Vec<(String, u8, u8, Vec<u64>)>,
}

impl Fields {
    /// As the specification says.
    pub fn write(&self) -> Written {
        let tensor = |t: &Tensor| {
            let shape = t.shape.iter().map(Dimension::size).collect::<Vec<_>>();
            if self.sound {
                // 2 is for integers, the others for floats.
                let (dtype, float) = (t.dtype % 2, [0, 1, 3, 4, 5, 6][usize::from(t.encoding % 6)]);
                (t.name.text(), dtype, if dtype == 1 { 2 } else { float }, shape)
            } else {
                (t.name.text(), t.dtype, t.encoding, shape)
            }
        };
        let mut tensors: Vec<_> = self.tensors.iter().map(tensor).collect();
        if self.sound {
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            tensors.dedup_by(|a, b| a.0 == b.0);
        }
        let spec = |(name, dtype, _, shape): &(String, u8, u8, Vec<u64>)| TensorSpec {
            name: name.clone(),
            dtype: if *dtype == 1 { Dtype::I64 } else { Dtype::F32 },
            shape: shape.clone(),
        };
        let schema = Schema::new(tensors.iter().map(spec).collect());
        let digest = self.digest.unwrap_or_else(|| schema.map_or([0; 32], |schema| *schema.digest()));
        let block_values = match self.block_values {
            BlockValues::Full => 1 << 18,
            BlockValues::Small(values) => u32::from(values),
            BlockValues::Any(values) => values,
        };
        let values_of = |code: u8| {
            let values =
                tensors.iter().filter(|t| t.2 == code).map(|t| t.3.iter().fold(1u64, |n, d| n.saturating_mul(*d)));
            values.fold(0, u64::saturating_add)
        };
        let blocks = (0..=6).map(|code| values_of(code).div_ceil(u64::from(block_values.max(1))));
        let blocks = blocks.fold(0, u64::saturating_add);
        let claimed = blocks.saturating_add_signed(self.blocks_more.into());
        let encoding = if self.sound { self.encoding % 6 } else { self.encoding };
        let fields = (digest, encoding, self.base_version, &tensors, block_values, claimed);
        Written { bytes: postcard::to_stdvec(&fields).expect("enough memory"), blocks, tensors }
    }

    /// Whether all is as it should be, so far as it does not lie in the tensors' names and shapes.
    pub fn is_sound(&self) -> bool {
        let block_values = match self.block_values {
            BlockValues::Full => true,
            BlockValues::Small(values) => values > 0,
            BlockValues::Any(values) => (1..=1 << 18).contains(&values),
        };
        self.sound && self.digest.is_none() && self.blocks_more == 0 && block_values
    }
}

/// Rows that are made for a header at most; a hundred thousand would only take longer.
const MOST_ROWS: u64 = 2_048;

/// Reads the head of a container. Returns whether it was accepted.
pub fn header(data: &[u8]) -> bool {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return false };
    let mut must_be_read = false;
    let head = match input {
        Input::Raw(bytes) => bytes.to_vec(),
        Input::Framed(header) => frame::head(header),
        Input::Fields(fields, lengths, changes) => {
            let Written { mut bytes, blocks, tensors } = fields.write();
            let mut lengths = lengths.iter().cycle();
            for block in 0..blocks.min(MOST_ROWS) {
                bytes.extend(u32::from(*lengths.next().unwrap_or(&0)).to_le_bytes());
                bytes.extend((block as u32).to_le_bytes());
            }
            changes.iter().for_each(|change| change.on(&mut bytes));
            let names_and_shapes = |(name, _, _, shape): &(String, u8, u8, Vec<u64>)| {
                (1..=1024).contains(&name.len()) && shape.len() <= 8 && !shape.iter().any(|size| *size > 1 << 18)
            };
            must_be_read = fields.is_sound()
                && changes.is_empty()
                && blocks <= MOST_ROWS
                && tensors.iter().all(names_and_shapes)
                && tensors
                    .iter()
                    .all(|t| t.3.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).is_some_and(|n| n < 1 << 24));
            frame::head(&bytes)
        }
    };
    let read = read(&head);
    assert!(!must_be_read || read.is_ok(), "sound fields are refused: {read:?}");
    read.is_ok()
}

fn read(bytes: &[u8]) -> Result<(), DecodeError> {
    let Some(len) = Plan::head_bytes(BodyFormat::Container, bytes)? else { return Err(DecodeError::Signature) };
    assert!((20..=20 + MAX_HEADER_BYTES).contains(&len), "a head of {len} bytes");
    let head = bytes.get(..len).unwrap_or(bytes);
    let plan = Plan::read(BodyFormat::Container, head)?;
    assert_eq!(head.len(), len, "the checksum of a head that is cut fits");
    check::tiles(&plan, len as u64);
    let again = Plan::of_source(BodyFormat::Container, head, plan.bytes()).expect("its head was read");
    assert_eq!(again, plan);
    Ok(())
}
