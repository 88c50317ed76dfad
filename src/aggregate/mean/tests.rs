//! The new model: what changes in it, and what does not.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::{self, BodyFormat, Dtype, Feedback, UpdateRecipe};
use app::api::Encoding;
use proptest::prelude::*;

fn schema_of(tensors: &[(&str, Dtype, &[u64])]) -> Arc<Schema> {
    let spec = |(name, dtype, shape): &(&str, Dtype, &[u64])| TensorSpec {
        name: (*name).to_owned(),
        dtype: *dtype,
        shape: shape.to_vec(),
    };
    Arc::new(Schema::new(tensors.iter().map(spec).collect()).unwrap())
}

fn schema() -> Arc<Schema> {
    schema_of(&[("count", Dtype::I64, &[]), ("w", Dtype::F32, &[2])])
}

fn model(count: i64, w: [f32; 2]) -> Parameters {
    Parameters::new(schema(), vec![Values::I64(vec![count]), Values::F32(w.to_vec())])
}

/// Both ways to add: in memory, and with tensors on a device (here the CPU, as any machine has one).
fn both(schema: &Arc<Schema>) -> [WeightedMean; 2] {
    [None, Some(Device::Cpu)].map(|device| WeightedMean::on(schema.clone(), device).unwrap())
}

fn fold(mean: &mut WeightedMean, body: &[u8], base: &Parameters, share: f64) -> Result<(), AggregateError> {
    let base = Base { version: 1, parameters: base };
    mean.fold(&Plan::of(BodyFormat::Container, body).unwrap(), body, base, share)
}

/// Each one's part of the samples.
fn shares(samples: &[u64]) -> Vec<f64> {
    let all: u64 = samples.iter().sum();
    samples.iter().map(|samples| *samples as f64 / all as f64).collect()
}

/// The new model of these updates, sent as F32, by samples.
fn combined(mut mean: WeightedMean, base: &Parameters, updates: &[(&Parameters, u64)]) -> Parameters {
    let shares = shares(&updates.iter().map(|(_, samples)| *samples).collect::<Vec<_>>());
    for ((update, _), share) in updates.iter().zip(shares) {
        fold(&mut mean, &wire::encode(update, Encoding::F32, None).unwrap(), base, share).unwrap();
    }
    mean.finish(base).unwrap()
}

/// What a client has of a model that the coordinator sends it in a run of that encoding.
fn received(model: &Parameters, encoding: Encoding) -> Parameters {
    let sent = if encoding == Encoding::F32 { Encoding::F32 } else { Encoding::Bf16 };
    wire::decode(&wire::encode(model, sent, None).unwrap(), model.schema()).unwrap()
}

/// What a client sends that was given that model and has made an update of it.
fn sent(update: &Parameters, base: &Parameters, encoding: Encoding, seed: u64) -> Vec<u8> {
    let recipe = UpdateRecipe { encoding, topk_fraction: 0.1, seed };
    let base = Base { version: 1, parameters: base };
    wire::encode_update(update, base, recipe, &Feedback::default()).unwrap().0
}

fn bits(values: &Values) -> Vec<u64> {
    match values {
        Values::F32(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        Values::I64(values) => values.iter().map(|value| *value as u64).collect(),
    }
}

#[test]
fn the_mean_is_weighted_by_samples() {
    for mean in both(&schema()) {
        let (one, other) = (model(10, [1.0, -2.0]), model(20, [5.0, 2.0]));
        // 17.5 is rounded to even; (1 + 15) / 4; (-2 + 6) / 4
        assert_eq!(combined(mean, &model(0, [0.5, 0.5]), &[(&one, 1), (&other, 3)]), model(18, [4.0, 1.0]));
    }
}

#[test]
fn two_clients_that_send_back_what_they_received_change_nothing() {
    let model = model(i64::MAX, [-1e9, f32::MIN]);
    for mean in both(&schema()) {
        assert_eq!(combined(mean, &model, &[(&model, 100), (&model, 50)]), model);
    }
}

#[test]
fn frozen_values_keep_their_bits_for_a_hundred_rounds_in_every_encoding() {
    // 1,000 values without order, a mask, and what F32 has beside ordinary numbers.
    let schema = schema_of(&[("frozen", Dtype::F32, &[10, 100]), ("mask", Dtype::F32, &[7]), ("n", Dtype::I64, &[3])]);
    let value = |i: u32| f32::from_bits(0x3f00_0000 ^ i.wrapping_mul(0x9e37_79b9) >> 6);
    let special = vec![f32::MIN, f32::MAX, -1e9, -0.0, f32::from_bits(1), 0.1, 65_519.0];
    let values = vec![
        Values::F32((0..1000).map(value).collect()),
        Values::F32(special),
        Values::I64(vec![i64::MIN, i64::MAX, (1 << 53) + 1]),
    ];
    let first = Parameters::new(schema.clone(), values);
    for encoding in Encoding::ALL {
        for device in [None, Some(Device::Cpu)] {
            let mut model = first.clone();
            for round in 0..100 {
                let mut mean = WeightedMean::on(schema.clone(), device).unwrap();
                let held = received(&model, *encoding);
                for (client, share) in shares(&[100, 57, 33]).into_iter().enumerate() {
                    let body = sent(&held, &held, *encoding, 3 * round + client as u64);
                    fold(&mut mean, &body, &model, share).unwrap();
                }
                model = mean.finish(&model).unwrap();
            }
            for (values, first) in model.values().iter().zip(first.values()) {
                assert_eq!(bits(values), bits(first), "{encoding}");
            }
        }
    }
}

#[test]
fn frozen_values_of_safetensors_keep_their_bits_in_each_of_its_dtypes() {
    use half::{bf16, f16};
    let schema = schema_of(&[("w", Dtype::F32, &[4])]);
    let frozen = [0.1f32, -1e9, 65_504.0, 1e-7];
    let model = Parameters::new(schema.clone(), vec![Values::F32(frozen.to_vec())]);
    let f32 = || frozen.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let bf16 = || frozen.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    // -1e9 is beyond F16, so no client can send it back: here it moves, and the others do not.
    let f16 = || frozen.iter().flat_map(|v| f16::from_f32(v.max(-65_504.0)).to_le_bytes()).collect();
    for (dtype, data, is_within) in [("F32", f32(), true), ("BF16", bf16(), true), ("F16", f16(), false)] {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,{}]}}}}"#, data.len());
        let body = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        for mut mean in both(&schema) {
            let plan = Plan::of(BodyFormat::Safetensors { zstd: false }, &body).unwrap();
            for share in [2.0 / 3.0, 1.0 / 3.0] {
                mean.fold(&plan, &body[..], Base { version: 1, parameters: &model }, share).unwrap();
            }
            let new = mean.finish(&model).unwrap();
            let Values::F32(values) = &new.values()[0] else { unreachable!() };
            let want = [frozen[0], if is_within { frozen[1] } else { -65_504.0 }, frozen[2], frozen[3]];
            assert_eq!(values, &want, "{dtype}");
        }
    }
}

/// The mean that 100,000 weights from 0.5 to 1.5 have moved by in 20 rounds, in each of which another client adds 0.001.
fn moved_in_20_rounds(encoding: Encoding, shape: &[u64]) -> f64 {
    let schema = schema_of(&[("w", Dtype::F32, shape)]);
    let of = |values: Vec<f32>| Parameters::new(schema.clone(), vec![Values::F32(values)]);
    let floats = |parameters: &Parameters| match &parameters.values()[0] {
        Values::F32(values) => values.clone(),
        Values::I64(_) => unreachable!(),
    };
    let mean_of = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    let first: Vec<f32> = (0..100_000).map(|i| 0.5 + i as f32 / 100_000.0).collect();
    let mut model = of(first.clone());
    for round in 0..20 {
        let held = received(&model, encoding);
        let update = of(floats(&held).iter().map(|value| value + 0.001).collect());
        let mut mean = WeightedMean::new(schema.clone(), Device::Cpu).unwrap();
        fold(&mut mean, &sent(&update, &held, encoding, round), &model, 1.0).unwrap();
        model = mean.finish(&model).unwrap();
    }
    mean_of(&floats(&model)) - mean_of(&first)
}

#[test]
fn small_steps_arrive_in_every_encoding_that_sends_all_values_though_each_client_takes_part_once() {
    for encoding in [Encoding::F32, Encoding::Bf16, Encoding::Bf16Delta, Encoding::Q8, Encoding::Q4] {
        let moved = moved_in_20_rounds(encoding, &[100, 1000]);
        assert!((0.0196..0.0204).contains(&moved), "{encoding}: {moved} of 0.02");
    }
    // A vector is sent as bf16-delta by the encodings of matrices.
    for encoding in [Encoding::Q8, Encoding::Q4, Encoding::TopK] {
        let moved = moved_in_20_rounds(encoding, &[100_000]);
        assert!((0.0196..0.0204).contains(&moved), "{encoding}, a vector: {moved} of 0.02");
    }
}

#[test]
fn a_client_that_sends_bf16_of_a_model_that_it_has_exactly_moves_it_by_what_it_changed() {
    // 0.1 is between two values of bf16.
    let schema = schema_of(&[("w", Dtype::F32, &[100, 1000])]);
    let of = |value: f32| Parameters::new(schema.clone(), vec![Values::F32(vec![value; 100_000])]);
    for encoding in [Encoding::Bf16, Encoding::Bf16Delta] {
        let mut mean = WeightedMean::new(schema.clone(), Device::Cpu).unwrap();
        fold(&mut mean, &sent(&of(0.1001), &of(0.1), encoding, 5), &of(0.1), 1.0).unwrap();
        let new = mean.finish(&of(0.1)).unwrap();
        let Values::F32(values) = &new.values()[0] else { unreachable!() };
        let moved = values.iter().map(|value| f64::from(*value) - f64::from(0.1f32)).sum::<f64>() / 1e5;
        assert!((0.98e-4..1.02e-4).contains(&moved), "{encoding}: {moved}");
    }
}

#[test]
fn integers_are_exact_near_2_to_the_53_and_at_the_limits() {
    let (two_53, min, max) = (1 << 53, i64::MIN, i64::MAX);
    // A base and what all send, with three shares that are no powers of two.
    for (base, update) in
        [(1, two_53 + 2), (two_53 + 1, two_53 + 2), (max - 1, max), (min + 1, min), (max, 0), (0, min), (min, max)]
    {
        for mean in both(&schema()) {
            let (base, update) = (model(base, [0.0; 2]), model(update, [0.0; 2]));
            assert_eq!(combined(mean, &base, &[(&update, 100), (&update, 57), (&update, 33)]), update);
        }
    }
    // The mean of the changes 1 and 2 is rounded to even, and so is that of -1 and -2.
    for (one, other, want) in [(max - 2, max - 1, max - 1), (max - 4, max - 5, max - 5)] {
        for mean in both(&schema()) {
            let [base, one, other, want] = [max - 3, one, other, want].map(|count| model(count, [0.0; 2]));
            assert_eq!(combined(mean, &base, &[(&one, 5), (&other, 5)]), want);
        }
    }
}

#[test]
fn a_stale_update_moves_the_model_by_its_change_from_its_own_base() {
    let (current, old) = (model(10, [1.0, 1.0]), model(4, [0.0, 3.0]));
    for mut mean in both(&schema()) {
        let shares = [0.2, 0.4]; // of 10 and 40 samples, the second one 3 versions behind
        let fresh = wire::encode(&model(15, [2.0, 1.0]), Encoding::F32, None).unwrap();
        let stale = wire::encode(&model(14, [1.0, 2.0]), Encoding::F32, None).unwrap();
        fold(&mut mean, &fresh, &current, shares[0]).unwrap();
        fold(&mut mean, &stale, &old, shares[1]).unwrap();
        // 0.2 * 5 + 0.4 * 10; 0.2 * 1 + 0.4 * 1; 0.4 * -1
        assert_eq!(mean.finish(&current).unwrap(), model(15, [1.6, 0.6]));
    }
}

#[test]
fn both_ways_give_the_same_for_tensors_that_share_blocks_and_blocks_that_cut_tensors() {
    let large = wire::MAX_BLOCK_VALUES as u64 + 5;
    let schema = schema_of(&[("a", Dtype::F32, &[3]), ("b", Dtype::F32, &[large]), ("c", Dtype::F32, &[4])]);
    let values = |len: u64, by: f32| Values::F32((0..len).map(|i| i as f32 / by).collect());
    let of = |by| Parameters::new(schema.clone(), vec![values(3, by), values(large, by), values(4, by)]);
    let [memory, device] = both(&schema).map(|mean| combined(mean, &of(7.0), &[(&of(3.0), 2), (&of(5.0), 1)]));
    assert!(memory == device && memory != of(7.0));
}

#[test]
fn nothing_has_no_mean() {
    for mean in both(&schema()) {
        assert!(matches!(mean.finish(&model(0, [0.0; 2])), Err(AggregateError::Nothing)));
    }
}

#[test]
fn a_value_beyond_f32_is_refused_by_name() {
    for mut mean in both(&schema()) {
        // A change that leads to a value of F32 from the update's own base, and beyond it from the current one.
        let body = wire::encode(&model(0, [f32::MAX, 0.0]), Encoding::F32, None).unwrap();
        fold(&mut mean, &body, &model(0, [0.0; 2]), 1.0).unwrap();
        let refused = mean.finish(&model(0, [f32::MAX / 2.0, 0.0]));
        assert!(matches!(refused, Err(AggregateError::NotFinite(name)) if name == "w"));
    }
}

#[test]
fn an_update_of_another_model_is_refused() {
    let other = Parameters::new(schema_of(&[]), vec![]);
    for mut mean in both(&schema()) {
        let body = wire::encode(&other, Encoding::F32, None).unwrap();
        assert!(matches!(fold(&mut mean, &body, &model(0, [0.0; 2]), 1.0), Err(AggregateError::Schema)));
    }
}

/// Any finite value.
fn any_float() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(|bits| Some(f32::from_bits(bits)).filter(|value| value.is_finite()).unwrap_or(f32::MAX))
}

proptest! {
    #[test]
    fn what_all_send_is_the_new_model_whatever_the_samples(
        base in -1e3f32..1e3,
        update in -1e3f32..1e3,
        other in any_float(),
        from: i64,
        to: i64,
        samples in prop::collection::vec(1..100_000u64, 1..9),
    ) {
        let (base, update) = (model(from, [base, other]), model(to, [update, other]));
        for mean in both(&schema()) {
            let updates: Vec<_> = samples.iter().map(|samples| (&update, *samples)).collect();
            let new_model = combined(mean, &base, &updates);
            let (Values::F32(new), Values::F32(want)) = (&new_model.values()[1], &update.values()[1]) else { unreachable!() };
            prop_assert_eq!(new[1].to_bits(), want[1].to_bits());
            prop_assert_eq!(&new_model.values()[0], &update.values()[0]);
            // To the last digit, but for values that are small beside those they were changed from.
            prop_assert!((new[0] - want[0]).abs() <= want[0].abs() / 1e7 + 1e-12, "{} for {}", new[0], want[0]);
        }
    }

    #[test]
    fn the_new_model_is_between_the_updates(
        base in any_float(),
        updates in prop::collection::vec((any_float(), any::<i64>(), 1..1_000u64), 1..5),
    ) {
        let base = model(0, [base, 0.0]);
        let models: Vec<_> = updates.iter().map(|(w, n, samples)| (model(*n, [*w, 0.0]), *samples)).collect();
        let [low, high] = [f32::min, f32::max].map(|of| updates.iter().map(|(w, ..)| *w).reduce(of).unwrap());
        let [least, most] = [i64::min, i64::max].map(|of| updates.iter().map(|(_, n, _)| *n).reduce(of).unwrap());
        for mean in both(&schema()) {
            let updates: Vec<_> = models.iter().map(|(update, samples)| (update, *samples)).collect();
            let new = combined(mean, &base, &updates);
            let (Values::I64(n), Values::F32(w)) = (&new.values()[0], &new.values()[1]) else { unreachable!() };
            let (Values::F32(base), w) = (&base.values()[1], f64::from(w[0])) else { unreachable!() };
            // f64 has 29 bits more than F32; of what is small beside the base no more is left than these.
            let slack = f64::from(base[0].abs().max(low.abs()).max(high.abs())) * 1e-7;
            prop_assert!((f64::from(low) - slack..=f64::from(high) + slack).contains(&w), "{low} {w} {high}");
            prop_assert!((least..=most).contains(&n[0]), "{least} {} {most}", n[0]);
        }
    }
}
