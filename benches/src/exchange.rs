//! Rounds without training: the cost of moving, checking and adding parameters.

use crate::cluster::Program;
use crate::report::Report;
use crate::{median, mib, synthetic};
use anyhow::Result;
use app::api::{Architecture, Encoding};
use clap::{Args, value_parser};
use serde::Serialize;
use tabled::Tabled;

#[derive(Args)]
pub struct Settings {
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "2,8,32", value_parser = value_parser!(u32).range(1..=20_000))]
    clients: Vec<u32>,
    /// Network
    #[arg(long, alias = "arch", default_value = "resnet18")]
    architecture: Architecture,
    /// Encodings
    #[arg(long, value_delimiter = ',', default_value = "bf16")]
    encoding: Vec<Encoding>,
    /// Rounds
    #[arg(long, default_value = "6", value_parser = value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

#[derive(Serialize, Tabled)]
struct Row {
    encoding: Encoding,
    clients: u32,
    #[tabled(rename = "s a round", format = "{:.2}")]
    round_s: f64,
    #[tabled(rename = "coordinator CPU s a round", format = "{:.2}")]
    cpu_s: f64,
    #[tabled(rename = "coordinator peak MiB", format("{:.0}", mib(self.peak_bytes)))]
    peak_bytes: u64,
    #[tabled(rename = "MB an update", format("{:.2}", self.update_bytes / 1e6))]
    update_bytes: f64,
}

pub async fn run(program: &Program, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for &encoding in &settings.encoding {
        for &clients in &settings.clients {
            rows.push(measure(program, settings, encoding, clients).await?);
        }
    }
    let caption = format!(
        "Exchange alone, {}: the median of {} rounds (without the first, if more than two), peak memory as VmHWM",
        settings.architecture, settings.rounds
    );
    report.add("exchange", &caption, &rows)
}

async fn measure(program: &Program, settings: &Settings, encoding: Encoding, clients: u32) -> Result<Row> {
    let (network, min_clients) = (settings.architecture.as_str(), clients.to_string());
    let model = ["--dataset", "none", "--channels", "3", "--classes", "10", "--architecture", network];
    let run = ["--stem", "imagenet", "--encoding", encoding.as_str(), "--min-clients", &min_clients];
    let mut cluster = program.serve(&[&model[..], &run].concat()).await?;
    let noise = synthetic::NOISE.to_string();
    for client in 1..=clients {
        cluster.join(&format!("client-{client}"), &["--noise", &noise])?;
    }
    cluster.wait_for_clients("default", clients as usize).await?;
    let cpu_before_s = cluster.cpu_s()?;
    let rounds = cluster.run_rounds("default", settings.rounds).await?;
    let cpu_s = (cluster.cpu_s()? - cpu_before_s) / f64::from(settings.rounds);
    let peak_bytes = cluster.peak_bytes()?;
    cluster.stop().await?;
    let warm = &rounds[usize::from(rounds.len() > 2)..];
    let round_s = median(warm.iter().map(|round| (round.ended_ms - round.opened_ms) as f64 / 1e3).collect());
    let sent = warm.iter().map(|round| round.received_bytes as f64 / f64::from(round.updates.max(1)));
    let update_bytes = sent.sum::<f64>() / warm.len().max(1) as f64;
    Ok(Row { encoding, clients, round_s, cpu_s, peak_bytes, update_bytes })
}
