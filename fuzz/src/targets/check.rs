//! What must hold of whatever is accepted.

use super::model::bits;
use fedlearn::wire::{
    self, Base, BlockSource, BodyFormat, Dtype, MAX_BLOCK_VALUES, Parameters, Plan, ReadError, Schema, Sink,
    TensorSpec, Values,
};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// All values are finite, and come back bit for bit when they are sent on as they are.
pub fn can_be_sent_on(parameters: &Parameters) {
    for values in parameters.values() {
        assert!(!matches!(values, Values::F32(values) if values.iter().any(|v| !v.is_finite())), "only finite values");
    }
    let body = wire::encode(parameters, app::api::Encoding::F32, None).expect("finite values can be sent");
    let back = wire::decode(&body, parameters.schema()).expect("what is sent can be read");
    assert_eq!(bits(&back), bits(parameters));
}

/// Read block by block, each by itself and the last one first, the values are the same.
pub fn blocks_stand_for_themselves(format: BodyFormat, body: &[u8], base: Option<Base<'_>>, whole: &Parameters) {
    let plan = Plan::of(format, body).expect("it was read");
    let zeros = |spec: &TensorSpec| match spec.dtype {
        Dtype::F32 => Values::F32(vec![0.0; spec.values().unwrap_or(0) as usize]),
        Dtype::I64 => Values::I64(vec![0; spec.values().unwrap_or(0) as usize]),
    };
    let mut values: Vec<_> = plan.schema().tensors().iter().map(zeros).collect();
    for block in (0..plan.block_count()).rev() {
        let pieces = plan.pieces(block).collect();
        let sink = Write { pieces, values: &mut values };
        plan.read_blocks(body, base, block..block + 1, vec![sink]).expect("it was read");
    }
    assert_eq!(bits(&Parameters::new(plan.schema().clone(), values)), bits(whole));
}

struct Write<'a> {
    pieces: Vec<(usize, Range<usize>)>,
    values: &'a mut [Values],
}

impl Sink for Write<'_> {
    fn floats(&mut self, piece: usize, at: usize, from: &[f32]) {
        let (tensor, place) = &self.pieces[piece];
        let Values::F32(to) = &mut self.values[*tensor] else { panic!("floats for a tensor of integers") };
        to[place.start + at..][..from.len()].copy_from_slice(from);
    }

    fn integers(&mut self, piece: usize, at: usize, from: &[i64]) {
        let (tensor, place) = &self.pieces[piece];
        let Values::I64(to) = &mut self.values[*tensor] else { panic!("integers for a tensor of floats") };
        to[place.start + at..][..from.len()].copy_from_slice(from);
    }
}

/// The blocks of a plan cover every value once, and the bytes after a head of `head` bytes without gap or overlap.
pub fn tiles(plan: &Plan, head: u64) {
    let tensors = plan.schema().tensors();
    let mut reached = vec![0; tensors.len()];
    let mut end = head;
    let nothing = Parameters::new(Arc::new(Schema::new(Vec::new()).expect("no tensors")), Vec::new());
    let base = plan.base_version().map(|version| Base { version, parameters: &nothing });
    let readable = plan.expect_base(base).is_ok();
    for block in 0..plan.block_count() {
        let mut values = 0;
        for (tensor, piece) in plan.pieces(block) {
            assert_eq!(piece.start, reached[tensor], "a tensor's pieces follow one another");
            values += piece.len();
            reached[tensor] = piece.end;
        }
        assert!((1..=MAX_BLOCK_VALUES).contains(&values), "a block of {values} values");
        if readable {
            let asked = Asked::default();
            let refused = plan.read_blocks(&asked, base, block..block + 1, vec![Nowhere]);
            assert!(matches!(refused, Err(ReadError::Source(_))), "a block's bytes are asked for first");
            let range = asked.0.into_inner().expect("no panic").expect("a range");
            assert_eq!(range.start, end, "blocks follow one another");
            end = range.end;
        }
    }
    let wanted: Vec<_> = tensors.iter().map(|spec| spec.values().unwrap_or(0) as usize).collect();
    assert_eq!(reached, wanted, "the blocks cover every value");
    assert!(!readable || end == plan.bytes(), "the blocks end with the body");
    assert_eq!(plan.blocks_within(plan.bytes()), plan.block_count());
}

/// A source that has nothing and remembers what it was asked for.
#[derive(Default)]
struct Asked(Mutex<Option<Range<u64>>>);

impl BlockSource for Asked {
    fn read<'a>(&'a self, range: Range<u64>, _: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        *self.0.lock().expect("no panic") = Some(range);
        Err(io::Error::other("it has nothing"))
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn floats(&mut self, _: usize, _: usize, _: &[f32]) {}
    fn integers(&mut self, _: usize, _: usize, _: &[i64]) {}
}
