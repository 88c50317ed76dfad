//! Every type that crosses HTTP as JSON: the one vocabulary of coordinator, agents, database and page.
//!
//! Names, shapes and bounds are defined here.
//! Times are Unix milliseconds (`*_ms`), sizes are bytes (`*_bytes`), JSON names are snake_case.

mod client;
mod config;
mod error;
mod event;
mod ids;
mod model;
mod run;

pub use client::*;
pub use config::*;
pub use error::*;
pub use event::*;
pub use ids::*;
pub use model::*;
pub use run::*;

/// The header by which a request with the dashboard's session shows that the dashboard's own script sent it.
pub const DASHBOARD_HEADER: &str = "fedlearn-dashboard";
