//! fedlearn: federated learning over plain REST.
//!
//! The codemap; an arrow means "may use", and nothing else may:
//!
//! ```text
//! cli -> http -> coordinator -> aggregate -> model -> wire -> app::api
//!                   |-> run -> round -> app::api
//!                   |-> store -> run's records, wire
//! cli -> agent -> model, wire, app::api          (never http, store, coordinator)
//! ```
//!
//! - [`wire`]: parameter bodies; bytes in, typed tensors out.
//! - [`round`]: the round machine; decides, does no IO.
//! - `model`: networks, training, evaluation, datasets, partitioners (tch).
//! - `aggregate`: updates into new global parameters (tch).
//! - [`run`]: one run; carries out the decisions of the round machine, in an environment that may crash.
//! - `store`: the ledger of runs in SQLite, and blobs as files.
//! - `coordinator`: hosts runs: an actor for each, uploads, global versions, aggregation and evaluation.
//! - [`digest`]: SHA-256 as a value; `causes`: an error with all that caused it.
//! - `http`: the REST resources, events, the page.
//! - `agent`: the native client.
//! - `cli`, `config`: the command line and the settings behind it; `commands`: what the subcommands do.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "torch")]
pub mod aggregate;
#[cfg(feature = "cli")]
mod causes;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "agent")]
pub mod commands;
#[cfg(feature = "cli")]
pub mod config;
#[cfg(feature = "server")]
pub mod coordinator;
pub mod digest;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "torch")]
pub mod model;
pub mod round;
pub mod run;
#[cfg(feature = "server")]
mod shares;
#[cfg(feature = "server")]
pub mod store;
pub mod wire;
