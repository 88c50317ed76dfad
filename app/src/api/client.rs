//! A client as it registers, is told what to do, reports, and is seen by the operator.

use super::model::word;
use super::{ClientId, Encoding, ModelSpec, TrainConfig};
use serde::{Deserialize, Serialize};

word!(
    /// Where a client stands, shown as it is.
    ClientState {
        /// Awaits admission.
        Pending = "pending",
        /// Registered, fetching its first model.
        Join = "join",
        /// Waits for a round.
        Ready = "ready",
        /// Has taken its task, and trains.
        Training = "training",
        /// Fetches the new global model.
        Update = "update",
        /// Its update of this round is in.
        Finish = "finish",
        /// Not heard of for a while.
        Offline = "offline",
        /// Failed, as it said, at this round or altogether.
        Error = "error",
        /// Sent too many updates that were refused: nothing of it is taken until the operator admits it again.
        Quarantine = "quarantine",
        /// Removed by the operator.
        Kicked = "kicked",
    }
);

/// `POST /runs/{run}/clients`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Shown to the operator, in sentences too: 1 to 64 letters, digits, spaces and `.` `_` `@` `+` `-`, no space at either
    /// end.
    #[cfg_attr(feature = "ssr", schema(max_length = 64))]
    pub name: String,
    /// How many training images the client holds.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 1_000_000_000_000_i64))]
    pub samples: u64,
    /// What it trains on, for the operator: `cpu`, `cuda:0`.
    #[serde(default)]
    #[cfg_attr(feature = "ssr", schema(min_length = 1, max_length = 64))]
    pub device: String,
    /// The run's join secret, where the coordinator asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_secret: Option<String>,
}

impl RegisterRequest {
    /// The longest name or device, in characters.
    pub const MAX_TEXT_CHARS: usize = 64;

    /// What is out of bounds, each naming the field and the bound; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let is_long = |text: &str| text.chars().count() > Self::MAX_TEXT_CHARS;
        let is_plain = |c: char| c.is_alphanumeric() || " ._@+-".contains(c);
        let name = &self.name;
        if name.is_empty() || is_long(name) || name.trim() != name || !name.chars().all(is_plain) {
            problems.push(format!(
                "name is 1 to {} letters, digits, spaces and . _ @ + -, no space at either end",
                Self::MAX_TEXT_CHARS
            ));
        }
        if is_long(&self.device) || !self.device.chars().all(|c| c.is_alphanumeric() || (' '..='~').contains(&c)) {
            problems.push(format!("device is at most {} letters, digits and signs of ASCII", Self::MAX_TEXT_CHARS));
        }
        problems.extend(samples_problem(self.samples));
        problems
    }
}

/// What is wrong with a number of training images.
fn samples_problem(samples: u64) -> Option<String> {
    let is_possible = (1..=1_000_000_000_000).contains(&samples);
    (!is_possible).then(|| format!("samples must be between 1 and 10^12, got {samples}"))
}

/// `PATCH .../clients/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ClientPatch {
    /// How many training images the client holds now.
    pub samples: u64,
}

impl ClientPatch {
    /// What is out of bounds, each naming the field and the bound; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        samples_problem(self.samples).into_iter().collect()
    }
}

/// The answer to [`RegisterRequest`]: 201.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct RegisterReply {
    /// Names the client from now on.
    pub client_id: ClientId,
    /// Bearer token of the client plane: 256 random bits, kept only as a hash by the coordinator.
    pub token: String,
    /// `pending` or `join`.
    pub state: ClientState,
    /// The built-in network, or none where the run began with uploaded parameters.
    pub model: Option<ModelSpec>,
}

/// `GET .../task`: what to do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Fetch the model, train, send the update.
    Train(TrainTask),
    /// Nothing to do yet: ask again.
    Wait {
        /// Where the client stands.
        state: ClientState,
        /// Why its last update is not in the model, until another one of it is received.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rejected: Option<Rejection>,
    },
    /// The operator has banned this client, or has archived, renamed or deleted its run: it need not ask again.
    Stop {
        /// Why, for a person.
        reason: String,
    },
    /// A task of a newer coordinator: ask again later. It is never sent.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// One round's work for one client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct TrainTask {
    /// The round.
    pub round: u64,
    /// The version of the global model to start from: `GET .../models/{version}`.
    pub version: u64,
    /// How to send the update in our container. Safetensors is always welcome too.
    pub encoding: Encoding,
    /// Of the encoding `topk`: the share of a tensor's values that an update changes; of each at least 1,024.
    pub topk_fraction: f64,
    /// What to do.
    pub train: TrainConfig,
    /// When the round closes without this client's update, in Unix milliseconds by the coordinator's clock.
    pub deadline_ms: u64,
    /// How often to send a heartbeat while training, in seconds: `PUT .../status`, or `GET .../task` with the round. Heartbeats
    /// are optional. A client that sends none after it has taken this task is awaited until the deadline; a client that has
    /// begun to send them is given up after three missing ones.
    pub heartbeat_interval_s: u32,
    /// Now, by the coordinator's clock, in Unix milliseconds.
    pub server_ms: u64,
    /// Why the client's last update is not in the model, until another one of it is received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejection>,
}

/// An update that was received and, when its round closed, found out of proportion to the others. It is no strike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct Rejection {
    /// The round that the client was asked in.
    pub round: u64,
    /// The update's norm, the median that it was held against, the setting, and what to do: a sentence for people.
    pub reason: String,
}

/// How far local training has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The current epoch, from 1.
    pub epoch: u32,
    /// How many there are.
    pub epochs: u32,
    /// Batches done in this epoch.
    pub batch: u32,
    /// How many there are.
    pub batches: u32,
    /// Mean training loss of this epoch so far.
    pub loss: f64,
}

impl Progress {
    /// Share of the work done: 0 to 1.
    pub fn fraction(&self) -> f64 {
        let total = f64::from(self.epochs.max(1)) * f64::from(self.batches.max(1));
        let done = f64::from(self.epoch.saturating_sub(1)) * f64::from(self.batches) + f64::from(self.batch);
        (done / total).clamp(0.0, 1.0)
    }
}

word!(
    /// What a client may say of itself.
    ReportedState {
        /// Holds the model and waits.
        Ready = "ready",
        /// Fetches the global model.
        Update = "update",
        /// Trains.
        Training = "training",
        /// Has failed at the round that it names, and is asked again in the next one; or, where it names none, cannot work at
        /// all until it says otherwise or a round that asked it ends.
        Error = "error",
    }
);

/// `PUT .../status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StatusReport {
    /// What the client does.
    pub state: ReportedState,
    /// The round it works for, where it works for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// How far it has come, with `training`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What went wrong, with `error`; cut to 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The answer to [`StatusReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct StatusReply {
    /// Stop training for that round: it is closed, or this client is no longer part of it.
    pub cancel: bool,
    /// Where the client stands now.
    pub state: ClientState,
}

/// Query of `PUT .../rounds/{n}/updates/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct UpdateQuery {
    /// Images trained on: the weight of this update.
    #[cfg_attr(feature = "ssr", param(minimum = 1, maximum = 1_000_000_000_000_i64))]
    pub samples: u64,
    /// Mean training loss of the last local epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// SHA-256 of the whole body, hexadecimal. With it, an upload whose connection breaks can be gone on with: what has come
    /// is kept until the round is over, or so many others were broken off later that there is no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "ssr", param(pattern = "^[0-9a-fA-F]{64}$"))]
    pub sha256: Option<String>,
    /// Where in the whole body this one begins: at most as many bytes as `GET` says are here. Needs `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl UpdateQuery {
    /// Of an update that is sent as a whole.
    pub fn whole(samples: u64, loss: Option<f64>) -> Self {
        Self { samples, loss, sha256: None, offset: None }
    }
}

/// `GET .../rounds/{n}/updates/{id}`: what is here of a client's update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct UploadView {
    /// The round it is for.
    pub round: u64,
    /// SHA-256 of the whole body, hexadecimal; of one that is not complete, as the client said.
    pub sha256: String,
    /// Whether the update is complete and counted: nothing is left to do.
    pub counted: bool,
    /// How many bytes are here of one that is not: go on there, with `offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The answer to an update: 202 when it was taken, 200 when this very update was in already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct UpdateReply {
    /// The round it was trained for.
    pub round: u64,
    /// SHA-256 of the body as it came, hexadecimal.
    pub sha256: String,
    /// Bytes of the body.
    pub bytes: u64,
}

/// A client as the operator sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct ClientView {
    /// Its id.
    pub id: ClientId,
    /// The name it gave.
    pub name: String,
    /// Where it stands.
    pub state: ClientState,
    /// Training images it holds.
    pub samples: u64,
    /// What it trains on.
    pub device: String,
    /// Local progress, while it trains.
    pub progress: Option<Progress>,
    /// Mean training loss it reported last.
    pub last_loss: Option<f64>,
    /// Bytes of all its counted updates.
    pub sent_bytes: u64,
    /// Rounds it contributed to.
    pub rounds: u64,
    /// When it registered.
    pub joined_ms: u64,
    /// When it was last heard of.
    pub seen_ms: u64,
    /// What it reported, with `error`; else why its last update was refused, until one is counted.
    pub error: Option<String>,
    /// Why its last update was left out of the model when its round closed, until another one is received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejection>,
    /// Updates rejected for what cannot be an honest mistake, since the operator last admitted the client.
    pub strikes: u32,
    /// Updates that came when their round was closed.
    pub late_updates: u64,
}

impl ClientView {
    /// A client that has just registered.
    pub fn new(id: ClientId, name: String, samples: u64, device: String, state: ClientState, now_ms: u64) -> Self {
        Self {
            id,
            name,
            state,
            samples,
            device,
            progress: None,
            last_loss: None,
            sent_bytes: 0,
            rounds: 0,
            joined_ms: now_ms,
            seen_ms: now_ms,
            error: None,
            rejected: None,
            strikes: 0,
            late_updates: 0,
        }
    }
}
