//! Whether it is time to close the round in work.

use super::current::{CurrentRound, deadline_ms};
use super::words::counted;
use super::{UnixMs, time};
use app::api::BelowQuorum;

/// What becomes of a round that takes updates. The texts are for people and stay in the round's record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    Extend(UnixMs),
    Aggregate(String),
    Void(String),
}

impl CurrentRound {
    fn is_in_grace(&self, now: UnixMs) -> bool {
        self.grace_until_ms.is_some_and(|until| now < until)
    }

    /// What to do now, given the number of eligible clients and of updates that are needed to judge them.
    pub fn verdict(&self, now: UnixMs, eligible: usize, needed: usize) -> Verdict {
        let (updates, asked, min) = (self.updates(), self.open.cohort.len(), self.min_clients());
        let past_deadline = now >= self.open.deadline_ms;
        // The next client that asks gets the place of one whose update is counted: a buffer may be larger than the cohort.
        let has_others = self.is_async() && eligible > self.cohort.awaited().len() + self.cohort.finished();
        if updates >= min {
            let is_full = updates >= needed.max(self.open.target as usize);
            if updates == asked && (is_full || !has_others) {
                Verdict::Aggregate(format!("all updates in ({updates})"))
            } else if is_full {
                Verdict::Aggregate(format!("{updates} of {asked} updates in, as many as were wanted"))
            } else if past_deadline {
                Verdict::Aggregate(format!("deadline with {updates} of {asked} updates"))
            } else if self.cohort.awaited().is_empty()
                && !has_others
                && (self.cohort.absent().is_empty() || !self.is_in_grace(now))
            {
                Verdict::Aggregate(format!("{updates} of {asked} updates in, the other clients are gone"))
            } else {
                Verdict::Wait
            }
        } else {
            let failed = self.cohort.failed();
            // After a restart it is not known yet which of two clients of one name is still there.
            let replaced = if self.is_in_grace(now) { 0 } else { self.cohort.replaced() };
            let possible = updates + self.cohort.awaited().len() + self.cohort.absent().len() - failed - replaced;
            // Clients that join an asynchronous round may replace those that are gone, but what makes clients fail remains.
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

    /// Absent clients have had their time. In asynchronous rounds others may still join.
    fn may_extend(&self) -> bool {
        let present = self.updates() + self.cohort.awaited().len();
        self.config.below_quorum == BelowQuorum::Extend && (present >= self.min_clients() || self.is_async())
    }

    /// When the verdict may change although nothing happens.
    pub fn timeout(&self) -> UnixMs {
        self.grace_until_ms.map_or(self.open.deadline_ms, |grace| grace.min(self.open.deadline_ms))
    }

    /// What happens at the deadline if nothing changes, for people.
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
}
