//! How large an update can become, from the tensors and the encoding alone.

use super::header::{CHECKSUM_BYTES, PRELUDE_BYTES};
use super::layout::{TensorEncoding, block_count};
use super::limits::MAX_BLOCK_VALUES;
use super::quantised::GROUP_VALUES;
use super::sparse::entries;
use super::tensor::{Schema, TensorSpec};
use app::api::Encoding;

/// Bytes of a plane beside its values: method and length.
const PLANE_BYTES: u64 = 5;
/// Bytes of a header beside tensors and blocks, at most.
const HEADER_BYTES: u64 = 80;
/// Bytes of a tensor in the header beside its name and dimensions, at most.
const TENSOR_BYTES: u64 = 16;
/// Bytes of a dimension in the header, at most.
const DIMENSION_BYTES: u64 = 10;
/// Bytes of a block beside its values and scales, at most: its row, two planes, and what stands before those of `topk`.
const BLOCK_BYTES: u64 = 8 + 2 * PLANE_BYTES + 12;

/// The most bytes that an update of a model of these tensors has in our container: its values as if nothing in them could be
/// compressed. Of `topk`, where changes of equal size do not make it send more of them than that share.
pub fn max_update_bytes(schema: &Schema, encoding: Encoding, topk_fraction: f64) -> u64 {
    let encodings: Vec<_> = schema.tensors().iter().map(|spec| TensorEncoding::of(encoding, spec)).collect();
    let blocks = block_count(schema, &encodings, MAX_BLOCK_VALUES);
    let tensors = schema.tensors().iter().zip(&encodings);
    // The sums cannot overflow: a schema has at most `MAX_VALUES` values.
    let tensors: u64 =
        tensors.map(|(spec, encoding)| head_bytes(spec) + value_bytes(spec, *encoding, topk_fraction)).sum();
    // A block that begins within a tensor cuts one of its groups in two.
    let blocks = blocks * (BLOCK_BYTES + 4);
    (PRELUDE_BYTES + CHECKSUM_BYTES) as u64 + HEADER_BYTES + blocks + tensors
}

fn head_bytes(spec: &TensorSpec) -> u64 {
    TENSOR_BYTES + spec.name.len() as u64 + DIMENSION_BYTES * spec.shape.len() as u64
}

/// Bytes of a tensor's values, and of their scales.
fn value_bytes(spec: &TensorSpec, encoding: TensorEncoding, topk_fraction: f64) -> u64 {
    let values = spec.values().unwrap_or(0);
    let scales = 4 * values.div_ceil(GROUP_VALUES as u64);
    match encoding {
        TensorEncoding::F32 => 4 * values,
        TensorEncoding::Bf16 | TensorEncoding::Bf16Delta => 2 * values,
        TensorEncoding::Q8 => values + scales,
        TensorEncoding::Q4 => values.div_ceil(2) + scales,
        // A gap and a code for each entry, and the long gaps.
        TensorEncoding::TopK => 2 * entries(values as usize, topk_fraction) as u64 + values / 255,
        TensorEncoding::I64 => 8 * values,
        TensorEncoding::RawF16 | TensorEncoding::RawBf16 | TensorEncoding::RawI64 => 0, // not in a container
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Base, Dtype, Feedback, Parameters, UpdateRecipe, Values, encode_update};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::sync::Arc;

    /// Values that nothing compresses: every bit drawn, but for those that make a number infinite.
    fn noise(shapes: &[&[u64]]) -> (Parameters, Parameters) {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut specs: Vec<_> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| TensorSpec { name: format!("tensor-{i}"), dtype: Dtype::F32, shape: shape.to_vec() })
            .collect();
        specs.push(TensorSpec { name: "z".into(), dtype: Dtype::I64, shape: vec![1000] });
        let schema = Arc::new(Schema::new(specs).unwrap());
        let mut parameters = || {
            let values = schema.tensors().iter().map(|spec| match spec.dtype {
                Dtype::F32 => Values::F32(
                    (0..spec.values().unwrap())
                        .map(|_| f32::from_bits(random.random::<u32>() & 0x87ff_ffff | 0x3800_0000))
                        .collect(),
                ),
                Dtype::I64 => Values::I64((0..spec.values().unwrap()).map(|_| random.random()).collect()),
            });
            Parameters::new(schema.clone(), values.collect())
        };
        (parameters(), parameters())
    }

    #[test]
    fn no_update_is_larger_and_the_bound_is_close() {
        for shapes in [vec![&[600, 1000][..], &[500], &[3, 3, 3], &[0, 7]], vec![&[1, 1][..]], vec![&[2000][..]]] {
            let (update, base) = noise(&shapes);
            for encoding in Encoding::ALL {
                for topk_fraction in [0.01, 0.5, 1.0] {
                    let recipe = UpdateRecipe { encoding: *encoding, topk_fraction, seed: 1 };
                    let base = Base { version: 1, parameters: &base };
                    let (body, _) = encode_update(&update, base, recipe, &Feedback::default()).unwrap();
                    let (bytes, bound) =
                        (body.len() as u64, max_update_bytes(update.schema(), *encoding, topk_fraction));
                    assert!(bytes <= bound, "{encoding} {topk_fraction} of {shapes:?}: {bytes} of {bound}");
                    if *encoding == Encoding::F32 {
                        assert!(bound <= bytes + 500, "{bytes} of {bound}");
                    }
                }
            }
        }
    }
}
