//! Every refusal of the container, each from bytes that are right but for one thing.

use super::literal::{Body, floats, framed, plane};
use super::*;

fn refusal(bytes: &[u8]) -> DecodeError {
    decode(bytes, &schema(&[("w", Dtype::F32, &[2])])).unwrap_err()
}

#[test]
fn the_bodies_of_these_tests_are_sound_but_for_what_they_change() {
    let schema = schema(&[("w", Dtype::F32, &[2])]);
    let want = Parameters::new(schema.clone(), vec![Values::F32(vec![1.0, 2.0])]);
    assert_eq!(decode(&Body::sound().bytes(), &schema), Ok(want.clone()));
    // 1.0 is 3f80, rotated 7f00; 2.0 is 4000, rotated 8000.
    assert_eq!(decode(&Body::bf16(plane(0, &[0x7f, 0x80]), plane(0, &[0, 0])).bytes(), &schema), Ok(want));
    assert_eq!(Body::sound().bytes(), encode_two_values());
}

fn encode_two_values() -> Vec<u8> {
    let sent = parameters(&[("w", Values::F32(vec![1.0, 2.0]))]);
    in_blocks_of(2, &sent, Encoding::F32, None).unwrap()
}

#[test]
fn every_flipped_bit_is_detected() {
    let (sent, zeros) = (differences::matrix(|i| i as f32), differences::matrix(|_| 0.0));
    let base = Base { version: 9, parameters: &zeros };
    for encoding in Encoding::ALL {
        let recipe = UpdateRecipe { encoding: *encoding, topk_fraction: 0.5, seed: 0 };
        let (body, _) = encode_update(&sent, base, recipe, &Feedback::default()).unwrap();
        for bit in 0..8 * body.len() {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_against(&flipped, sent.schema(), Some(base)).is_err(), "bit {bit} of {encoding}");
            assert!(decode_any(&flipped, 100).is_err(), "bit {bit} of {encoding}");
        }
    }
}

#[test]
fn every_truncation_is_refused_as_such() {
    let body = encode(&tiny(), Encoding::Bf16, Some(9)).unwrap();
    for len in 0..body.len() {
        let error = decode(&body[..len], tiny().schema()).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { expected, found } if found == len as u64 && expected > found));
    }
}

#[test]
fn trailing_bytes() {
    let mut body = Body::sound().bytes();
    let expected = body.len() as u64;
    body.push(0);
    assert_eq!(refusal(&body), DecodeError::Trailing { expected, found: expected + 1 });
}

#[test]
fn another_signature() {
    let mut body = Body::sound().bytes();
    body[4..6].copy_from_slice(b"\n\n");
    assert_eq!(refusal(&body), DecodeError::Signature);
}

#[test]
fn another_version() {
    let mut body = Body::sound().bytes();
    body[8] = 2;
    assert_eq!(refusal(&body), DecodeError::Version(2));
}

#[test]
fn a_header_over_the_limit() {
    let mut body = Body::sound().bytes();
    body[12..16].copy_from_slice(&(MAX_HEADER_BYTES as u32 + 1).to_le_bytes());
    assert_eq!(refusal(&body), DecodeError::HeaderTooLong(MAX_HEADER_BYTES as u64 + 1));
}

#[test]
fn a_changed_header() {
    let mut body = Body::sound().bytes();
    body[20] ^= 1;
    assert!(matches!(refusal(&body), DecodeError::HeaderChecksum { .. }));
}

#[test]
fn a_header_that_is_no_postcard() {
    assert!(matches!(refusal(&framed(&[], &[])), DecodeError::Header(_)));
    assert!(matches!(refusal(&framed(&[0xff; 60], &[])), DecodeError::UnknownEncoding(0xff)));
    let mut option = Body::sound().digest.to_vec();
    option.extend([0, 2]); // encoding f32; an Option that is neither 0 nor 1
    assert!(matches!(refusal(&framed(&option, &[])), DecodeError::Header(_)));
}

#[test]
fn a_number_that_is_longer_than_need_be_is_read_and_one_of_too_many_bits_is_not() {
    let with = |version: &[u8]| {
        let body = Body { base_version: Some(5), ..Body::sound() }.bytes();
        let (header, blocks) = (&body[16..body.len() - 4 - 8], &body[body.len() - 8..]);
        let (before, after) = header.split_at(34); // digest, encoding, there is a version
        framed(&[before, version, &after[1..]].concat(), blocks)
    };
    let version = |bytes: &[u8]| Plan::of(BodyFormat::Container, &with(bytes)).map(|plan| plan.base_version());
    assert_eq!(version(&[5]).unwrap(), Some(5));
    assert_eq!(version(&[0x85, 0]).unwrap(), Some(5));
    assert_eq!(version(&[[0x80; 9].as_slice(), &[1]].concat()).unwrap(), Some(1 << 63));
    assert!(matches!(version(&[[0x80; 9].as_slice(), &[2]].concat()), Err(DecodeError::Header(_))));
    assert!(matches!(version(&[[0x80; 10].as_slice(), &[0]].concat()), Err(DecodeError::Header(_))));
}

#[test]
fn a_name_that_is_no_utf8() {
    let mut header = Body::sound().digest.to_vec();
    header.extend([0, 0, 1, 1, 0xff]); // encoding, base version, one tensor, a name of one byte
    assert!(matches!(refusal(&framed(&header, &[])), DecodeError::Header(_)));
}

#[test]
fn an_unknown_encoding_of_the_body() {
    assert_eq!(Body { encoding: 7, ..Body::sound() }.refusal(), DecodeError::UnknownEncoding(7));
}

#[test]
fn more_tensors_than_any_schema_has() {
    let mut header = Body::sound().digest.to_vec();
    header.extend([0, 0, 0x81, 0x80, 0x04]); // encoding, base version, 65,537 tensors
    let limit = MAX_TENSORS as u64;
    assert_eq!(refusal(&framed(&header, &[])), DecodeError::TooMany { what: "tensors", count: limit + 1, limit });
}

#[test]
fn more_dimensions_than_any_tensor_has() {
    let body = Body { tensors: vec![("w", 0, 0, vec![1; 9])], ..Body::sound() };
    assert_eq!(body.refusal(), DecodeError::TooMany { what: "dimensions", count: 9, limit: 8 });
}

#[test]
fn more_values_than_any_schema_has() {
    for shape in [vec![1 << 32, 2], vec![u64::MAX, u64::MAX]] {
        let body = Body { tensors: vec![("w", 0, 0, shape)], ..Body::sound() };
        assert_eq!(body.refusal(), DecodeError::Schema(SchemaError::TooManyValues("w".into())));
    }
}

#[test]
fn more_values_than_the_caller_wants() {
    let error = decode_any(&Body::sound().bytes(), 1).unwrap_err();
    assert_eq!(error, DecodeError::TooManyValues { values: 2, limit: 1 });
}

#[test]
fn an_unknown_dtype() {
    let body = Body { tensors: vec![("w", 9, 0, vec![2])], ..Body::sound() };
    assert_eq!(body.refusal(), DecodeError::UnknownDtype { tensor: "w".into(), dtype: "9".into() });
}

#[test]
fn an_encoding_that_is_unknown_or_not_for_the_dtype() {
    // Only 2 is for integers; 253 to 255 are ours, for what safetensors hold.
    let floats = [2, 7, 99, 253, 254, 255].map(|encoding| (Dtype::F32, 0, encoding));
    let integers = [0, 1, 3, 4, 5, 6, 7, 255].map(|encoding| (Dtype::I64, 1, encoding));
    for (dtype, code, encoding) in floats.into_iter().chain(integers) {
        let body = Body { tensors: vec![("w", code, encoding, vec![2])], ..Body::sound() };
        assert_eq!(body.refusal(), DecodeError::TensorEncoding { tensor: "w".into(), dtype, encoding });
    }
}

#[test]
fn a_tensor_twice() {
    let body = Body { tensors: vec![("w", 0, 0, vec![2]); 2], ..Body::sound() };
    assert_eq!(body.refusal(), DecodeError::Schema(SchemaError::Duplicate("w".into())));
}

#[test]
fn tensors_out_of_order() {
    let body = Body { tensors: vec![("w", 0, 0, vec![2]), ("a", 0, 0, vec![2])], ..Body::sound() };
    assert_eq!(body.refusal(), DecodeError::TensorOrder { tensor: "a".into(), previous: "w".into() });
}

#[test]
fn a_name_of_no_bytes_or_too_many() {
    let long = "w".repeat(MAX_NAME_BYTES + 1);
    for name in ["", &long] {
        let body = Body { tensors: vec![(name, 0, 0, vec![2])], ..Body::sound() };
        assert_eq!(body.refusal(), DecodeError::Schema(SchemaError::NameLength(name.len())));
    }
}

#[test]
fn a_schema_digest_of_other_tensors() {
    assert_eq!(Body { digest: [0; 32], ..Body::sound() }.refusal(), DecodeError::SchemaDigest);
}

#[test]
fn another_schema_than_the_models() {
    let body = encode(&tiny(), Encoding::F32, None).unwrap(); // n: I64 [1], w: F32 [3]
    let refusal = |tensors| decode(&body, &schema(tensors)).unwrap_err();
    use Dtype::{F32, I64};

    assert_eq!(refusal(&[("n", I64, &[1])]), DecodeError::UnknownTensor("w".into()));
    assert_eq!(refusal(&[("w", F32, &[3])]), DecodeError::UnknownTensor("n".into()));
    assert_eq!(
        refusal(&[("n", I64, &[1]), ("p", F32, &[1]), ("w", F32, &[3])]),
        DecodeError::MissingTensor("p".into())
    );
    assert_eq!(
        refusal(&[("n", I64, &[1]), ("w", F32, &[3]), ("z", F32, &[0])]),
        DecodeError::MissingTensor("z".into())
    );
    assert_eq!(
        refusal(&[("n", F32, &[1]), ("w", F32, &[3])]),
        DecodeError::DtypeMismatch { tensor: "n".into(), expected: F32, found: I64 }
    );
    assert_eq!(
        refusal(&[("n", I64, &[1]), ("w", F32, &[3, 1])]),
        DecodeError::ShapeMismatch { tensor: "w".into(), expected: vec![3, 1], found: vec![3] }
    );
}

#[test]
fn blocks_of_no_values_or_too_many() {
    for found in [0, MAX_BLOCK_VALUES as u32 + 1] {
        let body = Body { block_values: found, ..Body::sound() };
        assert_eq!(body.refusal(), DecodeError::BlockValues { found, limit: MAX_BLOCK_VALUES });
    }
}

#[test]
fn values_in_no_block_or_in_two() {
    let uncovered = Body { blocks: vec![], ..Body::sound() };
    assert_eq!(uncovered.refusal(), DecodeError::BlockCount { expected: 1, found: 0 });
    let half = Body { block_values: 1, ..Body::sound() };
    assert_eq!(half.refusal(), DecodeError::BlockCount { expected: 2, found: 1 });
    let twice = Body { blocks: vec![floats(&[1.0, 2.0]); 2], ..Body::sound() };
    assert_eq!(twice.refusal(), DecodeError::BlockCount { expected: 1, found: 2 });
}

#[test]
fn more_blocks_than_any_body_needs() {
    // Given a header that could hold the rows of half a million blocks of one value
    let (count, limit) = (MAX_BLOCKS as u64 + 1, MAX_BLOCKS as u64);
    let body = |blocks: u64| Body {
        digest: *schema(&[("w", Dtype::F32, &[blocks])]).digest(),
        tensors: vec![("w", 0, 0, vec![blocks])],
        block_values: 1,
        blocks: vec![floats(&[1.0]); blocks as usize],
        ..Body::sound()
    };
    assert_eq!(body(count).refusal(), DecodeError::TooMany { what: "blocks", count, limit });
    assert_eq!(decode_any(&body(limit).bytes(), limit).unwrap().schema().values(), limit);
}

#[test]
fn a_block_table_that_is_cut_or_longer() {
    let header_of = |body: &[u8]| body[16..body.len() - 4 - 8].to_vec(); // without checksum and block
    let header = header_of(&Body::sound().bytes());
    let shorter = framed(&header[..header.len() - 1], &floats(&[1.0, 2.0]));
    assert!(matches!(refusal(&shorter), DecodeError::Header(_)));
    let longer = framed(&[&header[..], &[0]].concat(), &floats(&[1.0, 2.0]));
    assert!(matches!(refusal(&longer), DecodeError::Header(_)));
}

#[test]
fn a_changed_block() {
    let mut body = Body::sound().bytes();
    *body.last_mut().unwrap() ^= 0x80;
    assert!(matches!(refusal(&body), DecodeError::BlockChecksum { block: 0, .. }));
}

#[test]
fn a_block_shorter_or_longer_than_its_content() {
    let of = |block: Vec<u8>| Body { blocks: vec![block], ..Body::sound() }.refusal();
    assert_eq!(of(vec![0; 7]), DecodeError::BlockLength { block: 0, expected: 8, found: 7 });
    assert_eq!(of(vec![0; 9]), DecodeError::BlockLength { block: 0, expected: 8, found: 9 });

    let planes = |high, low| Body::bf16(high, low).refusal();
    let sound = plane(0, &[0, 0]);
    assert_eq!(planes(vec![0; 4], vec![]), DecodeError::BlockLength { block: 0, expected: 5, found: 4 });
    let mut cut = sound.clone();
    cut.pop();
    assert_eq!(planes(sound.clone(), cut), DecodeError::BlockLength { block: 0, expected: 14, found: 13 });
    let longer = [&sound[..], &[0]].concat();
    assert_eq!(planes(sound, longer), DecodeError::BlockLength { block: 0, expected: 14, found: 15 });
}

#[test]
fn a_plane_of_an_unknown_method() {
    let body = Body::bf16(plane(2, &[0, 0]), plane(0, &[0, 0]));
    assert_eq!(body.refusal(), DecodeError::PlaneMethod { block: 0, method: 2 });
}

#[test]
fn a_plane_of_another_size_than_the_values_need() {
    for size in [0, 1, 3] {
        let refused = DecodeError::PlaneSize { block: 0, expected: 2, found: size };
        let bytes = vec![0; size as usize];
        assert_eq!(Body::bf16(plane(0, &bytes), plane(0, &[0, 0])).refusal(), refused);
        let frame = zstd::bulk::compress(&bytes, 1).unwrap();
        assert_eq!(Body::bf16(plane(1, &frame), plane(0, &[0, 0])).refusal(), refused);
    }
}

#[test]
fn a_zstd_bomb_is_not_expanded() {
    // Given a frame that declares a gigabyte of zeros, and one that has a megabyte and declares nothing
    let mut declared = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    assert_eq!(declared[4] >> 6, 2, "the content size has 4 bytes");
    let size = declared.windows(4).position(|b| b == (1u32 << 20).to_le_bytes()).unwrap();
    declared[size..size + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let mut silent = Vec::new();
    zstd::stream::copy_encode(&vec![0; 1 << 20][..], &mut silent, 1).unwrap();
    // Then both are refused, the first by what it says, the second when the two bytes are full
    let refused = DecodeError::PlaneSize { block: 0, expected: 2, found: 1 << 30 };
    assert_eq!(Body::bf16(plane(1, &declared), plane(0, &[0, 0])).refusal(), refused);
    let refusal = Body::bf16(plane(1, &silent), plane(0, &[0, 0])).refusal();
    assert!(matches!(refusal, DecodeError::PlaneZstd { block: 0, .. }), "{refusal:?}");
}

#[test]
fn a_plane_that_is_not_one_zstd_frame() {
    let frame = zstd::bulk::compress(&[0, 0], 1).unwrap();
    let empty = zstd::bulk::compress(&[], 1).unwrap();
    let skippable = b"\x50\x2a\x4d\x18\x02\0\0\0ab".to_vec(); // RFC 8878, 3.1.2: a frame of no content
    let cut = frame[..frame.len() - 1].to_vec();
    for bytes in [vec![], b"no zstd".to_vec(), cut, [frame, empty].concat(), skippable] {
        let refusal = Body::bf16(plane(1, &bytes), plane(0, &[0, 0])).refusal();
        assert!(matches!(refusal, DecodeError::PlaneZstd { block: 0, .. }), "{refusal:?}");
    }
}

#[test]
fn nan_and_infinity_are_refused_by_tensor_and_index() {
    let refused = DecodeError::NotFinite { tensor: "w".into(), index: 1 };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let body = Body { blocks: vec![floats(&[1.0, value])], ..Body::sound() };
        assert_eq!(body.refusal(), refused);
        let second_block = Body { block_values: 1, blocks: vec![floats(&[1.0]), floats(&[value])], ..Body::sound() };
        assert_eq!(second_block.refusal(), refused);
    }
    // 7f80 (infinity) rotated is ff00, 7fc0 (NaN) ff80, ff80 (minus infinity) ff01.
    for low in [0x00, 0x80, 0x01] {
        assert_eq!(Body::bf16(plane(0, &[0x7f, 0xff]), plane(0, &[0, low])).refusal(), refused);
    }
}
