//! What can be asked of the machine.

use super::{Reject, RoundMachine, UnixMs};
use app::api::{Autorun, ClientId, ClientState, ClientView, OpenRound, Phase, RunConfig, Task, TrainTask};

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

    /// What the client should do now. It has been heard of: handle [`super::Command::Seen`] first, or one that is
    /// `offline` is told to wait. One in `error` waits too, until it reports that it can go on.
    ///
    /// # Errors
    /// The client is unknown or kicked.
    pub fn task(&self, now: UnixMs, id: &ClientId) -> Result<Task, Reject> {
        let state = self.roster.welcome(id)?.state;
        let work = self.round.as_ref().filter(|round| round.is_open() && round.awaited().contains(id));
        Ok(work.map_or(Task::Wait { state }, |round| {
            Task::Train(TrainTask {
                round: round.open.number,
                version: round.open.base_version,
                encoding: round.config.encoding,
                topk_fraction: round.config.topk_fraction,
                train: round.config.train.clone(),
                deadline_ms: round.open.deadline_ms,
                server_ms: now,
            })
        }))
    }

    /// Whether an update of that client for that round would be counted now.
    ///
    /// # Errors
    /// It would not, and why.
    pub fn may_update(&self, id: &ClientId, round: u64) -> Result<(), Reject> {
        if self.roster.welcome(id)?.state == ClientState::Pending {
            return Err(Reject::NotAdmitted(id.clone()));
        }
        if round >= self.next_round {
            return Err(Reject::TooEarly { round });
        }
        let current = self.round.as_ref().filter(|r| r.open.number == round);
        match current {
            Some(current) if current.has_update(id) => Err(Reject::AlreadyUpdated { client: id.clone(), round }),
            Some(current) if !current.is_open() => Err(Reject::RoundClosed { round }),
            Some(current) if !current.was_asked(id) => Err(Reject::NotInCohort { client: id.clone(), round }),
            Some(_) => Ok(()),
            None => Err(Reject::RoundClosed { round }),
        }
    }

    /// Whether the client, working for that round, should stop: no update of it would be counted any more.
    pub fn is_cancelled(&self, id: &ClientId, round: u64) -> bool {
        self.may_update(id, round).is_err()
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
