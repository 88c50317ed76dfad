//! What is trained, and on what: images in memory, the datasets read from disk, their split among clients.

pub mod dataset;
pub mod images;
pub mod partition;

pub use images::Images;
