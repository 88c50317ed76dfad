//! bf16 as two byte planes.
//!
//! A value is rounded to bf16 (to nearest, ties to even), its 16 bits are rotated left by one so that the sign comes
//! last, and the two bytes go to two planes: the high plane holds the exponents alone, few distinct bytes that
//! compress well; the low plane holds mantissa and sign, close to random. Interleaved, each would spoil the other.

/// The upper 16 bits of a finite value, rounded to nearest, ties to even.
///
/// As `half` has it, but for NaN: without the look for that, loops over it are vectorised.
pub(super) fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Writes a byte a value to each plane.
pub(super) fn split(values: &[f32], high: &mut [u8], low: &mut [u8]) {
    for ((value, high), low) in values.iter().zip(high).zip(low) {
        [*high, *low] = round(*value).rotate_left(1).to_be_bytes();
    }
}

/// The reverse of [`split`].
pub(super) fn join(high: &[u8], low: &[u8], values: &mut [f32]) {
    for ((value, high), low) in values.iter_mut().zip(high).zip(low) {
        let bits = u16::from_be_bytes([*high, *low]).rotate_right(1);
        *value = f32::from_bits(u32::from(bits) << 16);
    }
}

/// Whether rounding makes none of them infinite, and none is.
pub(super) fn can_hold(values: &[f32]) -> bool {
    // The largest finite bf16 and half a step: from there on, ties to even go to infinity.
    const BEYOND: u32 = 0x7f7f_8000;
    let largest = values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
    largest < BEYOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half_around_every_bf16() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                if value.is_finite() {
                    assert_eq!(round(value), half::bf16::from_f32(value).to_bits(), "{value:e}");
                }
            }
        }
    }
}
