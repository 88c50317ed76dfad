//! Rounds without training: what moving, checking and adding the parameters takes.

use super::cluster::Cluster;
use super::{BenchError, median, mib};
use crate::commands::say;
use crate::config::BenchSettings;
use app::api::{Architecture, Encoding};

/// Noise of about a hundredth of each tensor's size: what a round of training moves it by.
const NOISE: &str = "0.01";

pub(super) async fn run(settings: &BenchSettings) -> Result<(), BenchError> {
    let clients = if settings.clients.is_empty() { &[2, 8, 32][..] } else { &settings.clients };
    let encodings = if settings.encoding.is_empty() { &[Encoding::Bf16][..] } else { &settings.encoding };
    let rounds = settings.rounds.unwrap_or(6);
    let network = settings.architecture;
    say(&format!(
        "Exchange alone, {network}: the median of {rounds} rounds (the first left out of more than two), coordinator's \
         CPU seconds a round and peak memory (VmHWM), bytes of an update\n\n\
         | encoding | clients | s a round | coordinator CPU s | coordinator MiB | MB a client |\n|---|---|---|---|---|---|"
    ));
    for encoding in encodings {
        for &clients in clients {
            say(&row(network, *encoding, clients, rounds).await?);
        }
    }
    Ok(())
}

async fn row(network: Architecture, encoding: Encoding, clients: u32, rounds: u32) -> Result<String, BenchError> {
    let (many, network) = (clients.to_string(), network.to_string());
    let model = ["--dataset", "none", "--channels", "3", "--classes", "10", "--architecture", &network];
    let run = ["--stem", "imagenet", "--encoding", encoding.as_str(), "--min-clients", &many];
    let mut cluster = Cluster::start(&[&model[..], &run].concat()).await?;
    for client in 1..=clients {
        cluster.join(&format!("client-{client}"), &["--noise", NOISE])?;
    }
    cluster.clients("default", clients as usize).await?;
    let cpu_before_s = cluster.cpu_s()?;
    let summaries = cluster.rounds("default", rounds).await?;
    let cpu_s = (cluster.cpu_s()? - cpu_before_s) / f64::from(rounds);
    let peak = cluster.peak_bytes()?;
    cluster.stop().await?;
    let warm = &summaries[usize::from(summaries.len() > 2)..];
    let seconds = median(warm.iter().map(|round| (round.ended_ms - round.opened_ms) as f64 / 1e3).collect());
    let bytes: u64 = warm.iter().map(|round| round.received_bytes / u64::from(round.updates.max(1))).sum();
    let megabytes = bytes as f64 / warm.len().max(1) as f64 / 1e6;
    Ok(format!("| {encoding} | {clients} | {seconds:.2} | {cpu_s:.2} | {:.0} | {megabytes:.2} |", mib(peak)))
}
