//! Combines a round's updates into a new global model that is durable and evaluated.
//!
//! The updates are read from their files, ordered by client, not by arrival: the same updates give the same model, also after
//! a restart.

mod evaluator;

pub(super) use evaluator::Evaluator;

use super::versions::{VersionError, Versions, to_blob};
use crate::aggregate::{AggregateError, WeightedMean};
use crate::model::{Device, Evaluation};
use crate::round::Part;
use crate::run::{Aggregation, Candidate};
use crate::store::{BlobError, SpoolFile, Store, blocking, expand};
use crate::wire::{self, Base, BodyFormat, Parameters, Plan, ReadError, Schema};
use app::api::{ClientId, RunId};
use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

/// Why there is no new model.
#[derive(Debug, thiserror::Error)]
pub(super) enum AggregationError {
    #[error(transparent)]
    Base(#[from] VersionError),
    #[error("the update of client {client} is of the unknown format '{format}'")]
    Format { client: ClientId, format: String },
    #[error("the update of client {client} cannot be opened: {source}")]
    File { client: ClientId, source: BlobError },
    #[error("the update of client {client} cannot be added: {source}")]
    Update { client: ClientId, source: AggregateError },
    #[error(transparent)]
    Combine(#[from] AggregateError),
    #[error("the new model cannot be stored: {0}")]
    Model(BlobError),
}

impl AggregationError {
    /// Whether another try may succeed. Otherwise something is damaged.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Base(VersionError::Store(error)) => error.is_passing(),
            Self::File { source, .. } => source.is_passing(),
            Self::Update { source: AggregateError::Read(ReadError::Source(error)), .. } => {
                error.kind() != io::ErrorKind::UnexpectedEof // the file has become shorter
            }
            Self::Model(_) => true,
            _ => false,
        }
    }

    /// libtorch failed: most likely the device is out of memory. On the CPU the mean is computed without libtorch.
    fn is_torch(&self) -> bool {
        matches!(self, Self::Update { source: AggregateError::Torch(_), .. } | Self::Combine(AggregateError::Torch(_)))
    }
}

/// An update with the parameters of the version that it was trained from.
struct Operand {
    part: Part,
    base: Arc<Parameters>,
}

/// Aggregates the updates of one run.
#[derive(Debug)]
pub(super) struct Aggregator {
    pub run: RunId,
    pub store: Store,
    pub versions: Arc<Versions>,
    pub device: Device,
    pub evaluator: Option<Evaluator>,
}

impl Aggregator {
    /// Combines updates into a new global model, stores it as a blob and evaluates it.
    pub async fn run(self: &Arc<Self>, work: &Aggregation) -> Result<Candidate<Arc<Parameters>>, AggregationError> {
        let current = self.versions.parameters(work.base_version).await?;
        let mut operands = Vec::new();
        for part in &work.parts {
            operands.push(Operand { part: part.clone(), base: self.versions.parameters(part.version).await? });
        }
        let (this, round) = (self.clone(), work.round);
        blocking(move || this.candidate(round, &operands, &current)).await
    }

    fn candidate(
        &self,
        round: u64,
        operands: &[Operand],
        current: &Parameters,
    ) -> Result<Candidate<Arc<Parameters>>, AggregationError> {
        let parameters = on_device_or_cpu(self.device, |device| {
            let mean = WeightedMean::new(self.versions.schema().clone(), device)?;
            combine(&self.store, mean, operands, current)
        })?;
        // At the same time: writing is fast, but waiting for the disk may take as long as evaluating.
        let (blob, evaluation) = std::thread::scope(|scope| {
            let blob = scope.spawn(|| to_blob(&self.store, &parameters));
            let evaluation = self.evaluator.as_ref().and_then(|e| evaluate(e, &parameters, &self.run, round));
            (blob.join(), evaluation)
        });
        let blob = blob.unwrap_or_else(|panic| panic::resume_unwind(panic));
        Ok(Candidate {
            sha256: blob.map_err(AggregationError::Model)?,
            parameters: Arc::new(parameters),
            test_loss: evaluation.map(|e| e.loss),
            test_accuracy: evaluation.map(|e| e.accuracy),
        })
    }
}

/// Combines on the device or, if that fails, on the CPU: others may occupy the device for long.
fn on_device_or_cpu<T>(
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

/// The evaluation of the new model; `None`, with a line in the log, if it fails. The round is complete all the same: what
/// prevents the evaluation, such as a GPU without memory, may prevent the next one too. Blocking.
fn evaluate(evaluator: &Evaluator, parameters: &Parameters, run: &RunId, round: u64) -> Option<Evaluation> {
    // The evaluator loads the network again each time, so an evaluation that was aborted does no harm.
    let evaluated = panic::catch_unwind(AssertUnwindSafe(|| evaluator.evaluate(parameters)));
    let error = match evaluated {
        Ok(Ok(evaluation)) => return Some(evaluation),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(panic.as_ref()),
    };
    tracing::error!(run = %run, round, error, "the new model cannot be evaluated");
    None
}

fn combine(
    store: &Store,
    mut mean: WeightedMean,
    operands: &[Operand],
    current: &Parameters,
) -> Result<Parameters, AggregationError> {
    for Operand { part, base } in operands {
        let from = Base { version: part.version, parameters: base };
        with_update(store, part, base.schema(), |plan, file| mean.fold(plan, file, from, part.share))?;
    }
    Ok(mean.finish(current)?)
}

/// Opens a stored update. Blocking.
fn with_update(
    store: &Store,
    Part { client, body, .. }: &Part,
    schema: &Schema,
    fold: impl FnOnce(&Plan, &SpoolFile) -> Result<(), AggregateError>,
) -> Result<(), AggregationError> {
    let format = BodyFormat::from_word(&body.format)
        .ok_or_else(|| AggregationError::Format { client: client.clone(), format: body.format.clone() })?;
    let opened = store.received(&body.file);
    let (path, file) = opened.map_err(|source| AggregationError::File { client: client.clone(), source })?;
    let folded = || {
        if format == (BodyFormat::Safetensors { zstd: true }) {
            let expanded = expand(&path, wire::max_body_bytes(schema))?;
            let file = expanded.file();
            return fold(&Plan::of_source(format, &file, file.bytes())?, &file);
        }
        fold(&Plan::of_source(format, &file, file.bytes())?, &file)
    };
    folded().map_err(|source| AggregationError::Update { client: client.clone(), source })
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Images, Network};
    use app::api::{Architecture, Dataset, ModelSpec};

    #[test]
    fn a_model_that_cannot_be_evaluated_is_still_a_candidate() {
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
    fn updates_are_combined_on_the_cpu_if_the_device_fails() {
        let network = Network::new(&ModelSpec::for_dataset(Architecture::Cnn, Dataset::Mnist), Device::Cpu).unwrap();
        let schema = network.schema().clone();
        let on = |device| WeightedMean::new(schema.clone(), device).map(|_| device).map_err(AggregationError::from);
        assert_eq!(on_device_or_cpu(Device::Cuda(99), on).unwrap(), Device::Cpu);
    }

    #[test]
    fn temporary_failures_are_distinguished_from_lost_files() {
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
    }
}
