//! The round in work: its cohort, its updates, and its record when it ends.

use super::UnixMs;
use super::command::{Assignment, Closed, Counted, Received};
use super::table::Table;
use super::weights::Weights;
use super::words::shortened;
use app::api::{ClientId, CohortStep, LoweredWeights, Mode, OpenRound, RoundOutcome, RoundSummary, RunConfig};
use std::collections::BTreeMap;

/// The result of an aggregation.
pub(super) struct Outcome {
    pub version: u64,
    pub test_loss: Option<f64>,
    pub test_accuracy: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct CurrentRound {
    pub open: OpenRound,
    /// The configuration that it opened under, with what of a later one takes effect at once.
    pub config: RunConfig,
    pub cohort: Table,
    /// After a restart, until when absent clients are waited for all the same.
    pub grace_until_ms: Option<UnixMs>,
    /// `None` while it takes updates.
    closed: Option<Closed>,
}

impl CurrentRound {
    /// A round that opens; `earlier`: what those of its cohort work on who began in an earlier round.
    pub fn new(open: OpenRound, config: RunConfig, earlier: &BTreeMap<ClientId, Assignment>) -> Self {
        let mut round = Self { open, config, cohort: Table::default(), grace_until_ms: None, closed: None };
        let this = round.this();
        for id in &round.open.cohort {
            round.cohort.add(id, earlier.get(id).copied().unwrap_or(this), earlier.contains_key(id));
        }
        round
    }

    /// What is asked of clients that begin in this round.
    fn this(&self) -> Assignment {
        Assignment { round: self.open.number, version: self.open.base_version }
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

    pub fn has_update(&self, id: &ClientId) -> bool {
        self.cohort.update(id).is_some()
    }

    /// The clients that began in an earlier round, and what they work on.
    pub fn earlier(&self) -> impl Iterator<Item = (&ClientId, Assignment)> {
        self.cohort.assignments().filter(|(_, assignment)| assignment.round != self.open.number)
    }

    /// The client takes its task. True if only this makes it a member, or lets it begin anew: what it began in an earlier
    /// round is lost if it asks.
    pub fn take_up(&mut self, id: &ClientId) -> bool {
        let this = self.this();
        let before = self.cohort.take_up(id, this);
        if before.is_none() {
            self.open.place(id, CohortStep::Asked);
        }
        before != Some(this)
    }

    /// Whether it takes updates.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    pub fn close(&mut self, closed: Closed) {
        self.closed = Some(closed);
    }

    /// Whether it stays closed after a restart: with a quorum, or at least one update if the operator closed it.
    pub fn may_close(&self, closed: &Closed) -> bool {
        let updates = self.updates();
        updates >= self.min_clients() || closed.by_operator && updates > 0
    }

    /// Since when it takes no more updates, and why; `None` while it does.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Counts an update. The caller has checked that it may.
    pub fn count(&mut self, id: &ClientId, mut received: Received) {
        let from = self.cohort.assignment(id).map_or(self.open.base_version, |assignment| assignment.version);
        let staleness = self.open.base_version.saturating_sub(from);
        // Only for people to read, so a loss that is not a number does not make the update bad.
        received.loss = received.loss.filter(|loss| loss.is_finite());
        self.open.place(id, CohortStep::Counted);
        self.cohort.count(id, Counted { received, staleness });
    }

    /// Removes an update before it is aggregated. False if there is none.
    pub fn uncount(&mut self, id: &ClientId) -> bool {
        let is_counted = self.cohort.uncount(id);
        if is_counted {
            self.open.place(id, CohortStep::Dropped);
        }
        is_counted
    }

    /// The update of a client was rejected.
    pub fn reject(&mut self, id: &ClientId, reason: &str) {
        self.cohort.fail(id, format!("'s update was rejected: {}", shortened(reason)), true);
    }

    /// A client has reported that it cannot deliver. False if a failure of it is known already: the first says more than
    /// what follows from it.
    pub fn fail(&mut self, id: &ClientId, error: &str) -> bool {
        self.cohort.fail(id, format!(" reported an error: {}", shortened(error)), false)
    }

    /// The updates that are aggregated: all that are counted and not rejected.
    pub fn accepted(&self) -> impl Iterator<Item = (&ClientId, &Counted)> {
        let rejected = self.closed.as_ref().map(|closed| &closed.rejected);
        self.cohort.counted().filter(move |(id, _)| rejected.is_none_or(|rejected| !rejected.contains_key(*id)))
    }

    /// The weights of the aggregated updates, in the order of [`Self::accepted`].
    pub fn weights(&self) -> Weights {
        let updates: Vec<_> = self.accepted().map(|(_, c)| (c.received.samples, c.staleness)).collect();
        Weights::of(&updates, self.config.max_weight_share)
    }

    /// The weights that `max_weight_share` lowers.
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

    /// Adopts from a newer configuration what only determines when the round closes: that is safe at once.
    pub fn adopt(&mut self, config: &RunConfig) {
        self.config.below_quorum = config.below_quorum;
        self.config.deadline_s = config.deadline_s;
    }

    /// Moves the deadline to that of a new configuration, but not before the grace period after a restart ends.
    pub fn redate(&mut self, now: UnixMs) -> bool {
        let before = self.open.deadline_ms;
        let deadline_ms = self.open.opened_ms.saturating_add(deadline_ms(&self.config));
        self.open.deadline_ms = deadline_ms.max(self.grace_until_ms.filter(|until| now < *until).unwrap_or(0));
        before != self.open.deadline_ms
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
            rejected: (self.updates() - accepted.len()) as u32,
            samples: accepted.iter().fold(0, |sum, c| sum.saturating_add(c.received.samples)),
            received_bytes: self.cohort.counted().fold(0, |sum, (_, c)| sum.saturating_add(c.received.body.bytes)),
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
