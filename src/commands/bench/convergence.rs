//! What each encoding does to accuracy: the same rounds, the same seeds, Fashion-MNIST.

use super::BenchError;
use super::cluster::Cluster;
use crate::commands::say;
use crate::config::BenchSettings;
use app::api::Encoding;

pub(super) async fn run(settings: &BenchSettings) -> Result<(), BenchError> {
    let clients = settings.clients.first().copied().unwrap_or(3);
    let encodings = if settings.encoding.is_empty() { Encoding::ALL } else { &settings.encoding };
    let rounds = settings.rounds.unwrap_or(10);
    say(&format!(
        "cnn on Fashion-MNIST, {clients} clients, {rounds} rounds of one local epoch, IID, the same seeds for every \
         encoding\n\n| encoding | test accuracy, % | less than the first, points | kB an update |\n|---|---|---|---|"
    ));
    let mut first = None;
    for encoding in encodings {
        let (accuracy, bytes) = accuracy(*encoding, clients, rounds).await?;
        let less = *first.get_or_insert(accuracy) - accuracy;
        say(&format!("| {encoding} | {:.2} | {:.2} | {:.0} |", accuracy * 1e2, less * 1e2, bytes / 1e3));
    }
    Ok(())
}

/// Test accuracy after the last round, and bytes of a mean update.
async fn accuracy(encoding: Encoding, clients: u32, rounds: u32) -> Result<(f64, f64), BenchError> {
    let many = clients.to_string();
    let mut cluster = Cluster::start(&["--encoding", encoding.as_str(), "--min-clients", &many]).await?;
    for client in 1..=clients {
        let part = format!("{client}/{clients}");
        cluster.join(&format!("client-{client}"), &["--partition", &part, "--threads", "1"])?;
    }
    cluster.clients("default", clients as usize).await?;
    let summaries = cluster.rounds("default", rounds).await?;
    cluster.stop().await?;
    let accuracy = summaries.last().and_then(|round| round.test_accuracy).unwrap_or(f64::NAN);
    let bytes: u64 = summaries.iter().map(|round| round.received_bytes).sum();
    let updates: u32 = summaries.iter().map(|round| round.updates).sum();
    Ok((accuracy, bytes as f64 / f64::from(updates.max(1))))
}
