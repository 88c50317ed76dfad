//! What a coordinator has stored, and so what a restart finds: brought up to date by commands and effects, in the order
//! and no earlier than the effects ask for it.

use super::super::{Assignment, RecentNorms, RestoredClient, RestoredRound};
use super::*;
use app::api::Autorun;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ledger {
    configs: BTreeMap<u64, RunConfig>,
    pub version: u64,
    pub last_number: u64,
    clients: BTreeMap<ClientId, RestoredClient>,
    pub round: Option<RestoredRound>,
    /// Who went on working when the last round was over.
    pub carried: BTreeMap<ClientId, Assignment>,
    recent_norms: RecentNorms,
    pub autorun: Option<Autorun>,
}

impl Ledger {
    pub fn new(from: &Restored) -> Self {
        Self {
            configs: [(from.config_version, from.config.clone())].into(),
            version: from.version,
            last_number: from.next_round - 1,
            clients: from.roster.iter().map(|client| (client.view.id.clone(), client.clone())).collect(),
            round: from.round.clone(),
            carried: from.carried.clone(),
            recent_norms: from.recent_norms.clone(),
            autorun: from.autorun,
        }
    }

    /// What is stored before the machine is told; it has taken the command.
    pub fn command(&mut self, machine: &RoundMachine, command: &Command) {
        match command {
            Command::Join { client, .. } => {
                let view = machine.client(client).unwrap().clone();
                let new = RestoredClient { view, banned: false, asked: 0, sends_heartbeats: false };
                self.clients.entry(client.clone()).or_insert(new);
            }
            Command::Update { client, update, .. } => {
                self.round.as_mut().unwrap().received.insert(client.clone(), update.clone());
            }
            Command::Configure { config, config_version } => {
                self.configs.insert(*config_version, (**config).clone());
                self.recent_norms = RecentNorms::default();
            }
            _ => {}
        }
    }

    /// What an effect asks to be stored, from the machine as it is when all of its input is done.
    pub fn effect(&mut self, machine: &RoundMachine, effect: &Effect) {
        match effect {
            Effect::StoreClient { client, .. } => {
                if let Some(view) = machine.client(client) {
                    let stored = self.clients.get_mut(client).unwrap();
                    stored.view = view.clone();
                    stored.banned = machine.is_banned(&view.name);
                }
            }
            Effect::HeartbeatsBegan(client) => self.clients.get_mut(client).unwrap().sends_heartbeats = true,
            Effect::RemoveClient(view) => _ = self.clients.remove(&view.id),
            Effect::RoundOpened => {
                let open = machine.open_round().unwrap().clone();
                let config = self.configs[&open.config_version].clone();
                let earlier = machine.carried().map(|(id, earlier)| (id.clone(), earlier)).collect();
                open.cohort.iter().for_each(|id| self.asked(id, open.number));
                self.last_number = open.number;
                let received = BTreeMap::new();
                self.round = Some(RestoredRound { open, config, earlier, received, closed: None });
            }
            Effect::Cohort { client, step } => {
                let number = self.round.as_ref().unwrap().open.number;
                if machine.open_round().is_none_or(|open| open.number != number) {
                    return; // ended by the same input
                }
                let round = self.round.as_mut().unwrap();
                match step {
                    CohortStep::Asked => {
                        round.open.place(client, CohortStep::Asked);
                        round.earlier.remove(client);
                        self.asked(client, number);
                    }
                    CohortStep::Counted => {}
                    CohortStep::Dropped => {
                        round.received.remove(client);
                        if machine.closed().is_none() {
                            round.closed = None;
                        }
                    }
                }
            }
            Effect::DeadlineMoved => {
                if let (Some(round), Some(open)) = (&mut self.round, machine.open_round()) {
                    round.open.deadline_ms = open.deadline_ms;
                }
            }
            Effect::RoundEnded(summary) => {
                let round = self.round.take().unwrap();
                self.carried.clear();
                if round.config.mode == Mode::Async {
                    let this = Assignment { round: round.open.number, version: round.open.base_version };
                    let left = round.open.cohort.iter().filter(|id| !round.received.contains_key(*id));
                    self.carried.extend(left.map(|id| (id.clone(), *round.earlier.get(id).unwrap_or(&this))));
                }
                self.autorun = machine.autorun();
                let newest = *self.configs.last_key_value().unwrap().0;
                for (id, update) in round.received.iter().filter(|_| round.open.config_version == newest) {
                    self.recent_norms.push(id, update.norm);
                }
                if summary.outcome == RoundOutcome::Complete {
                    self.version = summary.version.unwrap();
                }
            }
            Effect::Course => self.autorun = machine.autorun(),
            Effect::Aggregate { .. } => {
                self.round.as_mut().unwrap().closed = machine.closed().cloned();
                for (id, client) in &mut self.clients {
                    if let Some(view) = machine.client(id) {
                        client.view.rejected.clone_from(&view.rejected); // stored with the updates
                    }
                }
            }
            Effect::ShowClient(_) => {}
        }
    }

    fn asked(&mut self, id: &ClientId, round: u64) {
        if let Some(client) = self.clients.get_mut(id) {
            client.asked = round;
        }
    }

    pub fn restored(&self) -> Restored {
        let (config_version, config) = self.configs.last_key_value().unwrap();
        Restored {
            config: config.clone(),
            config_version: *config_version,
            version: self.version,
            next_round: self.last_number + 1,
            roster: self.clients.values().cloned().collect(),
            round: self.round.clone(),
            carried: if self.round.is_none() { self.carried.clone() } else { BTreeMap::new() },
            recent_norms: self.recent_norms.clone(),
            autorun: self.autorun,
        }
    }
}
