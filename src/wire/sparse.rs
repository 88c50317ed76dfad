//! A few values of many, by their positions: `topk` (Aji and Heafield 2017, arXiv:1704.05021).
//!
//! Positions are told by the gaps before them, the number of values skipped since the last one. A gap is as many bytes
//! 255 as it has times 255, and a byte with the rest.

const ESCAPE: u8 = 255;

/// Of a tensor so many values are sent at the least. A hundredth of a first convolution would be one or two, and the whole
/// network learns no faster than that: ten rounds on Fashion-MNIST came to 4.4 points less than with f32, with this to 0.6.
const LEAST_VALUES: usize = 1024;

/// How many of that many values are sent: their `share`, or the [`LEAST_VALUES`].
pub(super) fn entries(len: usize, share: f64) -> usize {
    ((len as f64 * share).ceil() as usize).max(LEAST_VALUES).min(len)
}

/// The one that the `share` largest of these magnitudes reach, or the [`LEAST_VALUES`] largest. Zeros never do.
pub(super) fn threshold(mut magnitudes: Vec<f32>, share: f64) -> f32 {
    if magnitudes.is_empty() {
        return 0.0;
    }
    let len = magnitudes.len();
    let count = entries(len, share);
    let (_, nth, _) = magnitudes.select_nth_unstable_by(len - count, f32::total_cmp);
    nth.max(f32::MIN_POSITIVE)
}

/// Appends the gaps before these ascending positions.
pub(super) fn write_gaps(positions: &[u32], bytes: &mut Vec<u8>) {
    let mut next = 0;
    for position in positions {
        let mut gap = position - next;
        while gap >= u32::from(ESCAPE) {
            bytes.push(ESCAPE);
            gap -= u32::from(ESCAPE);
        }
        bytes.push(gap as u8); // below 255
        next = position + 1;
    }
}

/// The positions behind the gaps: as many as there are bytes below 255. None if one is not below `len`, or the bytes
/// end within a gap.
pub(super) fn read_gaps(bytes: &[u8], len: usize, positions: &mut Vec<u32>) -> Option<()> {
    positions.clear();
    let mut at = 0usize;
    for byte in bytes {
        at += usize::from(*byte);
        if *byte != ESCAPE {
            if at >= len {
                return None;
            }
            positions.push(at as u32); // a block has at most 2^18 values
            at += 1;
        }
    }
    (bytes.last() != Some(&ESCAPE)).then_some(())
}
