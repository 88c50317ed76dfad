//! The cohort of the round in work: one entry a client.

use super::command::{Assignment, Counted};
use super::roster::is_eligible;
use app::api::{ClientId, ClientState};
use std::collections::{BTreeMap, BTreeSet};

/// A client of the cohort.
#[derive(Debug, Clone, PartialEq)]
struct Member {
    assignment: Assignment,
    /// It has taken its task, and may still be at work when the round closes.
    is_at_work: bool,
    state: State,
    /// Why it has failed in this round: what follows its name in a sentence.
    failure: Option<String>,
}

/// Where a client of the cohort stands.
#[derive(Debug, Clone, PartialEq)]
enum State {
    /// It is there, and its update is missing.
    Awaited,
    /// It is offline, and its update is missing: it may come back, but is not waited for beyond the quorum.
    Offline,
    /// The same, while a later client has its name: most likely the same program under a new id, so that no update is expected.
    Replaced,
    /// It is in error: no update is expected, unless it reports otherwise or the deadline moves.
    Failed,
    /// Its update is counted.
    Counted { update: Counted, is_there: bool },
    /// It may not take part any more, and none of its updates is counted.
    Gone,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Table {
    members: BTreeMap<ClientId, Member>,
    /// An index of the members that are awaited.
    awaited: BTreeSet<ClientId>,
    /// An index of those that are offline or have failed.
    absent: BTreeSet<ClientId>,
    replaced: usize,
    failed: usize,
    finished: usize,
}

impl Table {
    /// Adds a client that is there.
    pub fn add(&mut self, id: &ClientId, assignment: Assignment, is_at_work: bool) {
        let member = Member { assignment, is_at_work, state: State::Gone, failure: None };
        self.members.insert(id.clone(), member);
        self.set(id, State::Awaited);
    }

    pub fn contains(&self, id: &ClientId) -> bool {
        self.members.contains_key(id)
    }

    pub fn assignment(&self, id: &ClientId) -> Option<Assignment> {
        self.members.get(id).map(|member| member.assignment)
    }

    pub fn assignments(&self) -> impl Iterator<Item = (&ClientId, Assignment)> {
        self.members.iter().map(|(id, member)| (id, member.assignment))
    }

    /// Clients that are there and whose update is missing.
    pub fn awaited(&self) -> &BTreeSet<ClientId> {
        &self.awaited
    }

    /// Clients that are offline or in error and whose update is missing.
    pub fn absent(&self) -> &BTreeSet<ClientId> {
        &self.absent
    }

    /// Absent clients of which another one has taken the name.
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    /// Absent clients in error.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Clients that are there and whose update is counted.
    pub fn finished(&self) -> usize {
        self.finished
    }

    pub fn counted(&self) -> impl Iterator<Item = (&ClientId, &Counted)> {
        self.members.iter().filter_map(|(id, member)| match &member.state {
            State::Counted { update, .. } => Some((id, update)),
            _ => None,
        })
    }

    pub fn update(&self, id: &ClientId) -> Option<&Counted> {
        match &self.members.get(id)?.state {
            State::Counted { update, .. } => Some(update),
            _ => None,
        }
    }

    /// Clients that may still be at work, and what they work on.
    pub fn unfinished(&self) -> impl Iterator<Item = (&ClientId, Assignment)> {
        let left = self.members.iter().filter(|(_, m)| m.is_at_work && !matches!(m.state, State::Counted { .. }));
        left.map(|(id, member)| (id, member.assignment))
    }

    /// The client has taken its task. Returns what it was asked for before.
    pub fn take_up(&mut self, id: &ClientId, assignment: Assignment) -> Option<Assignment> {
        let Some(member) = self.members.get_mut(id) else {
            self.add(id, assignment, true);
            return None;
        };
        member.is_at_work = true;
        Some(std::mem::replace(&mut member.assignment, assignment))
    }

    /// The client has asked for something else to do.
    pub fn stop_work(&mut self, id: &ClientId) {
        if let Some(member) = self.members.get_mut(id) {
            member.is_at_work = false;
        }
    }

    /// Any client may be at work.
    pub fn all_at_work(&mut self) {
        self.members.values_mut().for_each(|member| member.is_at_work = true);
    }

    /// Brings a member up to date with its state on the roster; `None` if it has left.
    pub fn place(&mut self, id: &ClientId, state: Option<ClientState>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let is_there = state.is_some_and(is_eligible);
        let placed = match (&member.state, state) {
            (State::Counted { update, .. }, _) => State::Counted { update: update.clone(), is_there },
            (_, Some(ClientState::Offline)) => State::Offline,
            (_, _) if is_there => State::Awaited,
            (_, state) => {
                member.is_at_work = false;
                if state == Some(ClientState::Error) { State::Failed } else { State::Gone }
            }
        };
        self.set(id, placed);
    }

    /// A later client has taken the name of an offline member.
    pub fn replace(&mut self, id: &ClientId) {
        if self.members.get(id).is_some_and(|member| member.state == State::Offline) {
            self.set(id, State::Replaced);
        }
    }

    /// Counts the update of a member, which is not known to be there.
    pub fn count(&mut self, id: &ClientId, update: Counted) {
        if let Some(member) = self.members.get_mut(id) {
            member.failure = None;
            self.set(id, State::Counted { update, is_there: false });
        }
    }

    /// Removes the update of a member. False if it has none.
    pub fn uncount(&mut self, id: &ClientId) -> bool {
        let has_update = self.update(id).is_some();
        if has_update {
            self.stop_work(id);
            self.set(id, State::Gone);
        }
        has_update
    }

    /// Records why a member has failed. An earlier reason stays, unless it `is_decisive`. False if nothing has changed.
    pub fn fail(&mut self, id: &ClientId, failure: String, is_decisive: bool) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        let is_recorded = is_decisive || member.failure.is_none();
        if is_recorded {
            member.failure = Some(failure);
        }
        is_recorded
    }

    /// The members that have failed, and what follows their name in a sentence.
    pub fn failures(&self) -> impl Iterator<Item = (&ClientId, &str)> {
        let failed = self.absent.iter().filter_map(|id| Some((id, self.members.get(id)?)));
        let failed = failed.filter(|(_, member)| member.state == State::Failed);
        failed.filter_map(|(id, member)| Some((id, member.failure.as_deref()?)))
    }

    /// The one way to change a state: keeps indexes and numbers in step.
    fn set(&mut self, id: &ClientId, state: State) {
        let Some(member) = self.members.get_mut(id) else { return };
        let before = std::mem::replace(&mut member.state, state);
        let after = &member.state;
        let is_absent = |state: &State| matches!(state, State::Offline | State::Replaced | State::Failed);
        let move_in = |index: &mut BTreeSet<ClientId>, was: bool, is: bool| match (was, is) {
            (false, true) => _ = index.insert(id.clone()),
            (true, false) => _ = index.remove(id),
            _ => {}
        };
        move_in(&mut self.awaited, before == State::Awaited, *after == State::Awaited);
        move_in(&mut self.absent, is_absent(&before), is_absent(after));
        let recount = |number: &mut usize, is_one: &dyn Fn(&State) -> bool| {
            *number = *number + usize::from(is_one(after)) - usize::from(is_one(&before));
        };
        recount(&mut self.replaced, &|state| *state == State::Replaced);
        recount(&mut self.failed, &|state| *state == State::Failed);
        recount(&mut self.finished, &|state| matches!(state, State::Counted { is_there: true, .. }));
    }
}
