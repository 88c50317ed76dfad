//! Safetensors from other writers, and every refusal of them.

use super::*;
use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype as FileDtype, TensorView};

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file of one tensor `w`.
pub(super) fn one(dtype: &str, shape: &str, offsets: &str, data: &[u8]) -> Vec<u8> {
    file(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), data)
}

fn refusal(file: &[u8]) -> DecodeError {
    safe::read_any(file, 1000).unwrap_err()
}

#[test]
fn what_we_write_the_reference_implementation_reads() {
    let file = safe::write(&tiny()).unwrap();
    let read = SafeTensors::deserialize(&file).unwrap();
    let w = read.tensor("w").unwrap();
    assert_eq!(
        (w.dtype(), w.shape(), w.data()),
        (FileDtype::F32, &[3][..], &[0, 0, 128, 63, 0, 0, 32, 192, 0, 0, 0, 0][..])
    );
    let n = read.tensor("n").unwrap();
    assert_eq!((n.dtype(), n.shape(), n.data()), (FileDtype::I64, &[1][..], &[7, 0, 0, 0, 0, 0, 0, 0][..]));
}

#[test]
fn what_the_reference_implementation_writes_we_read_with_metadata_and_halves_widened() {
    let half = [0x00, 0x3c, 0x00, 0xc0]; // 1, -2
    let brain = [0x80, 0x3f, 0x00, 0xc0]; // 1, -2
    let tensors = [
        ("half", TensorView::new(FileDtype::F16, vec![2], &half).unwrap()),
        ("brain", TensorView::new(FileDtype::BF16, vec![2, 1], &brain).unwrap()),
    ];
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let file = ::safetensors::serialize(tensors, metadata).unwrap();

    let schema = schema(&[("half", Dtype::F32, &[2]), ("brain", Dtype::F32, &[2, 1])]);
    let both = vec![Values::F32(vec![1.0, -2.0]); 2];
    assert_eq!(safe::read(&file, &schema), Ok(Parameters::new(schema, both)));
}

#[test]
fn an_empty_file_is_a_schema_without_tensors() {
    assert_eq!(safe::read_any(&file("{}", &[]), 0).unwrap().schema().values(), 0);
}

#[test]
fn every_truncation_is_refused_as_such() {
    let file = safe::write(&tiny()).unwrap();
    for len in 0..file.len() {
        let error = safe::read(&file[..len], tiny().schema()).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { expected, found } if found == len as u64 && expected > found));
    }
}

#[test]
fn trailing_bytes() {
    let found = one("F32", "[1]", "[0,4]", &[0; 5]).len() as u64;
    assert_eq!(refusal(&one("F32", "[1]", "[0,4]", &[0; 5])), DecodeError::Trailing { expected: found - 1, found });
}

#[test]
fn a_header_over_the_limit() {
    assert_eq!(refusal(&[0xff; 100]), DecodeError::HeaderTooLong(u64::MAX));
}

#[test]
fn a_header_that_is_not_json_or_not_of_tensors() {
    for header in [
        "",
        "{",
        "[]",
        r#"{"w":1}"#,
        r#"{"w":{"dtype":"F32"}}"#,
        r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
    ] {
        assert!(matches!(refusal(&file(header, &[0; 4])), DecodeError::Header(_)), "{header}");
    }
}

#[test]
fn more_tensors_than_any_schema_has() {
    let entry = |i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let entries: Vec<_> = (0..=MAX_TENSORS).map(entry).collect();
    let limit = MAX_TENSORS as u64;
    let found = refusal(&file(&format!("{{{}}}", entries.join(",")), &[]));
    assert_eq!(found, DecodeError::TooMany { what: "tensors", count: limit + 1, limit });
}

#[test]
fn more_dimensions_than_any_tensor_has() {
    let shape = |dimensions: usize| format!("[{}1]", "1,".repeat(dimensions - 1));
    assert!(safe::read_any(&one("F32", &shape(8), "[0,4]", &[0; 4]), 1).is_ok());
    // Two million of them are given up at the ninth.
    for dimensions in [9, 2_000_000] {
        let refusal = refusal(&one("F32", &shape(dimensions), "[0,4]", &[0; 4]));
        let reason = "invalid length 9, expected a list of at most 8 dimensions";
        assert!(matches!(&refusal, DecodeError::Header(why) if why.starts_with(reason)), "{refusal}");
    }
}

#[test]
fn a_dtype_that_is_not_read() {
    let error = refusal(&one("F64", "[1]", "[0,8]", &[0; 8]));
    assert_eq!(error, DecodeError::UnknownDtype { tensor: "w".into(), dtype: "F64".into() });
}

#[test]
fn a_tensor_twice() {
    let entry = r#""w":{"dtype":"F32","shape":[1],"data_offsets":"#;
    let error = refusal(&file(&format!("{{{entry}[0,4]}},{entry}[4,8]}}}}"), &[0; 8]));
    assert_eq!(error, DecodeError::Schema(SchemaError::Duplicate("w".into())));
}

#[test]
fn a_gap_or_an_overlap() {
    let gap = refusal(&one("F32", "[1]", "[4,8]", &[0; 8]));
    assert_eq!(gap, DecodeError::Offset { tensor: "w".into(), expected: 0, found: 4 });
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let overlap = refusal(&file(header, &[0; 8]));
    assert_eq!(overlap, DecodeError::Offset { tensor: "b".into(), expected: 8, found: 4 });
}

#[test]
fn a_tensor_of_another_size_than_its_shape() {
    let error = |expected, found| DecodeError::TensorSize { tensor: "w".into(), expected, found };
    assert_eq!(refusal(&one("F32", "[3]", "[0,8]", &[0; 8])), error(12, 8));
    assert_eq!(refusal(&one("F32", "[18446744073709551615,2]", "[0,8]", &[0; 8])), error(u64::MAX, 8));
}

#[test]
fn offsets_that_go_backwards_or_add_up_beyond_64_bits() {
    // Given data of 8 bytes and nine tensors of 2^61 - 4 bytes, whose ends come near 2^64: the crate's reader panics.
    let size = (1u64 << 61) - 4;
    let entry = |i: u64| {
        let (begin, end) = (i * size, if i == 8 { u64::MAX - 3 } else { (i + 1) * size });
        format!(r#""{i}":{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#, (end - begin) / 4)
    };
    let header = format!("{{{}}}", (0..9).map(entry).collect::<Vec<_>>().join(","));
    let refused = DecodeError::Schema(SchemaError::TooManyValues("0".into()));
    assert_eq!(refusal(&file(&header, &[0; 8])), refused);

    let backwards = refusal(&one("F32", "[0]", "[0,-4]", &[]));
    assert!(matches!(backwards, DecodeError::Header(_)));
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[0],"data_offsets":[8,4]}}"#;
    let backwards = refusal(&file(header, &[0; 8]));
    assert_eq!(backwards, DecodeError::TensorSize { tensor: "b".into(), expected: 0, found: 0 });
}

#[test]
fn another_schema_than_the_models() {
    let file = safe::write(&tiny()).unwrap(); // n: I64 [1], w: F32 [3]
    let refusal = |tensors| safe::read(&file, &schema(tensors)).unwrap_err();
    use Dtype::{F32, I64};

    assert_eq!(refusal(&[("n", I64, &[1])]), DecodeError::UnknownTensor("w".into()));
    assert_eq!(refusal(&[("n", I64, &[1]), ("p", F32, &[]), ("w", F32, &[3])]), DecodeError::MissingTensor("p".into()));
    assert_eq!(
        refusal(&[("n", I64, &[1]), ("w", I64, &[3])]),
        DecodeError::DtypeMismatch { tensor: "w".into(), expected: I64, found: F32 }
    );
    assert_eq!(
        refusal(&[("n", I64, &[]), ("w", F32, &[3])]),
        DecodeError::ShapeMismatch { tensor: "n".into(), expected: vec![], found: vec![1] }
    );
}

#[test]
fn more_values_than_the_caller_wants() {
    let error = safe::read_any(&safe::write(&tiny()).unwrap(), 3).unwrap_err();
    assert_eq!(error, DecodeError::TooManyValues { values: 4, limit: 3 });
}

#[test]
fn nan_and_infinity_are_refused_by_tensor_and_index() {
    let refused = DecodeError::NotFinite { tensor: "w".into(), index: 1 };
    assert_eq!(refusal(&one("F32", "[2]", "[0,8]", &[0, 0, 0, 0, 0, 0, 0x80, 0x7f])), refused);
    assert_eq!(refusal(&one("F16", "[2]", "[0,4]", &[0, 0, 0, 0x7c])), refused);
    assert_eq!(refusal(&one("BF16", "[2]", "[0,4]", &[0, 0, 0xc0, 0xff])), refused);
}

#[test]
fn zstd_expands_up_to_the_limit_and_not_beyond() {
    let bytes = vec![7; 100_000];
    let declared = safe::compress(&bytes).unwrap();
    let mut silent = Vec::new();
    zstd::stream::copy_encode(&bytes[..], &mut silent, 1).unwrap();
    for compressed in [declared, silent] {
        assert_eq!(safe::decompress(&compressed, 100_000), Ok(bytes.clone()));
        assert_eq!(safe::decompress(&compressed, 99_999), Err(DecodeError::Expands { limit: 99_999 }));
    }
}

#[test]
fn a_body_that_is_no_zstd_or_cut() {
    let whole = safe::compress(&[7; 1000]).unwrap();
    for bytes in [b"no zstd".to_vec(), whole[..whole.len() - 1].to_vec()] {
        assert!(matches!(safe::decompress(&bytes, 1000), Err(DecodeError::Zstd(_))));
    }
}

#[test]
fn a_zstd_window_over_the_limit() {
    let window = |log: u8| {
        // Magic, a frame without content size, its window (RFC 8878: exponent above 10, in the upper five bits), an
        // empty last block.
        safe::decompress(&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0], 1000)
    };
    assert_eq!(window(23), Ok(vec![]));
    assert!(matches!(window(24), Err(DecodeError::Zstd(_))));
}

#[test]
fn a_file_of_another_format_is_refused_as_what_it_looks_like() {
    let [zip, pickle, zstd, gzip] = [
        &b"PK\x03\x04\0\0\0\0"[..],
        b"\x80\x02}q\0(X\x01",
        b"\x28\xb5\x2f\xfd\0\0\0\0",
        b"\x1f\x8b\x08\0\x12\x34\x56\x78",
    ];
    let container = encode(&tiny(), Encoding::F32, None).unwrap();
    let known =
        [(zip, ".pt"), (pickle, "pickle"), (zstd, "Content-Encoding"), (gzip, "gzip"), (&container, "vnd.fedlearn")];
    for (first, named) in known {
        let error = refusal(&[first, &[0xff; 50]].concat());
        let DecodeError::Foreign { expected: "safetensors", found } = &error else { panic!("{error}") };
        assert!(found.contains(named), "{found}");
    }
    let refused = decode_any(&[zip, &[0; 50]].concat(), 1000).unwrap_err();
    assert!(matches!(refused, DecodeError::Foreign { expected: CONTAINER, .. }), "{refused}");
    // One that is as long as these bytes say is safetensors all the same.
    let metadata = format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "a".repeat(0x8b1f - 25));
    assert_eq!(file(&metadata, &[])[..2], *b"\x1f\x8b");
    assert!(safe::read_any(&file(&metadata, &[]), 0).is_ok());
}

#[test]
fn a_model_that_cannot_be_sent_in_a_runs_formats_is_named() {
    let of = |value| parameters(&[("mask", Values::F32(vec![0.0, value])), ("n", Values::I64(vec![i64::MAX]))]);
    for encoding in Encoding::ALL.iter().copied() {
        assert_eq!(check_model(&of(-LARGEST_BF16), encoding), Ok(()));
        let beyond = check_model(&of(f32::MIN), encoding);
        if encoding == Encoding::F32 {
            assert_eq!(beyond, Ok(()));
        } else {
            let (tensor, value) = ("mask".into(), f32::MIN);
            assert_eq!(beyond, Err(EncodeError::Inexpressible { tensor, index: 1, value, encoding }));
        }
    }
    let reserved = parameters(&[("__metadata__", Values::F32(vec![]))]);
    assert_eq!(check_model(&reserved, Encoding::F32), Err(EncodeError::ReservedName));
    // Names that fit the container's header, and not that of safetensors, which writes \u0001 for one byte.
    let names: Vec<_> = (0..3000).map(|i| format!("{i:04}{}", "\u{1}".repeat(300))).collect();
    let tensors: Vec<_> = names.iter().map(|name| (name.as_str(), Values::F32(vec![]))).collect();
    let sent = parameters(&tensors);
    assert!(encode(&sent, Encoding::Bf16, None).is_ok());
    let Err(EncodeError::HeaderTooLong(bytes)) = check_model(&sent, Encoding::Bf16) else { panic!("it fits") };
    assert_eq!(safe::write(&sent), Err(EncodeError::HeaderTooLong(bytes)));
}
