//! Networks, training, evaluation, datasets and partitioners.
//!
//! Rounds, clients and HTTP are not known here: parameters go in and come out as [`crate::wire::Parameters`], and a closure
//! per batch is the only way outside.
//! Random numbers come from seeds through ChaCha, never from torch's generator: that one is shared by the whole
//! process, so that two networks at work in one coordinator would disturb each other.

mod augment;
mod batches;
mod cnn;
pub mod dataset;
mod device;
mod error;
mod evaluate;
mod images;
mod layers;
mod network;
pub mod partition;
mod resnet;
mod train;

pub use dataset::DatasetError;
pub use device::{DeviceChoice, describe, set_threads};
pub use error::ModelError;
pub use evaluate::{Evaluation, evaluate};
pub use images::Images;
pub use network::Network;
pub use tch::Device;
pub use train::{TrainOutcome, train};
