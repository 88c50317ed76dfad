//! NaN, infinity, subnormals, -0.0 and the largest values, in every encoding and dtype.

use super::differences::{LOSSY, floats_of, mapped, matrix};
use super::round_trip::{any_parameters, finite, rounded, within_bf16};
use super::*;
use half::{bf16, f16};
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_lossy_encodings_take_any_finite_value(
        update in any_parameters(within_bf16().boxed()),
        other in any::<u32>(),
        block_values in 1..20usize,
        encoding in prop::sample::select(&LOSSY[..]),
        topk_fraction in 0.01..1.0,
    ) {
        // Given a base that is as special as the update
        let of = |value: f32| {
            let base = f32::from_bits(value.to_bits() ^ other);
            if base.is_finite() { base } else { value }
        };
        let base = mapped(&update, of);
        let held = Base { version: 3, parameters: &base };
        let recipe = UpdateRecipe { encoding, topk_fraction, seed: 0 };
        let matrices = || update.iter().filter(|(spec, _)| spec.dtype == Dtype::F32 && spec.shape.len() >= 2);
        let both = matrices().flat_map(|(spec, _)| [&update, &base].map(|values| floats_of(values, &spec.name)));
        let largest = both.flatten().fold(0f32, |largest, value| largest.max(value.abs()));
        let feedback = Feedback::default();
        // When it is sent, then it is refused only where a difference, or what rounding makes of it, may be infinite
        let arrived = super::super::container::update_blocks_of(block_values, &update, held, recipe, &feedback);
        let Ok((body, owed)) = arrived else {
            let is_far = matches!(arrived, Err(EncodeError::ChangeTooLarge { .. })) && largest > f32::MAX / 4.0;
            prop_assert!(is_far, "{arrived:?}");
            return Ok(());
        };
        let read = decode_against(&body, update.schema(), Some(held)).unwrap();
        // And what arrives and what is owed are together what was sent, but for rounding: a few parts of 2^24
        for (index, (spec, values)) in update.iter().enumerate() {
            let one = |parameters: &Parameters| bits(parameters)[index].clone();
            if spec.dtype == Dtype::I64 {
                prop_assert_eq!(one(&read), one(&update));
            }
            let (Values::F32(want), true) = (values, spec.shape.len() >= 2) else { continue };
            let places = want.iter().zip(floats_of(&read, &spec.name)).zip(floats_of(&base, &spec.name));
            let owed = floats_of(owed.residual().unwrap(), &spec.name);
            for (((want, got), base), owed) in places.zip(owed) {
                let [want, got, base, owed] = [want, got, base, owed].map(|value| f64::from(*value));
                let most = (want.abs() + base.abs()) * 1e-6 + 1e-44;
                prop_assert!((got + owed - want).abs() <= most, "{want} became {got}, and {owed} is owed, from {base}");
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_sent_in_no_encoding(
        sent in any_parameters(within_bf16().boxed()),
        place in any::<prop::sample::Index>(),
        value in prop::sample::select(&[f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]),
    ) {
        // Given a model with one such value, if it has a float at all
        let mut values = sent.values().to_vec();
        let tensors = sent.iter().enumerate().filter(|(_, (spec, v))| spec.dtype == Dtype::F32 && !v.is_empty());
        let tensors: Vec<_> = tensors.map(|(index, _)| index).collect();
        prop_assume!(!tensors.is_empty());
        let tensor = tensors[place.index(tensors.len())];
        let Values::F32(floats) = &mut values[tensor] else { unreachable!() };
        let index = place.index(floats.len());
        floats[index] = value;
        let broken = Parameters::new(Arc::clone(sent.schema()), values);
        // Then whatever would be sent names it
        let refused = EncodeError::NotFinite { tensor: sent.schema().tensors()[tensor].name.clone(), index };
        let base = Base { version: 3, parameters: &mapped(&sent, |_| 0.0) };
        for encoding in Encoding::ALL {
            let recipe = UpdateRecipe { encoding: *encoding, topk_fraction: 0.1, seed: 0 };
            prop_assert_eq!(encode_update(&broken, base, recipe, &Feedback::default()), Err(refused.clone()));
        }
        prop_assert_eq!(safe::write(&broken), Err(refused.clone()));
        prop_assert_eq!(write_f32(&broken, &mut Vec::new()).unwrap_err().to_string(), refused.to_string());
    }

    #[test]
    fn what_is_written_to_a_file_is_what_is_sent(sent in any_parameters(finite().boxed())) {
        let mut file = Vec::new();
        write_f32(&sent, &mut file).unwrap();
        prop_assert_eq!(file, encode(&sent, Encoding::F32, None).unwrap());
    }
}

#[test]
fn every_pattern_of_f16_and_bf16_is_read_as_what_it_is_or_refused() {
    let f16: fn(u16) -> f32 = |bits| f16::from_bits(bits).to_f32();
    let bf16: fn(u16) -> f32 = |bits| bf16::from_bits(bits).to_f32();
    for (dtype, widened) in [("F16", f16), ("BF16", bf16)] {
        let read = |patterns: &[u16]| {
            let data: Vec<_> = patterns.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let (shape, offsets) = (format!("[{}]", patterns.len()), format!("[0,{}]", data.len()));
            safe::read_any(&safetensors::one(dtype, &shape, &offsets, &data), 1 << 16)
        };
        let (finite, others): (Vec<u16>, Vec<u16>) = (0..=u16::MAX).partition(|bits| widened(*bits).is_finite());
        let want: Vec<_> = finite.iter().map(|bits| u64::from(widened(*bits).to_bits())).collect();
        assert_eq!(bits(&read(&finite).unwrap()), [want], "{dtype}");
        assert!(others.len() >= 256);
        for bits in others {
            let refused = DecodeError::NotFinite { tensor: "w".into(), index: 1 };
            assert_eq!(read(&[0, bits]), Err(refused), "{dtype} {bits:04x}");
        }
    }
}

#[test]
fn every_pattern_of_bf16_comes_from_any_base() {
    // Given all finite patterns, against bases that are zeros, subnormal, ordinary, the largest
    let finite: Vec<_> = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32()).filter(|v| v.is_finite()).collect();
    let sent = parameters(&[("w", Values::F32(finite))]);
    for base in [0.0, -0.0, f32::from_bits(1), -1.0, f32::MAX, f32::MIN] {
        let base = Base { version: 3, parameters: &mapped(&sent, |_| base) };
        // Where the base itself is beyond bf16 too: it is rounded to the largest.
        let body = encode_delta(&sent, base).unwrap();
        let read = decode_against(&body, sent.schema(), Some(base)).unwrap();
        assert_eq!(bits(&read), bits(&sent), "{:?}", base.parameters.values()[0]);
    }
}

#[test]
fn minus_zero_and_subnormals_are_told_from_zero() {
    let tiny = [-0.0, f32::from_bits(1), -f32::from_bits(1), f32::MIN_POSITIVE, f32::from_bits(0x7f_ffff)];
    let sent = matrix(|i| tiny[i % tiny.len()]);
    let zeros = matrix(|_| 0.0);
    let base = Base { version: 3, parameters: &zeros };
    for encoding in Encoding::ALL {
        let recipe = UpdateRecipe { encoding: *encoding, topk_fraction: 1.0, seed: 0 };
        let (update, owed) = encode_update(&sent, base, recipe, &Feedback::default()).unwrap();
        let body = match encoding {
            // As a model, which is rounded to nearest.
            Encoding::Bf16 => encode(&sent, *encoding, None).unwrap(),
            Encoding::Bf16Delta => encode_delta(&sent, base).unwrap(),
            _ => update,
        };
        let read = decode_against(&body, sent.schema(), Some(base)).unwrap();
        let want = match encoding {
            Encoding::F32 => sent.clone(),
            Encoding::Bf16 | Encoding::Bf16Delta => rounded(&sent),
            // Steps of a 127th of the smallest normal value are subnormal themselves; none is lost to zero unsaid.
            Encoding::Q8 | Encoding::Q4 | Encoding::TopK => {
                let owed = floats_of(owed.residual().unwrap(), "weight");
                let pairs = floats_of(&read, "weight").iter().zip(owed).zip(floats_of(&sent, "weight"));
                assert!(pairs.clone().all(|((got, owed), want)| got + owed == *want), "{encoding}");
                continue;
            }
        };
        assert_eq!(bits(&read), bits(&want), "{encoding}");
    }
}
