//! What follows by itself: who goes offline, what closes, what opens, and what is to be told of it.

use super::cohort;
use super::command::{Closed, Standing};
use super::current::{CurrentRound, Outcome, deadline_ms};
use super::machine::{Course, Pause, VOID_PAUSE_MS};
use super::restored::RestoredRound;
use super::roster::{OFFLINE_AFTER_MS, is_eligible, is_out};
use super::verdict::Verdict;
use super::words::counted;
use super::{Effect, RoundMachine, UnixMs};
use app::api::{Autorun, ClientId, ClientState, ClientView, CohortStep, LoweredWeights, Mode, OpenRound, Rejection};
use std::collections::BTreeMap;

impl RoundMachine {
    /// Draws the conclusions, once, at the end of every input.
    pub(super) fn settle(&mut self, now: UnixMs) {
        self.expire(now);
        self.close_if_due(now);
        self.expire(now); // one that was in error until its round ended may be long gone
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
        if let Some(round) = self.round.as_ref().filter(|round| round.is_open() && now >= round.open.deadline_ms) {
            for id in round.cohort.awaited() {
                self.roster.set_silent(id, false);
            }
        }
        while let Some((_, id)) = self.roster.next_offline().filter(|(at, _)| now >= *at) {
            let id = id.clone();
            self.change(&id, |c| {
                c.state = ClientState::Offline;
                c.progress = None;
            });
        }
    }

    fn close_if_due(&mut self, now: UnixMs) {
        let needed = self.round.as_ref().map_or(0, |round| self.needed_to_judge(round));
        let Some(round) = self.round.as_mut().filter(|r| r.is_open()) else { return };
        if round.grace_until_ms.is_some_and(|until| now >= until) {
            round.grace_until_ms = None;
            self.is_course_stale = true;
        }
        match round.verdict(now, self.roster.eligible(), needed) {
            Verdict::Wait => {}
            Verdict::Extend(deadline_ms) => {
                round.open.deadline_ms = deadline_ms;
                self.effects.push_back(Effect::DeadlineMoved);
                self.is_course_stale = true;
                // All have more time, those who failed too.
                for id in round.cohort.absent().clone() {
                    self.forgive(&id);
                }
            }
            Verdict::Aggregate(reason) => {
                self.close(Closed { at_ms: now, reason, by_operator: false, rejected: BTreeMap::new() })
            }
            Verdict::Void(reason) => {
                let rejections = self.round.as_ref().map(|round| self.failures(round)).unwrap_or_default();
                self.end(now, Err(reason + &rejections));
            }
        }
    }

    /// No more updates: they are judged, and the caller of the machine combines those that are accepted.
    pub(super) fn close(&mut self, mut closed: Closed) {
        let Some(mut round) = self.round.take() else { return };
        closed.rejected = self.out_of_proportion(&round);
        let rejected = closed.rejected.clone();
        let number = round.open.number;
        let asked = |id: &ClientId| round.cohort.assignment(id).map_or(number, |assignment| assignment.round);
        let rejections: Vec<_> =
            rejected.into_iter().map(|(id, reason)| (id.clone(), Rejection { round: asked(&id), reason })).collect();
        round.close(closed);
        self.round = Some(round);
        for (id, rejection) in rejections {
            self.change(&id, |client| client.rejected = Some(rejection));
        }
        self.effects.push_back(Effect::Aggregate { round: number });
        self.is_course_stale = true;
    }

    fn open(&mut self, now: UnixMs) {
        let config = self.config.clone();
        let wanted = config.cohort.of(self.roster.eligible()).max(self.min_clients());
        let earlier = std::mem::take(&mut self.carried);
        let (size, target) = match config.mode {
            Mode::Sync => {
                // At most 10 times the roster's length. A tenth of 100 is 10, but 100 times 1.1 is more than 110.
                let more = (wanted as f64 * config.over_selection).ceil() as usize;
                (wanted + more, wanted)
            }
            Mode::Async => {
                // Who is offline may come back with its work, but holds no place.
                let there = earlier.keys().filter(|id| self.roster.get(id).is_some_and(|c| is_eligible(c.state)));
                (wanted.saturating_sub(there.count()), config.buffer_size as usize)
            }
        };
        let free = self.roster.candidates().filter(|(_, id)| !earlier.contains_key(id));
        let mut cohort = cohort::choose(config.train.seed, self.next_round, size, free);
        cohort.extend(earlier.keys().cloned());
        cohort.sort_unstable();
        self.roster.set_asked(&cohort, self.next_round);
        let open = OpenRound {
            number: self.next_round,
            base_version: self.version,
            config_version: self.config_version,
            opened_ms: now,
            deadline_ms: now.saturating_add(deadline_ms(&config)),
            target: u32::try_from(target.max(self.min_clients())).unwrap_or(u32::MAX),
            cohort,
            updated: Vec::new(),
        };
        self.next_round += 1;
        self.pause = None;
        self.round = Some(CurrentRound::new(open, config, &earlier));
        for id in earlier.keys() {
            self.place(id);
        }
        self.effects.push_back(Effect::RoundOpened);
        self.is_course_stale = true;
    }

    /// Keeps those whose work on an earlier round may still be counted in the next one. The others are sent home.
    pub(super) fn release_carried(&mut self) {
        let (version, most) = (self.version, u64::from(self.config.max_staleness));
        let mut goes_on = std::mem::take(&mut self.carried);
        let goes_home = goes_on.extract_if(.., |id, earlier| {
            let state = self.roster.get(id).map(|client| client.state);
            let is_there = state.is_some_and(|s| is_eligible(s) || s == ClientState::Offline);
            !is_there || self.config.mode == Mode::Sync || version.saturating_sub(earlier.version) > most
        });
        for (id, _) in goes_home.collect::<Vec<_>>() {
            self.send_home(&id);
        }
        self.carried = goes_on;
    }

    /// What the client is at counts no more, and what went wrong with it is past.
    fn send_home(&mut self, id: &ClientId) {
        let state = self.roster.get(id).map(|client| client.state);
        if matches!(state, Some(ClientState::Training | ClientState::Update | ClientState::Finish)) {
            self.change(id, |c| {
                c.state = ClientState::Ready;
                c.progress = None;
            });
        }
        self.forgive(id);
    }

    /// One that failed may be asked again. What went wrong stays readable until it does something anew.
    fn forgive(&mut self, id: &ClientId) {
        if self.roster.get(id).is_some_and(|client| client.state == ClientState::Error) {
            self.change(id, |c| c.state = ClientState::Ready);
        }
    }

    /// No round takes any more what was begun in an earlier one.
    pub(super) fn drop_carried(&mut self) {
        for id in std::mem::take(&mut self.carried).keys() {
            self.send_home(id);
        }
    }

    /// Puts a round that was open before a restart back in its place.
    pub(super) fn restore_round(&mut self, now: UnixMs, from: RestoredRound) {
        let mut round = CurrentRound::new(from.open, from.config, &from.earlier);
        round.adopt(&self.config);
        round.cohort.all_at_work(); // it is not known any more which clients had taken their task
        round.open.updated.clear();
        for (id, update) in from.received {
            // Whether it is still closed or open again, it is judged anew: the bounds may be other ones by now.
            if self.roster.get(&id).is_some_and(|client| client.rejected.is_some()) {
                self.change(&id, |client| client.rejected = None);
            }
            // Of one that was put out while the updates were being combined, or just before the crash.
            if self.roster.get(&id).is_some_and(|client| is_out(client.state)) {
                self.step(&id, CohortStep::Dropped);
            } else {
                round.count(&id, update);
            }
        }
        let is_closed = from.closed.as_ref().is_some_and(|closed| round.may_close(closed));
        for id in round.open.cohort.clone() {
            if !is_closed && !round.has_update(&id) && !self.roster.sends_heartbeats(&id) {
                self.resume_silent(&id);
            }
            round.cohort.place(&id, self.roster.get(&id).map(|client| client.state));
        }
        // The clock may have been set back meanwhile.
        round.open.opened_ms = round.open.opened_ms.min(now);
        if let Some(closed) = from.closed.filter(|_| is_closed) {
            self.round = Some(round);
            self.close(closed);
            return;
        }
        let grace_until_ms = now.saturating_add(OFFLINE_AFTER_MS);
        round.grace_until_ms = Some(grace_until_ms);
        let latest_ms = now.saturating_add(deadline_ms(&round.config));
        round.open.deadline_ms = round.open.deadline_ms.min(latest_ms).max(grace_until_ms);
        self.round = Some(round);
    }

    /// A client that never sent a heartbeat may train on while the coordinator is away.
    fn resume_silent(&mut self, id: &ClientId) {
        if self.roster.get(id).is_some_and(|client| client.state == ClientState::Offline) {
            self.roster.edit(id, |client| client.state = ClientState::Training);
            self.roster.set_silent(id, true);
        }
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
        self.waits_since_ms = now;
        if round.is_async() && self.autorun.is_some() {
            self.carried = round.cohort.unfinished().map(|(id, assignment)| (id.clone(), assignment)).collect();
            self.release_carried();
        }
        self.remember_norms(&round);
        for id in &round.open.cohort {
            if !self.carried.contains_key(id) {
                self.send_home(id);
            }
        }
        let mut summary = round.summary(now, result);
        if let Some(lowered) = &summary.lowered_weights {
            summary.reason += &self.lowered(lowered);
        }
        self.effects.push_back(Effect::RoundEnded(Box::new(summary)));
        self.is_course_stale = true;
    }

    /// Where `max_weight_share` acted: for people.
    fn lowered(&self, LoweredWeights { clients, claimed, share }: &LoweredWeights) -> String {
        let name = |id: &ClientId| self.roster.get(id).map_or_else(|| id.to_string(), |client| client.name.clone());
        let heaviest = clients.first().map(name).unwrap_or_default();
        let weights = match clients.len() {
            1 => format!("the weight of {heaviest} was"),
            count => format!("the weights of {heaviest} and {} were", counted(count - 1, "other client")),
        };
        let (claimed, share) = (claimed * 100.0, share * 100.0);
        format!("; {weights} lowered from {claimed:.1}% to {share:.1}% of the round (max_weight_share)")
    }

    /// The one way to change a client: keeps the round in step, and has the client shown.
    pub(super) fn change(&mut self, id: &ClientId, edit: impl FnOnce(&mut ClientView)) {
        let Some((before, after)) = self.roster.edit(id, edit) else { return };
        if before != after {
            self.place(id);
            self.is_course_stale = true;
        }
        self.to_show.insert(id.clone());
    }

    /// Brings the round up to date with where a client stands.
    pub(super) fn place(&mut self, id: &ClientId) {
        let Some(round) = &mut self.round else { return };
        let state = self.roster.get(id).map(|client| client.state);
        round.cohort.place(id, state);
        if state == Some(ClientState::Offline) && self.roster.is_replaced(id) {
            round.cohort.replace(id);
        }
    }

    /// Has a client stored and broadcast, which spares showing it.
    pub(super) fn store(&mut self, id: &ClientId, what: Standing) {
        self.effects.push_back(Effect::StoreClient { client: id.clone(), what });
        self.to_show.remove(id);
    }

    /// Has it told what happened to a client in the open round.
    pub(super) fn step(&mut self, id: &ClientId, step: CohortStep) {
        self.effects.push_back(Effect::Cohort { client: id.clone(), step });
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
            deadline_ms: self.open_round().map(|r| r.deadline_ms),
        }
    }
}
