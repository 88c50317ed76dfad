//! A run as signals: what the page shows, in parts that change at different speeds.
//!
//! The truth is one [`RunSnapshot`], brought up to date by the same `apply` as the coordinator's. Each part of it that
//! is drawn on its own has a signal, and each client has its own, so that one client's progress redraws one row.
//! `live` supplies the snapshots and events.

use crate::api::{
    Autorun, BestVersion, Change, ClientId, ClientState, ClientView, Event, OpenRound, Phase, RoundSummary, RunConfig,
    RunId, RunSnapshot,
};
use crate::page_data::PageData;
use leptos::prelude::*;

/// How the page is kept up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As the server rendered it: no script has run yet, or ever will.
    Static,
    /// Events arrive.
    Live,
    /// No events arrive, and a new connection is being tried.
    Reconnecting,
}

/// What a click led to, for the notice line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub refused: bool,
    pub text: String,
}

/// See [`Change::Course`].
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    pub phase: Phase,
    pub waiting: String,
    pub autorun: Option<Autorun>,
    pub round: Option<RoundNow>,
}

/// What the page shows of the round in work: counts, since its cohort may be thousands, and each of them an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundNow {
    pub number: u64,
    pub deadline_ms: u64,
    /// Clients asked.
    pub asked: usize,
    /// Updates that are in.
    pub updated: usize,
    /// Updates that close it: fewer than asked with over-selection, and where rounds are asynchronous.
    pub wanted: usize,
}

impl RoundNow {
    fn new(round: &OpenRound) -> Self {
        let asked = round.cohort.len();
        Self {
            number: round.number,
            deadline_ms: round.deadline_ms,
            asked,
            updated: round.updated.len(),
            wanted: asked.min(round.target as usize),
        }
    }
}

/// The configuration that the next round takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub config: RunConfig,
    pub version: u64,
}

/// The rounds that are over, and what came of them.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    pub rounds: Vec<RoundSummary>,
    pub version: u64,
    pub best: Option<BestVersion>,
}

/// A client with a signal of its own.
#[derive(Debug, Clone)]
pub struct ClientRow {
    pub id: ClientId,
    pub view: ArcRwSignal<ClientView>,
}

impl PartialEq for ClientRow {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl ClientRow {
    fn new(client: &ClientView) -> Self {
        Self { id: client.id.clone(), view: ArcRwSignal::new(client.clone()) }
    }
}

/// All signals of the page. Copied freely: it holds handles.
#[derive(Clone, Copy)]
pub struct Board {
    snapshot: StoredValue<RunSnapshot>,
    pub course: RwSignal<Course>,
    pub history: RwSignal<History>,
    pub settings: RwSignal<Settings>,
    pub clients: RwSignal<Vec<ClientRow>>,
    pub link: RwSignal<Link>,
    pub notice: RwSignal<Option<Notice>>,
    /// The client that the operator is asked about: kick it or not.
    pub kicking: RwSignal<Option<ClientRow>>,
    /// Now, by the coordinator's clock.
    pub now_ms: RwSignal<u64>,
    /// What to add to the browser's clock to get the coordinator's.
    ahead_ms: StoredValue<Option<i64>>,
    /// Whether the viewer is the operator.
    pub admin: bool,
    /// Whether the run is archived: then it can only be read.
    pub archived: bool,
}

impl Board {
    /// The board of a page that shows `snapshot`.
    pub fn new(snapshot: RunSnapshot, page: &PageData) -> Self {
        Self {
            course: RwSignal::new(course(&snapshot)),
            history: RwSignal::new(history(&snapshot)),
            settings: RwSignal::new(settings(&snapshot)),
            clients: RwSignal::new(snapshot.clients.iter().map(ClientRow::new).collect()),
            link: RwSignal::new(Link::Static),
            notice: RwSignal::new(None),
            kicking: RwSignal::new(None),
            now_ms: RwSignal::new(page.now_ms),
            ahead_ms: StoredValue::new(None),
            admin: page.admin,
            archived: snapshot.archived_ms.is_some(),
            snapshot: StoredValue::new(snapshot),
        }
    }

    /// Whether the viewer may control rounds, clients and configuration.
    pub fn is_controlled(&self) -> bool {
        self.admin && !self.archived
    }

    /// The run's name.
    pub fn run(&self) -> RunId {
        self.snapshot.with_value(|snapshot| snapshot.run.clone())
    }

    /// Replaces everything: the connection starts anew. Rows of clients that stay are kept.
    pub fn reset(&self, snapshot: RunSnapshot) {
        self.course.set(course(&snapshot));
        self.history.set(history(&snapshot));
        self.settings.set(settings(&snapshot));
        let old = self.clients.get_untracked();
        let rows = snapshot.clients.iter().map(|client| match old.iter().find(|row| row.id == client.id) {
            Some(row) => {
                row.view.set(client.clone());
                row.clone()
            }
            None => ClientRow::new(client),
        });
        self.clients.set(rows.collect());
        self.snapshot.set_value(snapshot);
    }

    /// Takes one event. False means that one is missing before it: get a new snapshot.
    pub fn apply(&self, event: &Event) -> bool {
        let before = self.snapshot.with_value(|snapshot| snapshot.seq);
        if !self.snapshot.try_update_value(|snapshot| snapshot.apply(event)).unwrap_or(false) {
            return false;
        }
        if event.seq > before {
            self.redraw(&event.change);
        }
        true
    }

    /// Tells the signal behind that part of the snapshot, and no other.
    fn redraw(&self, change: &Change) {
        match change {
            Change::Course { .. } | Change::RoundOpened { .. } | Change::Cohort { .. } => {
                self.course.set(self.snapshot.with_value(course))
            }
            Change::RoundEnded { .. } => {
                self.course.set(self.snapshot.with_value(course));
                self.history.set(self.snapshot.with_value(history));
            }
            Change::Config { .. } => self.settings.set(self.snapshot.with_value(settings)),
            Change::ClientLeft { id } => self.clients.update(|rows| rows.retain(|row| row.id != *id)),
            Change::Client { client } => {
                let known = self.clients.with_untracked(|rows| rows.iter().find(|row| row.id == client.id).cloned());
                match known {
                    Some(row) => row.view.set((**client).clone()),
                    None => self.clients.update(|rows| rows.push(ClientRow::new(client))),
                }
            }
        }
    }

    /// The roster in the order to show it: who needs the operator first, who is gone last.
    pub fn roster(&self) -> Vec<ClientRow> {
        let mut rows = self.clients.get();
        rows.sort_by_key(|row| {
            row.view.with(|client| match client.state {
                ClientState::Pending | ClientState::Quarantine => 0,
                ClientState::Kicked => 2,
                _ => 1,
            })
        });
        rows
    }

    /// How many clients are in each state that any is in, in the order of the states.
    pub fn counts(&self) -> Vec<(ClientState, usize)> {
        let rows = self.clients.get();
        let count = |state| rows.iter().filter(|row| row.view.with(|client| client.state == state)).count();
        ClientState::ALL.iter().map(|state| (*state, count(*state))).filter(|(_, n)| *n > 0).collect()
    }

    /// Learns from a time that the coordinator has surely reached by now. The first is the page's own, the later ones
    /// mend it where the page came out of a cache or took long.
    pub fn hear_clock(&self, browser_ms: u64, coordinator_ms: u64) {
        let ahead = coordinator_ms.cast_signed() - browser_ms.cast_signed();
        self.ahead_ms.update_value(|known| *known = Some(known.map_or(ahead, |known| known.max(ahead))));
    }

    /// Moves [`Self::now_ms`] on.
    pub fn tick(&self, browser_ms: u64) {
        if let Some(ahead) = self.ahead_ms.get_value() {
            self.now_ms.set(browser_ms.saturating_add_signed(ahead));
        }
    }
}

fn course(snapshot: &RunSnapshot) -> Course {
    Course {
        phase: snapshot.phase,
        waiting: snapshot.waiting.clone(),
        autorun: snapshot.autorun,
        round: snapshot.round.as_ref().map(RoundNow::new),
    }
}

fn settings(snapshot: &RunSnapshot) -> Settings {
    Settings { config: snapshot.config.clone(), version: snapshot.config_version }
}

fn history(snapshot: &RunSnapshot) -> History {
    History { rounds: snapshot.rounds.clone(), version: snapshot.version, best: snapshot.best }
}

#[cfg(test)]
mod tests;
