//! bf16 as differences to a base: without loss beyond bf16's own.
//!
//! Training moves most weights by a few steps of bf16 in a round. The bit patterns of one sign are in the order of the
//! values, so their difference is that number of steps; zigzag (0, -1, 1, -2 become 0, 1, 2, 3) makes it a small number
//! of either sign, whose high byte is nearly always 0. Differences wrap around: any pattern is reached from any base.

use super::bf16::round;

/// Writes a byte a value to each plane.
pub(super) fn split(values: &[f32], base: &[f32], high: &mut [u8], low: &mut [u8]) {
    for (((value, base), high), low) in values.iter().zip(base).zip(high).zip(low) {
        let steps = round(*value).wrapping_sub(round(*base)) as i16;
        [*high, *low] = (((steps << 1) ^ (steps >> 15)) as u16).to_be_bytes();
    }
}

/// The reverse of [`split`].
pub(super) fn join(high: &[u8], low: &[u8], base: &[f32], values: &mut [f32]) {
    for (((value, base), high), low) in values.iter_mut().zip(base).zip(high).zip(low) {
        let zigzag = u16::from_be_bytes([*high, *low]);
        let steps = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        *value = f32::from_bits(u32::from(round(*base).wrapping_add(steps)) << 16);
    }
}
