//! `fedlearn join`.

use super::failed;
use crate::agent::{self, AgentError, AgentSettings, CallError, IdentityError, IdentityFile, Transport, Work};
use crate::cli::Exit;
use crate::config::{DataSettings, JoinSettings};
use crate::model::dataset::{self, Split, default_path};
use crate::model::partition::{self, PartitionError};
use crate::model::{DatasetError, Images, ModelError, set_threads};
use app::api::{Dataset, RunId};
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("run '{0}' names no dataset: choose one with --dataset ({known})", known = Dataset::WORDS.join(", "))]
    NoDataset(RunId),
    #[error("dataset {0} is not where `make setup` or Debian puts it: give its folder or archive with --data PATH")]
    NoPath(Dataset),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Agent(#[from] AgentError),
}

pub(super) async fn run(settings: JoinSettings, stop: CancellationToken) -> Exit {
    let joined = tokio::select! {
        prepared = prepare(&settings) => match prepared {
            Ok(prepared) => agent::join(prepared, stop).await.map_err(JoinError::from),
            Err(error) => Err(error),
        },
        () = stop.cancelled() => return Exit::Interrupted,
    };
    match joined {
        Ok(()) => Exit::Done,
        Err(error) => {
            let is_refused = match &error {
                JoinError::Call(error) | JoinError::Agent(AgentError::Call(error)) => error.code().is_some(),
                JoinError::Agent(AgentError::Stopped(_)) => true,
                _ => false,
            };
            failed(&error, if is_refused { Exit::Refused } else { Exit::Failed })
        }
    }
}

async fn prepare(settings: &JoinSettings) -> Result<AgentSettings, JoinError> {
    if let Some(threads) = settings.threads {
        set_threads(threads);
    }
    let open = |path| IdentityFile::open(path, &settings.url, &settings.run);
    let identity = settings.identity.as_deref().map(open).transpose()?;
    let work = match settings.noise {
        Some(share) => Work::Noise(share),
        None => Work::Train { device: settings.device.find()?, images: images(settings).await? },
    };
    Ok(AgentSettings {
        coordinator_url: settings.url.clone(),
        run: settings.run.clone(),
        name: settings.client_name(),
        join_secret: settings.join_secret.as_ref().map(|secret| secret.expose().to_owned()),
        encoding: settings.encoding,
        ca_cert: settings.ca_cert.clone(),
        work,
        identity,
    })
}

async fn images(settings: &JoinSettings) -> Result<Images, JoinError> {
    let dataset = match settings.data.dataset {
        Some(dataset) => dataset,
        None => {
            let transport = Transport::trusting(&settings.url, &settings.run, settings.ca_cert.as_deref())?;
            let run = transport.snapshot().await?;
            if run.model.is_none() {
                return Err(AgentError::NotBuiltIn(run.run).into());
            }
            run.dataset.ok_or(JoinError::NoDataset(run.run))?
        }
    };
    load(dataset, &settings.data)
}

fn load(dataset: Dataset, settings: &DataSettings) -> Result<Images, JoinError> {
    let path = settings.path.clone().or_else(|| default_path(dataset)).ok_or(JoinError::NoPath(dataset))?;
    let mut images = dataset::load(dataset, &path, Split::Train)?;
    if let Some(choice) = settings.partition {
        let parts = settings.split.partition(&images.labels, images.classes, choice.of, settings.seed)?;
        tracing::info!(
            "split {} of {dataset} in {} parts, seed {}:\n{}",
            settings.split,
            choice.of,
            settings.seed,
            partition::describe(&parts, &images.labels, images.classes)
        );
        let part = parts.get(choice.part - 1).map(Vec::as_slice).unwrap_or_default();
        images = images.select(part);
    }
    if let Some(limit) = settings.limit {
        let keep: Vec<usize> = (0..images.len().min(limit as usize)).collect();
        images = images.select(&keep);
    }
    Ok(images)
}
