//! `fedlearn bench`: measures what the README claims, on this machine, and prints it as tables.
//!
//! What is measured is the program as it is used: a coordinator and agents as processes of their own over loopback.

mod cluster;
mod convergence;
mod exchange;
mod load;
mod member;
mod memory;
mod sizes;

use super::failed;
use crate::agent::CallError;
use crate::cli::Exit;
use crate::config::{BenchSettings, Benchmark};
use crate::model::{DatasetError, ModelError};
use crate::wire;
use tokio_util::sync::CancellationToken;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("a process of the benchmark: {0}")]
    Process(#[from] std::io::Error),
    #[error("the coordinator of the benchmark did not start")]
    NotStarted,
    #[error("a process of the benchmark ended before its time ({0}); it says above why")]
    Ended(std::process::ExitStatus),
    #[error("the coordinator of the benchmark: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the coordinator of the benchmark answered {0}: {1}")]
    Refused(u16, String),
    #[error("the coordinator of the benchmark does not answer in its own words: {0}")]
    Answer(#[from] serde_json::Error),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("round {0} of the benchmark is void: {1}")]
    Void(u64, String),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("found no dataset to train on: name one with --dataset and --data")]
    NoDataset,
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Encode(#[from] wire::EncodeError),
    #[error(transparent)]
    Read(#[from] wire::ReadError),
    #[error("the measuring broke down: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

pub(super) async fn run(settings: &BenchSettings, stop: CancellationToken) -> Exit {
    let measure = async {
        match settings.benchmark {
            Benchmark::Exchange => exchange::run(settings).await,
            Benchmark::Load => load::run(settings).await,
            Benchmark::Memory => memory::run(settings).await,
            Benchmark::Sizes => sizes::run(settings).await,
            Benchmark::Convergence => convergence::run(settings).await,
        }
    };
    tokio::select! {
        measured = measure => match measured {
            Ok(()) => Exit::Done,
            Err(error) => failed(&error, Exit::Failed),
        },
        // Whatever runs is dropped, and its processes with it.
        () = stop.cancelled() => Exit::Interrupted,
    }
}

/// 1,048,576 bytes.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The middle one; of an even number the upper one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
