//! One block: the bytes of at most [`MAX_BLOCK_VALUES`](super::limits::MAX_BLOCK_VALUES) values of one encoding.

mod decode;
mod encode;

pub(in crate::wire) use decode::BlockDecoder;
pub use decode::Sink;
pub(in crate::wire) use encode::{BlockEncoder, Source};
