//! Noise in place of training, to try out the exchange alone: seeded, and almost free.

use crate::wire::{Parameters, Values};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

/// Normal numbers that are drawn; longer tensors repeat them. Drawing one for each value would take longer than the rest of a
/// round.
const DRAWN: usize = 1 << 16;

/// The first values of a tensor, whose root mean square stands for all.
const SAMPLED: usize = 1 << 12;

/// Moves each value of an F32 tensor by noise whose deviation is that share of the root mean square of its first values.
pub fn add(parameters: &Parameters, share: f32, seed: u64) -> Parameters {
    let random = ChaCha8Rng::seed_from_u64(seed);
    let noise: Vec<f32> = StandardNormal.sample_iter(random).take(DRAWN).collect();
    let disturbed = parameters.values().par_iter().map(|values| match values {
        Values::F32(values) => {
            let first = &values[..values.len().min(SAMPLED)];
            let squares: f64 = first.iter().map(|value| f64::from(*value).powi(2)).sum();
            let scale = share * (squares / first.len().max(1) as f64).sqrt() as f32;
            let mut moved = values.clone();
            for values in moved.chunks_mut(DRAWN) {
                values.iter_mut().zip(&noise).for_each(|(value, noise)| *value += scale * noise);
            }
            Values::F32(moved)
        }
        integers => integers.clone(),
    });
    Parameters::new(parameters.schema().clone(), disturbed.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Dtype, Schema, TensorSpec, l2_distance};
    use std::sync::Arc;

    fn parameters() -> Parameters {
        let spec = |name: &str, dtype, len| TensorSpec { name: name.into(), dtype, shape: vec![len] };
        let specs = vec![spec("empty", Dtype::F32, 0), spec("n", Dtype::I64, 1), spec("w", Dtype::F32, 100_000)];
        let values = vec![Values::F32(vec![]), Values::I64(vec![7]), Values::F32(vec![-2.0; 100_000])];
        Parameters::new(Arc::new(Schema::new(specs).unwrap()), values)
    }

    #[test]
    fn values_move_by_about_that_share_of_their_size_and_integers_stay() {
        let (before, after) = (parameters(), add(&parameters(), 0.01, 7));
        let deviation = l2_distance(&before, &after) / 100_000f64.sqrt();
        assert!((0.0198..0.0202).contains(&deviation), "{deviation}");
        assert_eq!(after.values()[1], Values::I64(vec![7]));
    }

    #[test]
    fn the_same_seed_gives_the_same_noise_and_another_seed_other_noise() {
        let of = |seed| add(&parameters(), 0.01, seed);
        assert!(of(1) == of(1) && of(1) != of(2));
    }
}
