//! Peak memory of the coordinator while updates come in, many at once and large ones, as CSV to plot.

use super::BenchError;
use super::cluster::Cluster;
use crate::agent::noise;
use crate::commands::say;
use crate::config::BenchSettings;
use crate::wire::{self, CONTAINER, Dtype, ModelFormat, Parameters, SAFETENSORS, Schema, TensorSpec, Values};
use app::api::{Encoding, RegisterReply};
use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::{Method, header};
use serde_json::json;
use std::sync::Arc;

/// A GB of f32.
const LARGE_VALUES: u64 = 250_000_000;

pub(super) async fn run(settings: &BenchSettings) -> Result<(), BenchError> {
    let clients = if settings.clients.is_empty() { &[1, 8, 32, 64, 128][..] } else { &settings.clients };
    say("model,model_bytes,clients_at_once,updates_before,resident_before_bytes,peak_bytes");
    let network = settings.architecture.to_string();
    for &clients in clients {
        let Taken { values_bytes, resident, peak } = at_once(&network, clients).await?;
        say(&format!("{network},{values_bytes},{clients},0,{resident},{peak}"));
    }
    // One update after the other in the same round: the first one makes the round's sum, the second one adds to it.
    let cluster = Cluster::start(&[&model(&network)[..], &["--max-upload-mb", "2048"]].concat()).await?;
    let create = cluster.operator(Method::POST, "/runs?run=large").header(header::CONTENT_TYPE, SAFETENSORS);
    let body =
        tokio::task::spawn_blocking(|| ModelFormat::Safetensors { zstd: false }.write(&weights(LARGE_VALUES), None))
            .await??;
    create.body(body).send().await?.error_for_status()?;
    let patch = cluster.operator(Method::PATCH, "/runs/large").header(header::IF_MATCH, "\"1\"");
    patch.json(&json!({"min_clients": 3, "deadline_s": 3600})).send().await?.error_for_status()?;
    large_ones(&cluster).await?;
    cluster.stop().await
}

/// What so many updates at once took.
pub(super) struct Taken {
    /// Bytes of the model's values.
    values_bytes: u64,
    /// The coordinator's memory before, in bytes (VmRSS).
    pub resident: u64,
    /// The most that it held, in bytes (VmHWM).
    pub peak: u64,
}

fn model(network: &str) -> [&str; 8] {
    ["--dataset", "none", "--channels", "3", "--classes", "10", "--architecture", network]
}

/// Hands in the updates of so many clients at once, to a coordinator of their own.
pub(super) async fn at_once(network: &str, clients: u32) -> Result<Taken, BenchError> {
    let cluster = Cluster::start(&[&model(network)[..], &["--min-clients", &clients.to_string()]].concat()).await?;
    let members = register(&cluster, "default", clients).await?;
    cluster.operator(Method::POST, "/runs/default/rounds").send().await?.error_for_status()?;
    let (values_bytes, body) = update(&cluster, "default").await?;
    let resident = cluster.resident_bytes()?;
    cluster.forget_peak()?;
    try_join_all(members.iter().map(|member| send(&cluster, "default", member, body.clone()))).await?;
    while cluster.snapshot("default").await?.rounds.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let peak = cluster.peak_bytes()?;
    cluster.stop().await?;
    Ok(Taken { values_bytes, resident, peak })
}

async fn large_ones(cluster: &Cluster) -> Result<(), BenchError> {
    let members = register(cluster, "large", 3).await?;
    cluster.operator(Method::POST, "/runs/large/rounds").send().await?.error_for_status()?;
    let (bytes, body) = update(cluster, "large").await?;
    for (before, member) in members.iter().take(2).enumerate() {
        let resident = cluster.resident_bytes()?;
        cluster.forget_peak()?;
        send(cluster, "large", member, body.clone()).await?;
        say(&format!("large,{bytes},1,{before},{resident},{}", cluster.peak_bytes()?));
    }
    Ok(())
}

async fn register(cluster: &Cluster, run: &str, clients: u32) -> Result<Vec<RegisterReply>, BenchError> {
    let mut members = Vec::new();
    for client in 1..=clients {
        let request = cluster.http.post(format!("{}/api/v1/runs/{run}/clients", cluster.origin));
        let request = request.json(&json!({"name": format!("client-{client}"), "samples": 1}));
        members.push(request.send().await?.error_for_status()?.json().await?);
    }
    Ok(members)
}

/// How many bytes the values of the run's model have, and an update of it in `bf16`.
async fn update(cluster: &Cluster, run: &str) -> Result<(u64, Bytes), BenchError> {
    let model = cluster.operator(Method::GET, &format!("/runs/{run}/models/0")).header(header::ACCEPT, CONTAINER);
    let model = model.send().await?.error_for_status()?.bytes().await?;
    let made = tokio::task::spawn_blocking(move || {
        let global = wire::decode_any(&model, wire::MAX_VALUES).map_err(wire::ReadError::from)?;
        let bytes = 4 * global.schema().values();
        let body = wire::encode(&noise::add(&global, 0.01, 0), Encoding::Bf16, Some(0))?;
        Ok::<_, BenchError>((bytes, Bytes::from(body)))
    });
    made.await?
}

async fn send(cluster: &Cluster, run: &str, member: &RegisterReply, body: Bytes) -> Result<(), BenchError> {
    let url = format!("{}/api/v1/runs/{run}/rounds/1/updates/{}?samples=1", cluster.origin, member.client_id);
    let request = cluster.http.put(url).bearer_auth(&member.token).header(header::CONTENT_TYPE, CONTAINER);
    request.body(body).send().await?.error_for_status()?;
    Ok(())
}

/// So many values spread like weights, in a few tensors.
pub(super) fn weights(values: u64) -> Parameters {
    const TENSORS: u64 = 5;
    let spec = |i| TensorSpec { name: format!("w{i}"), dtype: Dtype::F32, shape: vec![values / TENSORS] };
    let schema = Arc::new(Schema::new((0..TENSORS).map(spec).collect()).expect("within all limits"));
    // Sums of four bytes of a multiplicative hash: near enough to normal.
    let value = |i: u32| {
        let bytes = i.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x9e37_79b1).to_le_bytes();
        (bytes.into_iter().map(f32::from).sum::<f32>() - 510.0) / 3_000.0
    };
    let tensor = |tensor| (0..(values / TENSORS) as u32).map(|i| value(i ^ tensor << 28)).collect();
    Parameters::new(schema, (0..TENSORS as u32).map(|i| Values::F32(tensor(i))).collect())
}
