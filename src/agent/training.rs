//! Training on a thread of its own: its progress can be watched, and it can be cancelled.

use super::progress::Display;
use crate::model::{self, Images, ModelError, Network, TrainOutcome};
use crate::wire::Parameters;
use app::api::{Progress, TrainTask};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The result of a round's work.
#[derive(Debug)]
pub struct Trained {
    /// The new parameters.
    pub parameters: Parameters,
    /// Mean loss of the last epoch; `None` without training.
    pub loss: Option<f64>,
    /// Images trained on.
    pub samples: u64,
}

/// A round's training that runs.
#[derive(Debug)]
pub struct Training {
    /// `None` before the first batch.
    pub progress: watch::Receiver<Option<Progress>>,
    /// Stops it within a batch.
    pub cancel: CancellationToken,
    /// The network, for the next round, and the result, which is `None` if training was cancelled.
    pub result: tokio::task::JoinHandle<(Network, Result<Option<Trained>, ModelError>)>,
}

impl Training {
    /// Starts from the global parameters.
    pub fn start(
        mut network: Network,
        global: Arc<Parameters>,
        images: Arc<Images>,
        task: &TrainTask,
        name: &str,
    ) -> Self {
        let (report, progress) = watch::channel(None);
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let (config, round, seed) = (task.train.clone(), task.round, seed(task, name));
        let result = tokio::task::spawn_blocking(move || {
            let mut display = Display::new(round);
            let mut on_batch = |now: Progress| {
                display.show(now);
                report.send_replace(Some(now));
                if cancelled.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let trained = network
                .load(&global)
                .and_then(|()| model::train(&mut network, &images, &config, seed, &mut on_batch))
                .and_then(|outcome| match outcome {
                    TrainOutcome::Cancelled => Ok(None),
                    TrainOutcome::Finished { loss, samples } => {
                        Ok(Some(Trained { parameters: network.parameters()?, loss: Some(loss), samples }))
                    }
                });
            display.end();
            (network, trained)
        });
        Self { progress, cancel, result }
    }
}

/// The seed of a client in a round: derived from the run's seed, so that a repeated run has the same.
pub(super) fn seed(task: &TrainTask, name: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(task.train.seed.to_le_bytes());
    hash.update(task.round.to_le_bytes());
    hash.update(name);
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
