//! Values as small multiples of a scale: `q8` and `q4`, and the few entries of `topk`.
//!
//! What is coded is the difference to the base. Each group of values has its own scale, so that the largest of a group is
//! the largest multiple. Rounding is stochastic: up or down with the chance that makes the mean right (as in QSGD,
//! Alistarh et al. 2017, arXiv:1610.02132), so that the errors of many clients cancel. What is lost is kept by
//! the sender and added to its next update (error feedback, Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// Values that share a scale.
pub(super) const GROUP_VALUES: usize = 1024;

/// The scale for which the largest of these is the multiple `most`; 0 where all are 0.
pub(super) fn scale(values: &[f32], most: f32) -> f32 {
    values.iter().fold(0f32, |largest, value| largest.max(value.abs())) / most
}

/// Rounds each value to a multiple of `scale`, up to `most` either way, and leaves in its place what was lost.
pub(super) fn quantise(values: &mut [f32], scale: f32, most: f32, random: &mut ChaCha8Rng, codes: &mut [i8]) {
    if scale == 0.0 {
        codes.fill(0); // all are 0, or so small that the scale is
        return;
    }
    for (values, codes) in values.chunks_mut(4).zip(codes.chunks_mut(4)) {
        let mut bits = random.next_u64();
        for (value, code) in values.iter_mut().zip(codes) {
            let chance = (bits as u16 as f32 + 0.5) / 65_536.0;
            bits >>= 16;
            let multiple = (*value / scale + chance).floor().clamp(-most, most);
            *code = multiple as i8;
            *value -= multiple * scale;
        }
    }
}

/// The first value that would be infinite for who adds these multiples of `scale` to the base.
pub(super) fn first_beyond_f32(codes: &[i8], scale: f32, base: &[f32]) -> Option<usize> {
    let is_finite = |(code, base): (&i8, &f32)| (base + f32::from(*code) * scale).is_finite();
    // All of them first, without an early end, so that it is vectorised.
    let all = codes.iter().zip(base).fold(true, |all, value| all & is_finite(value));
    if all { None } else { codes.iter().zip(base).position(|value| !is_finite(value)) }
}

/// Adds the multiples of `scale` to the base.
pub(super) fn restore(codes: &[u8], scale: f32, base: &[f32], values: &mut [f32]) {
    for ((value, base), code) in values.iter_mut().zip(base).zip(codes) {
        *value = base + f32::from(*code as i8) * scale;
    }
}

/// Two codes a byte, the first in the lower half; an odd one at the end has a 0 beside it.
pub(super) fn pack_halves(codes: &[i8], bytes: &mut Vec<u8>) {
    bytes.clear();
    let half = |code: Option<&i8>| code.map_or(0, |code| *code as u8 & 0x0f);
    bytes.extend(codes.chunks(2).map(|pair| half(pair.first()) | half(pair.get(1)) << 4));
}

/// The reverse of [`pack_halves`], for that many codes; returns what stands beside an odd one at the end.
pub(super) fn unpack_halves(bytes: &[u8], codes: &mut [u8]) -> u8 {
    let signed = |half: u8| ((half << 4) as i8 >> 4) as u8;
    for (pair, byte) in codes.chunks_mut(2).zip(bytes) {
        for (code, half) in pair.iter_mut().zip([byte & 0x0f, byte >> 4]) {
            *code = signed(half);
        }
    }
    if codes.len() % 2 == 1 { bytes.last().map_or(0, |byte| byte >> 4) } else { 0 }
}
