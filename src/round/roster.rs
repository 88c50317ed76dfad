//! Who is known to the run, and who of them is there.

use super::{Reject, UnixMs};
use app::api::{ClientId, ClientState, ClientView};
use std::collections::{BTreeMap, BTreeSet};

/// The most clients a roster holds, kicked ones included: what bounds the memory that registrations can take.
pub const MAX_CLIENTS: usize = 100_000;
/// A client not heard of for so long is `offline`: two long-polls of 25 s, and some.
pub const OFFLINE_AFTER_MS: u64 = 60_000;

/// Whether a client in that state may be asked to train. One in `join` may: it fetches the model anyway.
pub(super) fn is_eligible(state: ClientState) -> bool {
    use ClientState::{Finish, Join, Ready, Training, Update};
    matches!(state, Join | Ready | Training | Update | Finish)
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    view: ClientView,
    /// The round it was last asked in; 0: in none.
    asked: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Roster {
    clients: BTreeMap<ClientId, Entry>,
    /// The eligible ones by when they were heard of: the first is the next to go offline.
    online: BTreeSet<(UnixMs, ClientId)>,
    banned: BTreeSet<String>,
}

impl Roster {
    /// The roster as it was stored. Nobody has been heard of yet, hence whoever is admitted is `offline`.
    pub fn restored(clients: Vec<ClientView>, banned: BTreeSet<String>) -> Self {
        let entry = |mut view: ClientView| {
            if !matches!(view.state, ClientState::Pending | ClientState::Kicked) {
                view.state = ClientState::Offline;
            }
            view.progress = None;
            view.error = None;
            (view.id.clone(), Entry { view, asked: 0 })
        };
        Self { clients: clients.into_iter().map(entry).collect(), online: BTreeSet::new(), banned }
    }

    pub fn get(&self, id: &ClientId) -> Option<&ClientView> {
        self.clients.get(id).map(|entry| &entry.view)
    }

    /// In no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &ClientView> {
        self.clients.values().map(|entry| &entry.view)
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// The client, whatever its state.
    pub fn known(&self, id: &ClientId) -> Result<&ClientView, Reject> {
        self.get(id).ok_or_else(|| Reject::UnknownClient(id.clone()))
    }

    /// The client, unless the operator removed it.
    pub fn welcome(&self, id: &ClientId) -> Result<&ClientView, Reject> {
        self.known(id)
            .and_then(|view| if view.state == ClientState::Kicked { Err(Reject::Kicked(id.clone())) } else { Ok(view) })
    }

    pub fn insert(&mut self, view: ClientView) {
        if is_eligible(view.state) {
            self.online.insert((view.seen_ms, view.id.clone()));
        }
        self.clients.insert(view.id.clone(), Entry { view, asked: 0 });
    }

    pub fn remove(&mut self, id: &ClientId) -> Option<ClientView> {
        let view = self.clients.remove(id)?.view;
        self.online.remove(&(view.seen_ms, view.id.clone()));
        Some(view)
    }

    /// The one way to change a client: keeps `online` in step.
    pub fn edit(&mut self, id: &ClientId, edit: impl FnOnce(&mut ClientView)) -> Option<ClientState> {
        let view = &mut self.clients.get_mut(id)?.view;
        let (state, seen_ms) = (view.state, view.seen_ms);
        edit(view);
        let (before, after) = (is_eligible(state), is_eligible(view.state));
        if (before, seen_ms) != (after, view.seen_ms) {
            if before {
                self.online.remove(&(seen_ms, id.clone()));
            }
            if after {
                self.online.insert((view.seen_ms, id.clone()));
            }
        }
        Some(view.state)
    }

    /// How many may be asked to train.
    pub fn eligible(&self) -> usize {
        self.online.len()
    }

    /// Those who may be asked to train, with the round they were last asked in.
    pub fn candidates(&self) -> impl Iterator<Item = (u64, ClientId)> {
        self.online.iter().filter_map(|(_, id)| self.clients.get(id).map(|entry| (entry.asked, id.clone())))
    }

    pub fn set_asked(&mut self, cohort: &[ClientId], round: u64) {
        for id in cohort {
            if let Some(entry) = self.clients.get_mut(id) {
                entry.asked = round;
            }
        }
    }

    /// When the next client goes offline, and which, if none is heard of.
    pub fn next_offline(&self) -> Option<(UnixMs, &ClientId)> {
        self.online.first().map(|(seen_ms, id)| (seen_ms.saturating_add(OFFLINE_AFTER_MS), id))
    }

    pub fn is_banned(&self, name: &str) -> bool {
        self.banned.contains(name)
    }

    pub fn ban(&mut self, id: &ClientId) {
        if let Some(entry) = self.clients.get(id) {
            self.banned.insert(entry.view.name.clone());
        }
    }

    pub fn lift_ban(&mut self, id: &ClientId) {
        if let Some(entry) = self.clients.get(id) {
            self.banned.remove(&entry.view.name);
        }
    }
}
