//! The native client: registers, then asks what to do, does it, and says how it went, until it is told to leave.
//!
//! Decides how to train on this machine and how to go on when the coordinator does not answer. Refuses to know how
//! rounds are made: it does what its task says.

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
    /// A PEM file of certificate authorities to trust beside those of this machine.
    pub ca_cert: Option<PathBuf>,
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
    /// The coordinator refused, or cannot be reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The run is not one that this agent can train.
    #[error(
        "run '{0}' began with parameters of somebody's own, and `fedlearn join` trains the built-in networks only: take \
         part with a client of your own (see the README), or name another run with --run"
    )]
    NotBuiltIn(RunId),
    /// The images do not fit the network.
    #[error(
        "the run's network takes images of {} channels and {} classes, these have {} and {}: choose the run's dataset with \
         --dataset and --data, or another run with --run",
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

/// Takes part until `leave` is cancelled; then says good-bye.
///
/// # Errors
/// The coordinator refuses for good, or the run cannot be trained here. That it does not answer is not an error: the
/// agent waits for it.
pub async fn join(mut settings: AgentSettings, leave: CancellationToken) -> Result<(), AgentError> {
    let transport = Transport::trusting(&settings.coordinator_url, &settings.run, settings.ca_cert.as_deref());
    let mut transport = transport.map_err(AgentError::Call)?;
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
                // It does not know us any more, as after a fresh database: a new client, then.
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

/// Resumes as the client that we were. Returns the run's network and the number of images that the coordinator has for us;
/// `None`: we were no client, or the coordinator does not know it any more.
async fn resume(settings: &AgentSettings, transport: &mut Transport) -> Result<Option<(ModelSpec, u64)>, AgentError> {
    let Some(kept) = settings.identity.as_ref().and_then(IdentityFile::kept) else { return Ok(None) };
    transport.resume(kept.clone());
    match transport.task_within(0).await {
        Ok(_) => {}
        Err(error) => match error.code() {
            Some(ErrorCode::Kicked | ErrorCode::NotAdmitted | ErrorCode::Quarantined) => {} // until the operator says otherwise
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
