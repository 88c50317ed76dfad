//! What changes in a run, as it is broadcast; and the one `apply` that server and page share.

use super::{
    Autorun, BestVersion, ClientId, ClientView, CohortStep, OpenRound, Phase, RoundSummary, RunConfig, RunSnapshot,
};
use serde::{Deserialize, Serialize};

/// One change of a run. The SSE stream sends a [`RunSnapshot`] as event `snapshot`, then these as event `change`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
// Not tagged inside (`tag = "kind"`): serde would then read every type in here by a second way, 60 kB of the WASM.
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The course of rounds: phase, sentence, autorun.
    Course {
        /// See [`RunSnapshot::phase`].
        phase: Phase,
        /// See [`RunSnapshot::waiting`].
        waiting: String,
        /// See [`RunSnapshot::autorun`].
        autorun: Option<Autorun>,
        /// Of the round in work, which may have moved: see [`OpenRound::deadline_ms`].
        deadline_ms: Option<u64>,
    },
    /// A round has opened.
    RoundOpened {
        /// As it is at its beginning.
        round: Box<OpenRound>,
    },
    /// Something happened to one client of the open round: told alone, since a cohort may be large.
    Cohort {
        /// Which one.
        client: ClientId,
        /// What happened.
        step: CohortStep,
    },
    /// A client appeared or changed.
    Client {
        /// How it is now.
        client: Box<ClientView>,
    },
    /// A client left by itself.
    ClientLeft {
        /// Which one.
        id: ClientId,
    },
    /// A round is over.
    RoundEnded {
        /// How it went.
        summary: Box<RoundSummary>,
        /// The global version from now on.
        version: u64,
        /// The most accurate version so far.
        best: Option<BestVersion>,
    },
    /// The operator changed the configuration.
    Config {
        /// The one that the next round takes.
        config: Box<RunConfig>,
        /// Its version.
        config_version: u64,
    },
}

/// A change with its place in the order of a run's changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct Event {
    /// Counts up by one; the id of the SSE event.
    pub seq: u64,
    /// What changed.
    pub change: Change,
}

impl RunSnapshot {
    /// Brings the snapshot up to date. An event that it holds already changes nothing.
    ///
    /// Returns false if an event between the two is missing: the caller then needs a fresh snapshot.
    pub fn apply(&mut self, event: &Event) -> bool {
        if event.seq <= self.seq {
            return true;
        }
        if event.seq != self.seq + 1 {
            return false;
        }
        self.seq = event.seq;
        match &event.change {
            Change::Course { phase, waiting, autorun, deadline_ms } => {
                self.phase = *phase;
                self.waiting.clone_from(waiting);
                self.autorun = *autorun;
                if let (Some(round), Some(deadline_ms)) = (&mut self.round, deadline_ms) {
                    round.deadline_ms = *deadline_ms;
                }
            }
            Change::RoundOpened { round } => self.round = Some((**round).clone()),
            Change::Cohort { client, step } => {
                if let Some(round) = &mut self.round {
                    round.place(client, *step);
                }
            }
            Change::Client { client } => self.place_client(client),
            Change::ClientLeft { id } => self.clients.retain(|c| c.id != *id),
            Change::RoundEnded { summary, version, best } => {
                self.round = None;
                self.rounds.push((**summary).clone());
                self.version = *version;
                self.best = *best;
            }
            Change::Config { config, config_version } => {
                self.config = (**config).clone();
                self.config_version = *config_version;
            }
        }
        true
    }

    /// By the time of registration, which never changes: a walk over the roster at every word of every client would be
    /// most of what a coordinator of 100,000 does.
    fn place_client(&mut self, client: &ClientView) {
        let from = self.clients.partition_point(|c| c.joined_ms < client.joined_ms);
        let until = from + self.clients[from..].partition_point(|c| c.joined_ms == client.joined_ms);
        match self.clients[from..until].iter_mut().find(|c| c.id == client.id) {
            Some(known) => known.clone_from(client),
            None => self.clients.insert(until, client.clone()),
        }
    }
}
