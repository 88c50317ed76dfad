//! Why is it waiting: one sentence for people. Who is missing, how many, and what happens next.

use super::RoundMachine;
use super::current::CurrentRound;
use app::api::ClientId;
use std::collections::BTreeSet;

/// So many clients are named, the others are counted.
const NAMED: usize = 3;

impl RoundMachine {
    /// What the run waits for, and what happens next: one sentence. The deadline itself is [`Self::open_round`]'s.
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
        let absent = round.absent().len();
        let out_of_reach = format!("{absent} offline or in error ({})", self.names_of(round.absent()));
        let mut missing = format!(
            "waiting for {} of {} ({})",
            round.awaited().len(),
            counted(asked, "client"),
            self.names_of(round.awaited())
        );
        if round.awaited().is_empty() {
            missing = format!("{updates} of at least {min} updates in, {out_of_reach} may come back");
        } else if absent > 0 {
            missing += &format!(", {out_of_reach}");
        }
        let next = if updates >= min {
            "it closes with what is in".to_owned()
        } else {
            format!("it is void unless it has {}, {updates} so far", counted(min, "update"))
        };
        format!("Round {number}: {missing}; at the deadline {next}.")
    }

    fn aggregating(&self, round: &CurrentRound) -> String {
        let updates = counted(round.updates(), "update");
        let next = match self.autorun {
            Some(autorun) if autorun.rounds > 1 => "then the next round opens",
            Some(_) => "then the auto-run is complete",
            None => "then the run is idle",
        };
        format!("Round {}: combining and evaluating {updates}; {next}.", round.open.number)
    }

    /// An auto-run is on, and no round is open.
    fn between_rounds(&self) -> String {
        if let Some(pause) = &self.pause {
            return format!("Round {} is void: {}; the next one opens after a short pause.", pause.round, pause.reason);
        }
        let (eligible, min, next) = (self.roster.eligible(), self.min_clients(), self.next_round);
        let is = if eligible == 1 { "is" } else { "are" };
        let gone = self.listed(self.roster.absent(), "offline or in error");
        let pending = self.pending();
        format!(
            "Waiting for clients: {eligible} of at least {min} {is} ready{gone}{pending}; \
             round {next} opens by itself once enough are."
        )
    }

    fn pending(&self) -> String {
        self.listed(self.roster.pending(), "awaiting admission")
    }

    /// `; 2 <what> (alice, bob)`; empty if there are none.
    fn listed(&self, ids: &BTreeSet<ClientId>, what: &str) -> String {
        if ids.is_empty() {
            return String::new();
        }
        format!("; {} {what} ({})", ids.len(), self.names_of(ids))
    }

    /// The first few by name, the others by number. Never a walk over all: it is asked for at every change.
    fn names_of(&self, ids: &BTreeSet<ClientId>) -> String {
        let names = ids.iter().filter_map(|id| self.client(id)).map(|c| c.name.as_str());
        let mut list = names.take(NAMED).collect::<Vec<_>>().join(", ");
        if ids.len() > NAMED {
            list += &format!(" and {} more", ids.len() - NAMED);
        }
        list
    }
}

/// `1 client`, `2 clients`.
fn counted(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}
