//! bf16 as two byte planes.
//!
//! A value is rounded to bf16 (to nearest, ties to even), its 16 bits are rotated left by one so that the sign comes
//! last, and the two bytes go to two planes: the high plane holds the exponents alone, few distinct bytes that
//! compress well; the low plane holds mantissa and sign, close to random. Interleaved, each would spoil the other.

use half::bf16;

/// Whether these are the bits of NaN or infinity: all exponent bits set.
fn is_special(bits: u16) -> bool {
    bits & 0x7f80 == 0x7f80
}

/// Writes a byte a value to each plane; returns whether all were finite and stayed so when rounded.
pub(super) fn split(values: &[f32], high: &mut [u8], low: &mut [u8]) -> bool {
    let mut special = false;
    for ((value, high), low) in values.iter().zip(high).zip(low) {
        let bits = bf16::from_f32(*value).to_bits();
        special |= is_special(bits);
        [*high, *low] = bits.rotate_left(1).to_be_bytes();
    }
    !special
}

/// The reverse of [`split`]; returns whether all values are finite.
pub(super) fn join(high: &[u8], low: &[u8], values: &mut [f32]) -> bool {
    let mut special = false;
    for ((value, high), low) in values.iter_mut().zip(high).zip(low) {
        let bits = u16::from_be_bytes([*high, *low]).rotate_right(1);
        special |= is_special(bits);
        *value = bf16::from_bits(bits).to_f32();
    }
    !special
}

/// Where the first value is that bf16 cannot hold as a finite one.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    values.iter().position(|v| !bf16::from_f32(*v).is_finite())
}
