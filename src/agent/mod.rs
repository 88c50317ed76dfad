//! The native client: registers, then asks what to do, does it, and says how it went, until it is told to leave.
//!
//! Decides how to train on this machine and how to go on when the coordinator does not answer. Refuses to know how
//! rounds are made: it does what its task says.

mod identity;
pub mod noise;
mod progress;
mod training;
mod transport;

pub use identity::{IdentityError, IdentityFile};
pub use transport::{CallError, Transport};

use crate::model::Device;
use crate::model::{Images, ModelError, Network};
use crate::wire::{self, Base, EncodeError, Feedback, ModelFormat, Parameters, Schema, UpdateRecipe};
use app::api::{
    ClientState, Encoding, ErrorCode, ModelSpec, RegisterReply, RegisterRequest, ReportedState, RunId, StatusReport,
    Task, TrainTask, UpdateQuery,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use training::{Trained, Training};

/// How often progress is reported. That it is to stop, an agent is told at once.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long one who was removed, or who failed, waits before asking again.
const PAUSE: Duration = Duration::from_secs(3);
/// How long to wait for the answer to a good-bye.
const GOOD_BYE: Duration = Duration::from_secs(3);

/// Who takes part in what, with which images.
#[derive(Debug)]
pub struct AgentSettings {
    /// Where the coordinator is: `http://127.0.0.1:3000`.
    pub coordinator_url: String,
    /// The run.
    pub run: RunId,
    /// The name that the operator sees.
    pub name: String,
    /// The run's join secret, where the coordinator asks for one.
    pub join_secret: Option<String>,
    /// How to send updates, where it is not to be as the run asks.
    pub encoding: Option<Encoding>,
    /// What to do in a round.
    pub work: Work,
    /// Where to keep who we are, to be that again after a crash.
    pub identity: Option<IdentityFile>,
}

/// What an agent does to the global model.
#[derive(Debug)]
pub enum Work {
    /// It trains.
    Train {
        /// On what.
        device: Device,
        /// With what.
        images: Images,
    },
    /// It adds noise of that share of each tensor's deviation, which tries out the exchange alone.
    Noise(f32),
}

impl Work {
    fn samples(&self) -> u64 {
        match self {
            Self::Train { images, .. } => images.len() as u64,
            Self::Noise(_) => 1,
        }
    }

    fn device(&self) -> String {
        match self {
            Self::Train { device, .. } => crate::model::describe(*device),
            Self::Noise(_) => "none".to_owned(),
        }
    }
}

/// Why an agent gave up.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator will not have it.
    #[error("the coordinator refuses: {0}")]
    Refused(CallError),
    /// The run is not one that this agent can train.
    #[error("run '{0}' began with uploaded parameters: this agent trains the built-in networks only")]
    NotBuiltIn(RunId),
    /// The images do not fit the network.
    #[error("the run's network takes {} channels and {} classes, the images have {} and {}", .wanted.0, .wanted.1, .found.0, .found.1)]
    OtherData {
        /// Channels and classes of the network.
        wanted: (u32, u32),
        /// Channels and classes of the images.
        found: (usize, usize),
    },
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The coordinator ended the run for this client.
    #[error("the coordinator ended it: {0}")]
    Stopped(String),
}

/// Takes part until `leave` is cancelled; then says good-bye.
///
/// # Errors
/// The coordinator refuses for good, or the run cannot be trained here. That it does not answer is not an error: the
/// agent waits for it.
pub async fn join(mut settings: AgentSettings, leave: CancellationToken) -> Result<(), AgentError> {
    let mut transport = Transport::new(&settings.coordinator_url, &settings.run).map_err(AgentError::Refused)?;
    let result = tokio::select! {
        result = take_part(&mut settings, &mut transport) => result,
        () = leave.cancelled() => Ok(()),
    };
    // Training that still runs stops by itself: dropping `take_part` cancelled it.
    if transport.id().is_some() {
        match tokio::time::timeout(GOOD_BYE, transport.leave()).await {
            Ok(Ok(())) => {
                tracing::info!("left the run");
                settings.identity.as_mut().map(IdentityFile::forget);
            }
            Ok(Err(error)) => tracing::warn!("left without a good-bye: {error}"),
            Err(_) => tracing::warn!("left without a good-bye: no answer"),
        }
    }
    result
}

async fn take_part(settings: &mut AgentSettings, transport: &mut Transport) -> Result<(), AgentError> {
    let spec = match resume(settings, transport).await? {
        Some(spec) => spec,
        None => register(settings, transport).await?,
    };
    let (schema, worker) = match &settings.work {
        Work::Train { device, images } => {
            let network = Network::new(&spec, *device)?;
            (
                network.schema().clone(),
                Worker::Train { network: Some(Box::new(network)), images: Arc::new(images.clone()) },
            )
        }
        Work::Noise(share) => (Network::new(&spec, Device::Cpu)?.schema().clone(), Worker::Noise(*share)),
    };
    let mut agent = Agent {
        schema,
        worker,
        name: settings.name.clone(),
        encoding: settings.encoding,
        held: None,
        owed: Feedback::default(),
    };
    let mut state = None;
    loop {
        match transport.task().await {
            Ok(Task::Train(task)) => {
                state = None;
                agent.round(transport, &task).await?;
            }
            Ok(Task::Wait { state: now }) => {
                if state != Some(now) {
                    tracing::info!("{}", waiting(now));
                    state = Some(now);
                }
            }
            Ok(Task::Stop { reason }) => return Err(AgentError::Stopped(reason)),
            Err(error) => match error.code() {
                Some(ErrorCode::Kicked) => {
                    if state != Some(ClientState::Kicked) {
                        tracing::warn!("{}", waiting(ClientState::Kicked));
                        state = Some(ClientState::Kicked);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Some(ErrorCode::NotAdmitted) => tokio::time::sleep(PAUSE).await,
                // It does not know us any more, as after a fresh database: a new client, then.
                Some(ErrorCode::Unauthorized | ErrorCode::NotFound) => {
                    tracing::warn!("{error}; registering anew");
                    tokio::time::sleep(PAUSE).await;
                    if register(settings, transport).await? != spec {
                        return Err(AgentError::Stopped("the run has another network now".into()));
                    }
                    // Its versions may be others under the same numbers.
                    (agent.held, agent.owed) = (None, Feedback::default());
                }
                _ => return Err(AgentError::Refused(error)),
            },
        }
    }
}

fn waiting(state: ClientState) -> &'static str {
    match state {
        ClientState::Pending => "waiting for the operator to admit this client",
        ClientState::Kicked => "removed by the operator; waiting to be admitted again",
        ClientState::Quarantine => "in quarantine, for updates were refused; waiting to be released by the operator",
        _ => "waiting for a round",
    }
}

/// Goes on as the client that we were; none: we were none, or the coordinator does not know it any more.
async fn resume(settings: &AgentSettings, transport: &mut Transport) -> Result<Option<ModelSpec>, AgentError> {
    let Some(kept) = settings.identity.as_ref().and_then(IdentityFile::kept) else { return Ok(None) };
    transport.resume(kept.clone());
    match transport.task_within(0).await {
        Ok(_) => {}
        Err(error) => match error.code() {
            Some(ErrorCode::Kicked | ErrorCode::NotAdmitted) => {} // until the operator says otherwise
            Some(ErrorCode::Unauthorized | ErrorCode::NotFound) => {
                tracing::warn!("client {} is not known any more; registering anew", kept.client_id);
                return Ok(None);
            }
            _ => return Err(AgentError::Refused(error)),
        },
    }
    let run = transport.snapshot().await.map_err(AgentError::Refused)?;
    let spec = trainable(settings, run.model)?;
    tracing::info!("back in run '{}' as {}: {spec}", settings.run, kept.client_id);
    Ok(Some(spec))
}

async fn register(settings: &mut AgentSettings, transport: &mut Transport) -> Result<ModelSpec, AgentError> {
    let request = RegisterRequest {
        name: settings.name.clone(),
        samples: settings.work.samples(),
        device: settings.work.device(),
        join_secret: settings.join_secret.clone(),
    };
    let reply = transport.register(&request).await.map_err(AgentError::Refused)?;
    let RegisterReply { client_id, state, model, .. } = reply;
    if let (Some(file), Some(identity)) = (&mut settings.identity, transport.identity()) {
        file.keep(identity)?;
    }
    let spec = trainable(settings, model)?;
    tracing::info!("joined run '{}' as {client_id} with {} images, {state}: {spec}", settings.run, request.samples);
    Ok(spec)
}

/// The run's network, if it is one that we can train on what we have.
fn trainable(settings: &AgentSettings, model: Option<ModelSpec>) -> Result<ModelSpec, AgentError> {
    let spec = model.ok_or_else(|| AgentError::NotBuiltIn(settings.run.clone()))?;
    if let Work::Train { images, .. } = &settings.work
        && (images.channels != spec.channels as usize || images.classes > spec.classes as usize)
    {
        return Err(AgentError::OtherData {
            wanted: (spec.channels, spec.classes),
            found: (images.channels, images.classes),
        });
    }
    Ok(spec)
}

enum Worker {
    Train {
        /// Away while it trains.
        network: Option<Box<Network>>,
        images: Arc<Images>,
    },
    Noise(f32),
}

struct Agent {
    schema: Arc<Schema>,
    worker: Worker,
    name: String,
    encoding: Option<Encoding>,
    /// The last global version that was fetched: what the next one may be told by.
    held: Option<(u64, Arc<Parameters>)>,
    /// What the updates have lost so far.
    owed: Feedback,
}

impl Agent {
    /// One round. What goes wrong in it is told to the coordinator; the next round is another chance.
    async fn round(&mut self, transport: &Transport, task: &TrainTask) -> Result<(), AgentError> {
        match self.train(transport, task).await {
            Ok(true) => tracing::info!("round {}: update sent", task.round),
            Ok(false) => {
                tracing::info!("round {}: cancelled", task.round);
                say(transport, &report(ReportedState::Ready, None)).await;
            }
            Err(RoundError::Call(error)) => {
                tracing::warn!("round {}: {error}", task.round);
                match error.code() {
                    // It is over, or not ours any more: there may be another one already.
                    Some(ErrorCode::RoundClosed | ErrorCode::NotAdmitted) => {
                        say(transport, &report(ReportedState::Ready, None)).await;
                    }
                    _ => tokio::time::sleep(PAUSE).await,
                }
            }
            Err(RoundError::Here(reason)) => {
                tracing::error!("round {}: {reason}", task.round);
                let mut report = report(ReportedState::Error, Some(task.round));
                report.error = Some(reason);
                say(transport, &report).await;
                tokio::time::sleep(PAUSE).await;
            }
            Err(RoundError::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    /// Fetches, trains, sends. False if it was cancelled.
    async fn train(&mut self, transport: &Transport, task: &TrainTask) -> Result<bool, RoundError> {
        say(transport, &report(ReportedState::Update, Some(task.round))).await;
        let global = self.fetch(transport, task.version).await?;
        let Trained { parameters, loss, samples } = match self.work(transport, task, &global).await? {
            Some(trained) => trained,
            None => return Ok(false),
        };
        let encoding = self.encoding.unwrap_or(task.encoding);
        let seed = training::seed(task, &self.name);
        let recipe = UpdateRecipe { encoding, topk_fraction: task.topk_fraction, seed };
        let (version, owed) = (task.version, self.owed.clone());
        let encoded = tokio::task::spawn_blocking(move || {
            let base = Base { version, parameters: &global };
            let (body, owed) = wire::encode_update(&parameters, base, recipe, &owed)?;
            let sha256 = hex::encode(Sha256::digest(&body));
            Ok::<_, EncodeError>((body, owed, sha256))
        });
        let (body, owed, sha256) =
            encoded.await.map_err(|e| RoundError::Here(e.to_string()))?.map_err(|e| RoundError::Here(e.to_string()))?;
        let query = UpdateQuery { sha256: Some(sha256), ..UpdateQuery::whole(samples, loss) };
        let content_type = ModelFormat::Container(encoding).content_type();
        transport.update(task.round, &query, content_type, body.into()).await?;
        // What was lost is made good later only if the rest has arrived.
        self.owed = owed;
        Ok(true)
    }

    /// Does to the global model what is to be done. None if it was cancelled.
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
                let parameters = disturbed.await.map_err(|e| RoundError::Here(e.to_string()))?;
                return Ok(Some(Trained { parameters, loss: None, samples: 1 }));
            }
        };
        let here = network.take().ok_or_else(|| RoundError::Here("the network is lost".into()))?;
        let training = Training::start(*here, global.clone(), images, task, &self.name);
        let Training { progress, cancel, result } = training;
        // Whatever becomes of this future, training must not go on without it.
        let guard = cancel.clone().drop_guard();
        let reports = async {
            let mut news = std::pin::pin!(transport.news(task.round));
            let mut is_heard = false;
            while !cancel.is_cancelled() {
                tokio::select! {
                    () = &mut news, if !is_heard => is_heard = true,
                    () = tokio::time::sleep(REPORT_EVERY) => {}
                }
                let mut report = report(ReportedState::Training, Some(task.round));
                report.progress = *progress.borrow();
                if cancels(transport.status(&report).await) {
                    cancel.cancel();
                }
            }
        };
        // The end of training does not wait for the answer to a report, which may never come.
        let mut result = std::pin::pin!(result);
        let joined = tokio::select! {
            joined = &mut result => joined,
            () = reports => result.await,
        };
        drop(guard);
        let (back, trained) =
            joined.map_err(|e| RoundError::Fatal(AgentError::Stopped(format!("training broke down: {e}"))))?;
        *network = Some(Box::new(back));
        trained.map_err(|error| RoundError::Here(error.to_string()))
    }

    /// A global version: by its difference to the one that we hold, where that is shorter.
    async fn fetch(&mut self, transport: &Transport, version: u64) -> Result<Arc<Parameters>, RoundError> {
        let held = self.held.clone();
        let body = transport.model(version, held.as_ref().map(|(version, _)| *version)).await?;
        let schema = self.schema.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let base = held.as_ref().map(|(version, parameters)| Base { version: *version, parameters });
            wire::decode_against(&body, &schema, base)
        });
        let global = decoded
            .await
            .map_err(|e| RoundError::Here(e.to_string()))?
            .map_err(|e| RoundError::Here(format!("version {version} is not readable: {e}")))?;
        let global = Arc::new(global);
        self.held = Some((version, global.clone()));
        Ok(global)
    }
}

enum RoundError {
    /// The coordinator refuses: the round is over, or we are out of it.
    Call(CallError),
    /// Something here; it is reported.
    Here(String),
    /// There is no going on.
    Fatal(AgentError),
}

impl From<CallError> for RoundError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

fn report(state: ReportedState, round: Option<u64>) -> StatusReport {
    StatusReport { state, round, progress: None, error: None }
}

/// A report whose loss matters to nobody.
async fn say(transport: &Transport, report: &StatusReport) {
    if let Err(error) = transport.status(report).await {
        tracing::debug!("status not delivered: {error}");
    }
}

/// Whether the answer to a report means to stop training. No answer does not: the coordinator may be restarting.
fn cancels(answer: Result<app::api::StatusReply, CallError>) -> bool {
    match answer {
        Ok(reply) => reply.cancel,
        Err(error) => matches!(
            error.code(),
            Some(ErrorCode::Kicked | ErrorCode::NotAdmitted | ErrorCode::Unauthorized | ErrorCode::NotFound)
        ),
    }
}
