//! Values and their little-endian bytes. Plain loops over slices of equal length: the compiler vectorises them.

/// Whether these are the bits of NaN or infinity: all exponent bits set.
fn is_special(bits: u32) -> bool {
    bits & 0x7f80_0000 == 0x7f80_0000
}

/// Where the first NaN or infinity is.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    values.iter().position(|v| !v.is_finite())
}

/// Writes 4 bytes a value; returns whether all were finite.
pub(super) fn f32_to_le(values: &[f32], bytes: &mut [u8]) -> bool {
    let mut special = false;
    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        special |= is_special(value.to_bits());
        *bytes = value.to_le_bytes();
    }
    !special
}

/// Reads 4 bytes a value; returns whether all were finite.
pub(super) fn f32_from_le(bytes: &[u8], values: &mut [f32]) -> bool {
    let mut special = false;
    for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
        *value = f32::from_le_bytes(*bytes);
        special |= is_special(value.to_bits());
    }
    !special
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
