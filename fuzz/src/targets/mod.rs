//! What the fuzz targets do: one function each, from the fuzzer's bytes to checks that panic where something is wrong. It
//! returns whether the input was accepted.
//!
//! The bytes are read by `arbitrary` as an input with structure, so that the fuzzer's changes get behind signatures, lengths
//! and checksums. `tests/corpus.rs` of the main crate includes this file and replays the corpus with it.

mod changes;
mod check;
mod container;
mod frame;
mod header;
mod model;
mod safetensors;

pub use self::container::container;
pub use self::header::header;
pub use self::safetensors::safetensors;

/// The most values that a body under test may have: enough for groups, strips and escaped gaps, quick to read.
const MOST_VALUES: u64 = 1 << 16;
