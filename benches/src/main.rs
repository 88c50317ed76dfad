//! `fedlearn-bench`: measures on this machine what the documentation claims.
//!
//! What is measured is the program as it is used: a coordinator and agents as processes of their own over loopback. Each
//! benchmark prints tables and writes the same rows as JSON.

mod cluster;
mod convergence;
mod exchange;
mod load;
mod member;
mod memory;
mod report;
mod sizes;
mod synthetic;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cluster::Program;
use report::Report;
use std::path::PathBuf;

/// Measure on this machine what the documentation of fedlearn claims
#[derive(Parser)]
#[command(version, after_help = "Example: fedlearn-bench exchange --clients 2,8,32 --architecture resnet18")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// File for the results as JSON [default: target/bench/BENCHMARK.json]
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// The program to measure [default: the `fedlearn` beside this program]
    #[arg(long, value_name = "FILE", global = true)]
    program: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Rounds of agents that skip training: seconds, CPU, memory, bytes
    Exchange(exchange::Settings),
    /// Thousands of waiting clients, hundreds of sending ones, and large updates at once: seconds, CPU, memory
    Load(load::Settings),
    /// Peak memory of the coordinator while clients upload at once
    Memory(memory::Settings),
    /// Bytes of an update in every encoding, after real training
    Sizes(sizes::Settings),
    /// Accuracy after ten rounds with every encoding
    Convergence(convergence::Settings),
}

impl Cli {
    async fn run(self) -> Result<()> {
        let program = Program::find(self.program)?;
        let mut report = Report::default();
        let name = match self.benchmark {
            Benchmark::Exchange(settings) => {
                exchange::run(&program, &settings, &mut report).await?;
                "exchange"
            }
            Benchmark::Load(settings) => {
                load::run(&program, &settings, &mut report).await?;
                "load"
            }
            Benchmark::Memory(settings) => {
                memory::run(&program, &settings, &mut report).await?;
                "memory"
            }
            Benchmark::Sizes(settings) => {
                sizes::run(settings, &mut report).await?;
                "sizes"
            }
            Benchmark::Convergence(settings) => {
                convergence::run(&program, &settings, &mut report).await?;
                "convergence"
            }
        };
        report.write(&self.json.unwrap_or_else(|| format!("target/bench/{name}.json").into()))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    raise_file_limit();
    // An error means that a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        measured = cli.run() => measured,
        // By now the measurement is dropped, and its processes with it. A thread that still trains is not awaited.
        _ = tokio::signal::ctrl_c() => std::process::exit(130),
        _ = terminate.recv() => std::process::exit(143),
    }
}

/// Thousands of clients hold a connection each; the soft limit of most systems is 1,024 files.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // A limit that stays too low shows as a failed connection.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
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
