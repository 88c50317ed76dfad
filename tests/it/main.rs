//! The whole path, from outside: the real coordinator on a port of its own, spoken to over HTTP.
#![allow(clippy::unwrap_used)]

mod asynchronous;
mod broken_links;
mod cancels;
mod description;
mod encodings;
mod events;
mod exact;
mod example_settings;
mod federated;
mod gate;
mod harness;
mod hostile;
mod nginx;
mod other_clients;
mod page;
mod patience;
mod processes;
mod refusals;
mod restart;
mod rounds;
mod runs_lifecycle;
mod shutdown;
mod silence;
mod trouble;
mod unreachable;
mod upload_limit;
mod weights;
