//! Who is known to the run, and who of them is there.

use super::restored::RestoredClient;
use super::{Reject, UnixMs};
use crate::digest::Sha256Digest;
use app::api::{ClientId, ClientState, ClientView};
use std::collections::{BTreeMap, BTreeSet};

/// The most clients a roster holds, kicked ones included: what bounds the memory that registrations can take.
pub const MAX_CLIENTS: usize = 100_000;
/// How often a client that works for a round is to send a heartbeat.
pub const HEARTBEAT_INTERVAL_S: u32 = 20;
/// A client that is not heard of for this long is `offline`: three heartbeats are missing, or two long-polls of 25 s. One that
/// is silent is not.
pub const OFFLINE_AFTER_MS: u64 = 3 * HEARTBEAT_INTERVAL_S as u64 * 1_000;

/// Whether a client in that state may be asked to train. One in `join` may: it fetches the model anyway.
pub(super) fn is_eligible(state: ClientState) -> bool {
    use ClientState::{Finish, Join, Ready, Training, Update};
    matches!(state, Join | Ready | Training | Update | Finish)
}

/// Whether nothing of a client in that state is taken.
pub(super) fn is_out(state: ClientState) -> bool {
    matches!(state, ClientState::Pending | ClientState::Quarantine | ClientState::Kicked)
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    view: ClientView,
    /// The round it was last asked in; 0: in none.
    asked: u64,
    /// Its strikes, by the digest of what it sent: the same one counts once. Not kept over a restart.
    struck: Vec<Sha256Digest>,
    /// It has taken a task, and sent no heartbeat since: many clients send none while they train.
    is_silent: bool,
    /// It has ever sent one.
    sends_heartbeats: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Roster {
    clients: BTreeMap<ClientId, Entry>,
    /// By name, when each client of that name registered.
    names: BTreeMap<String, BTreeSet<(UnixMs, ClientId)>>,
    /// The eligible ones by when they were heard of, the silent ones last: the first is the next to go offline.
    online: BTreeSet<(UnixMs, ClientId)>,
    /// Those who await admission.
    pending: BTreeSet<ClientId>,
    /// Those who are admitted, but `offline` or in `error`.
    absent: BTreeSet<ClientId>,
    /// Those who are not there and were never asked, by when they were heard of: the first makes room for a newcomer.
    idle: BTreeSet<(UnixMs, ClientId)>,
    banned: BTreeSet<String>,
}

/// What of a client decides on which lists it is.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    state: ClientState,
    seen_ms: UnixMs,
    /// Nothing would be lost with it but its registration.
    is_idle: bool,
    is_silent: bool,
}

impl Place {
    fn of(Entry { view, asked, is_silent, .. }: &Entry) -> Self {
        let is_away = matches!(view.state, ClientState::Pending | ClientState::Offline | ClientState::Error);
        let is_idle = is_away && *asked == 0 && view.strikes == 0;
        Self { state: view.state, seen_ms: view.seen_ms, is_idle, is_silent: *is_silent }
    }

    /// From when on its silence is counted.
    fn silent_since(self) -> UnixMs {
        if self.is_silent { UnixMs::MAX } else { self.seen_ms }
    }
}

impl Roster {
    /// The roster as it was stored. Nobody has been heard of yet, hence whoever is admitted is `offline`; and nobody after
    /// `now`, wherever the clock stood when that was noted.
    pub fn restored(now: UnixMs, clients: Vec<RestoredClient>) -> Self {
        let mut roster = Self {
            clients: BTreeMap::new(),
            names: BTreeMap::new(),
            online: BTreeSet::new(),
            pending: BTreeSet::new(),
            absent: BTreeSet::new(),
            idle: BTreeSet::new(),
            banned: BTreeSet::new(),
        };
        for RestoredClient { mut view, banned, asked, sends_heartbeats } in clients {
            let id = view.id.clone();
            if !is_out(view.state) {
                view.state = ClientState::Offline;
            }
            view.progress = None;
            view.seen_ms = view.seen_ms.min(now);
            if banned {
                roster.banned.insert(view.name.clone());
            }
            roster.insert(view);
            roster.edit_entry(&id, |entry| (entry.asked, entry.sends_heartbeats) = (asked, sends_heartbeats));
        }
        roster
    }

    pub fn get(&self, id: &ClientId) -> Option<&ClientView> {
        self.clients.get(id).map(|entry| &entry.view)
    }

    /// By id.
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

    /// A client that makes room for another one where the roster is full.
    pub fn dispensable(&self, now: UnixMs) -> Option<&ClientId> {
        let (seen_ms, id) = self.idle.first()?;
        (now >= seen_ms.saturating_add(OFFLINE_AFTER_MS)).then_some(id)
    }

    pub fn insert(&mut self, view: ClientView) {
        let entry = Entry { view, asked: 0, struck: Vec::new(), is_silent: false, sends_heartbeats: false };
        let registered = (entry.view.joined_ms, entry.view.id.clone());
        self.names.entry(entry.view.name.clone()).or_default().insert(registered);
        self.list(&entry.view.id, Place::of(&entry));
        self.clients.insert(entry.view.id.clone(), entry);
    }

    pub fn remove(&mut self, id: &ClientId) -> Option<ClientView> {
        let entry = self.clients.remove(id)?;
        self.unlist(id, Place::of(&entry));
        if let Some(namesakes) = self.names.get_mut(&entry.view.name) {
            namesakes.remove(&(entry.view.joined_ms, id.clone()));
            if namesakes.is_empty() {
                self.names.remove(&entry.view.name);
            }
        }
        Some(entry.view)
    }

    /// The clients of that name.
    pub fn namesakes(&self, name: &str) -> impl Iterator<Item = &ClientId> {
        self.names.get(name).into_iter().flatten().map(|(_, id)| id)
    }

    /// Whether another client has registered under the name of this one since it was last heard of: a program that lost its
    /// identity has most likely started again.
    pub fn is_replaced(&self, id: &ClientId) -> bool {
        let Some(view) = self.get(id) else { return false };
        let newest = self.names.get(&view.name).and_then(BTreeSet::last);
        newest.is_some_and(|(joined_ms, newest)| newest != id && *joined_ms >= view.seen_ms)
    }

    /// Records whether the client has taken a task and sent no heartbeat since: then its silence does not mean that it is
    /// gone. Whatever ends its training ends that too.
    pub fn set_silent(&mut self, id: &ClientId, is_silent: bool) {
        self.edit_entry(id, |entry| entry.is_silent = is_silent);
    }

    /// Records a heartbeat. Returns whether it is the first of this client.
    pub fn heartbeat(&mut self, id: &ClientId) -> bool {
        self.set_silent(id, false);
        self.clients.get_mut(id).is_some_and(|entry| !std::mem::replace(&mut entry.sends_heartbeats, true))
    }

    /// Whether the client has ever sent a heartbeat.
    pub fn sends_heartbeats(&self, id: &ClientId) -> bool {
        self.clients.get(id).is_some_and(|entry| entry.sends_heartbeats)
    }

    /// The one way to change a client: keeps the lists in step. Returns its state before and after.
    pub fn edit(&mut self, id: &ClientId, edit: impl FnOnce(&mut ClientView)) -> Option<(ClientState, ClientState)> {
        self.edit_entry(id, |entry| edit(&mut entry.view))
    }

    fn edit_entry(&mut self, id: &ClientId, edit: impl FnOnce(&mut Entry)) -> Option<(ClientState, ClientState)> {
        let entry = self.clients.get_mut(id)?;
        let before = Place::of(entry);
        edit(entry);
        entry.is_silent &= entry.view.state == ClientState::Training;
        let after = Place::of(entry);
        if before != after {
            self.unlist(id, before);
            self.list(id, after);
        }
        Some((before.state, after.state))
    }

    fn list(&mut self, id: &ClientId, place: Place) {
        if place.is_idle {
            self.idle.insert((place.seen_ms, id.clone()));
        }
        match place.state {
            ClientState::Pending => _ = self.pending.insert(id.clone()),
            ClientState::Offline | ClientState::Error => _ = self.absent.insert(id.clone()),
            state if is_eligible(state) => _ = self.online.insert((place.silent_since(), id.clone())),
            _ => {}
        }
    }

    fn unlist(&mut self, id: &ClientId, place: Place) {
        if place.is_idle {
            self.idle.remove(&(place.seen_ms, id.clone()));
        }
        match place.state {
            ClientState::Pending => _ = self.pending.remove(id),
            ClientState::Offline | ClientState::Error => _ = self.absent.remove(id),
            state if is_eligible(state) => _ = self.online.remove(&(place.silent_since(), id.clone())),
            _ => {}
        }
    }

    /// Those who await admission.
    pub fn pending(&self) -> &BTreeSet<ClientId> {
        &self.pending
    }

    /// Those who are admitted, but `offline` or in `error`.
    pub fn absent(&self) -> &BTreeSet<ClientId> {
        &self.absent
    }

    /// How many may be asked to train.
    pub fn eligible(&self) -> usize {
        self.online.len()
    }

    /// The same, less those whose time to go offline has come without anybody having taken note of it yet.
    pub fn eligible_at(&self, now: UnixMs) -> usize {
        self.online.iter().rev().take_while(|(seen_ms, _)| now < seen_ms.saturating_add(OFFLINE_AFTER_MS)).count()
    }

    /// Those who may be asked to train, with the round they were last asked in.
    pub fn candidates(&self) -> impl Iterator<Item = (u64, ClientId)> {
        self.online.iter().filter_map(|(_, id)| self.clients.get(id).map(|entry| (entry.asked, id.clone())))
    }

    pub fn set_asked(&mut self, cohort: &[ClientId], round: u64) {
        for id in cohort {
            self.edit_entry(id, |entry| entry.asked = round);
        }
    }

    /// Notes a strike. False if it is counted already.
    pub fn strike(&mut self, id: &ClientId, digest: Sha256Digest) -> bool {
        let Some(entry) = self.clients.get_mut(id).filter(|entry| !entry.struck.contains(&digest)) else {
            return false;
        };
        entry.struck.push(digest);
        true
    }

    /// Forgets the strikes of a client.
    pub fn lift_strikes(&mut self, id: &ClientId) {
        if let Some(entry) = self.clients.get_mut(id) {
            entry.struck.clear();
        }
    }

    /// When the next client goes offline, and which, if none is heard of.
    pub fn next_offline(&self) -> Option<(UnixMs, &ClientId)> {
        let (since, id) = self.online.first().filter(|(since, _)| *since < UnixMs::MAX)?;
        Some((since.saturating_add(OFFLINE_AFTER_MS), id))
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
