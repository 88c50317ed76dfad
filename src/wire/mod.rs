//! Parameter bodies: bytes in, typed tensors out, and back.
//!
//! Decides what bytes mean and refuses everything else, under limits checked before memory is taken.
//! Refuses to know who sent them, over what, and what becomes of them: no clock, no network, no randomness, no torch.

mod bf16;
mod block;
mod body;
mod container;
mod error;
mod header;
mod layout;
mod limits;
mod negotiate;
mod plain;
pub mod safe;
mod tensor;
#[cfg(test)]
mod tests;

pub use container::{decode, decode_any, encode};
pub use error::{DecodeError, EncodeError};
pub use header::{Header, read_header};
pub use limits::*;
pub use negotiate::*;
pub use tensor::*;
