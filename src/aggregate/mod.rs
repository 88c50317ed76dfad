//! Combines updates into new global parameters, on a device.
//!
//! Clients and rounds are not known here, and updates are not judged: they match the schema and are finite.

mod mean;

pub use mean::{AggregateError, WeightedMean};
