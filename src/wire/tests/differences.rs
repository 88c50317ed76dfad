//! Encodings that tell values by what they are in a base: what comes back, what is owed, and what is refused.

use super::round_trip::{any_parameters, finite, rounded, within_bf16};
use super::*;
use half::bf16;
use proptest::prelude::*;

/// A 3 x 4 matrix, a vector and a counter, filled by index.
pub(super) fn matrix(value: impl Fn(usize) -> f32) -> Parameters {
    let schema = schema(&[("bias", Dtype::F32, &[3]), ("n", Dtype::I64, &[]), ("weight", Dtype::F32, &[3, 4])]);
    let bias = (0..3).map(|i| value(i) / 3.0).collect();
    Parameters::new(schema, vec![Values::F32(bias), Values::I64(vec![5]), Values::F32((0..12).map(value).collect())])
}

pub(super) fn floats_of<'a>(parameters: &'a Parameters, name: &str) -> &'a [f32] {
    match parameters.iter().find(|(spec, _)| spec.name == name) {
        Some((_, Values::F32(values))) => values,
        _ => panic!("no floats named {name}"),
    }
}

fn recipe(encoding: Encoding) -> UpdateRecipe {
    UpdateRecipe { encoding, topk_fraction: 0.25, seed: 7 }
}

pub(super) const LOSSY: [Encoding; 3] = [Encoding::Q8, Encoding::Q4, Encoding::TopK];

/// Sends an update and returns what arrives, and what is owed.
fn sent(
    block_values: usize,
    update: &Parameters,
    base: &Parameters,
    recipe: UpdateRecipe,
    owed: &Feedback,
) -> (Parameters, Feedback) {
    let base = Base { version: 3, parameters: base };
    let (body, owed) = super::super::container::update_blocks_of(block_values, update, base, recipe, owed).unwrap();
    assert_eq!(plan_of(&body).base_version(), Some(3));
    assert_eq!(plan_of(&body).encoding(), Some(recipe.encoding));
    (decode_against(&body, update.schema(), Some(base)).unwrap(), owed)
}

proptest! {
    #[test]
    fn a_delta_is_what_bf16_is_whatever_the_base(
        update in any_parameters(within_bf16().boxed()),
        base in any::<u32>(),
        block_values in 1..20usize,
    ) {
        let base = mapped(&update, |value| {
            let other = f32::from_bits(value.to_bits().wrapping_mul(base | 1));
            if other.is_finite() { other } else { 1.0 }
        });
        // As a model
        let base = Base { version: 3, parameters: &base };
        let body = delta_in_blocks_of(block_values, &update, base).unwrap();
        let arrived = decode_against(&body, update.schema(), Some(base)).unwrap();
        prop_assert_eq!(bits(&arrived), bits(&rounded(&update)));
    }

    #[test]
    fn an_update_is_rounded_to_either_side_and_what_has_not_changed_is_what_was_received(
        base in any_parameters(finite().boxed()),
        block_values in 1..20usize,
        seed: u64,
        encoding in prop::sample::select(&[Encoding::Bf16, Encoding::Bf16Delta][..]),
    ) {
        // Given a client that has the model exactly, and changes every second value
        let recipe = UpdateRecipe { seed, ..recipe(encoding) };
        let once = |update: &Parameters| sent(block_values, update, &base, recipe, &Feedback::default());
        let (unchanged, owed) = once(&base);
        prop_assert_eq!(bits(&unchanged), bits(&rounded(&base)));
        prop_assert!(owed.residual().is_none());
        let update = mapped(&base, |value| if value.to_bits().is_multiple_of(2) { value * 0.9 } else { value });
        let arrived = once(&update).0;
        for (((spec, base), update), arrived) in base.iter().zip(update.values()).zip(arrived.values()) {
            let (Values::F32(base), Values::F32(update), Values::F32(arrived)) = (base, update, arrived) else { continue };
            for ((base, update), arrived) in base.iter().zip(update).zip(arrived) {
                let received = f64::from(bf16::from_f32(*base).to_f32().clamp(-LARGEST_BF16, LARGEST_BF16));
                let change = f64::from(*update) - f64::from(*base);
                // A step at the value, and a little for F32 in between.
                let most = f64::from(base.abs().max(update.abs())) / 127.0 + 1e-40;
                let off = f64::from(*arrived) - received - change;
                prop_assert!(off.abs() <= most, "{}: {base:e} to {update:e} arrived as {arrived:e}", spec.name);
            }
        }
        prop_assert_eq!(bits(&once(&update).0), bits(&once(&update).0));
    }

    #[test]
    fn nothing_is_lost_that_is_not_owed(
        update in any_parameters((-1e3f32..1e3).boxed()),
        factor in -2f32..2.0,
        block_values in 1..20usize,
        encoding in prop::sample::select(&LOSSY[..]),
    ) {
        let base = mapped(&update, |value| value * factor);
        let (arrived, owed) = sent(block_values, &update, &base, recipe(encoding), &Feedback::default());
        for (index, (spec, values)) in update.iter().enumerate() {
            let (Values::F32(want), Values::F32(got)) = (values, &arrived.values()[index]) else { continue };
            let owed = match owed.residual().map(|owed| &owed.values()[index]) {
                Some(Values::F32(owed)) if spec.shape.len() >= 2 => owed.clone(),
                _ => vec![0.0; want.len()],
            };
            // What is not a matrix is exact to a step of bf16, at the value or at its base, and owes nothing.
            let most = |want: f32| if spec.shape.len() < 2 { want.abs() / 32.0 + 1e-38 } else { 1e-3 };
            for ((want, got), owed) in want.iter().zip(got).zip(owed) {
                prop_assert!((got + owed - want).abs() <= most(*want), "{want} became {got}, and {owed} is owed");
            }
        }
    }
}

/// A model in `bf16-delta`, with blocks of so many values.
pub(super) fn delta_in_blocks_of(
    block_values: usize,
    parameters: &Parameters,
    base: Base<'_>,
) -> Result<Vec<u8>, EncodeError> {
    let source = super::super::block::Source {
        parameters,
        base: Some(base.parameters),
        residual: None,
        thresholds: &[],
        seed: None,
    };
    super::super::container::encode_blocks_of(block_values, &source, Encoding::Bf16Delta, Some(base.version), None)
}

/// The same tensors with other values.
pub(super) fn mapped(parameters: &Parameters, value: impl Fn(f32) -> f32) -> Parameters {
    let map = |values: &Values| match values {
        Values::F32(v) => Values::F32(v.iter().map(|v| value(*v)).collect()),
        Values::I64(v) => Values::I64(v.clone()),
    };
    Parameters::new(Arc::clone(parameters.schema()), parameters.values().iter().map(map).collect())
}

#[test]
fn a_matrix_gets_the_lossy_encoding_and_a_vector_the_delta() {
    let (base, update) = (matrix(|_| 0.0), matrix(|i| i as f32 + 0.3));
    for (encoding, code) in LOSSY.into_iter().zip([4, 5, 6]) {
        let base = Base { version: 3, parameters: &base };
        let (body, _) = encode_update(&update, base, recipe(encoding), &Feedback::default()).unwrap();
        let codes: Vec<_> = plan_of(&body).blocks.iter().map(|b| b.block.encoding as u8).collect();
        assert_eq!(codes, [2, 3, code], "{encoding}");
    }
}

#[test]
fn what_is_owed_is_paid_by_later_updates() {
    // Given a client whose training always moves every weight by the same, from a base that follows what arrives
    let step = |i: usize| (i as f32 - 6.0) / 10.0;
    for encoding in LOSSY {
        let (mut base, mut owed) = (matrix(|_| 0.0), Feedback::default());
        for round in 0..200 {
            let at: Vec<f32> = floats_of(&base, "weight").to_vec();
            let update = matrix(|i| at[i] + step(i));
            let recipe = UpdateRecipe { seed: round, ..recipe(encoding) };
            (base, owed) = sent(5, &update, &base, recipe, &owed);
        }
        // Then after many rounds each has moved by the sum, give or take what is still owed: a few steps
        for (i, value) in floats_of(&base, "weight").iter().enumerate() {
            assert!((value - 200.0 * step(i)).abs() < 6.0, "{encoding}: weight {i} is at {value}");
        }
    }
}

#[test]
fn rounding_is_right_on_average_and_the_same_for_the_same_seed() {
    // Given one value that fixes the scale at 1 and many of a third
    let schema = schema(&[("w", Dtype::F32, &[1, 1000])]);
    let of = |values: Vec<f32>| Parameters::new(schema.clone(), vec![Values::F32(values)]);
    let base = of(vec![0.0; 1000]);
    let update = of((0..1000).map(|i| if i == 0 { 7.0 } else { 1.0 / 3.0 }).collect());
    // When it is sent with 20 seeds
    let once = |seed| sent(1000, &update, &base, UpdateRecipe { seed, ..recipe(Encoding::Q4) }, &Feedback::default()).0;
    let sum: f32 = (0..20).map(|seed| floats_of(&once(seed), "w")[1..].iter().sum::<f32>()).sum();
    // Then the mean is a third, within five times the standard error of 19,980 draws
    assert!((sum / 19_980.0 - 1.0 / 3.0).abs() < 0.017, "{}", sum / 19_980.0);
    assert_eq!(once(1), once(1));
    assert_ne!(once(1), once(2));
}

#[test]
fn topk_sends_the_largest_changes_of_each_tensor() {
    // Given 5,000 values of which every second changes, the later the more
    let schema = schema(&[("w", Dtype::F32, &[5, 1000])]);
    let of =
        |value: fn(usize) -> f32| Parameters::new(schema.clone(), vec![Values::F32((0..5000).map(value).collect())]);
    let change = |i: usize| if i.is_multiple_of(2) { (i + 1) as f32 } else { 0.0 };
    let changed = |topk_fraction| {
        let recipe = UpdateRecipe { topk_fraction, ..recipe(Encoding::TopK) };
        let (arrived, owed) = sent(700, &of(change), &of(|_| 0.0), recipe, &Feedback::default());
        let owed = floats_of(owed.residual().unwrap(), "w").to_vec();
        (floats_of(&arrived, "w").to_vec(), owed)
    };
    // When a quarter of them is sent, then it is the last 1,250 that changed, to within a step of their block,
    let (arrived, owed) = changed(0.25);
    assert!((0..2500).all(|i| arrived[i] == 0.0 && owed[i] == change(i)));
    assert!((2500..5000).all(|i| (arrived[i] - change(i)).abs() < 5000.0 / 127.0 && arrived[i] + owed[i] == change(i)));
    // and of a hundredth, 1,024 all the same.
    let (arrived, _) = changed(0.01);
    assert_eq!(arrived.iter().position(|value| *value != 0.0), Some(5000 - 2 * 1024));
}

#[test]
fn what_topk_owes_is_bounded_and_no_weight_waits_for_ever() {
    // Given 20,480 weights that all move in every round, each by its own small step, of which a tenth is sent
    let schema = schema(&[("w", Dtype::F32, &[20, 1024])]);
    let of = |values: Vec<f32>| Parameters::new(schema.clone(), vec![Values::F32(values)]);
    let steps: Vec<f32> = (0..20_480).map(|i| (i * 7919 % 1001 + 500) as f32 * 1e-6).collect();
    let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let (mut base, mut owed, share) = (of(vec![1.0; 20_480]), Feedback::default(), 0.1);
    for round in 1..=60 {
        let update = of(floats_of(&base, "w").iter().zip(&steps).map(|(at, step)| at + step).collect());
        let recipe = UpdateRecipe { topk_fraction: share, seed: round, ..recipe(Encoding::TopK) };
        (base, owed) = sent(MAX_BLOCK_VALUES, &update, &base, recipe, &owed);
        // Then what is owed is at most twice what changes in a round, by the share that is sent,
        let outstanding = floats_of(owed.residual().unwrap(), "w");
        assert!(norm(outstanding) <= 2.0 * norm(&steps) / share, "round {round}");
        // no weight waits much longer than a round for each tenth,
        let longest = outstanding.iter().zip(&steps).map(|(owed, step)| owed / step).fold(0f32, f32::max);
        assert!(longest < 25.0, "round {round}: {longest} rounds");
        // and what has arrived and what is owed are all that was changed.
        let arrived = floats_of(&base, "w").iter().zip(outstanding).map(|(at, owed)| f64::from(at - 1.0 + owed));
        let (arrived, all) = (arrived.sum::<f64>(), steps.iter().map(|v| f64::from(*v)).sum::<f64>() * round as f64);
        assert!((arrived / all - 1.0).abs() < 1e-3, "round {round}: {arrived} of {all}");
    }
}

#[test]
fn gaps_longer_than_a_byte_come_back() {
    let schema = schema(&[("w", Dtype::F32, &[1, 2000])]);
    let of =
        |value: fn(usize) -> f32| Parameters::new(schema.clone(), vec![Values::F32((0..2000).map(value).collect())]);
    let far = |i| if [0, 255, 256, 511, 1022, 1999].contains(&i) { 127.0 } else { 0.0 };
    let recipe = UpdateRecipe { topk_fraction: 0.003, ..recipe(Encoding::TopK) };
    assert_eq!(sent(2000, &of(far), &of(|_| 0.0), recipe, &Feedback::default()).0, of(far));
}

#[test]
fn an_unchanged_model_is_sent_as_such() {
    let base = rounded(&matrix(|i| i as f32 * 0.1));
    for encoding in Encoding::ALL {
        assert_eq!(sent(4, &base, &base, recipe(*encoding), &Feedback::default()).0, base, "{encoding}");
    }
}

#[test]
fn what_needs_a_base_is_not_written_or_read_without_it() {
    let (update, base) = (matrix(|i| i as f32), matrix(|_| 0.0));
    for encoding in [Encoding::Bf16Delta, Encoding::Q8, Encoding::Q4, Encoding::TopK] {
        assert_eq!(encode(&update, encoding, Some(3)), Err(EncodeError::NoBase), "{encoding}");
        let held = |version| Base { version, parameters: &base };
        let (body, _) = encode_update(&update, held(3), recipe(encoding), &Feedback::default()).unwrap();
        assert_eq!(decode(&body, update.schema()), Err(DecodeError::UnknownBase(3)), "{encoding}");
        assert_eq!(decode_any(&body, 1000), Err(DecodeError::UnknownBase(3)), "{encoding}");
        let other = decode_against(&body, update.schema(), Some(held(4)));
        assert_eq!(other, Err(DecodeError::UnknownBase(3)), "{encoding}");
    }
}

#[test]
fn a_difference_without_values_needs_no_base() {
    let empty = parameters(&[("w", Values::F32(vec![]))]);
    let body = encode(&empty, Encoding::Bf16Delta, None).unwrap();
    assert_eq!(decode(&body, empty.schema()), Ok(empty));
}

#[test]
fn what_leaves_the_range_is_refused_at_both_ends() {
    // Given a base and an update that are finite, and whose difference is not
    let (base, update) = (matrix(|_| -f32::MAX), matrix(|i| if i == 6 { f32::MAX } else { 0.0 }));
    let refused = EncodeError::ChangeTooLarge { tensor: "weight".into(), index: 6 };
    for encoding in LOSSY {
        let base = Base { version: 3, parameters: &base };
        assert_eq!(encode_update(&update, base, recipe(encoding), &Feedback::default()), Err(refused.clone()));
    }
    // And a difference that is finite for who wrote it, and not for a reader with a larger base
    let (small, large) = (matrix(|_| 0.0), matrix(|_| f32::MAX));
    let update = matrix(|i| i as f32 * 1e37);
    for encoding in LOSSY {
        let base = Base { version: 3, parameters: &small };
        let (body, _) = encode_update(&update, base, recipe(encoding), &Feedback::default()).unwrap();
        let read = decode_against(&body, update.schema(), Some(Base { version: 3, parameters: &large }));
        assert!(matches!(read, Err(DecodeError::NotFinite { tensor, .. }) if tensor == "weight"), "{encoding}");
    }
}

#[test]
fn a_change_that_leads_to_infinity_for_the_reader_is_refused_by_its_place() {
    let refused = EncodeError::ChangeTooLarge { tensor: "weight".into(), index: 6 };
    // The distance itself; the largest multiple of a scale, which is rounded (MAX / 127 * 127); and a multiple beyond the
    // largest value, which is rounded away from it.
    let nearly = f32::MAX.next_down();
    for (value, base) in [(f32::MAX, -f32::MAX), (f32::MAX, 0.0), (f32::MAX, nearly / 2.0)] {
        let of = |there: f32| matrix(|i| if i == 6 { there } else { 0.0 });
        for encoding in LOSSY {
            let base = of(base);
            let base = Base { version: 0, parameters: &base };
            match encode_update(&of(value), base, recipe(encoding), &Feedback::default()) {
                Err(error) => assert_eq!(error, refused, "{encoding}"),
                // Or else it can be read.
                Ok((body, _)) => drop(decode_against(&body, of(0.0).schema(), Some(base)).unwrap()),
            }
        }
    }
    let of_largest = matrix(|i| if i == 6 { f32::MAX } else { 0.0 });
    let zeros = matrix(|_| 0.0);
    let base = Base { version: 0, parameters: &zeros };
    let refusal = encode_update(&of_largest, base, recipe(Encoding::Q8), &Feedback::default()).unwrap_err();
    assert_eq!(refusal, refused);
}
