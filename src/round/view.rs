//! What can be asked of the machine.

use super::current::CurrentRound;
use super::{Assignment, Closed, HEARTBEAT_INTERVAL_S, Reject, RoundMachine, StoredBody, UnixMs};
use crate::digest::Sha256Digest;
use app::api::{Autorun, ClientId, ClientState, ClientView, OpenRound, Phase, RunConfig, Task, TrainTask};

/// A counted update, as it enters the aggregate.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Which client sent it.
    pub client: ClientId,
    /// The version that it was trained from.
    pub version: u64,
    /// What its change is multiplied by.
    pub share: f64,
    /// Its body.
    pub body: StoredBody,
}

impl RoundMachine {
    /// The client of that id.
    pub fn client(&self, id: &ClientId) -> Option<&ClientView> {
        self.roster.get(id)
    }

    /// The roster, by time of registration. Sorts: for snapshots, not for every request.
    pub fn clients(&self) -> impl Iterator<Item = &ClientView> {
        let mut clients: Vec<_> = self.roster.iter().collect();
        // Stable, and the roster iterates by id: equal times stay in an order that lasts.
        clients.sort_by_key(|c| c.joined_ms);
        clients.into_iter()
    }

    /// Whether registrations under that name are refused. Belongs to what is stored of a kicked client.
    pub fn is_banned(&self, name: &str) -> bool {
        self.roster.is_banned(name)
    }

    /// The round in work, also while it is aggregated.
    pub fn open_round(&self) -> Option<&OpenRound> {
        self.round.as_ref().map(|r| &r.open)
    }

    /// Since when the round in work takes no more updates, and why; none while it does.
    pub fn closed(&self) -> Option<&Closed> {
        self.round.as_ref()?.closed()
    }

    /// Those of the round in work who began in an earlier one, and at what they work.
    pub fn carried(&self) -> impl Iterator<Item = (&ClientId, Assignment)> {
        self.round.iter().flat_map(CurrentRound::earlier)
    }

    /// The SHA-256 of the update that the round in work counts of a client.
    pub fn counted(&self, id: &ClientId) -> Option<Sha256Digest> {
        Some(self.round.as_ref()?.cohort.update(id)?.received.body.sha256)
    }

    /// What a client of the round in work is asked for.
    pub fn assignment(&self, id: &ClientId) -> Option<Assignment> {
        self.round.as_ref()?.cohort.assignment(id)
    }

    /// What is combined of the round in work, by client: the updates that are in and not rejected.
    pub fn parts(&self) -> Vec<Part> {
        let Some(round) = &self.round else { return Vec::new() };
        let parts = round.accepted().zip(round.weights().shares).map(|((id, counted), share)| Part {
            client: id.clone(),
            version: round.open.base_version - counted.staleness,
            share,
            body: counted.received.body.clone(),
        });
        parts.collect()
    }

    /// What the run does now.
    pub fn phase(&self) -> Phase {
        match &self.round {
            Some(round) if round.is_open() => Phase::Training,
            Some(_) => Phase::Aggregating,
            None if self.autorun.is_some() => Phase::Waiting,
            None => Phase::Idle,
        }
    }

    /// Rounds that follow by themselves.
    pub fn autorun(&self) -> Option<Autorun> {
        self.autorun
    }

    /// The newest configuration, which the next round takes.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Its version.
    pub fn config_version(&self) -> u64 {
        self.config_version
    }

    /// The current global version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the client should do now. It has been heard of: handle [`super::Command::Ask`] first, or one that is
    /// `offline` is told to wait. One in `error` waits too, until it reports that it can go on.
    ///
    /// # Errors
    /// The client is unknown or kicked.
    pub fn task(&self, now: UnixMs, id: &ClientId) -> Result<Task, Reject> {
        let client = self.roster.welcome(id)?;
        let (state, rejected) = (client.state, client.rejected.clone());
        let round = self.round.as_ref().filter(|round| round.is_open() && round.cohort.awaited().contains(id));
        let work = round.and_then(|round| Some((round, round.cohort.assignment(id)?)));
        Ok(match work {
            None => Task::Wait { state, rejected },
            Some((round, assignment)) => Task::Train(TrainTask {
                round: assignment.round,
                version: assignment.version,
                encoding: round.config.encoding,
                topk_fraction: round.config.topk_fraction,
                train: round.config.train.clone(),
                deadline_ms: round.open.deadline_ms,
                heartbeat_interval_s: HEARTBEAT_INTERVAL_S,
                server_ms: now,
                rejected,
            }),
        })
    }

    /// What the client was asked for, if its update for that round would be counted now.
    ///
    /// # Errors
    /// Why it would not be counted.
    pub fn may_update(&self, id: &ClientId, round: u64) -> Result<Assignment, Reject> {
        match self.roster.welcome(id)?.state {
            ClientState::Pending => return Err(Reject::NotAdmitted(id.clone())),
            ClientState::Quarantine => return Err(Reject::Quarantined(id.clone())),
            _ => {}
        }
        if round == self.next_round {
            return Err(Reject::TooEarly { round });
        }
        if round == 0 || round > self.next_round {
            return Err(Reject::NoSuchRound { round, next: self.next_round });
        }
        let Some(current) = &self.round else {
            let is_carried = self.carried.get(id).is_some_and(|earlier| earlier.round == round);
            return Err(if is_carried { Reject::Aggregating { round } } else { Reject::RoundClosed { round } });
        };
        match current.cohort.assignment(id).filter(|assignment| assignment.round == round) {
            Some(_) if current.has_update(id) => Err(Reject::AlreadyUpdated { client: id.clone(), round }),
            Some(assignment) if current.is_open() => Ok(assignment),
            Some(_) if current.is_async() => Err(Reject::Aggregating { round: current.open.number }),
            None if round == current.open.number && current.is_open() => {
                Err(Reject::NotInCohort { client: id.clone(), round })
            }
            _ => Err(Reject::RoundClosed { round }),
        }
    }

    /// Whether the client, working for that round, should stop: no update of it would be counted any more.
    pub fn is_cancelled(&self, id: &ClientId, round: u64) -> bool {
        !matches!(self.may_update(id, round), Ok(_) | Err(Reject::Aggregating { .. }))
    }

    /// The oldest round for which updates may still come: that in work, or of asynchronous runs an earlier one.
    pub fn oldest_round(&self) -> u64 {
        let carried = self.carried.values().map(|earlier| earlier.round);
        let earlier = self.carried().map(|(_, earlier)| earlier.round);
        carried.chain(earlier).chain(self.open_round().map(|round| round.number)).min().unwrap_or(self.next_round)
    }

    /// How many eligible clients a round needs if it opens now: `min_clients`, at least 1.
    pub(super) fn min_clients(&self) -> usize {
        self.config.min_clients.max(1) as usize
    }

    /// Where a client stands that is there and has nothing to do.
    pub(super) fn resting_state(&self, id: &ClientId) -> ClientState {
        if self.round.as_ref().is_some_and(|r| r.has_update(id)) { ClientState::Finish } else { ClientState::Ready }
    }
}
