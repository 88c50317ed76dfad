//! Parameter bodies: bytes in, typed tensors out, and back.
//!
//! Every other sequence of bytes is rejected, under limits that are checked before memory is allocated. There is no clock, no
//! network, no randomness and no torch here.

mod bf16;
mod block;
mod body;
mod bound;
mod changes;
mod container;
mod delta;
mod error;
mod foreign;
mod header;
mod layout;
mod limits;
mod negotiate;
mod plain;
mod plan;
mod plane;
mod quantised;
pub mod safe;
mod sparse;
mod tensor;
#[cfg(test)]
mod tests;
pub mod yardstick;

pub use bf16::LARGEST_BF16;
pub use block::Sink;
pub use body::check_model;
pub use bound::max_update_bytes;
pub use changes::{ChangeSink, Distance};
pub use container::{
    Feedback, UpdateRecipe, decode, decode_against, decode_any, encode, encode_delta, encode_update, write_f32,
};
pub use error::{DecodeError, EncodeError};
pub use layout::{Slot, Stretch};
pub use limits::*;
pub use negotiate::*;
pub use plan::{Base, BlockSource, Plan, ReadError};
pub use tensor::*;
