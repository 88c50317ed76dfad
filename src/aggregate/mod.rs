//! Updates into new global parameters.
//!
//! Decides how values are combined, on which device. Refuses to know who sent them, when a round is over, and whether
//! an update is acceptable: what comes here was decoded, matches the schema and is finite.

mod mean;

pub use mean::{AggregateError, WeightedMean};
