//! A round's updates into a new global model that is durable and evaluated.
//!
//! The updates are read from where they were made durable, by client, whatever the order in which they came: so the same
//! updates give the same model, and after a restart nothing is different.

use super::evaluator::Evaluator;
use super::models::{ModelError, blocking, to_blob};
use super::trouble::said;
use super::world::Real;
use crate::aggregate::{AggregateError, WeightedMean};
use crate::conductor::{Aggregation, Made};
use crate::digest::Sha256Digest;
use crate::model::{Device, Evaluation};
use crate::store::{BlobError, SpoolFile, Store, StoreError, StoredContribution, StoredUpdate, expand};
use crate::wire::{self, Base, BodyFormat, Parameters, Plan, ReadError};
use app::api::{ClientId, RunId};
use std::collections::BTreeMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
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
    #[error("the update of client {client} is of the unknown format '{format}'")]
    Format { client: ClientId, format: String },
    #[error("the update of client {client} cannot be opened: {source}")]
    File { client: ClientId, source: BlobError },
    #[error("the update of client {client} cannot be added: {source}")]
    Update { client: ClientId, source: AggregateError },
    #[error(transparent)]
    Combine(#[from] AggregateError),
    #[error("it cannot be stored: {0}")]
    Model(BlobError),
    #[error("combining broke down: {0}")]
    BrokenDown(String),
}

impl AggregationError {
    /// Whether another try may do better. Else something is damaged, and no try ever will.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) | Self::Base(ModelError::Store(error)) => error.is_passing(),
            Self::File { source, .. } => source.is_passing(),
            Self::Update { source: AggregateError::Read(ReadError::Source(error)), .. } => {
                error.kind() != io::ErrorKind::UnexpectedEof // the file has become shorter
            }
            Self::Model(_) => true,
            _ => false,
        }
    }

    /// It is libtorch's: most likely the device is out of memory. In memory libtorch has no part in it.
    fn is_torch(&self) -> bool {
        matches!(self, Self::Update { source: AggregateError::Torch(_), .. } | Self::Combine(AggregateError::Torch(_)))
    }
}

/// What is to be folded: an update, its share of the weight, the version that it was trained from.
struct Part {
    client: ClientId,
    update: StoredUpdate,
    share: f64,
    base: (u64, Arc<Parameters>),
}

pub(super) async fn run(world: &Real, work: &Aggregation) -> Result<Made<Box<NewModel>>, AggregationError> {
    let stored = world.store.contributions(&world.run, work.round).await?;
    let mut stored: BTreeMap<_, _> = stored.into_iter().map(|c| (c.client.clone(), c)).collect();
    let mut updates = Vec::new();
    for part in &work.parts {
        match stored.remove(&part.client) {
            Some(StoredContribution { client, asked_version, update: Some(update), .. }) => {
                updates.push((client, asked_version, update, part.share));
            }
            _ => return Err(AggregationError::Missing(part.client.clone())),
        }
    }
    let models = &world.published.models;
    let current = models.parameters(work.base_version).await?;
    let mut parts = Vec::new();
    for (client, version, update, share) in updates {
        let base = (version, models.parameters(version).await?);
        parts.push(Part { client, update, share, base });
    }
    let (world, schema, round) = (world.clone(), models.schema().clone(), work.round);
    blocking(move || {
        let store = &world.store;
        let parameters = somewhere(world.device, |device| {
            combine(store, WeightedMean::new(schema.clone(), device)?, &parts, &current)
        })?;
        // Side by side: writing is fast enough, but waiting for the disk may take as long as evaluating.
        let (blob, evaluation) = std::thread::scope(|scope| {
            let blob = scope.spawn(|| to_blob(store, &parameters));
            let evaluated = world.evaluator.as_ref().and_then(|e| evaluate(e, &parameters, &world.run, round));
            (blob.join(), evaluated)
        });
        let blob = blob.unwrap_or_else(|panic| panic::resume_unwind(panic));
        let sha256 = blob.map_err(AggregationError::Model)?;
        Ok(Made {
            model: Box::new(NewModel { parameters, sha256 }),
            test_loss: evaluation.map(|e| e.loss),
            test_accuracy: evaluation.map(|e| e.accuracy),
        })
    })
    .await
}

/// On the device, or where that fails in memory: others may need the device for long.
fn somewhere<T>(
    device: Device,
    combine: impl Fn(Device) -> Result<T, AggregationError>,
) -> Result<T, AggregationError> {
    match combine(device) {
        Err(error) if error.is_torch() && device != Device::Cpu => {
            tracing::warn!(%error, "updates are combined on the CPU instead");
            combine(Device::Cpu)
        }
        combined => combined,
    }
}

/// How good the new model is; none where nobody can say, which is logged: it is made of everybody's work all the same, and
/// what keeps it from being evaluated, such as a GPU without memory, may keep the next one too. Blocking.
fn evaluate(evaluator: &Evaluator, parameters: &Parameters, run: &RunId, round: u64) -> Option<Evaluation> {
    // The evaluator loads the network anew each time: one that was left half-way does no harm.
    let evaluated = panic::catch_unwind(AssertUnwindSafe(|| evaluator.evaluate(parameters)));
    let error = match evaluated {
        Ok(Ok(evaluation)) => return Some(evaluation),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => said(panic.as_ref()),
    };
    tracing::error!(run = %run, round, error, "the new model cannot be evaluated");
    None
}

fn combine(
    store: &Store,
    mut mean: WeightedMean,
    parts: &[Part],
    current: &Parameters,
) -> Result<Parameters, AggregationError> {
    for part in parts {
        let (version, base) = &part.base;
        let base = Base { version: *version, parameters: base };
        with_update(store, part, |plan, file| mean.fold(plan, file, base, part.share))?;
    }
    Ok(mean.finish(current)?)
}

/// Opens an update where it was made durable. Blocking.
fn with_update(
    store: &Store,
    Part { client, update, base: (_, like), .. }: &Part,
    fold: impl FnOnce(&Plan, &SpoolFile) -> Result<(), AggregateError>,
) -> Result<(), AggregationError> {
    let format = BodyFormat::from_word(&update.format)
        .ok_or_else(|| AggregationError::Format { client: client.clone(), format: update.format.clone() })?;
    let opened = store.received(&update.file);
    let (path, file) = opened.map_err(|source| AggregationError::File { client: client.clone(), source })?;
    let folded = || {
        if format == (BodyFormat::Safetensors { zstd: true }) {
            let expanded = expand(&path, wire::max_body_bytes(like.schema()))?;
            let file = expanded.file();
            return fold(&Plan::of_source(format, &file, file.bytes())?, &file);
        }
        fold(&Plan::of_source(format, &file, file.bytes())?, &file)
    };
    folded().map_err(|source| AggregationError::Update { client: client.clone(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Images, Network};
    use app::api::{Architecture, Dataset, ModelSpec};

    #[test]
    fn a_model_that_cannot_be_evaluated_is_one_all_the_same() {
        let spec = ModelSpec::for_dataset(Architecture::Cnn, Dataset::Mnist);
        let parameters = Network::new(&spec, Device::Cpu).unwrap().parameters().unwrap();
        let one = Images { channels: 1, height: 28, width: 28, classes: 10, pixels: vec![0; 28 * 28], labels: vec![0] };
        let evaluated = |images: Images| {
            let evaluator = Evaluator::new(&spec, Device::Cpu, Arc::new(images)).unwrap();
            evaluate(&evaluator, &parameters, &"run".parse().unwrap(), 1)
        };
        assert_eq!(evaluated(one.clone()).unwrap().samples, 1);
        assert_eq!(evaluated(one.select(&[])), None);
    }

    #[test]
    fn updates_are_combined_in_memory_where_the_device_fails() {
        let network = Network::new(&ModelSpec::for_dataset(Architecture::Cnn, Dataset::Mnist), Device::Cpu).unwrap();
        let schema = network.schema().clone();
        let on = |device| WeightedMean::new(schema.clone(), device).map(|_| device).map_err(AggregationError::from);
        assert_eq!(somewhere(Device::Cuda(99), on).unwrap(), Device::Cpu);
    }

    #[test]
    fn what_may_pass_is_told_from_what_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = |folder: &str, kind: io::ErrorKind| AggregationError::File {
            client: "client".parse().unwrap(),
            source: BlobError::Io { what: "read", path: folder.to_owned().into(), source: kind.into() },
        };
        let here = |kind| file(folder.path().join("file").to_str().unwrap(), kind);
        assert!(here(io::ErrorKind::PermissionDenied).is_passing());
        assert!(!here(io::ErrorKind::NotFound).is_passing());
        assert!(file("/no such folder/file", io::ErrorKind::NotFound).is_passing(), "the disk may be mounted again");
        let read =
            |error| AggregationError::Update { client: "client".parse().unwrap(), source: AggregateError::Read(error) };
        assert!(read(ReadError::Source(io::ErrorKind::StorageFull.into())).is_passing(), "while it is expanded");
        assert!(!read(ReadError::Decode(wire::DecodeError::NoBase)).is_passing());
        assert!(!AggregationError::Missing("client".parse().unwrap()).is_passing());
        assert!(!AggregationError::BrokenDown("a panic".into()).is_passing());
    }
}
