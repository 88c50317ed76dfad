//! Every refusal of blocks that tell differences, and of integers, each from bytes that are right but for one thing.

use super::literal::{Body, floats, plane};
use super::*;

/// A tensor `w` of values in one block, of an update from version 9.
fn update(encoding: u8, values: u64, block: &[Vec<u8>]) -> Body<'static> {
    let dtype = if encoding == 2 { Dtype::I64 } else { Dtype::F32 };
    Body {
        digest: *schema(&[("w", dtype, &[values])]).digest(),
        base_version: Some(9),
        tensors: vec![("w", dtype as u8, encoding, vec![values])],
        block_values: 1024,
        blocks: vec![block.concat()],
        ..Body::sound()
    }
}

/// What becomes of it where the base is 1, 2, 3 and so on.
fn read(body: &Body<'_>) -> Result<Vec<f32>, DecodeError> {
    let len = body.tensors[0].3[0];
    let base = parameters(&[("w", Values::F32((1..=len).map(|value| value as f32).collect()))]);
    let read = decode_against(&body.bytes(), base.schema(), Some(Base { version: 9, parameters: &base }))?;
    match &read.values()[0] {
        Values::F32(values) => Ok(values.clone()),
        Values::I64(_) => panic!("floats were read as integers"),
    }
}

fn length(expected: u64, found: u64) -> Result<Vec<f32>, DecodeError> {
    Err(DecodeError::BlockLength { block: 0, expected, found })
}

fn raw(bytes: &[u8]) -> Vec<u8> {
    plane(0, bytes)
}

fn number(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

/// Entries of `topk` with the scale 0.5: what it says of their number and of that of the gap bytes, and then these.
fn entries(count: u32, gap_bytes: u32, gaps: &[u8], codes: &[u8]) -> [Vec<u8>; 5] {
    [floats(&[0.5]), number(count), number(gap_bytes), raw(gaps), raw(codes)]
}

#[test]
fn the_blocks_of_these_tests_are_sound_but_for_what_they_change() {
    assert_eq!(read(&update(3, 3, &[raw(&[0; 3]), raw(&[0, 1, 0])])), Ok(vec![1.0, 1.992_187_5, 3.0]));
    assert_eq!(read(&update(4, 3, &[floats(&[0.5]), raw(&[2, 0, 0xfe])])), Ok(vec![2.0, 2.0, 2.0]));
    assert_eq!(read(&update(5, 3, &[floats(&[0.5]), raw(&[0x02, 0x0e])])), Ok(vec![2.0, 2.0, 2.0]));
    assert_eq!(read(&update(6, 3, &entries(2, 2, &[0, 1], &[2, 0xfe]))), Ok(vec![2.0, 2.0, 2.0]));
    assert_eq!(read(&update(6, 3, &entries(0, 0, &[], &[]))), Ok(vec![1.0, 2.0, 3.0]));
}

#[test]
fn a_difference_that_does_not_say_to_which_version() {
    for (encoding, block) in [
        (3, vec![raw(&[0; 3]), raw(&[0; 3])]),
        (4, vec![floats(&[0.5]), raw(&[0; 3])]),
        (5, vec![floats(&[0.5]), raw(&[0; 2])]),
        (6, entries(0, 0, &[], &[]).to_vec()),
    ] {
        let body = update(encoding, 3, &block);
        assert_eq!(read(&Body { base_version: None, ..body }), Err(DecodeError::NoBase), "{encoding}");
    }
}

#[test]
fn scales_that_are_cut() {
    assert_eq!(read(&update(4, 3, &[vec![0; 3]])), length(4, 3));
    // Two groups for 1,024 values and one more.
    let two = Body { block_values: 2048, ..update(4, 1025, &[floats(&[0.5]), vec![0; 3]]) };
    assert_eq!(read(&two), length(8, 7));
    assert_eq!(read(&update(5, 3, &[floats(&[0.5])])), length(5, 4));
    for (cut, expected) in [(3, 4), (7, 8), (11, 12)] {
        assert_eq!(read(&update(6, 3, &[vec![0; cut]])), length(expected, cut as u64));
    }
}

#[test]
fn codes_that_are_too_few_or_too_many() {
    let size = |expected, found| Err(DecodeError::PlaneSize { block: 0, expected, found });
    for found in [2, 4] {
        let codes = raw(&vec![0; found]);
        assert_eq!(read(&update(4, 3, &[floats(&[0.5]), codes.clone()])), size(3, found as u64));
        assert_eq!(read(&update(3, 3, &[codes.clone(), raw(&[0; 3])])), size(3, found as u64));
        assert_eq!(read(&update(3, 3, &[raw(&[0; 3]), codes])), size(3, found as u64));
    }
    assert_eq!(read(&update(5, 3, &[floats(&[0.5]), raw(&[0])])), size(2, 1));
    assert_eq!(read(&update(5, 3, &[floats(&[0.5]), raw(&[0; 3])])), size(2, 3));
    // Of `topk`, another number of gap bytes than it says, and of codes.
    assert_eq!(read(&update(6, 3, &entries(1, 1, &[0, 1], &[2]))), size(1, 2));
    assert_eq!(read(&update(6, 3, &entries(1, 1, &[0], &[2, 2]))), size(1, 2));
}

#[test]
fn bytes_after_the_codes() {
    let longer = |block: &[Vec<u8>]| [block, &[vec![0]]].concat();
    assert_eq!(read(&update(3, 3, &longer(&[raw(&[0; 3]), raw(&[0; 3])]))), length(16, 17));
    assert_eq!(read(&update(4, 3, &longer(&[floats(&[0.5]), raw(&[0; 3])]))), length(12, 13));
    assert_eq!(read(&update(5, 3, &longer(&[floats(&[0.5]), raw(&[0; 2])]))), length(11, 12));
    assert_eq!(read(&update(6, 3, &longer(&entries(1, 1, &[0], &[2])))), length(24, 25));
}

#[test]
fn something_in_the_unused_half_byte() {
    let padding = Err(DecodeError::Padding { block: 0 });
    assert_eq!(read(&update(5, 3, &[floats(&[0.5]), raw(&[0, 0x10])])), padding);
    assert_eq!(read(&update(5, 1, &[floats(&[0.5]), raw(&[0xf0])])), padding);
    // Where the number is even, it is a code.
    assert_eq!(read(&update(5, 2, &[floats(&[0.5]), raw(&[0x20])])), Ok(vec![1.0, 3.0]));
}

#[test]
fn entries_that_are_not_as_many_as_it_says_or_not_within_the_block() {
    let refused = |count| Err(DecodeError::Positions { block: 0, count, values: 3 });
    // More of them than values; fewer gap bytes than entries; more than the values can be skipped with.
    assert_eq!(read(&update(6, 3, &entries(4, 4, &[0; 4], &[0; 4]))), refused(4));
    assert_eq!(read(&update(6, 3, &entries(2, 1, &[0], &[0; 2]))), refused(2));
    assert_eq!(read(&update(6, 3, &entries(1, 2, &[255, 0], &[0]))), refused(1));
    assert_eq!(read(&update(6, 3, &entries(u32::MAX, u32::MAX, &[], &[]))), refused(u32::MAX.into()));
    // One at place 3 of 0 to 2: by one gap, by the second.
    assert_eq!(read(&update(6, 3, &entries(1, 1, &[3], &[0]))), refused(1));
    assert_eq!(read(&update(6, 3, &entries(2, 2, &[0, 2], &[0; 2]))), refused(2));
    // In a block that is long enough for an escape: one that nothing follows, and one in place of an entry.
    let refused = |count| Err(DecodeError::Positions { block: 0, count, values: 600 });
    assert_eq!(read(&update(6, 600, &entries(1, 2, &[0, 255], &[0]))), refused(1));
    assert_eq!(read(&update(6, 600, &entries(2, 2, &[255, 0], &[0; 2]))), refused(2));
    assert!(read(&update(6, 600, &entries(1, 2, &[255, 0], &[0]))).is_ok());
}

#[test]
fn what_becomes_infinite_or_nan() {
    let refused = Err(DecodeError::NotFinite { tensor: "w".into(), index: 1 });
    for scale in [f32::NAN, f32::INFINITY, f32::MAX] {
        assert_eq!(read(&update(6, 3, &[floats(&[scale]), number(1), number(1), raw(&[1]), raw(&[2])])), refused);
    }
    // A scale of a group falls on all of its values: 0 times infinity is NaN.
    let first = Err(DecodeError::NotFinite { tensor: "w".into(), index: 0 });
    assert_eq!(read(&update(4, 3, &[floats(&[f32::INFINITY]), raw(&[0, 2, 0])])), first);
    assert_eq!(read(&update(5, 3, &[floats(&[f32::NAN]), raw(&[0, 0])])), first);
    assert_eq!(read(&update(4, 3, &[floats(&[f32::MAX]), raw(&[0, 2, 0])])), refused);
    assert_eq!(read(&update(5, 3, &[floats(&[f32::MAX]), raw(&[0x20, 0])])), refused);
    // 2 is 4000, infinity 7f80: 3f80 steps up, zigzag 7f00.
    assert_eq!(read(&update(3, 3, &[raw(&[0, 0x7f, 0]), raw(&[0; 3])])), refused);
}

#[test]
fn integers_that_are_too_few_or_too_many() {
    let schema = schema(&[("w", Dtype::I64, &[1])]);
    let read = |block: Vec<u8>| decode(&update(2, 1, &[block]).bytes(), &schema);
    assert_eq!(read(raw(&[7, 0, 0, 0, 0, 0, 0, 0x80])).unwrap().values()[0], Values::I64(vec![i64::MIN + 7]));
    for found in [0, 7, 9, 16] {
        let refused = DecodeError::PlaneSize { block: 0, expected: 8, found };
        assert_eq!(read(raw(&vec![0; found as usize])), Err(refused));
    }
    let longer = [raw(&[0; 8]), vec![0]].concat();
    assert_eq!(read(longer), Err(DecodeError::BlockLength { block: 0, expected: 13, found: 14 }));
}
