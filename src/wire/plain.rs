//! Values and their little-endian bytes. Plain loops over slices of equal length: the compiler vectorises them.

use half::{bf16, f16};

/// Where the first NaN or infinity is.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    values.iter().position(|v| !v.is_finite())
}

/// Whether none is NaN or infinity.
pub(super) fn all_finite(values: &[f32]) -> bool {
    // Without an early end, so that it is vectorised.
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

/// Writes 4 bytes a value.
pub(super) fn f32_to_le(values: &[f32], bytes: &mut [u8]) {
    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// Reads 4 bytes a value.
pub(super) fn f32_from_le(bytes: &[u8], values: &mut [f32]) {
    for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
        *value = f32::from_le_bytes(*bytes);
    }
}

/// Reads 2 bytes a value, IEEE's half precision.
pub(super) fn f16_from_le(bytes: &[u8], values: &mut [f32]) {
    for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
        *value = f16::from_le_bytes(*bytes).to_f32();
    }
}

/// Reads 2 bytes a value, bf16.
pub(super) fn bf16_from_le(bytes: &[u8], values: &mut [f32]) {
    for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
        *value = bf16::from_le_bytes(*bytes).to_f32();
    }
}

/// Writes 8 bytes a value.
pub(super) fn i64_to_le(values: &[i64], bytes: &mut [u8]) {
    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// Reads 8 bytes a value.
pub(super) fn i64_from_le(bytes: &[u8], values: &mut [i64]) {
    for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
        *value = i64::from_le_bytes(*bytes);
    }
}
