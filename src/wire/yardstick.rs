//! What the encodings are measured by: bounds, and the plainer ways to do the same. Nothing here is ever sent.

use super::block::BlockDecoder;
use super::error::{DecodeError, EncodeError};
use super::layout::TensorEncoding;
use super::negotiate::BodyFormat;
use super::plan::Plan;
use super::tensor::{Parameters, Values};
use super::{bf16, delta};
use std::collections::HashMap;

/// The level of the original platform, and of the plain difference.
const LEVEL: i32 = 3;

/// The order-0 entropy of all bytes of the same plane, over all blocks of an encoding, and the bytes that are in no plane
/// (scales, lengths, the head). What a coder that knows nothing but how often each byte occurs would need.
///
/// # Errors
/// It is no container.
pub fn entropy_bytes(body: &[u8]) -> Result<f64, DecodeError> {
    let plan = Plan::of(BodyFormat::Container, body)?;
    let mut decoder = BlockDecoder::default();
    let mut counts: HashMap<(TensorEncoding, usize), [u64; 256]> = HashMap::new();
    let mut outside = body.len();
    for (number, planned) in plan.blocks.iter().enumerate() {
        let bytes = body.get(planned.range.start as usize..planned.range.end as usize).unwrap_or_default();
        let planes = decoder.planes(number, &planned.block, bytes)?;
        outside -= bytes.len() - planes.outside;
        for (plane, bytes) in planes.planes.into_iter().enumerate() {
            let counts = counts.entry((planned.block.encoding, plane)).or_insert([0; 256]);
            bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        }
    }
    Ok(outside as f64 + counts.values().map(entropy).sum::<f64>())
}

/// Bytes that so many symbols of each kind need.
fn entropy(counts: &[u64; 256]) -> f64 {
    let total: u64 = counts.iter().sum();
    let bits = counts.iter().filter(|count| **count > 0).map(|&count| {
        let share = count as f64 / total as f64;
        -(count as f64) * share.log2()
    });
    bits.sum::<f64>() / 8.0
}

/// All values as bf16, two bytes each, compressed as a whole with zstd: the way of the original platform.
///
/// # Errors
/// zstd.
pub fn interleaved_bytes(parameters: &Parameters) -> Result<u64, EncodeError> {
    let bytes: Vec<u8> = floats(parameters).flat_map(|value| bf16::round(*value).to_le_bytes()).collect();
    compressed(&bytes)
}

/// All values as zigzag differences of their bf16 to the base's, in two planes, each compressed as a whole with zstd.
///
/// # Errors
/// zstd.
pub fn zigzag_bytes(parameters: &Parameters, base: &Parameters) -> Result<u64, EncodeError> {
    let rounded: Vec<_> = floats(parameters).map(|value| bf16::round(*value)).collect();
    let base: Vec<_> = floats(base).copied().collect();
    let (mut high, mut low) = (vec![0; rounded.len()], vec![0; rounded.len()]);
    delta::split(&rounded, &base, &mut high, &mut low);
    Ok(compressed(&high)? + compressed(&low)?)
}

fn floats(parameters: &Parameters) -> impl Iterator<Item = &f32> {
    parameters.values().iter().flat_map(|values| if let Values::F32(values) = values { values.as_slice() } else { &[] })
}

fn compressed(bytes: &[u8]) -> Result<u64, EncodeError> {
    let compressed = zstd::bulk::compress(bytes, LEVEL);
    compressed
        .map(|bytes| bytes.len() as u64)
        .map_err(|e| EncodeError::Library { library: "zstd", reason: e.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Base, Dtype, Feedback, Schema, TensorSpec, UpdateRecipe, encode, encode_update};
    use app::api::Encoding;
    use std::sync::Arc;

    fn of(values: Vec<f32>) -> Parameters {
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![values.len() as u64, 1] };
        Parameters::new(Arc::new(Schema::new(vec![spec]).unwrap()), vec![Values::F32(values)])
    }

    #[test]
    fn a_plane_of_one_byte_needs_nothing_and_one_of_four_needs_two_bits_a_value() {
        let plane_bytes = |values: Vec<f32>| {
            let body = encode(&of(values), Encoding::Bf16, None).unwrap();
            let outside = encode(&of(vec![]), Encoding::Bf16, None).unwrap().len() + 8 + 10; // a row; two planes' heads
            entropy_bytes(&body).unwrap() - outside as f64
        };
        assert!((plane_bytes(vec![1.0; 4_000]) - 1.0).abs() < 3.0);
        let four = (0..4_000).map(|i| [1.0, 2.0, 4.0, 8.0][i % 4]).collect();
        assert!((plane_bytes(four) - 1_000.0).abs() < 3.0); // varints of the head aside
    }

    #[test]
    fn q4_is_measured_by_its_codes_not_by_its_bytes() {
        // Codes of two kinds, a bit each, and a scale for every 1,024 values.
        let update = of((0..8_192).map(|i| if i % 3 == 0 { 7.0 } else { -7.0 }).collect());
        let base = Base { version: 0, parameters: &of(vec![0.0; 8_192]) };
        let recipe = UpdateRecipe { encoding: Encoding::Q4, topk_fraction: 1.0, seed: 0 };
        let (body, _) = encode_update(&update, base, recipe, &Feedback::default()).unwrap();
        let bits = 8.0 * (entropy_bytes(&body).unwrap() - 150.0) / 8_192.0;
        assert!((0.85..1.0).contains(&bits), "{bits} bits a value; a third of one kind have 0.918");
    }
}
