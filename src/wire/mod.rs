//! Parameter bodies: bytes in, typed tensors out, and back.
//!
//! Decides what bytes mean and refuses everything else, under limits checked before memory is taken.
//! Refuses to know who sent them, over what, and what becomes of them: no clock, no network, no randomness, no torch.

mod tensor;

pub use tensor::{Dtype, MAX_TENSORS, Parameters, Schema, SchemaError, TensorSpec, Values};
