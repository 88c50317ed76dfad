//! The round in work: whom it waits for, what has come in, and whether it is time to close.

use super::command::{Assignment, Closed, Counted, Received};
use super::roster::is_eligible;
use super::weights::Weights;
use super::words::{counted, shortened};
use super::{UnixMs, time};
use app::api::{
    BelowQuorum, ClientId, ClientState, CohortStep, LoweredWeights, Mode, OpenRound, RoundOutcome, RoundSummary,
    RunConfig,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is to become of a round that takes updates. The texts are for people and stay with the round's record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    Extend(UnixMs),
    Aggregate(String),
    Void(String),
}

/// What aggregation gave.
pub(super) struct Outcome {
    pub version: u64,
    pub test_loss: Option<f64>,
    pub test_accuracy: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct CurrentRound {
    pub open: OpenRound,
    /// The configuration it opened under, with what of a later one takes effect at once.
    pub config: RunConfig,
    /// Asked, there, update not in.
    awaited: BTreeSet<ClientId>,
    /// Asked, on the roster, but offline or in error, update not in: may come back, is not waited for beyond quorum.
    absent: BTreeSet<ClientId>,
    /// Those of them who are in error: no update of theirs is to be expected, unless they say so or the deadline moves on.
    failed: BTreeSet<ClientId>,
    /// Those of them who are offline while a later client has their name: most likely the same program under a new id, so
    /// that no update of theirs is to be expected.
    replaced: BTreeSet<ClientId>,
    /// Why clients whose update is not in have failed in this round: what follows their name in a sentence.
    failures: BTreeMap<ClientId, String>,
    /// What those work on who began in an earlier round; all others work on this one.
    earlier: BTreeMap<ClientId, Assignment>,
    /// Of `async`: who has taken its task, and so may still be at it when the round closes.
    at_work: BTreeSet<ClientId>,
    counted: BTreeMap<ClientId, Counted>,
    /// Who of those is there.
    finished: BTreeSet<ClientId>,
    /// After a restart, until when those who are absent are waited for all the same.
    pub grace_until_ms: Option<UnixMs>,
    /// None while it takes updates.
    closed: Option<Closed>,
}

impl CurrentRound {
    pub fn new(open: OpenRound, config: RunConfig, earlier: BTreeMap<ClientId, Assignment>) -> Self {
        let awaited = open.cohort.iter().cloned().collect();
        let at_work = earlier.keys().cloned().collect();
        Self {
            open,
            config,
            awaited,
            absent: BTreeSet::new(),
            failed: BTreeSet::new(),
            replaced: BTreeSet::new(),
            failures: BTreeMap::new(),
            earlier,
            at_work,
            counted: BTreeMap::new(),
            finished: BTreeSet::new(),
            grace_until_ms: None,
            closed: None,
        }
    }

    pub fn awaited(&self) -> &BTreeSet<ClientId> {
        &self.awaited
    }

    pub fn absent(&self) -> &BTreeSet<ClientId> {
        &self.absent
    }

    pub fn updates(&self) -> usize {
        self.open.updated.len()
    }

    pub fn min_clients(&self) -> usize {
        self.config.min_clients.max(1) as usize
    }

    pub fn is_async(&self) -> bool {
        self.config.mode == Mode::Async
    }

    pub fn was_asked(&self, id: &ClientId) -> bool {
        self.open.cohort.binary_search(id).is_ok()
    }

    pub fn has_update(&self, id: &ClientId) -> bool {
        self.open.updated.binary_search(id).is_ok()
    }

    /// What a client of the cohort works on.
    pub fn assignment(&self, id: &ClientId) -> Option<Assignment> {
        let this = Assignment { round: self.open.number, version: self.open.base_version };
        self.was_asked(id).then(|| self.earlier.get(id).copied().unwrap_or(this))
    }

    /// What those work on who began in an earlier round.
    pub fn earlier(&self) -> &BTreeMap<ClientId, Assignment> {
        &self.earlier
    }

    /// Those who may still be at work when it closes, and at what.
    pub fn unfinished(&self) -> impl Iterator<Item = (ClientId, Assignment)> {
        let left = self.at_work.iter().filter(|id| !self.has_update(id));
        left.filter_map(|id| Some((id.clone(), self.assignment(id)?)))
    }

    /// The client takes its task. True if that is told from now on by the round itself: it joins the cohort, or begins
    /// anew in this round, for what it began in an earlier one is lost if it asks.
    pub fn take_up(&mut self, id: &ClientId) -> bool {
        self.at_work.insert(id.clone());
        let is_new = !self.was_asked(id);
        if is_new {
            self.open.place(id, CohortStep::Asked);
            self.awaited.insert(id.clone());
        }
        self.earlier.remove(id).is_some() || is_new
    }

    /// The client asks for something else to do.
    pub fn is_at_nothing(&mut self, id: &ClientId) {
        self.at_work.remove(id);
    }

    /// Whether it takes updates.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    pub fn close(&mut self, closed: Closed) {
        self.closed = Some(closed);
    }

    /// Whether it stays closed after a restart: with a quorum, or at least one update where the operator closed it.
    pub fn may_close(&self, closed: &Closed) -> bool {
        let updates = self.updates();
        updates >= self.min_clients() || closed.by_operator && updates > 0
    }

    /// Since when it takes no more updates, and why; none while it does.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// All of the cohort may be at work.
    pub fn all_at_work(&mut self) {
        self.at_work = self.open.cohort.iter().cloned().collect();
    }

    /// Brings up to date where a client stands; none: it left.
    pub fn place(&mut self, id: &ClientId, state: Option<ClientState>) {
        self.awaited.remove(id);
        self.absent.remove(id);
        self.failed.remove(id);
        self.replaced.remove(id);
        self.finished.remove(id);
        if !self.was_asked(id) {
            return;
        }
        if self.has_update(id) {
            if state.is_some_and(is_eligible) {
                self.finished.insert(id.clone());
            }
            return;
        }
        match state {
            Some(state) if is_eligible(state) => _ = self.awaited.insert(id.clone()),
            Some(ClientState::Offline) => _ = self.absent.insert(id.clone()),
            state => {
                self.at_work.remove(id);
                if state == Some(ClientState::Error) {
                    self.absent.insert(id.clone()); // it may report that it can go on
                    self.failed.insert(id.clone());
                }
            }
        }
    }

    /// No update of a client that is absent is to be expected: another has taken its name.
    pub fn replace(&mut self, id: &ClientId) {
        if self.absent.contains(id) {
            self.replaced.insert(id.clone());
        }
    }

    /// Counts an update. The caller has asked whether it may come.
    pub fn count(&mut self, id: &ClientId, mut received: Received) {
        let from = self.assignment(id).map_or(self.open.base_version, |assignment| assignment.version);
        let staleness = self.open.base_version.saturating_sub(from);
        // Only for people to read, so a loss that is not a number does not make the update bad.
        received.loss = received.loss.filter(|loss| loss.is_finite());
        self.open.place(id, CohortStep::Counted);
        self.awaited.remove(id);
        self.absent.remove(id);
        self.failed.remove(id);
        self.replaced.remove(id);
        self.failures.remove(id);
        self.counted.insert(id.clone(), Counted { received, staleness });
    }

    /// The update of a client was rejected, for that reason.
    pub fn reject(&mut self, id: &ClientId, reason: &str) {
        self.failures.insert(id.clone(), format!("'s update was rejected: {}", shortened(reason)));
    }

    /// A client has reported that it cannot deliver. False if a failure of it is known already: the first says more than what
    /// follows from it.
    pub fn fail(&mut self, id: &ClientId, error: &str) -> bool {
        let is_new = !self.failures.contains_key(id);
        self.failures.entry(id.clone()).or_insert_with(|| format!(" reported an error: {}", shortened(error)));
        is_new
    }

    /// The clients that have failed in this round, and what follows their name in a sentence about why.
    pub fn failures(&self) -> impl Iterator<Item = (&ClientId, &str)> {
        let failures = self.failures.iter().filter(|(id, _)| self.failed.contains(*id));
        failures.map(|(id, failure)| (id, failure.as_str()))
    }

    /// Takes an update out again, before it is combined. False if there is none.
    pub fn uncount(&mut self, id: &ClientId) -> bool {
        if self.counted.remove(id).is_none() {
            return false;
        }
        self.open.place(id, CohortStep::Dropped);
        self.at_work.remove(id);
        self.finished.remove(id);
        true
    }

    /// What is counted.
    pub fn counted(&self) -> &BTreeMap<ClientId, Counted> {
        &self.counted
    }

    /// The updates that are combined: all that are counted and not rejected.
    pub fn accepted(&self) -> impl Iterator<Item = (&ClientId, &Counted)> {
        let rejected = self.closed.as_ref().map(|closed| &closed.rejected);
        self.counted.iter().filter(move |(id, _)| rejected.is_none_or(|rejected| !rejected.contains_key(*id)))
    }

    /// What the updates that are combined weigh, in the order of [`Self::accepted`].
    pub fn weights(&self) -> Weights {
        let updates: Vec<_> = self.accepted().map(|(_, c)| (c.received.samples, c.staleness)).collect();
        Weights::of(&updates, self.config.max_weight_share)
    }

    /// Where `max_weight_share` acts on what is combined.
    fn lowered_weights(&self) -> Option<LoweredWeights> {
        let all = self.weights();
        let lowered = all.lowered();
        let heaviest = *lowered.first()?;
        let share = |weights: &[f64]| weights[heaviest] / weights.iter().sum::<f64>();
        let clients: Vec<_> = self.accepted().map(|(id, _)| id).collect();
        Some(LoweredWeights {
            clients: lowered.iter().map(|i| clients[*i].clone()).collect(),
            claimed: share(&all.claimed),
            share: share(&all.weights),
        })
    }

    fn is_in_grace(&self, now: UnixMs) -> bool {
        self.grace_until_ms.is_some_and(|until| now < until)
    }

    /// What to do with it, given how many clients are eligible and how many updates it takes to judge them.
    pub fn verdict(&self, now: UnixMs, eligible: usize, needed: usize) -> Verdict {
        let (updates, asked, min) = (self.updates(), self.open.cohort.len(), self.min_clients());
        let past_deadline = now >= self.open.deadline_ms;
        // The next that asks gets the place of one whose update is in: a buffer may be larger than the cohort.
        let has_others = self.is_async() && eligible > self.awaited.len() + self.finished.len();
        if updates >= min {
            let is_full = updates >= needed.max(self.open.target as usize);
            if updates == asked && (is_full || !has_others) {
                Verdict::Aggregate(format!("all updates in ({updates})"))
            } else if is_full {
                Verdict::Aggregate(format!("{updates} of {asked} updates in, as many as were wanted"))
            } else if past_deadline {
                Verdict::Aggregate(format!("deadline with {updates} of {asked} updates"))
            } else if self.awaited.is_empty() && !has_others && (self.absent.is_empty() || !self.is_in_grace(now)) {
                Verdict::Aggregate(format!("{updates} of {asked} updates in, the other clients are gone"))
            } else {
                Verdict::Wait
            }
        } else {
            let failed = self.failed.len();
            // After a restart it is not known yet who was heard of last.
            let replaced = if self.is_in_grace(now) { 0 } else { self.replaced.len() };
            let possible = updates + self.awaited.len() + self.absent.len() - failed - replaced;
            // Whoever joins an asynchronous round may make up for those who are gone, but not for what makes clients fail.
            if possible < min && (!self.is_async() || failed > 0 && !has_others) {
                let some = |count, what| if count > 0 { format!(", {count} {what}") } else { String::new() };
                let (failed, replaced) = (some(failed, "failed"), some(replaced, "registered again"));
                let reason = "updates can still come";
                Verdict::Void(format!("at most {possible} of {asked} {reason}{failed}{replaced}, min_clients is {min}"))
            } else if !past_deadline {
                Verdict::Wait
            } else if self.may_extend() {
                Verdict::Extend(now.saturating_add(deadline_ms(&self.config)))
            } else {
                Verdict::Void(format!("deadline with {updates} of {asked} updates, min_clients is {min}"))
            }
        }
    }

    /// Those who are absent have had their time. In asynchronous rounds whoever is there may still join.
    fn may_extend(&self) -> bool {
        let present = self.updates() + self.awaited.len();
        self.config.below_quorum == BelowQuorum::Extend && (present >= self.min_clients() || self.is_async())
    }

    /// When the verdict may change without anything happening.
    pub fn timeout(&self) -> UnixMs {
        self.grace_until_ms.map_or(self.open.deadline_ms, |grace| grace.min(self.open.deadline_ms))
    }

    /// Takes of a newer configuration what only says when the round closes: that is safe at once.
    pub fn adopt(&mut self, config: &RunConfig) {
        self.config.below_quorum = config.below_quorum;
        self.config.deadline_s = config.deadline_s;
    }

    /// Moves the deadline, as a new configuration wants it; not before the end of the time to come back after a restart.
    pub fn redate(&mut self, now: UnixMs) -> bool {
        let before = self.open.deadline_ms;
        let deadline_ms = self.open.opened_ms.saturating_add(deadline_ms(&self.config));
        self.open.deadline_ms = deadline_ms.max(self.grace_until_ms.filter(|until| now < *until).unwrap_or(0));
        before != self.open.deadline_ms
    }

    /// What happens at the deadline as things stand, and when: for people.
    pub fn what_next(&self) -> String {
        let (updates, min, at) =
            (self.updates(), self.min_clients(), time::of_day_after(self.open.deadline_ms, self.open.opened_ms));
        if updates >= min {
            return format!("at {at} it closes with what is in");
        }
        let wanted = format!("unless it has {} by then, {updates} so far", counted(min, "update"));
        if self.may_extend() {
            format!("at {at} its deadline moves on {wanted}")
        } else {
            format!("at {at} it is void {wanted}")
        }
    }

    /// The record of this round: complete with an outcome, void with a reason of its own.
    pub fn summary(&self, now: UnixMs, result: Result<Outcome, String>) -> RoundSummary {
        let closed = self.closed.as_ref().map(|closed| closed.reason.clone()).unwrap_or_default();
        let (outcome, reason, result) = match result {
            Ok(result) => (RoundOutcome::Complete, closed, Some(result)),
            Err(reason) => (RoundOutcome::Void, reason, None),
        };
        // NaN and infinity have no place in JSON or in SQLite; a diverged model has no loss that could be shown.
        let finite = |value: Option<f64>| value.filter(|v| v.is_finite());
        let accepted: Vec<_> = self.accepted().map(|(_, update)| update).collect();
        let weights = self.weights().weights;
        let each = || accepted.iter().zip(&weights);
        let weight: f64 = each().filter(|(c, _)| c.received.loss.is_some()).map(|(_, weight)| weight).sum();
        let loss: f64 = each().filter_map(|(c, weight)| Some(c.received.loss? * weight)).sum();
        let staleness: u64 = accepted.iter().map(|c| c.staleness).sum();
        let combined = if outcome == RoundOutcome::Complete { accepted.len() } else { self.updates() };
        RoundSummary {
            number: self.open.number,
            outcome,
            reason,
            base_version: self.open.base_version,
            version: result.as_ref().map(|r| r.version),
            config_version: self.open.config_version,
            // Both are at most MAX_CLIENTS.
            cohort: self.open.cohort.len() as u32,
            updates: combined as u32,
            rejected: (self.counted.len() - accepted.len()) as u32,
            samples: accepted.iter().fold(0, |sum, c| sum.saturating_add(c.received.samples)),
            received_bytes: self.counted.values().fold(0, |sum, c| sum.saturating_add(c.received.body.bytes)),
            mean_staleness: finite(self.is_async().then_some(staleness as f64 / accepted.len() as f64)),
            lowered_weights: self.lowered_weights().filter(|_| outcome == RoundOutcome::Complete),
            train_loss: finite(Some(loss / weight)),
            test_loss: finite(result.as_ref().and_then(|r| r.test_loss)),
            test_accuracy: finite(result.as_ref().and_then(|r| r.test_accuracy)),
            opened_ms: self.open.opened_ms,
            ended_ms: now,
        }
    }
}

/// A deadline of 0 would be over before anybody could train.
pub(super) fn deadline_ms(config: &RunConfig) -> UnixMs {
    u64::from(config.deadline_s.max(1)) * 1_000
}
