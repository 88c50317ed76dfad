//! What is durable in the simulated world: rows, as plain values.

use app::api::{
    Autorun, ClientId, ClientState, ClientView, Mode, OpenRound, Rejection, RoundOutcome, RoundSummary, RunConfig,
};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::{Assignment, Closed, Received, RecentNorms, Restored, RestoredClient, RestoredRound};
use fedlearn::run::Record;
use std::collections::{BTreeMap, BTreeSet};

/// A global model: which updates are in it, by client, round asked in and what it was. That is all that matters here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    pub made_of: Vec<(ClientId, u64, [u8; 32])>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpdateRow {
    pub sha256: [u8; 32],
    pub received: Received,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContributionRow {
    pub asked: Assignment,
    pub update: Option<UpdateRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientRow {
    pub view: ClientView,
    pub banned: bool,
    pub asked: u64,
    pub sends_heartbeats: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RoundRow {
    pub round: OpenRound,
    pub contributions: BTreeMap<ClientId, ContributionRow>,
    pub closed: Option<Closed>,
    pub ended: Option<RoundSummary>,
}

/// The tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    pub clients: BTreeMap<ClientId, ClientRow>,
    pub rounds: BTreeMap<u64, RoundRow>,
    pub configs: BTreeMap<u64, RunConfig>,
    pub versions: BTreeMap<u64, Model>,
    /// Models that are durable, by the name of their blob.
    pub blobs: BTreeMap<[u8; 32], Model>,
    pub autorun: u32,
    pub best: Option<app::api::BestVersion>,
    /// Updates that were taken out again: whose, round asked in, and what it was.
    pub dropped: BTreeSet<(ClientId, u64, [u8; 32])>,
}

impl Database {
    pub fn new(config: RunConfig) -> Self {
        Self {
            clients: BTreeMap::new(),
            rounds: BTreeMap::new(),
            configs: BTreeMap::from([(1, config)]),
            versions: BTreeMap::from([(0, Model::default())]),
            blobs: BTreeMap::new(),
            autorun: 0,
            best: None,
            dropped: BTreeSet::new(),
        }
    }

    pub fn version(&self) -> u64 {
        *self.versions.last_key_value().unwrap().0
    }

    /// One transaction, as the store of the coordinator does it.
    pub fn save(&mut self, record: &Record<'_>) {
        match record {
            Record::Joined { client, .. } => {
                let row = ClientRow { view: (*client).clone(), banned: false, asked: 0, sends_heartbeats: false };
                assert!(self.clients.insert(client.id.clone(), row).is_none(), "{} joins twice", client.id);
            }
            Record::Client { client, banned } => {
                for row in self.clients.values_mut().filter(|row| row.view.name == client.name) {
                    row.banned = *banned;
                }
                // What an update has put on the account is not overwritten by this.
                if let Some(row) = self.clients.get_mut(&client.id) {
                    let ClientView { rounds, sent_bytes, last_loss, rejected, .. } = row.view.clone();
                    row.view = ClientView { rounds, sent_bytes, last_loss, rejected, ..(*client).clone() };
                }
            }
            Record::HeartbeatsBegan { client } => {
                if let Some(row) = self.clients.get_mut(*client) {
                    row.sends_heartbeats = true;
                }
            }
            Record::Left { client } => _ = self.clients.remove(*client),
            Record::RoundOpened { round, assignments } => {
                assert_eq!(round.cohort.len(), assignments.len());
                assert!(self.open().is_none(), "a round is open beside round {}", round.number);
                let mut contributions = BTreeMap::new();
                for (client, asked) in round.cohort.iter().zip(*assignments) {
                    contributions.insert(client.clone(), ContributionRow { asked: *asked, update: None });
                    self.clients.get_mut(client).unwrap().asked = round.number;
                }
                let row = RoundRow { round: (*round).clone(), contributions, closed: None, ended: None };
                assert!(self.rounds.insert(round.number, row).is_none(), "round {} opens twice", round.number);
            }
            Record::Asked { round, client, assignment } => {
                let row = ContributionRow { asked: *assignment, update: None };
                self.rounds.get_mut(round).unwrap().contributions.insert((*client).clone(), row);
                self.clients.get_mut(*client).unwrap().asked = *round;
            }
            Record::Update { round, client, received, at_ms } => {
                let row = self.rounds.get_mut(round).unwrap();
                assert!(row.ended.is_none() && row.closed.is_none(), "an update for round {round}, which is over");
                let contribution = row.contributions.get_mut(*client).unwrap();
                assert!(contribution.update.is_none(), "a second update of {client} for round {round}");
                let sha256 = received.body.sha256.0;
                contribution.update = Some(UpdateRow { sha256, received: (*received).clone() });
                let view = &mut self.clients.get_mut(*client).unwrap().view;
                view.rounds += 1;
                view.seen_ms = view.seen_ms.max(*at_ms);
                view.sent_bytes += received.body.bytes;
                view.last_loss = received.loss.or(view.last_loss);
                view.error = None;
                view.rejected = None;
            }
            Record::Dropped { round, client, is_open } => {
                let state = self.clients.get(*client).map(|row| offline(&row.view).state);
                assert_ne!(state, Some(ClientState::Offline), "{client} is welcome, and its update is taken out");
                let row = self.rounds.get_mut(round).unwrap();
                let contribution = row.contributions.get_mut(*client).unwrap();
                if let Some(update) = contribution.update.take() {
                    self.dropped.insert(((*client).clone(), contribution.asked.round, update.sha256));
                    if let Some(client) = self.clients.get_mut(*client) {
                        client.view.rejected = None;
                    }
                }
                if *is_open {
                    row.closed = None;
                    for (id, contribution) in &row.contributions {
                        if let Some(client) = self.clients.get_mut(id) {
                            let is_of_this = |rejection: &Rejection| rejection.round == contribution.asked.round;
                            client.view.rejected = client.view.rejected.take().filter(|r| !is_of_this(r));
                        }
                    }
                }
            }
            Record::Deadline { round, deadline_ms } => {
                self.rounds.get_mut(round).unwrap().round.deadline_ms = *deadline_ms;
            }
            Record::Closed { round, closed } => {
                let row = self.rounds.get_mut(round).unwrap();
                assert!(row.ended.is_none() && row.contributions.values().any(|c| c.update.is_some()));
                row.closed = Some((*closed).clone());
                for (id, contribution) in row.contributions.iter().filter(|(_, c)| c.update.is_some()) {
                    if let Some(client) = self.clients.get_mut(id) {
                        let rejection =
                            |reason: &String| Rejection { round: contribution.asked.round, reason: reason.clone() };
                        client.view.rejected = closed.rejected.get(id).map(rejection);
                    }
                }
            }
            Record::RoundEnded { summary, version, autorun_rounds } => {
                let row = self.rounds.get_mut(&summary.number).unwrap();
                assert!(row.ended.is_none(), "round {} ends twice", summary.number);
                assert_eq!(summary.outcome == RoundOutcome::Complete, version.is_some());
                row.ended = Some((*summary).clone());
                self.autorun = *autorun_rounds;
                if let Some(new) = version {
                    assert_eq!((Some(new.version), new.version), (summary.version, self.version() + 1));
                    self.versions.insert(new.version, self.blobs[&new.sha256.0].clone());
                }
            }
            Record::Autorun { rounds } => self.autorun = *rounds,
            Record::Config { version, config, .. } => {
                assert!(self.configs.insert(*version, (*config).clone()).is_none());
            }
            Record::Event { .. } => {}
        }
    }

    pub fn open(&self) -> Option<&RoundRow> {
        self.rounds.values().rev().find(|row| row.ended.is_none())
    }

    /// The update that is stored of a client for the round that it was asked in.
    pub fn contribution(&self, client: &ClientId, asked_round: u64) -> Option<Sha256Digest> {
        let rows = self.rounds.values().filter_map(|row| row.contributions.get(client));
        let mut rows = rows.filter(|row| row.asked.round == asked_round).filter_map(|row| row.update.as_ref());
        let found = rows.next().map(|update| Sha256Digest(update.sha256));
        assert!(rows.next().is_none(), "two updates of {client} for round {asked_round}");
        found
    }

    /// What a coordinator finds that starts now.
    pub fn restored(&self) -> Restored {
        let (config_version, config) = self.configs.last_key_value().unwrap();
        let mut recent_norms = RecentNorms::default();
        let is_over = |row: &&RoundRow| row.ended.is_some() && row.round.config_version == *config_version;
        for (id, row) in self.rounds.values().filter(is_over).flat_map(|row| &row.contributions) {
            if let Some(update) = &row.update {
                recent_norms.push(id, update.received.norm);
            }
        }
        Restored {
            config: config.clone(),
            config_version: *config_version,
            version: self.version(),
            next_round: self.rounds.last_key_value().map_or(1, |(number, _)| number + 1),
            roster: self
                .clients
                .values()
                .map(|row| RestoredClient {
                    view: offline(&row.view),
                    banned: row.banned,
                    asked: row.asked,
                    sends_heartbeats: row.sends_heartbeats,
                })
                .collect(),
            round: self.open().map(|row| self.restored_round(row)),
            carried: self.unfinished(),
            recent_norms,
            autorun: (self.autorun > 0).then_some(Autorun { rounds: self.autorun }),
        }
    }

    fn restored_round(&self, row: &RoundRow) -> RestoredRound {
        let mut open = row.round.clone();
        open.cohort = row.contributions.keys().cloned().collect();
        open.updated.clear();
        let earlier = row.contributions.iter().filter(|(_, c)| c.asked.round < open.number);
        let received =
            row.contributions.iter().filter_map(|(id, c)| Some((id.clone(), c.update.as_ref()?.received.clone())));
        RestoredRound {
            config: self.configs[&open.config_version].clone(),
            earlier: earlier.map(|(id, c)| (id.clone(), c.asked)).collect(),
            received: received.collect(),
            closed: row.closed.clone(),
            open,
        }
    }

    /// Who may still be at work for a round that is over.
    fn unfinished(&self) -> BTreeMap<ClientId, Assignment> {
        let last = self.rounds.last_key_value().map(|(_, row)| row);
        let last =
            last.filter(|row| row.ended.is_some() && self.configs[&row.round.config_version].mode == Mode::Async);
        let rows = last.into_iter().flat_map(|row| &row.contributions).filter(|(_, c)| c.update.is_none());
        rows.map(|(id, c)| (id.clone(), c.asked)).collect()
    }
}

/// As the database keeps it: whether a client trains or waits, it will say itself.
fn offline(view: &ClientView) -> ClientView {
    let state = match view.state {
        ClientState::Pending | ClientState::Kicked | ClientState::Quarantine => view.state,
        _ => ClientState::Offline,
    };
    ClientView { state, progress: None, ..view.clone() }
}
