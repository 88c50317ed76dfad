//! bf16 as two byte planes.
//!
//! A value is rounded to bf16: of a model to nearest, ties to even; of an update at random, as a change that is small
//! beside a step of bf16 would else be lost in every round. Its 16 bits are rotated left by one so that the sign comes
//! last, and the two bytes go to two planes: the high plane holds the exponents alone, few distinct bytes that
//! compress well; the low plane holds mantissa and sign, close to random. Interleaved, each would spoil the other.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// The largest finite value of bf16.
pub const LARGEST_BF16: f32 = f32::from_bits(0x7f7f_0000);

/// The upper 16 bits of a finite value, rounded to nearest, ties to even; the largest of bf16 for what is beyond it.
///
/// As `half` has it, but for NaN and what is beyond: without the look for NaN, loops over it are vectorised.
pub(super) fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    finite((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
}

/// The upper 16 bits, rounded up or down at random, so that the mean is right.
///
/// What is rounded are `values` that were trained from `base`, moved to what bf16 makes of the base: a value that is
/// the base's is that exactly, and no other has its change rounded away because it is small.
pub(super) fn round_at_random(values: &[f32], base: &[f32], random: &mut ChaCha8Rng, rounded: &mut [u16]) {
    for ((values, base), rounded) in values.chunks(4).zip(base.chunks(4)).zip(rounded.chunks_mut(4)) {
        let mut chances = random.next_u64();
        for ((value, base), rounded) in values.iter().zip(base).zip(rounded) {
            let received = widen(round(*base));
            let moved = if value == base { received } else { value + (received - base) };
            let moved = moved.clamp(f32::MIN, f32::MAX);
            *rounded = finite((moved.to_bits().wrapping_add(u32::from(chances as u16)) >> 16) as u16);
            chances >>= 16;
        }
    }
}

/// The largest finite value in place of infinity.
fn finite(bits: u16) -> u16 {
    bits - u16::from(bits & 0x7fff == 0x7f80)
}

/// The value of these upper 16 bits.
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Writes a byte to each plane for each value, which is rounded.
pub(super) fn split(rounded: &[u16], high: &mut [u8], low: &mut [u8]) {
    for ((rounded, high), low) in rounded.iter().zip(high).zip(low) {
        [*high, *low] = rounded.rotate_left(1).to_be_bytes();
    }
}

/// The reverse of [`split`].
pub(super) fn join(high: &[u8], low: &[u8], values: &mut [f32]) {
    for ((value, high), low) in values.iter_mut().zip(high).zip(low) {
        let bits = u16::from_be_bytes([*high, *low]).rotate_right(1);
        *value = widen(bits);
    }
}

/// The first value that is beyond the range of bf16: rounded to nearest, it would be infinite.
pub(super) fn first_beyond(values: &[f32]) -> Option<usize> {
    // The largest finite bf16 and half a step: from there on, ties to even go to infinity.
    const BEYOND: u32 = 0x7f7f_8000;
    let is_beyond = |value: &f32| value.to_bits() & 0x7fff_ffff >= BEYOND;
    // All of them first, without an early end, so that it is vectorised.
    let any = values.iter().fold(false, |any, value| any | is_beyond(value));
    if any { values.iter().position(is_beyond) } else { None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    fn at_random(values: &[f32], base: &[f32], seed: u64) -> Vec<f32> {
        let mut rounded = vec![0; values.len()];
        round_at_random(values, base, &mut ChaCha8Rng::seed_from_u64(seed), &mut rounded);
        rounded.into_iter().map(widen).collect()
    }

    #[test]
    fn rounding_is_that_of_half_around_every_bf16_and_never_infinite() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let rounded = half::bf16::from_f32(value);
                if rounded.is_finite() {
                    assert_eq!(round(value), rounded.to_bits(), "{value:e}");
                    assert_eq!(first_beyond(&[1.0, value]), None);
                } else if value.is_finite() {
                    assert_eq!(round(value), rounded.to_bits() - 1, "{value:e}");
                    assert_eq!(first_beyond(&[1.0, value]), Some(1));
                }
            }
        }
    }

    #[test]
    fn at_random_each_neighbour_is_drawn_as_often_as_makes_the_mean_right() {
        // An eighth of the way from 1 to the next bf16, 1 + 2^-7; from a base that is on the grid, or half a step beside it.
        let step = 1.0 / 128.0;
        for base in [1.0, 1.0 - step / 4.0] {
            let values = vec![base + step / 8.0; 100_000];
            let rounded = at_random(&values, &vec![base; values.len()], 1);
            let from = f64::from(widen(round(base)));
            let up = rounded.iter().filter(|value| f64::from(**value) > from).count();
            assert!(rounded.iter().all(|value| [from, from + f64::from(step)].contains(&f64::from(*value))));
            assert!((12_000..13_000).contains(&up), "{up} of 100,000, for an eighth");
        }
    }

    proptest! {
        #[test]
        fn what_has_not_changed_is_the_bases_whatever_it_is(bits: [u32; 9], seed: u64) {
            let of = |bits: u32| Some(f32::from_bits(bits)).filter(|value| value.is_finite()).unwrap_or(f32::MIN);
            let base = bits.map(of);
            let want: Vec<_> = base.iter().map(|value| widen(round(*value))).collect();
            prop_assert_eq!(at_random(&base, &base, seed), want);
        }

        #[test]
        fn at_random_is_never_further_than_a_step_and_never_infinite(bits: u32, base: u32, seed: u64) {
            let of = |bits: u32| Some(f32::from_bits(bits)).filter(|value| value.is_finite()).unwrap_or(f32::MAX);
            let (value, base) = (of(bits), widen(round(of(base))));
            let rounded = at_random(&[value], &[base], seed)[0];
            let [down, up] = [0, 1].map(|more| widen(finite((value.to_bits() >> 16) as u16 + more)));
            prop_assert!(rounded.is_finite() && [down, up].contains(&rounded), "{value:e} became {rounded:e}");
        }
    }
}
