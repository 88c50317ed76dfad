//! What is written comes back, whatever the tensors.

use super::*;
use half::bf16;
use proptest::prelude::*;

/// Any finite value: all bit patterns but those of NaN and infinity; and every third time one of those that are special: zeros,
/// subnormals and the border to them, one step around 1, the largest.
pub(super) fn finite() -> impl Strategy<Value = f32> {
    let pattern = any::<u32>().prop_map(|bits| {
        let value = f32::from_bits(bits);
        if value.is_finite() { value } else { f32::from_bits(bits & 0x80ff_ffff) }
    });
    let special = vec![0, 1, 0x7f_ffff, 0x80_0000, 0x3f7f_ffff, 0x3f80_0000, 0x3f80_8000, 0x7f7f_7fff, 0x7f7f_ffff];
    let special = (prop::sample::select(special), any::<bool>());
    let special = special.prop_map(|(bits, minus)| f32::from_bits(bits | u32::from(minus) << 31));
    prop_oneof![2 => pattern, 1 => special]
}

/// A finite value that bf16 can hold, exactly or rounded.
pub(super) fn within_bf16() -> impl Strategy<Value = f32> {
    finite().prop_map(|value| if bf16::from_f32(value).is_finite() { value } else { value / 2.0 })
}

/// Up to six tensors of up to three dimensions: scalars, empty ones, one value, many.
pub(super) fn any_parameters(value: impl Strategy<Value = f32> + Clone + 'static) -> impl Strategy<Value = Parameters> {
    // Dimensions of 0 beside any other: no values, whatever the product of the rest.
    let shape = prop_oneof![
        8 => prop::collection::vec(0..5u64, 0..=3),
        1 => (0..4usize, any::<[u32; 4]>()).prop_map(|(empty, sizes)| {
            (0..4).map(|at| if at == empty { 0 } else { u64::from(sizes[at] >> 12) }).collect()
        }),
    ];
    let tensor = (any::<bool>(), shape).prop_flat_map(move |(float, shape)| {
        let len = shape.iter().product::<u64>() as usize;
        let values = if float {
            prop::collection::vec(value.clone(), len).prop_map(Values::F32).boxed()
        } else {
            prop::collection::vec(any::<i64>(), len).prop_map(Values::I64).boxed()
        };
        values.prop_map(move |values| (shape.clone(), values))
    });
    prop::collection::btree_map("[a-c.ä]{1,3}", tensor, 0..=6).prop_map(|tensors| {
        let specs: Vec<_> = tensors.iter().map(|(n, (s, v))| (n.as_str(), v.dtype(), s.as_slice())).collect();
        Parameters::new(schema(&specs), tensors.values().map(|(_, v)| v.clone()).collect())
    })
}

/// What bf16 makes of them.
pub(super) fn rounded(parameters: &Parameters) -> Parameters {
    let round = |values: &Values| match values {
        Values::F32(v) => {
            Values::F32(v.iter().map(|v| bf16::from_f32(*v).to_f32().clamp(-LARGEST_BF16, LARGEST_BF16)).collect())
        }
        Values::I64(v) => Values::I64(v.clone()),
    };
    Parameters::new(Arc::clone(parameters.schema()), parameters.values().iter().map(round).collect())
}

proptest! {
    #[test]
    fn f32_comes_back_bit_for_bit(sent in any_parameters(finite().boxed()), block_values in 1..20usize, base: Option<u64>) {
        let body = in_blocks_of(block_values, &sent, Encoding::F32, base).unwrap();

        prop_assert_eq!(bits(&decode(&body, sent.schema()).unwrap()), bits(&sent));
        let plan = plan_of(&body);
        prop_assert_eq!((plan.encoding(), plan.base_version()), (Some(Encoding::F32), base));
        prop_assert_eq!(plan.schema(), sent.schema());
    }

    #[test]
    fn bf16_comes_back_as_half_rounds_it(sent in any_parameters(within_bf16().boxed()), block_values in 1..20usize) {
        let body = in_blocks_of(block_values, &sent, Encoding::Bf16, None).unwrap();
        prop_assert_eq!(bits(&decode(&body, sent.schema()).unwrap()), bits(&rounded(&sent)));
    }

    #[test]
    fn who_does_not_know_the_schema_learns_it(sent in any_parameters(finite().boxed())) {
        let body = encode(&sent, Encoding::F32, None).unwrap();
        let read = decode_any(&body, sent.schema().values()).unwrap();
        prop_assert_eq!(read.schema(), sent.schema());
        prop_assert_eq!(bits(&read), bits(&sent));
    }

    #[test]
    fn safetensors_come_back_bit_for_bit(sent in any_parameters(finite().boxed()), zstd: bool) {
        let body = ModelFormat::Safetensors { zstd }.write(&sent, None).unwrap();
        let format = BodyFormat::Safetensors { zstd };

        prop_assert_eq!(bits(&format.read(&body, sent.schema()).unwrap()), bits(&sent));
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>, cut in 0..300usize, at in 0..300usize) {
        for format in [BodyFormat::Container, BodyFormat::Safetensors { zstd: false }, BodyFormat::Safetensors { zstd: true }] {
            let _ = format.read(&bytes, tiny().schema());
        }
        let _ = (decode_any(&bytes, 1000), safe::read_any(&bytes, 1000));
        // Nearly valid: some bytes replaced, with the checksums made right again where they are of the header.
        for sound in [encode(&tiny(), Encoding::Bf16, Some(3)).unwrap(), safe::write(&tiny()).unwrap()] {
            let mut body = sound.clone();
            let at = at % body.len();
            let end = (at + cut % 8).min(body.len());
            body.splice(at..end, bytes.iter().copied().take(8));
            super::literal::mend(&mut body);
            let _ = decode(&body, tiny().schema());
            let _ = decode_any(&body, 1000);
            let _ = safe::read_any(&body, 1000);
        }
    }
}

#[test]
fn a_tensor_above_the_block_size_is_cut_and_comes_back() {
    let values = (0..MAX_BLOCK_VALUES + 3).map(|i| (i % 1000) as f32 - 500.0).collect();
    let sent = parameters(&[("a", Values::F32(vec![0.5; 7])), ("w", Values::F32(values))]);
    for encoding in [Encoding::F32, Encoding::Bf16] {
        let body = encode(&sent, encoding, None).unwrap();
        assert_eq!(plan_of(&body).blocks.len(), 2);
        let want = if encoding == Encoding::F32 { sent.clone() } else { rounded(&sent) };
        assert!(decode(&body, sent.schema()).unwrap() == want, "{encoding}");
    }
}

#[test]
fn small_tensors_share_a_block() {
    let names: Vec<_> = (0..50).map(|i| format!("bn{i:02}.weight")).collect();
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), Values::F32(vec![1.0; 64]))).collect();
    let body = encode(&parameters(&tensors), Encoding::Bf16, None).unwrap();
    assert_eq!(plan_of(&body).blocks.len(), 1);
}

#[test]
fn planes_are_compressed_where_that_helps_and_raw_where_not() {
    // Given 4,096 values of one exponent, with mantissas and signs without order (a xorshift generator's)
    let mut state = 1u32;
    let mut value = || {
        for (left, by) in [(true, 13), (false, 17), (true, 5)] {
            state ^= if left { state << by } else { state >> by };
        }
        f32::from_bits(0x3f80_0000 | state & 0x807f_0000)
    };
    let sent = parameters(&[("w", Values::F32((0..4096).map(|_| value()).collect()))]);
    let body = encode(&sent, Encoding::Bf16, None).unwrap();
    // Then the exponents are a zstd frame of next to nothing, and the rest is as it is
    let block = &body[plan_of(&body).blocks[0].range.start as usize..];
    let low = &block[block.len() - 4096 - 5..];
    assert_eq!((block[0], &low[..5]), (1, &[0, 0, 16, 0, 0][..]));
    assert!(block.len() < 4096 + 50, "{}", block.len());
}

#[test]
fn the_same_parameters_give_the_same_bytes() {
    let body = || encode(&tiny(), Encoding::Bf16, Some(1)).unwrap();
    assert_eq!(body(), body());
}

#[test]
fn nan_and_infinity_are_not_sent_and_what_is_beyond_bf16_is_sent_as_its_largest() {
    let with = |value| parameters(&[("a", Values::F32(vec![0.0])), ("w", Values::F32(vec![1.0, 2.0, value]))]);
    let not_finite = EncodeError::NotFinite { tensor: "w".into(), index: 2 };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(in_blocks_of(2, &with(value), Encoding::F32, None), Err(not_finite.clone()));
        assert_eq!(in_blocks_of(2, &with(value), Encoding::Bf16, None), Err(not_finite.clone()));
        assert_eq!(safe::write(&with(value)), Err(not_finite.clone()));
    }
    for (value, largest) in [(f32::MAX, 0x7f7f_0000), (f32::MIN, 0xff7f_0000u32)] {
        let base = Base { version: 3, parameters: &with(0.0) };
        let recipe = UpdateRecipe { encoding: Encoding::Bf16, topk_fraction: 1.0, seed: 1 };
        let (update, _) = encode_update(&with(value), base, recipe, &Feedback::default()).unwrap();
        for body in [in_blocks_of(2, &with(value), Encoding::Bf16, None).unwrap(), update] {
            assert_eq!(decode(&body, with(0.0).schema()), Ok(with(f32::from_bits(largest))));
        }
        let delta = encode_delta(&with(value), base).unwrap();
        assert_eq!(decode_against(&delta, with(0.0).schema(), Some(base)), Ok(with(f32::from_bits(largest))));
    }
    assert!(encode(&with(f32::MAX), Encoding::F32, None).is_ok());
}

#[test]
fn names_that_no_decoder_would_accept_are_not_sent() {
    let names: Vec<_> = (0..5000).map(|i| format!("{i:01000}")).collect();
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), Values::F32(vec![]))).collect();
    let sent = parameters(&tensors);
    assert!(matches!(encode(&sent, Encoding::F32, None), Err(EncodeError::HeaderTooLong(n)) if n > 5_000_000));
    assert!(matches!(safe::write(&sent), Err(EncodeError::HeaderTooLong(n)) if n > 5_000_000));
    let reserved = parameters(&[("__metadata__", Values::F32(vec![]))]);
    assert_eq!(safe::write(&reserved), Err(EncodeError::ReservedName));
}
