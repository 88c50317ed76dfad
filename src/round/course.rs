//! What follows by itself: who goes offline, what closes, what opens, and what is to be told of it.

use super::cohort;
use super::current::{CurrentRound, Outcome, Verdict};
use super::machine::{Course, Pause, VOID_PAUSE_MS};
use super::{Effect, RoundMachine, UnixMs};
use app::api::{Autorun, ClientId, ClientState, ClientView, OpenRound};

impl RoundMachine {
    /// Draws the conclusions, once, at the end of every input.
    pub(super) fn settle(&mut self, now: UnixMs) {
        self.expire(now);
        self.close_if_due(now);
        if self.pause.as_ref().is_some_and(|pause| now >= pause.until_ms) {
            self.pause = None;
            self.is_course_stale = true;
        }
        let is_next = self.autorun.is_some() && self.pause.is_none();
        let is_wanted = std::mem::take(&mut self.is_round_wanted) || is_next;
        if self.round.is_none() && is_wanted && self.roster.eligible() >= self.min_clients() {
            self.open(now);
        }
        self.tell();
    }

    fn expire(&mut self, now: UnixMs) {
        while let Some((_, id)) = self.roster.next_offline().filter(|(at, _)| now >= *at) {
            let id = id.clone();
            self.change(&id, |c| {
                c.state = ClientState::Offline;
                c.progress = None;
            });
        }
    }

    fn close_if_due(&mut self, now: UnixMs) {
        let Some(round) = self.round.as_mut().filter(|r| r.is_open()) else { return };
        match round.verdict(now) {
            Verdict::Wait => {}
            Verdict::Aggregate(reason) => self.close(reason),
            Verdict::Void(reason) => self.end(now, Err(reason)),
        }
    }

    /// No more updates: the caller of the machine combines what is in.
    pub(super) fn close(&mut self, reason: String) {
        if let Some(round) = &mut self.round {
            round.close(reason);
            self.effects.push_back(Effect::Aggregate { round: round.open.number });
            self.is_course_stale = true;
        }
    }

    fn open(&mut self, now: UnixMs) {
        let size = self.config.cohort.of(self.roster.eligible()).max(self.min_clients());
        let cohort = cohort::choose(self.seed, self.next_round, size, self.roster.candidates());
        self.roster.set_asked(&cohort, self.next_round);
        let open = OpenRound {
            number: self.next_round,
            base_version: self.version,
            config_version: self.config_version,
            opened_ms: now,
            // A deadline of 0 would be over before anybody could train.
            deadline_ms: now.saturating_add(u64::from(self.config.deadline_s.max(1)) * 1_000),
            cohort,
            updated: Vec::new(),
        };
        self.next_round += 1;
        self.pause = None;
        self.round = Some(CurrentRound::new(open, self.config.clone()));
        self.effects.push_back(Effect::RoundOpened);
        self.is_course_stale = true;
    }

    /// The round is over, complete or, with the reason, void.
    pub(super) fn end(&mut self, now: UnixMs, result: Result<Outcome, String>) {
        let Some(round) = self.round.take() else { return };
        match &result {
            Ok(outcome) => {
                self.version = outcome.version;
                let left = self.autorun.map_or(0, |autorun| autorun.rounds.saturating_sub(1));
                self.autorun = (left > 0).then_some(Autorun { rounds: left });
            }
            Err(reason) if self.autorun.is_some() => {
                let until_ms = now.saturating_add(VOID_PAUSE_MS);
                self.pause = Some(Pause { until_ms, round: round.open.number, reason: reason.clone() });
            }
            Err(_) => {}
        }
        for id in &round.open.cohort {
            self.change(id, |c| {
                if matches!(c.state, ClientState::Training | ClientState::Update | ClientState::Finish) {
                    c.state = ClientState::Ready;
                    c.progress = None;
                }
            });
        }
        self.effects.push_back(Effect::RoundEnded(Box::new(round.summary(now, result))));
        self.is_course_stale = true;
    }

    /// The one way to change a client: keeps the round in step, and has the client shown.
    pub(super) fn change(&mut self, id: &ClientId, edit: impl FnOnce(&mut ClientView)) {
        let Some((before, after)) = self.roster.edit(id, edit) else { return };
        if before != after {
            if let Some(round) = &mut self.round {
                round.place(id, Some(after));
            }
            self.is_course_stale = true;
        }
        self.to_show.insert(id.clone());
    }

    /// Has a client stored and broadcast, which spares showing it.
    pub(super) fn store(&mut self, id: &ClientId) {
        self.effects.push_back(Effect::StoreClient(id.clone()));
        self.to_show.remove(id);
    }

    /// What is only shown comes last, after all that is to be stored; the course, if it changed, at the very end.
    fn tell(&mut self) {
        self.effects.extend(std::mem::take(&mut self.to_show).into_iter().map(Effect::ShowClient));
        if std::mem::take(&mut self.is_course_stale) {
            let course = self.course();
            if course != self.shown {
                self.shown = course;
                self.effects.push_back(Effect::Course);
            }
        }
    }

    pub(super) fn course(&self) -> Course {
        Course {
            phase: self.phase(),
            waiting: self.waiting(),
            autorun: self.autorun(),
            round: self.open_round().map(|r| (r.number, r.updated.len())),
        }
    }
}
