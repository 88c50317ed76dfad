//! The round in work: whom it waits for, what has come in, and whether it is time to close.

use super::UnixMs;
use super::roster::is_eligible;
use app::api::{ClientId, ClientState, OpenRound, RoundOutcome, RoundSummary, RunConfig};
use std::collections::BTreeSet;

/// What is to become of a round that takes updates. The texts are for people and stay with the round's record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
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
    /// The configuration it opened under; later ones are for later rounds.
    pub config: RunConfig,
    /// Asked, there, update not in.
    awaited: BTreeSet<ClientId>,
    /// Asked, on the roster, but offline or in error, update not in: may come back, is not waited for beyond quorum.
    absent: BTreeSet<ClientId>,
    samples: u64,
    received_bytes: u64,
    /// Sum of loss times samples, and of these samples, over the updates that told a loss.
    loss: (f64, f64),
    /// Why it takes no more updates; none while it does.
    closed: Option<String>,
}

impl CurrentRound {
    pub fn new(open: OpenRound, config: RunConfig) -> Self {
        let awaited = open.cohort.iter().cloned().collect();
        let absent = BTreeSet::new();
        Self { open, config, awaited, absent, samples: 0, received_bytes: 0, loss: (0.0, 0.0), closed: None }
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

    pub fn was_asked(&self, id: &ClientId) -> bool {
        self.open.cohort.binary_search(id).is_ok()
    }

    pub fn has_update(&self, id: &ClientId) -> bool {
        self.open.updated.binary_search(id).is_ok()
    }

    /// Whether it takes updates.
    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    pub fn close(&mut self, reason: String) {
        self.closed = Some(reason);
    }

    /// Brings up to date where a client stands; none: it left.
    pub fn place(&mut self, id: &ClientId, state: Option<ClientState>) {
        self.awaited.remove(id);
        self.absent.remove(id);
        if !self.was_asked(id) || self.has_update(id) {
            return;
        }
        match state {
            Some(state) if is_eligible(state) => _ = self.awaited.insert(id.clone()),
            Some(ClientState::Offline | ClientState::Error) => _ = self.absent.insert(id.clone()),
            _ => {}
        }
    }

    /// Counts an update. The caller has asked whether it may come.
    pub fn count(&mut self, id: &ClientId, samples: u64, loss: Option<f64>, bytes: u64) {
        let Err(place) = self.open.updated.binary_search(id) else { return };
        self.open.updated.insert(place, id.clone());
        self.awaited.remove(id);
        self.absent.remove(id);
        self.samples = self.samples.saturating_add(samples);
        self.received_bytes = self.received_bytes.saturating_add(bytes);
        if let Some(loss) = loss {
            self.loss.0 += loss * samples as f64;
            self.loss.1 += samples as f64;
        }
    }

    pub fn verdict(&self, now: UnixMs) -> Verdict {
        let (updates, asked, min) = (self.updates(), self.open.cohort.len(), self.min_clients());
        let past_deadline = now >= self.open.deadline_ms;
        if updates >= min {
            if updates == asked {
                Verdict::Aggregate(format!("all updates in ({updates})"))
            } else if self.awaited.is_empty() {
                Verdict::Aggregate(format!("{updates} of {asked} updates in, the other clients are gone"))
            } else if past_deadline {
                Verdict::Aggregate(format!("deadline with {updates} of {asked} updates"))
            } else {
                Verdict::Wait
            }
        } else if past_deadline {
            Verdict::Void(format!("deadline with {updates} of {asked} updates, min_clients is {min}"))
        } else {
            let possible = updates + self.awaited.len() + self.absent.len();
            if possible < min {
                Verdict::Void(format!("at most {possible} of {asked} updates can still come, min_clients is {min}"))
            } else {
                Verdict::Wait
            }
        }
    }

    /// The record of this round: complete with an outcome, void with a reason of its own.
    pub fn summary(&self, now: UnixMs, result: Result<Outcome, String>) -> RoundSummary {
        let closed = self.closed.clone().unwrap_or_default();
        let (outcome, reason, result) = match result {
            Ok(result) => (RoundOutcome::Complete, closed, Some(result)),
            Err(reason) => (RoundOutcome::Void, reason, None),
        };
        // NaN and infinity have no place in JSON or in SQLite; a diverged model has no loss that could be shown.
        let finite = |value: Option<f64>| value.filter(|v| v.is_finite());
        RoundSummary {
            number: self.open.number,
            outcome,
            reason,
            base_version: self.open.base_version,
            version: result.as_ref().map(|r| r.version),
            config_version: self.open.config_version,
            // Both are at most MAX_CLIENTS.
            cohort: self.open.cohort.len() as u32,
            updates: self.updates() as u32,
            samples: self.samples,
            received_bytes: self.received_bytes,
            train_loss: finite(Some(self.loss.0 / self.loss.1)),
            test_loss: finite(result.as_ref().and_then(|r| r.test_loss)),
            test_accuracy: finite(result.as_ref().and_then(|r| r.test_accuracy)),
            opened_ms: self.open.opened_ms,
            ended_ms: now,
        }
    }
}
