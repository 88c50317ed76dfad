//! A round's updates into a new global model that is durable and evaluated.
//!
//! The updates are read from where they were made durable, by client, whatever the order in which they came: so the same
//! updates give the same model, and after a restart nothing is different.

use super::models::{ModelError, blocking, to_blob};
use super::world::Real;
use crate::aggregate::{AggregateError, WeightedMean, Weights};
use crate::conductor::{Aggregation, Made};
use crate::digest::Sha256Digest;
use crate::model;
use crate::store::{SpoolFile, Store, StoreError, StoredContribution, StoredUpdate, expand};
use crate::wire::{self, Base, BodyFormat, Parameters, Plan, ReadError};
use app::api::ClientId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A new global model: combined, stored as a blob; not yet committed.
#[derive(Debug)]
pub(super) struct NewModel {
    pub(super) parameters: Parameters,
    pub(super) sha256: Sha256Digest,
}

/// Why there is no new model.
#[derive(Debug, thiserror::Error)]
pub(super) enum AggregationError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Base(#[from] ModelError),
    #[error("the update of client {0} is not stored")]
    Missing(ClientId),
    #[error("the update of client {client} cannot be read: {reason}")]
    Update { client: ClientId, reason: String },
    #[error(transparent)]
    Combine(#[from] AggregateError),
    #[error("the new model cannot be evaluated: {0}")]
    Evaluate(#[from] model::ModelError),
}

impl AggregationError {
    /// Whether another try may do better.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Base(ModelError::Store(_)))
    }
}

/// What is to be folded: an update, its weight, the version that it was trained from.
struct Part {
    client: ClientId,
    update: StoredUpdate,
    weight: f64,
    base: (u64, Arc<Parameters>),
}

pub(super) async fn run(world: &Real, work: &Aggregation) -> Result<Made<Box<NewModel>>, AggregationError> {
    let stored = world.store.contributions(&world.run, work.round).await?;
    let mut stored: BTreeMap<_, _> = stored.into_iter().map(|c| (c.client.clone(), c)).collect();
    let mut updates = Vec::new();
    for part in &work.parts {
        match stored.remove(&part.client) {
            Some(StoredContribution { client, asked_version, update: Some(update), .. }) => {
                updates.push((client, asked_version, update));
            }
            _ => return Err(AggregationError::Missing(part.client.clone())),
        }
    }
    let weights =
        Weights::new(work.base_version, updates.iter().map(|(_, version, update)| (update.samples, *version)));
    let models = &world.published.models;
    let mut versions = Vec::new();
    for (version, weight) in weights.versions {
        versions.push((models.parameters(version).await?, weight));
    }
    let mut parts = Vec::new();
    for ((client, version, update), weight) in updates.into_iter().zip(weights.updates) {
        let base = (version, models.parameters(version).await?);
        parts.push(Part { client, update, weight, base });
    }
    let (store, schema, device) = (world.store.clone(), models.schema().clone(), world.device);
    let evaluator = world.evaluator.clone();
    blocking(move || {
        let parameters = combine(&store, WeightedMean::new(schema, device)?, parts, &versions)?;
        let evaluate = || evaluator.map(|e| e.evaluate(&parameters)).transpose();
        // Side by side: writing is fast enough, but waiting for the disk may take as long as evaluating.
        let (blob, evaluated) = std::thread::scope(|scope| {
            let blob = scope.spawn(|| to_blob(&store, &parameters));
            let evaluated = evaluate();
            (blob.join(), evaluated)
        });
        let blob = blob.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sha256 = blob.map_err(StoreError::from)?;
        let evaluation = evaluated?;
        Ok(Made {
            model: Box::new(NewModel { parameters, sha256 }),
            test_loss: evaluation.map(|e| e.loss),
            test_accuracy: evaluation.map(|e| e.accuracy),
        })
    })
    .await
}

fn combine(
    store: &Store,
    mut mean: WeightedMean,
    parts: Vec<Part>,
    versions: &[(Arc<Parameters>, f64)],
) -> Result<Parameters, AggregationError> {
    for Part { client, update, weight, base: (version, base) } in parts {
        let unreadable = |reason: String| AggregationError::Update { client: client.clone(), reason };
        let base = Base { version, parameters: &base };
        let fold = |plan: &Plan, file: &_| mean.fold(plan, file, Some(base), weight);
        with_update(store, &update, base.parameters, fold).map_err(unreadable)??;
    }
    for (parameters, weight) in versions {
        mean.add(parameters, *weight)?;
    }
    Ok(mean.finish()?)
}

/// Opens an update where it was made durable. Blocking.
fn with_update<T>(
    store: &Store,
    update: &StoredUpdate,
    like: &Parameters,
    read: impl FnOnce(&Plan, &SpoolFile) -> T,
) -> Result<T, String> {
    let format = BodyFormat::from_word(&update.format).ok_or_else(|| format!("its format is '{}'", update.format))?;
    let (path, file) = store.received(&update.file).map_err(|e| e.to_string())?;
    let text = |e: ReadError| e.to_string();
    if format == (BodyFormat::Safetensors { zstd: true }) {
        let expanded = expand(&path, wire::max_body_bytes(like.schema())).map_err(text)?;
        let file = expanded.file();
        return Ok(read(&Plan::of_source(format, &file, file.bytes()).map_err(text)?, &file));
    }
    Ok(read(&Plan::of_source(format, &file, file.bytes()).map_err(text)?, &file))
}
