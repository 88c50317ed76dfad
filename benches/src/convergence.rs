//! The effect of each encoding on accuracy: the same rounds, the same seeds, Fashion-MNIST.

use crate::cluster::Program;
use crate::report::Report;
use anyhow::Result;
use app::api::Encoding;
use clap::{Args, value_parser};
use serde::Serialize;
use tabled::Tabled;

#[derive(Args)]
pub struct Settings {
    /// Number of clients
    #[arg(long, default_value = "3", value_parser = value_parser!(u32).range(1..=1_000))]
    clients: u32,
    /// Encodings
    #[arg(long, value_delimiter = ',', default_values_t = Encoding::ALL.to_vec())]
    encoding: Vec<Encoding>,
    /// Rounds
    #[arg(long, default_value = "10", value_parser = value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

#[derive(Serialize, Tabled)]
struct Row {
    encoding: Encoding,
    #[tabled(rename = "test accuracy, %", format("{:.2}", self.test_accuracy * 1e2))]
    test_accuracy: f64,
    #[tabled(rename = "less than the first, points", format("{:.2}", self.less_than_first * 1e2))]
    less_than_first: f64,
    #[tabled(rename = "kB an update", format("{:.0}", self.update_bytes / 1e3))]
    update_bytes: f64,
}

pub async fn run(program: &Program, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for &encoding in &settings.encoding {
        let (test_accuracy, update_bytes) = measure(program, settings, encoding).await?;
        let less_than_first = rows.first().map_or(0.0, |first| first.test_accuracy - test_accuracy);
        rows.push(Row { encoding, test_accuracy, less_than_first, update_bytes });
    }
    let caption = format!(
        "cnn on Fashion-MNIST, {} clients, {} rounds of one local epoch, IID, the same seeds for every encoding",
        settings.clients, settings.rounds
    );
    report.add("convergence", &caption, &rows)
}

/// Test accuracy after the last round, and bytes of a mean update.
async fn measure(program: &Program, settings: &Settings, encoding: Encoding) -> Result<(f64, f64)> {
    let clients = settings.clients;
    let mut cluster = program.serve(&["--encoding", encoding.as_str(), "--min-clients", &clients.to_string()]).await?;
    for client in 1..=clients {
        let part = format!("{client}/{clients}");
        cluster.join(&format!("client-{client}"), &["--partition", &part, "--threads", "1"])?;
    }
    cluster.wait_for_clients("default", clients as usize).await?;
    let rounds = cluster.run_rounds("default", settings.rounds).await?;
    cluster.stop().await?;
    let accuracy = rounds.last().and_then(|round| round.test_accuracy).unwrap_or(f64::NAN);
    let bytes: u64 = rounds.iter().map(|round| round.received_bytes).sum();
    let updates: u32 = rounds.iter().map(|round| round.updates).sum();
    Ok((accuracy, bytes as f64 / f64::from(updates.max(1))))
}
