//! bf16 as differences to a base: without loss beyond bf16's own.
//!
//! Training moves most weights by a few steps of bf16 in a round. The bit patterns of one sign are in the order of the
//! values, so their difference is that number of steps; zigzag (0, -1, 1, -2 become 0, 1, 2, 3) makes it a small number
//! of either sign, whose high byte is nearly always 0. Differences wrap around: any pattern is reached from any base.

use super::bf16::{round, widen};

/// Writes a byte to each plane for each value, which is rounded.
pub(super) fn split(rounded: &[u16], base: &[f32], high: &mut [u8], low: &mut [u8]) {
    for (((rounded, base), high), low) in rounded.iter().zip(base).zip(high).zip(low) {
        let steps = rounded.wrapping_sub(round(*base)) as i16;
        [*high, *low] = (((steps << 1) ^ (steps >> 15)) as u16).to_be_bytes();
    }
}

/// The reverse of [`split`].
pub(super) fn join(high: &[u8], low: &[u8], base: &[f32], values: &mut [f32]) {
    for (((value, base), high), low) in values.iter_mut().zip(base).zip(high).zip(low) {
        let zigzag = u16::from_be_bytes([*high, *low]);
        let steps = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        *value = widen(round(*base).wrapping_add(steps));
    }
}
