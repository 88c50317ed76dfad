//! Rounds, one after the other: fetch the model, work, send the update, and report meanwhile.

use super::training::{self, Trained, Training};
use super::transport::Transport;
use super::{AgentError, AgentSettings, CallError, PAUSE, Work, noise};
use crate::model::{Device, Images, ModelError, Network};
use crate::wire::{self, Base, EncodeError, Feedback, ModelFormat, Parameters, Schema, UpdateRecipe};
use app::api::{Encoding, ErrorCode, ModelSpec, ReportedState, StatusReply, StatusReport, TrainTask, UpdateQuery};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How often progress is reported. A stop is noticed at once, by [`Transport::news`].
const REPORT_EVERY: Duration = Duration::from_millis(500);

enum Worker {
    Train {
        /// `None` while it trains.
        network: Option<Box<Network>>,
        images: Arc<Images>,
    },
    Noise(f32),
}

/// The agent's state from round to round.
pub(super) struct Agent {
    schema: Arc<Schema>,
    worker: Worker,
    name: String,
    encoding: Option<Encoding>,
    /// The number of images that the coordinator has for this client.
    samples: u64,
    /// The last global version that was fetched: the next one may be sent as a difference to it.
    held: Option<(u64, Arc<Parameters>)>,
    /// What lossy encodings have left out of the updates so far.
    owed: Feedback,
    /// The round whose update or model was rejected for good, and why: it is not trained again.
    given_up: Option<(u64, String)>,
}

impl Agent {
    /// An agent before its first round.
    pub fn new(settings: &AgentSettings, spec: &ModelSpec, samples: u64) -> Result<Self, ModelError> {
        let (schema, worker) = match &settings.work {
            Work::Train { device, images } => {
                let network = Network::new(spec, *device)?;
                (
                    network.schema().clone(),
                    Worker::Train { network: Some(Box::new(network)), images: Arc::new(images.clone()) },
                )
            }
            Work::Noise(share) => (Network::new(spec, Device::Cpu)?.schema().clone(), Worker::Noise(*share)),
        };
        let (name, encoding) = (settings.name.clone(), settings.encoding);
        Ok(Self { schema, worker, name, encoding, samples, held: None, owed: Feedback::default(), given_up: None })
    }

    /// Forgets all that belongs to the former registration, because versions of the same number may differ now. `samples` is the
    /// number of images in the new one.
    pub fn forget(&mut self, samples: u64) {
        self.samples = samples;
        (self.held, self.owed, self.given_up) = (None, Feedback::default(), None);
    }

    /// One round. A failure is reported to the coordinator, and the agent waits for the next round.
    pub async fn round(&mut self, transport: &Transport, task: &TrainTask) -> Result<(), AgentError> {
        if let Some((_, reason)) = self.given_up.as_ref().filter(|(round, _)| *round == task.round) {
            // The report was lost, or the deadline has moved.
            report_once(transport, &failure(task.round, reason.clone())).await;
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        match self.train(transport, task).await {
            Ok(true) => tracing::info!("round {}: update sent", task.round),
            Ok(false) => {
                tracing::info!("round {}: cancelled", task.round);
                report_once(transport, &report(ReportedState::Ready, None)).await;
            }
            Err(RoundError::Call(what, error)) => match error.code() {
                // The round is over, or this client is no longer in it; there may be another round already.
                Some(ErrorCode::RoundClosed | ErrorCode::NotAdmitted | ErrorCode::Quarantined) => {
                    tracing::warn!("round {}: {what}: {error}", task.round);
                    report_once(transport, &report(ReportedState::Ready, None)).await;
                }
                // The next request for a task gets the same answer.
                Some(ErrorCode::Kicked | ErrorCode::Unauthorized) => {
                    tracing::warn!("round {}: {what}: {error}", task.round);
                    tokio::time::sleep(PAUSE).await;
                }
                _ => {
                    let reason = format!("{what}: {error}");
                    tracing::error!("round {}: {reason}; waiting for the next round", task.round);
                    self.given_up = Some((task.round, reason.clone()));
                    report_once(transport, &failure(task.round, reason)).await;
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Err(RoundError::Local(reason)) => {
                tracing::error!("round {}: {reason}", task.round);
                report_once(transport, &failure(task.round, reason)).await;
                tokio::time::sleep(PAUSE).await;
            }
            Err(RoundError::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    /// Fetches the model, trains, and sends the update. False if it was cancelled.
    async fn train(&mut self, transport: &Transport, task: &TrainTask) -> Result<bool, RoundError> {
        report_once(transport, &report(ReportedState::Update, Some(task.round))).await;
        let encoding = self.encoding.unwrap_or(task.encoding);
        let global = tokio::select! {
            global = self.fetch(transport, task.version, encoding) => global?,
            never = heartbeats(transport, task) => match never {},
        };
        let Trained { parameters, loss, samples } = match self.work(transport, task, &global).await? {
            Some(trained) => trained,
            None => return Ok(false),
        };
        let seed = training::seed(task, &self.name);
        let recipe = UpdateRecipe { encoding, topk_fraction: task.topk_fraction, seed };
        let (version, owed) = (task.version, self.owed.clone());
        let encoded = tokio::task::spawn_blocking(move || {
            let base = Base { version, parameters: &global };
            let (body, owed) = wire::encode_update(&parameters, base, recipe, &owed)?;
            let sha256 = hex::encode(Sha256::digest(&body));
            Ok::<_, EncodeError>((body, owed, sha256))
        });
        let (body, owed, sha256) = encoded
            .await
            .map_err(|e| RoundError::Local(e.to_string()))?
            .map_err(|e| RoundError::Local(e.to_string()))?;
        if samples != self.samples {
            let changed = transport.change_samples(samples).await;
            changed.map_err(|error| RoundError::Call(format!("the change to {samples} images was rejected"), error))?;
            self.samples = samples;
        }
        let query = UpdateQuery { sha256: Some(sha256), ..UpdateQuery::whole(samples, loss) };
        let content_type = ModelFormat::Container(encoding).content_type();
        let bytes = body.len();
        let sent = transport.update(task.round, &query, content_type, body.into()).await;
        sent.map_err(|error| RoundError::Call(format!("the update of {bytes} bytes was rejected"), error))?;
        // What the encoding left out is owed only once the rest has been accepted.
        self.owed = owed;
        Ok(true)
    }

    /// Trains, or adds noise. `None` if it was cancelled.
    async fn work(
        &mut self,
        transport: &Transport,
        task: &TrainTask,
        global: &Arc<Parameters>,
    ) -> Result<Option<Trained>, RoundError> {
        let (network, images) = match &mut self.worker {
            Worker::Train { network, images } => (network, images.clone()),
            Worker::Noise(share) => {
                let (global, seed, share) = (global.clone(), training::seed(task, &self.name), *share);
                let disturbed = tokio::task::spawn_blocking(move || noise::add(&global, share, seed));
                let parameters = disturbed.await.map_err(|e| RoundError::Local(e.to_string()))?;
                return Ok(Some(Trained { parameters, loss: None, samples: 1 }));
            }
        };
        let here =
            network.take().ok_or_else(|| RoundError::Local("the network is in use by an earlier round".into()))?;
        let training = Training::start(*here, global.clone(), images, task, &self.name);
        let Training { progress, cancel, result } = training;
        // Training must not continue when this future is dropped.
        let guard = cancel.clone().drop_guard();
        let reports = async {
            let mut news = std::pin::pin!(transport.news(task.round));
            let mut has_news = false;
            while !cancel.is_cancelled() {
                tokio::select! {
                    () = &mut news, if !has_news => has_news = true,
                    () = tokio::time::sleep(REPORT_EVERY) => {}
                }
                let mut report = report(ReportedState::Training, Some(task.round));
                report.progress = *progress.borrow();
                if is_cancelled(transport.status(&report).await) {
                    cancel.cancel();
                }
            }
        };
        // The end of training does not wait for the answer to a report.
        let mut result = std::pin::pin!(result);
        let joined = tokio::select! {
            joined = &mut result => joined,
            () = reports => result.await,
        };
        drop(guard);
        let (back, trained) =
            joined.map_err(|e| RoundError::Fatal(AgentError::Stopped(format!("training panicked: {e}"))))?;
        *network = Some(Box::new(back));
        trained.map_err(|error| RoundError::Local(error.to_string()))
    }

    /// A global version, as a difference to the one that is held where that is shorter. It is exact if the update is sent in f32,
    /// because the coordinator compares that with the exact version.
    async fn fetch(
        &mut self,
        transport: &Transport,
        version: u64,
        encoding: Encoding,
    ) -> Result<Arc<Parameters>, RoundError> {
        let held = self.held.clone();
        let accept = if encoding == Encoding::F32 {
            ModelFormat::Container(Encoding::F32).content_type()
        } else {
            wire::CONTAINER
        };
        let body = transport.model(version, accept, held.as_ref().map(|(version, _)| *version)).await;
        let body =
            body.map_err(|error| RoundError::Call(format!("version {version} of the model was not sent"), error))?;
        let schema = self.schema.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let base = held.as_ref().map(|(version, parameters)| Base { version: *version, parameters });
            wire::decode_against(&body, &schema, base)
        });
        let global = decoded
            .await
            .map_err(|e| RoundError::Local(e.to_string()))?
            .map_err(|e| RoundError::Local(format!("version {version} is not readable: {e}")))?;
        let global = Arc::new(global);
        self.held = Some((version, global.clone()));
        Ok(global)
    }
}

enum RoundError {
    /// The coordinator rejected a call for good: which, and why.
    Call(String, CallError),
    /// Something failed in this agent; it is reported.
    Local(String),
    /// The agent cannot continue.
    Fatal(AgentError),
}

fn report(state: ReportedState, round: Option<u64>) -> StatusReport {
    StatusReport { state, round, progress: None, error: None }
}

/// The report that this client has failed in that round.
fn failure(round: u64, reason: String) -> StatusReport {
    StatusReport { error: Some(reason), ..report(ReportedState::Error, Some(round)) }
}

/// Sends a report that may be lost.
async fn report_once(transport: &Transport, report: &StatusReport) {
    if let Err(error) = transport.status(report).await {
        tracing::debug!("the report was not delivered: {error}");
    }
}

/// Sends heartbeats while a model is fetched, which may take minutes.
async fn heartbeats(transport: &Transport, task: &TrainTask) -> Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(task.heartbeat_interval_s.max(1).into())).await;
        report_once(transport, &report(ReportedState::Update, Some(task.round))).await;
    }
}

/// Whether to stop training after that answer to a report. A network error is no reason to: the coordinator may be restarting.
fn is_cancelled(answer: Result<StatusReply, CallError>) -> bool {
    match answer {
        Ok(reply) => reply.cancel,
        Err(error) => matches!(
            error.code(),
            Some(
                ErrorCode::Kicked
                    | ErrorCode::Quarantined
                    | ErrorCode::NotAdmitted
                    | ErrorCode::Unauthorized
                    | ErrorCode::NotFound
                    | ErrorCode::Conflict // the run is archived
            )
        ),
    }
}
