//! Why is it waiting: one sentence for people. Who is missing, since when, what happens next, and at what second.

use super::current::CurrentRound;
use super::words::counted;
use super::{RoundMachine, time};
use app::api::{ClientId, ClientState, ClientView};
use std::collections::BTreeSet;

/// So many clients are named, the others are counted.
const NAMED: usize = 3;

impl RoundMachine {
    /// What the run waits for, and what happens next: one sentence. Times are of the day in UTC, so that it stays true while
    /// nothing happens.
    pub fn waiting(&self) -> String {
        match &self.round {
            Some(round) if round.is_open() => self.gathering(round),
            Some(round) => self.aggregating(round),
            None if self.autorun.is_none() => {
                format!("Idle: start an auto-run or one round{}.", self.pending())
            }
            None => self.between_rounds(),
        }
    }

    fn gathering(&self, round: &CurrentRound) -> String {
        let (number, asked, updates, min) =
            (round.open.number, round.open.cohort.len(), round.updates(), round.min_clients());
        let absent = round.cohort.absent().len();
        let out_of_reach = format!("{absent} offline or in error ({})", self.silent(round.cohort.absent()));
        let mut missing = format!(
            "waiting for {} of {} ({}) since {}",
            round.cohort.awaited().len(),
            counted(asked, "client"),
            self.names_of(round.cohort.awaited()),
            time::of_day(round.open.opened_ms)
        );
        if round.cohort.awaited().is_empty() && absent > 0 {
            missing = format!("{updates} of at least {min} updates in, {out_of_reach} may come back");
        } else if round.cohort.awaited().is_empty() {
            missing = format!("{updates} of at least {min} updates in, the next clients that ask are given the rest");
        } else if absent > 0 {
            missing += &format!(", {out_of_reach}");
        }
        if let Some(until) = round.grace_until_ms.filter(|_| absent > 0) {
            missing +=
                &format!("; the coordinator was restarted, they have until {} to come back", time::of_day(until));
        }
        missing += &self.failures(round);
        let target = self.needed_to_judge(round).max(round.open.target as usize);
        let is = if target == 1 { "is" } else { "are" };
        let sooner = if target < asked {
            format!("once {} {is} in it closes, ", counted(target, "update"))
        } else {
            String::new()
        };
        format!("Round {number}: {missing}; {sooner}{}.", round.what_next())
    }

    fn aggregating(&self, round: &CurrentRound) -> String {
        let updates = counted(round.accepted().count(), "update");
        let rejected = match round.updates() - round.accepted().count() {
            0 => String::new(),
            rejected => format!(" ({rejected} rejected)"),
        };
        let next = match self.autorun {
            Some(autorun) if autorun.rounds > 1 => "then the next round opens",
            Some(_) => "then the auto-run is complete",
            None => "then the run is idle",
        };
        let since = round.closed().map(|closed| format!(" since {}", time::of_day(closed.at_ms))).unwrap_or_default();
        format!("Round {}: combining and evaluating {updates}{rejected}{since}; {next}.", round.open.number)
    }

    /// An auto-run is on, and no round is open.
    fn between_rounds(&self) -> String {
        let (eligible, min, next) = (self.roster.eligible(), self.min_clients(), self.next_round);
        if let Some(pause) = &self.pause {
            let at = time::of_day(pause.until_ms);
            let opens = if eligible >= min {
                format!("the next one opens at {at}")
            } else {
                let min = counted(min, "client");
                format!("the next one opens once {min} are ready, {eligible} so far, at {at} at the earliest")
            };
            return format!("Round {} is void: {}; {opens}.", pause.round, pause.reason);
        }
        let is = if eligible == 1 { "is" } else { "are" };
        let gone = match self.roster.absent().len() {
            0 => String::new(),
            absent => format!("; {absent} offline or in error ({})", self.silent(self.roster.absent())),
        };
        let pending = self.pending();
        format!(
            "Waiting for clients since {}: {eligible} of at least {min} {is} ready{gone}{pending}; \
             round {next} opens by itself once enough are.",
            time::of_day(self.waits_since_ms)
        )
    }

    /// Who has failed in this round, and why: the end of a sentence; empty where nobody has.
    pub(super) fn failures(&self, round: &CurrentRound) -> String {
        let all = round.cohort.failures().count();
        let named = round.cohort.failures().take(NAMED);
        let mut end: String = named.filter_map(|(id, why)| Some(format!("; {}{why}", self.client(id)?.name))).collect();
        if all > NAMED {
            end += &format!("; {} more failed", all - NAMED);
        }
        end
    }

    fn pending(&self) -> String {
        match self.roster.pending().len() {
            0 => String::new(),
            pending => format!("; {pending} awaiting admission ({})", self.names_of(self.roster.pending())),
        }
    }

    /// The first few by name, the others by number. Never a walk over all: it is asked for at every change.
    fn names_of(&self, ids: &BTreeSet<ClientId>) -> String {
        self.first_of(ids, |client| client.name.clone())
    }

    /// The same, with since when each is silent; one in error is not: it is heard of, and yet absent.
    fn silent(&self, ids: &BTreeSet<ClientId>) -> String {
        self.first_of(ids, |client| match client.state {
            ClientState::Error => client.name.clone(),
            _ => format!("{} since {}", client.name, time::of_day(client.seen_ms)),
        })
    }

    fn first_of(&self, ids: &BTreeSet<ClientId>, name: impl Fn(&ClientView) -> String) -> String {
        let mut names: Vec<_> = ids.iter().filter_map(|id| self.client(id)).map(name).take(NAMED).collect();
        names.sort_unstable(); // ids are drawn at random
        let mut list = names.join(", ");
        if ids.len() > NAMED {
            list += &format!(" and {} more", ids.len() - NAMED);
        }
        list
    }
}
