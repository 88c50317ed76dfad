//! What coordinator, agents and browser share.
//!
//! - [`api`]: every type that crosses HTTP as JSON. With no feature, that is all there is.
pub mod api;
