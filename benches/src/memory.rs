//! Peak memory of the coordinator while updates come in, many at once and large ones.

use crate::cluster::{Cluster, Program, accepted};
use crate::member::register;
use crate::report::Report;
use crate::{mib, synthetic};
use anyhow::Result;
use app::api::Architecture;
use clap::{Args, value_parser};
use futures::future::try_join_all;
use reqwest::Method;
use serde::Serialize;
use std::time::Duration;
use tabled::Tabled;

/// 1 GB of f32.
const LARGE_VALUES: u64 = 250_000_000;

/// How often the run is polled while a round is combined.
const POLL_EVERY: Duration = Duration::from_millis(20);

#[derive(Args)]
pub struct Settings {
    /// Numbers of clients that upload at once
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,8,32,64,128",
        value_parser = value_parser!(u32).range(1..=512)
    )]
    clients: Vec<u32>,
    /// Network
    #[arg(long, alias = "arch", default_value = "resnet18")]
    architecture: Architecture,
}

/// The memory of a coordinator that receives updates.
#[derive(Serialize, Tabled)]
pub struct Row {
    model: String,
    #[tabled(rename = "model MB", format("{:.1}", self.model_bytes as f64 / 1e6))]
    model_bytes: u64,
    #[tabled(rename = "updates at once")]
    updates_at_once: u32,
    #[tabled(rename = "updates before")]
    updates_before: u32,
    #[tabled(rename = "MiB before (VmRSS)", format("{:.1}", mib(self.resident_before_bytes)))]
    pub resident_before_bytes: u64,
    #[tabled(rename = "peak MiB (VmHWM)", format("{:.1}", mib(self.peak_bytes)))]
    pub peak_bytes: u64,
}

pub async fn run(program: &Program, settings: &Settings, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for &clients in &settings.clients {
        rows.push(at_once(program, settings.architecture, clients).await?);
    }
    rows.extend(large(program, settings.architecture).await?);
    report.add("memory", "The coordinator's memory before updates come in, and its peak while they do", &rows)
}

fn model(architecture: Architecture) -> [&'static str; 8] {
    ["--dataset", "none", "--channels", "3", "--classes", "10", "--architecture", architecture.as_str()]
}

/// Sends the updates of that many clients at once, to a coordinator of their own.
pub async fn at_once(program: &Program, architecture: Architecture, clients: u32) -> Result<Row> {
    let min_clients = clients.to_string();
    let flags = [&model(architecture)[..], &["--min-clients", &min_clients]].concat();
    let cluster = program.serve(&flags).await?;
    let mut members = register(&cluster, "default", clients).await?;
    accepted(cluster.operator(Method::POST, "/runs/default/rounds")).await?;
    let (model_bytes, body) = synthetic::update_of(&cluster, "default").await?;
    let resident_before_bytes = cluster.resident_bytes()?;
    cluster.reset_peak()?;
    try_join_all(members.iter_mut().map(|member| member.update(1, body.clone()))).await?;
    while cluster.snapshot("default").await?.rounds.is_empty() {
        tokio::time::sleep(POLL_EVERY).await;
    }
    let peak_bytes = cluster.peak_bytes()?;
    cluster.stop().await?;
    let model = architecture.to_string();
    Ok(Row { model, model_bytes, updates_at_once: clients, updates_before: 0, resident_before_bytes, peak_bytes })
}

/// Two large updates, one after the other in the same round, which stays open.
async fn large(program: &Program, architecture: Architecture) -> Result<Vec<Row>> {
    let flags = [&model(architecture)[..], &["--max-upload-mb", "2048"]].concat();
    let cluster = program.serve(&flags).await?;
    let parameters = tokio::task::spawn_blocking(|| synthetic::weights(LARGE_VALUES)).await?;
    synthetic::create_run(&cluster, "large", parameters, 3).await?;
    let rows = large_updates(&cluster).await?;
    cluster.stop().await?;
    Ok(rows)
}

async fn large_updates(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let members = register(cluster, "large", 3).await?;
    accepted(cluster.operator(Method::POST, "/runs/large/rounds")).await?;
    let (model_bytes, body) = synthetic::update_of(cluster, "large").await?;
    let mut rows = Vec::new();
    for (updates_before, mut member) in (0..2).zip(members) {
        let resident_before_bytes = cluster.resident_bytes()?;
        cluster.reset_peak()?;
        member.update(1, body.clone()).await?;
        let (model, peak_bytes) = ("large".to_owned(), cluster.peak_bytes()?);
        rows.push(Row { model, model_bytes, updates_at_once: 1, updates_before, resident_before_bytes, peak_bytes });
    }
    Ok(rows)
}
