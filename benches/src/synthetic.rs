//! Parameters and updates that need no training, and runs that start from them.

use crate::cluster::{Cluster, accepted};
use anyhow::Result;
use app::api::Encoding;
use bytes::Bytes;
use fedlearn::agent::noise;
use fedlearn::wire::{self, CONTAINER, Dtype, ModelFormat, Parameters, SAFETENSORS, Schema, TensorSpec, Values};
use reqwest::{Method, header};
use serde_json::json;
use std::sync::Arc;

/// An update moves each value by about this share of its tensor's size, as a round of training does.
pub const NOISE: f32 = 0.01;

/// That many values spread like weights, in a few tensors.
pub fn weights(values: u64) -> Parameters {
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

/// An update of these parameters in `bf16`.
pub fn update(parameters: &Parameters, version: Option<u64>, seed: u64) -> Result<Bytes> {
    Ok(wire::encode(&noise::add(parameters, NOISE, seed), Encoding::Bf16, version)?.into())
}

/// Creates a run that starts from these parameters and needs that many updates a round.
pub async fn create_run(cluster: &Cluster<'_>, run: &str, parameters: Parameters, min_clients: u32) -> Result<()> {
    let encode = move || ModelFormat::Safetensors { zstd: false }.write(&parameters, None);
    let body = tokio::task::spawn_blocking(encode).await??;
    let create = cluster.operator(Method::POST, &format!("/runs?run={run}")).header(header::CONTENT_TYPE, SAFETENSORS);
    accepted(create.body(body)).await?;
    let configure = cluster.operator(Method::PATCH, &format!("/runs/{run}")).header(header::IF_MATCH, "\"1\"");
    accepted(configure.json(&json!({"min_clients": min_clients, "deadline_s": 3600}))).await?;
    Ok(())
}

/// How many bytes the values of a run's first version have, and an update of it.
pub async fn update_of(cluster: &Cluster<'_>, run: &str) -> Result<(u64, Bytes)> {
    let model = cluster.operator(Method::GET, &format!("/runs/{run}/models/0")).header(header::ACCEPT, CONTAINER);
    let model = accepted(model).await?.bytes().await?;
    let make = move || {
        let parameters = wire::decode_any(&model, wire::MAX_VALUES)?;
        Ok((4 * parameters.schema().values(), update(&parameters, Some(0), 0)?))
    };
    tokio::task::spawn_blocking(make).await?
}
