//! How large things may be, so that a body's worst case is known before a byte of it is read. The limits of a schema
//! (tensors, names, dimensions, values) stand in [`super::tensor`].
//!
//! Memory, too: `tests/allocation.rs` holds these statements against what is allocated, at its highest.
//!
//! - A head of H bytes that lists T tensors and needs B blocks: 2 H + 256 T + 128 B bytes, and 4 KiB. With the limits below
//!   that is under 40 MiB. No count is believed: what is not there, or is over a limit, takes nothing.
//! - Reading the blocks: 128 (T + B) bytes, 8 MiB for each thread that reads, and in C 256 KiB of zstd's for each. A plane
//!   takes what its block's values need, never what it says it becomes.
//! - The values, where all are wanted at once: 4 bytes for each F32, 8 for each I64, once the tensors are those that are
//!   expected, or are counted.
//! - Expanding zstd around a whole body into memory: three times what it becomes (a list that grows), at most what the
//!   receiver allows; 256 KiB; and in C a window of 8 MiB and 512 KiB.

use super::tensor::{Dtype, Schema};

/// The longest header, of our container and of safetensors alike: 4 MiB, 64 bytes for each of the most tensors
/// there may be.
pub const MAX_HEADER_BYTES: usize = 4 << 20;

/// The most values in a block of the container: 256 Ki, 1 MiB as f32. What the encoder uses.
///
/// Large enough that the 13 bytes a block costs vanish, small enough that a block's scratch memory is a few MiB.
pub const MAX_BLOCK_VALUES: usize = 1 << 18;

/// The most blocks of a container: four times as many as the most values there may be need, where blocks are full.
///
/// A row of the block table has 8 bytes, and what is held for a block is 16 times that: without this limit a header of
/// 4 MiB would make the reader take 100 MB.
pub const MAX_BLOCKS: usize = 65_536;

/// The largest window a zstd frame around a whole body may ask for, as a power of two: 8 MiB, by RFC 9659.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// The level that every zstd compression here starts from; planes go on from there. What can be gained on parameters lies in the distribution of single bytes,
/// hardly in repetitions, and level 1 takes that already.
pub const ZSTD_LEVEL: i32 = 1;

/// The most bytes a body with these tensors may have, in any format, compressed or not: the values as they are in
/// memory, and [`MAX_HEADER_BYTES`] for header, block overhead and all else. What a server reads before it says 413.
pub fn max_body_bytes(schema: &Schema) -> u64 {
    let of = |dtype| -> u64 {
        // The sum cannot overflow: a schema has at most `MAX_VALUES` values.
        schema.tensors().iter().filter(|t| t.dtype == dtype).filter_map(|t| t.values()).sum()
    };
    4 * of(Dtype::F32) + 8 * of(Dtype::I64) + MAX_HEADER_BYTES as u64
}
