//! A run as it is seen from outside: its round, its history, its roster.

use super::model::word;
use super::{ClientId, ClientState, ClientView, Dataset, Encoding, ModelSpec, RunConfig, RunId};
use serde::{Deserialize, Serialize};

word!(
    /// What a run does now.
    Phase {
        /// No round is open and none is planned.
        Idle = "idle",
        /// A round is wanted, and there are too few clients for it.
        Waiting = "waiting",
        /// A round is open: its cohort trains.
        Training = "training",
        /// Updates are combined, the result is evaluated and stored.
        Aggregating = "aggregating",
    }
);

word!(
    /// How a round ended.
    RoundOutcome {
        /// A new global version came of it.
        Complete = "complete",
        /// It had too few updates, or was overtaken by events: no new version.
        Void = "void",
    }
);

/// A round that is open or being aggregated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct OpenRound {
    /// Counts from 1 and never repeats, void rounds included.
    pub number: u64,
    /// The version its cohort starts from.
    pub base_version: u64,
    /// The configuration it runs under.
    pub config_version: u64,
    /// When it opened.
    pub opened_ms: u64,
    /// When it closes without the missing ones.
    pub deadline_ms: u64,
    /// It closes as soon as so many updates are in.
    pub target: u32,
    /// Who was asked, sorted.
    pub cohort: Vec<ClientId>,
    /// Whose update is in, sorted.
    pub updated: Vec<ClientId>,
}

impl OpenRound {
    /// Brings the lists up to date with what happened to a client.
    pub fn place(&mut self, client: &ClientId, step: CohortStep) {
        match step {
            CohortStep::Asked => insert(&mut self.cohort, client),
            CohortStep::Counted => insert(&mut self.updated, client),
            CohortStep::Dropped => self.updated.retain(|id| id != client),
        }
    }
}

fn insert(sorted: &mut Vec<ClientId>, client: &ClientId) {
    if let Err(place) = sorted.binary_search(client) {
        sorted.insert(place, client.clone());
    }
}

word!(
    /// What happens to a client in an open round.
    CohortStep {
        /// It was asked after the round had opened, as in asynchronous runs.
        Asked = "asked",
        /// Its update is in.
        Counted = "counted",
        /// Its update is out again: the client was kicked, or put in quarantine.
        Dropped = "dropped",
    }
);

/// A round that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct RoundSummary {
    /// Counts from 1.
    pub number: u64,
    /// How it ended.
    pub outcome: RoundOutcome,
    /// Why it ended so, for a person.
    pub reason: String,
    /// The version its cohort started from.
    pub base_version: u64,
    /// The version that came of it, if complete.
    pub version: Option<u64>,
    /// The configuration it ran under.
    pub config_version: u64,
    /// Clients asked.
    pub cohort: u32,
    /// Updates combined; of a void round, updates received.
    pub updates: u32,
    /// Updates received and left out, for they were out of proportion to the others (`max_norm_ratio`).
    #[serde(default)]
    pub rejected: u32,
    /// Images behind the combined updates.
    pub samples: u64,
    /// Bytes of all bodies received.
    pub received_bytes: u64,
    /// Of asynchronous runs: how many versions behind they were, on average.
    pub mean_staleness: Option<f64>,
    /// Where `max_weight_share` lowered weights; `None` where it lowered none.
    pub lowered_weights: Option<LoweredWeights>,
    /// Their mean training loss, weighted as they are.
    pub train_loss: Option<f64>,
    /// Loss of the new version on the test split.
    pub test_loss: Option<f64>,
    /// Accuracy of the new version on the test split: 0 to 1.
    pub test_accuracy: Option<f64>,
    /// When it opened.
    pub opened_ms: u64,
    /// When it ended, evaluation included.
    pub ended_ms: u64,
}

/// Where the setting `max_weight_share` acted in a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct LoweredWeights {
    /// The clients whose weight was lowered, the heaviest claim first. All have the same weight now.
    pub clients: Vec<ClientId>,
    /// The share of the round's weight that the first one would have had by its samples: 0 to 1.
    pub claimed: f64,
    /// The share that it has.
    pub share: f64,
}

/// Rounds that follow by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Autorun {
    /// Rounds still to complete, the open one included.
    #[cfg_attr(feature = "ssr", schema(minimum = 1, maximum = 100_000))]
    pub rounds: u32,
}

impl Autorun {
    /// The most rounds one call may ask for.
    pub const MAX_ROUNDS: u32 = 100_000;
}

/// The version with the highest accuracy so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct BestVersion {
    /// The version.
    pub version: u64,
    /// The round that made it.
    pub round: u64,
    /// Its accuracy on the test split: 0 to 1.
    pub test_accuracy: f64,
}

/// Everything there is to see of a run. `GET /runs/{run}`, the page's first paint, and the first event of `/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct RunSnapshot {
    /// Number of the last event in it.
    pub seq: u64,
    /// The run.
    pub run: RunId,
    /// When the run was created.
    pub created_ms: u64,
    /// Since when it is archived, in Unix milliseconds; `null`: it is not. An archived run takes no clients and opens no
    /// rounds.
    pub archived_ms: Option<u64>,
    /// The built-in network, or none where the run began with uploaded parameters.
    pub model: Option<ModelSpec>,
    /// Values in the model.
    pub parameters: u64,
    /// Whose test split the coordinator evaluates on; none: it does not evaluate.
    pub dataset: Option<Dataset>,
    /// The configuration that the next round takes.
    pub config: RunConfig,
    /// Its version, from 1: the ETag of this resource.
    pub config_version: u64,
    /// What the run does now.
    pub phase: Phase,
    /// One sentence: what it waits for, and what happens next.
    pub waiting: String,
    /// Rounds that follow by themselves.
    pub autorun: Option<Autorun>,
    /// The current global version; 0 is the initial one.
    pub version: u64,
    /// The most accurate version so far.
    pub best: Option<BestVersion>,
    /// The round in work.
    pub round: Option<OpenRound>,
    /// The roster, by time of registration.
    pub clients: Vec<ClientView>,
    /// The rounds that are over, in order.
    pub rounds: Vec<RoundSummary>,
}

impl RunSnapshot {
    /// How many clients are in that state.
    pub fn count(&self, state: ClientState) -> usize {
        self.clients.iter().filter(|c| c.state == state).count()
    }

    /// The client of that id.
    pub fn client(&self, id: &ClientId) -> Option<&ClientView> {
        self.clients.iter().find(|c| c.id == *id)
    }
}

/// A line of `GET /runs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct RunLine {
    /// The run.
    pub run: RunId,
    /// The built-in network, if it is one.
    pub model: Option<ModelSpec>,
    /// What it does now.
    pub phase: Phase,
    /// Since when it is archived, in Unix milliseconds; `null`: it is not.
    pub archived_ms: Option<u64>,
    /// The current global version.
    pub version: u64,
    /// The most accurate version so far.
    pub best: Option<BestVersion>,
    /// Clients on the roster.
    pub clients: u32,
}

/// `POST /runs` with JSON: a run of a built-in network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateRun {
    /// Its name.
    pub run: RunId,
    /// Its network.
    pub model: ModelSpec,
    /// Whose test split to evaluate on.
    #[serde(default)]
    pub dataset: Option<Dataset>,
    /// Its configuration.
    #[serde(default)]
    pub config: RunConfig,
}

/// Query of `POST /runs` with a safetensors body: a run of somebody's own network. The coordinator cannot evaluate it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct CreateRunQuery {
    /// Its name.
    pub run: RunId,
    /// The encoding of its updates; the default of `RunConfig` if absent.
    #[serde(default)]
    pub encoding: Option<Encoding>,
}

/// Query of `GET /runs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ListRunsQuery {
    /// The archived runs instead of the open ones.
    #[serde(default)]
    pub archived: bool,
}

/// Query of what ends the work of a run: to archive, rename or delete it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ForceQuery {
    /// Also while clients are at work on a round.
    #[serde(default)]
    pub force: bool,
}

/// `POST .../rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The new name.
    pub run: RunId,
}

/// `POST .../clients/{id}/kick`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KickRequest {
    /// Refuse later registrations under this client's name too, until it is admitted again.
    #[serde(default)]
    pub ban: bool,
}

/// `POST /session`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The admin token, shown once at the coordinator's first start.
    pub token: String,
}
