//! What every test stands on: a coordinator that runs, clients, and the one way to wait.

mod agent;
mod coordinator;
mod guest;
mod invariants;
mod parameters;
mod program;
mod proxy;
mod refusal;
mod watch;

pub use agent::{Agent, fashion_mnist};
pub use coordinator::Coordinator;
pub use guest::Guest;
pub use parameters::{container, safetensors, schema, value_of, with};
pub use program::{Program, Served};
pub use proxy::{BadLink, Way};
pub use refusal::{refused, take};
pub use watch::{Watch, read_to_end, soon};

/// A run without a dataset: for everything that needs no training.
pub const NO_DATASET: [&str; 6] = ["--dataset", "none", "--channels", "1", "--classes", "10"];
