//! The native client: registers, then asks for a task, does it and reports the result, until it leaves.
//!
//! Decides how to train on this machine, and what to do when the coordinator does not answer. Leaves the rules of rounds to the
//! coordinator.

mod call_error;
mod identity;
mod network_error;
pub mod noise;
mod operator;
mod progress;
mod round;
mod training;
mod transport;

pub use call_error::CallError;
pub use identity::{IdentityError, IdentityFile};
pub use network_error::NetworkError;
pub use operator::Operator;
pub use transport::Transport;

use crate::model::{Device, Images, ModelError};
use app::api::{
    ClientState, Encoding, ErrorCode, ModelSpec, RegisterReply, RegisterRequest, Rejection, RunId, Task, TrainTask,
};
use round::Agent;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The wait after a failure, or while the client is removed, before it asks again.
const PAUSE: Duration = Duration::from_secs(3);
/// The wait for the answer when the agent leaves.
const LEAVE: Duration = Duration::from_secs(3);

/// What an agent takes part in, and with which images.
#[derive(Debug)]
pub struct AgentSettings {
    /// Address of the coordinator, such as `http://127.0.0.1:3000`.
    pub coordinator_url: String,
    /// The run.
    pub run: RunId,
    /// The name shown to the operator.
    pub name: String,
    /// The join secret, if the coordinator requires one.
    pub join_secret: Option<String>,
    /// How to send updates; `None` means as the run asks.
    pub encoding: Option<Encoding>,
    /// A PEM file of certificate authorities to trust, in addition to those of this machine.
    pub ca_cert: Option<PathBuf>,
    /// What to do in a round.
    pub work: Work,
    /// Keeps id and token, so that the agent can resume after a crash.
    pub identity: Option<IdentityFile>,
}

/// What an agent does to the global model.
#[derive(Debug)]
pub enum Work {
    /// It trains.
    Train {
        /// Where.
        device: Device,
        /// The training images.
        images: Images,
    },
    /// It adds noise of that share of each tensor's deviation, to try out the exchange alone.
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

/// Why an agent stopped.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator rejected a call, or cannot be reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The run is not one that this agent can train.
    #[error(
        "run '{0}' has an uploaded model, and `fedlearn join` trains the built-in networks only: take part with a client of \
         your own (see the README), or name another run with --run"
    )]
    NotBuiltIn(RunId),
    /// The images do not fit the network.
    #[error(
        "the images have {2} channels and {3} classes, and the run's network takes {0} channels and {1} classes: choose the \
         run's dataset with --dataset and --data, or another run with --run",
        .wanted.0, .wanted.1, .found.0, .found.1
    )]
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
    #[error("this agent has stopped: {0}")]
    Stopped(String),
}

/// Takes part until `leave` is cancelled; then leaves the run.
///
/// # Errors
/// The coordinator rejects this agent for good, or the run cannot be trained here. If the coordinator does not answer, the agent
/// waits for it.
pub async fn join(mut settings: AgentSettings, leave: CancellationToken) -> Result<(), AgentError> {
    let transport = Transport::trusting(&settings.coordinator_url, &settings.run, settings.ca_cert.as_deref());
    let mut transport = transport.map_err(AgentError::Call)?;
    let result = tokio::select! {
        result = take_part(&mut settings, &mut transport) => result,
        () = leave.cancelled() => Ok(()),
    };
    // Dropping `take_part` has cancelled training that still runs.
    if transport.id().is_some() {
        match tokio::time::timeout(LEAVE, transport.leave()).await {
            Ok(Ok(())) => {
                tracing::info!("left the run");
                settings.identity.as_mut().map(IdentityFile::forget);
            }
            Ok(Err(error)) => tracing::warn!("the coordinator did not confirm that this client left: {error}"),
            Err(_) => tracing::warn!(
                "the coordinator did not confirm that this client left: no answer within {} s",
                LEAVE.as_secs()
            ),
        }
    }
    result
}

async fn take_part(settings: &mut AgentSettings, transport: &mut Transport) -> Result<(), AgentError> {
    let (spec, samples) = match resume(settings, transport).await? {
        Some(resumed) => resumed,
        None => (register(settings, transport).await?, settings.work.samples()),
    };
    let mut agent = Agent::new(settings, &spec, samples)?;
    let mut state = None;
    let mut reported = None;
    loop {
        let task = transport.task().await;
        if let Ok(Task::Train(TrainTask { rejected, .. }) | Task::Wait { rejected, .. }) = &task {
            if let Some(Rejection { round, reason }) = rejected.as_ref().filter(|_| *rejected != reported) {
                tracing::warn!("the update for round {round} was left out of the model: {reason}");
            }
            reported.clone_from(rejected);
        }
        match task {
            Ok(Task::Train(task)) => {
                state = None;
                agent.round(transport, &task).await?;
            }
            Ok(Task::Wait { state: now, .. }) => {
                if state != Some(now) {
                    tracing::info!("{}", waiting(now));
                    state = Some(now);
                }
            }
            Ok(Task::Stop { reason }) => return Err(AgentError::Stopped(reason)),
            Ok(Task::Unknown) => {
                tracing::warn!(
                    "the coordinator is newer and sent a task that fedlearn {} does not know: install its version; asking \
                     again in {} s",
                    env!("CARGO_PKG_VERSION"),
                    PAUSE.as_secs()
                );
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => match error.code() {
                Some(ErrorCode::Kicked) => {
                    if state != Some(ClientState::Kicked) {
                        tracing::warn!("{}", waiting(ClientState::Kicked));
                        state = Some(ClientState::Kicked);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Some(ErrorCode::NotAdmitted | ErrorCode::Quarantined) => tokio::time::sleep(PAUSE).await,
                // The coordinator does not know this client any more, for example after its database was replaced.
                Some(ErrorCode::Unauthorized | ErrorCode::NotFound) => {
                    tracing::warn!("{error}; registering anew");
                    tokio::time::sleep(PAUSE).await;
                    if register(settings, transport).await? != spec {
                        return Err(AgentError::Stopped(
                            "the run has another network now, start the agent again".into(),
                        ));
                    }
                    agent.forget(settings.work.samples());
                }
                _ => return Err(AgentError::Call(error)),
            },
        }
    }
}

fn waiting(state: ClientState) -> &'static str {
    match state {
        ClientState::Pending => "waiting for the operator to admit this client",
        ClientState::Kicked => "removed by the operator; waiting to be admitted again",
        ClientState::Quarantine => {
            "in quarantine after too many rejected updates; waiting until the operator releases it"
        }
        ClientState::Error => "waiting for the next round",
        _ => "waiting for a round",
    }
}

/// Resumes as the client of the identity file. Returns the run's network and the number of images that the coordinator has for
/// the client. `None` means that there is no such client, or that the coordinator does not know it any more.
async fn resume(settings: &AgentSettings, transport: &mut Transport) -> Result<Option<(ModelSpec, u64)>, AgentError> {
    let Some(kept) = settings.identity.as_ref().and_then(IdentityFile::kept) else { return Ok(None) };
    transport.resume(kept.clone());
    match transport.task_within(0).await {
        Ok(_) => {}
        Err(error) => match error.code() {
            Some(ErrorCode::Kicked | ErrorCode::NotAdmitted | ErrorCode::Quarantined) => {} // until the operator admits it again
            Some(ErrorCode::Unauthorized | ErrorCode::NotFound) => {
                tracing::warn!("client {} is not known any more; registering anew", kept.client_id);
                return Ok(None);
            }
            _ => return Err(AgentError::Call(error)),
        },
    }
    let run = transport.snapshot().await.map_err(AgentError::Call)?;
    let samples = run.client(&kept.client_id).map_or(settings.work.samples(), |client| client.samples);
    let spec = trainable(settings, run.model)?;
    tracing::info!("back in run '{}' as {}: {spec}", settings.run, kept.client_id);
    Ok(Some((spec, samples)))
}

async fn register(settings: &mut AgentSettings, transport: &mut Transport) -> Result<ModelSpec, AgentError> {
    let request = RegisterRequest {
        name: settings.name.clone(),
        samples: settings.work.samples(),
        device: settings.work.device(),
        join_secret: settings.join_secret.clone(),
    };
    let reply = transport.register(&request).await.map_err(AgentError::Call)?;
    let RegisterReply { client_id, state, model, .. } = reply;
    if let (Some(file), Some(identity)) = (&mut settings.identity, transport.identity()) {
        file.keep(identity)?;
    }
    let spec = trainable(settings, model)?;
    tracing::info!("joined run '{}' as {client_id} with {} images, {state}: {spec}", settings.run, request.samples);
    Ok(spec)
}

/// The run's network, if this agent can train it with its images.
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
