//! Knows the rules of rounds but not the machine, and watches every step of it from outside.

use super::super::roster::is_eligible;
use super::super::{OFFLINE_AFTER_MS, UnixMs};
use super::*;
use app::api::{BelowQuorum, ClientView, OpenRound, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// The round in work, from what was told of it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    open: OpenRound,
    /// The configuration that it opened under.
    config: RunConfig,
    /// What is counted: the round that its client was asked in.
    updates: BTreeMap<ClientId, u64>,
    is_aggregating: bool,
    /// After a restart, until when nobody is given up.
    grace_until_ms: UnixMs,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Judge {
    round: Option<Seen>,
    pub last_number: u64,
    pub version: u64,
    /// The newest.
    config: RunConfig,
    /// The version that each round started from.
    bases: BTreeMap<u64, u64>,
    /// Every update that was ever counted: whose, and for which round it was asked.
    counted: BTreeSet<(ClientId, u64)>,
    /// Of asynchronous rounds: who has been given its task and may still be at it, and the round that it was asked in.
    at_work: BTreeMap<ClientId, u64>,
    /// Who has taken a task, and sent no heartbeat since.
    silent: BTreeSet<ClientId>,
    /// Who was in error before this step.
    failed: BTreeSet<ClientId>,
    /// Who was put out while its update was being combined.
    out_too_late: BTreeSet<ClientId>,
}

fn is_out(state: ClientState) -> bool {
    matches!(state, ClientState::Kicked | ClientState::Pending | ClientState::Quarantine)
}

/// Whether the client says that it cannot do what it is still asked for.
fn fails(before: &RoundMachine, client: &ClientId, report: &StatusReport) -> bool {
    report.state == ReportedState::Error && report.round.is_none_or(|round| !before.is_cancelled(client, round))
}

impl Judge {
    pub fn new(config: RunConfig) -> Self {
        Self {
            round: None,
            last_number: 0,
            version: 0,
            config,
            bases: BTreeMap::new(),
            counted: BTreeSet::new(),
            at_work: BTreeMap::new(),
            silent: BTreeSet::new(),
            failed: BTreeSet::new(),
            out_too_late: BTreeSet::new(),
        }
    }

    /// The machine has taken a command; its effects are not known yet.
    pub fn command(&mut self, before: &RoundMachine, command: &Command) {
        match command {
            Command::Update { client, round: asked, .. } => {
                let state = before.client(client).unwrap().state;
                assert!(!is_out(state), "an update of a {state} client");
                let round = self.round.as_mut().unwrap();
                assert!(!round.is_aggregating, "an update of a closed round");
                assert!(round.config.mode == Mode::Async || round.open.number == *asked, "an update of another round");
                let stale = round.open.base_version - self.bases[asked];
                assert!(stale <= u64::from(round.config.max_staleness), "{stale} versions behind");
                assert!(self.counted.insert((client.clone(), *asked)), "a second update of {client} for round {asked}");
                assert_eq!(round.updates.insert(client.clone(), *asked), None, "a second update of {client}");
                self.at_work.remove(client);
            }
            Command::Order(Order::Kick { client, .. }) | Command::Rejected { client, .. }
                if self.round.as_ref().is_some_and(|r| r.is_aggregating && r.updates.contains_key(client)) =>
            {
                self.out_too_late.insert(client.clone());
            }
            Command::Status { client, report } if fails(before, client, report) => {
                self.at_work.remove(client); // what it has failed at is given up
            }
            Command::Rejected { client, round, .. } if before.may_update(client, *round).is_ok() => {
                self.at_work.remove(client);
            }
            Command::Ask { client } if before.phase() != Phase::Training => {
                self.at_work.remove(client); // it is at nothing, and there is nothing to be had
            }
            Command::Configure { config, .. } => self.config = (**config).clone(),
            Command::Committed { version, .. } => self.version = *version,
            _ => {}
        }
    }

    /// What came of an input; `command` is none for a timeout.
    pub fn step(
        &mut self,
        now: UnixMs,
        before: &RoundMachine,
        machine: &RoundMachine,
        command: Option<&Command>,
        effects: &[Effect],
    ) {
        let failed = before.clients().filter(|client| client.state == ClientState::Error);
        self.failed = failed.map(|client| client.id.clone()).collect();
        if let Some(Command::Status { client, report }) = command {
            self.failed.remove(client);
            if fails(before, client, report) {
                self.failed.insert(client.clone());
            }
        }
        if let Some(Command::Rejected { client, round, .. }) = command
            && before.may_update(client, *round).is_ok()
        {
            self.failed.insert(client.clone());
        }
        match command {
            Some(Command::Take { client }) if matches!(before.task(now, client), Ok(Task::Train(_))) => {
                self.silent.insert(client.clone());
            }
            Some(Command::Status { client, .. } | Command::Heartbeat { client }) => _ = self.silent.remove(client),
            _ => {}
        }
        for effect in effects {
            self.effect(now, machine, effect, command);
        }
        if let Some(Command::Ask { client }) = command {
            self.asked(now, before, machine, client);
        }
        let is_shown = |effect: &Effect| matches!(effect, Effect::ShowClient(_) | Effect::Course);
        assert!(effects.is_sorted_by_key(is_shown), "something to store comes after something to show: {effects:?}");
        let courses = effects.iter().filter(|e| **e == Effect::Course).count();
        assert!(courses == 0 || courses == 1 && effects.last() == Some(&Effect::Course), "{effects:?}");
        let course =
            |m: &RoundMachine| (m.phase(), m.waiting(), m.autorun(), m.open_round().map(|round| round.deadline_ms));
        assert_eq!(courses == 1, course(before) != course(machine), "the course is announced when it changes");
        for view in machine.clients().filter(|c| before.client(&c.id) != Some(c)) {
            let is_of = |effect: &&Effect| match effect {
                Effect::ShowClient(client) | Effect::StoreClient { client, .. } => *client == view.id,
                _ => false,
            };
            assert!(effects.iter().any(|effect| is_of(&effect)), "{view:?} changed in silence");
        }
        self.state(now, machine);
    }

    fn effect(&mut self, now: UnixMs, machine: &RoundMachine, effect: &Effect, command: Option<&Command>) {
        match effect {
            Effect::RoundOpened => self.opened(now, machine),
            Effect::Cohort { client, step } => {
                let round = self.round.as_mut().unwrap();
                round.open.place(client, *step);
                match step {
                    CohortStep::Asked => {
                        assert!(round.config.mode == Mode::Async && matches!(command, Some(Command::Ask { .. })));
                        self.at_work.remove(client); // what it was at
                    }
                    CohortStep::Counted => assert!(round.updates.contains_key(client)),
                    CohortStep::Dropped => {
                        let asked = round.updates.remove(client).unwrap();
                        self.counted.remove(&(client.clone(), asked));
                        assert!(is_out(machine.client(client).unwrap().state) && !round.is_aggregating);
                    }
                }
            }
            Effect::DeadlineMoved => {
                let round = self.round.as_mut().unwrap();
                assert!(!round.is_aggregating);
                let deadline_ms = u64::from(self.config.deadline_s) * 1_000;
                let is_new = matches!(command, Some(Command::Configure { .. }));
                let grace_until_ms = if now < round.grace_until_ms { round.grace_until_ms } else { 0 };
                let from_opening = (round.open.opened_ms + deadline_ms).max(grace_until_ms);
                let moved_to = machine.open_round().map_or(from_opening, |open| open.deadline_ms);
                if !is_new || moved_to != from_opening {
                    let passed = if is_new { round.open.deadline_ms.min(from_opening) } else { round.open.deadline_ms };
                    assert_eq!((self.config.below_quorum, moved_to), (BelowQuorum::Extend, now + deadline_ms));
                    self.silent.clear();
                    assert!(now >= passed && round.updates.len() < round.config.min_clients as usize);
                }
                round.open.deadline_ms = moved_to;
            }
            Effect::Aggregate { round } => {
                let seen = self.round.as_mut().unwrap();
                assert!(seen.open.number == *round && !seen.is_aggregating && !seen.updates.is_empty());
                seen.is_aggregating = true;
                let seen = self.round.as_ref().unwrap();
                let is_ordered = matches!(command, Some(Command::Order(Order::Aggregate)));
                assert!(is_ordered || self.is_due(now, machine, seen), "closed too early: {seen:?}");
                self.parts(machine);
            }
            Effect::RoundEnded(summary) => {
                let seen = self.round.take().unwrap();
                self.out_too_late.clear();
                assert_eq!((summary.number, summary.updates), (seen.open.number, seen.updates.len() as u32));
                let is_committed = matches!(command, Some(Command::Committed { .. }));
                assert_eq!(summary.outcome == RoundOutcome::Complete, is_committed && seen.is_aggregating);
                assert!(!summary.reason.is_empty());
                if seen.config.mode == Mode::Sync || machine.autorun().is_none() {
                    self.at_work.clear();
                }
                if !seen.is_aggregating && !matches!(command, Some(Command::Order(Order::Cancel))) {
                    assert!(seen.updates.len() < seen.config.min_clients as usize, "void with a quorum");
                    let is_sync = seen.config.mode == Mode::Sync;
                    let is_there = |id: &&ClientId| machine.client(id).is_some_and(|c| is_eligible(c.state));
                    let waits =
                        |id: &&ClientId| !seen.updates.contains_key(*id) && is_there(id) && !self.failed.contains(*id);
                    let present = seen.updates.len() + seen.open.cohort.iter().filter(waits).count();
                    let is_forlorn = is_sync && present < seen.config.min_clients as usize;
                    let may_end = self.config.below_quorum == BelowQuorum::Void || is_forlorn;
                    let is_lost = may_end && now >= seen.open.deadline_ms;
                    let coming = |id: &&ClientId| {
                        let may_come = |c: &ClientView| !is_out(c.state) && !self.failed.contains(&c.id);
                        seen.updates.contains_key(*id) || machine.client(id).is_some_and(may_come)
                    };
                    let possible = seen.open.cohort.iter().filter(coming).count();
                    let has_failed = seen.open.cohort.iter().any(|id| self.failed.contains(id));
                    let is_free = |c: &ClientView| is_eligible(c.state) && !seen.open.cohort.contains(&c.id);
                    let has_no_others = has_failed && !machine.clients().any(is_free);
                    let is_hopeless = possible < seen.config.min_clients as usize && (is_sync || has_no_others);
                    assert!(is_lost || is_hopeless, "void too early: {seen:?}");
                }
            }
            _ => {}
        }
    }

    /// Between two rounds: who is too far behind, by the newest configuration, works for nothing.
    fn release(&mut self) {
        let is_async = self.config.mode == Mode::Async;
        let (version, most) = (self.version, u64::from(self.config.max_staleness));
        self.at_work.retain(|_, asked| is_async && version - self.bases[asked] <= most);
    }

    fn opened(&mut self, now: UnixMs, machine: &RoundMachine) {
        assert_eq!(self.round, None, "a round opened in a round");
        let (open, config) = (machine.open_round().unwrap().clone(), self.config.clone());
        assert!(open.number > self.last_number, "round {} after {}", open.number, self.last_number);
        assert_eq!((open.base_version, open.opened_ms), (self.version, now));
        assert_eq!(open.deadline_ms, now + u64::from(config.deadline_s) * 1_000);
        assert!(open.cohort.is_sorted_by(|a, b| a < b) && open.updated.is_empty());
        let carried: BTreeMap<_, _> = machine.carried().collect();
        let state = |id: &ClientId| machine.client(id).unwrap().state;
        assert!(open.cohort.iter().all(|id| is_eligible(state(id)) || carried.contains_key(id)));
        assert!(carried.keys().all(|id| !is_out(state(id)) && state(id) != ClientState::Error));
        // Who is at work goes on.
        self.release();
        self.at_work.retain(|id, _| {
            machine.client(id).is_some_and(|c| is_eligible(c.state) || c.state == ClientState::Offline)
        });
        for (id, asked) in &self.at_work {
            assert_eq!(carried.get(id).map(|work| work.round), Some(*asked), "{id} has worked for nothing");
        }
        let there = open.cohort.iter().filter(|id| is_eligible(state(id))).count();
        let eligible = machine.clients().filter(|c| is_eligible(c.state)).count();
        let (min, wanted) = (config.min_clients as usize, config.cohort.of(eligible));
        assert!(there >= min, "opened below quorum");
        match config.mode {
            Mode::Sync => {
                let wanted = wanted.max(min);
                let more = (wanted as f64 * config.over_selection).ceil() as usize;
                assert_eq!((open.cohort.len(), open.target as usize), ((wanted + more).min(eligible), wanted));
                assert_eq!(carried.len(), 0);
            }
            Mode::Async => {
                assert!(there >= wanted.max(min) && there <= wanted.max(min).max(carried.len()));
                assert_eq!(open.target, config.buffer_size.max(config.min_clients));
            }
        }
        self.last_number = open.number;
        self.bases.insert(open.number, open.base_version);
        let (config, updates) = (config.clone(), BTreeMap::new());
        self.round = Some(Seen { open, config, updates, is_aggregating: false, grace_until_ms: 0 });
    }

    /// Whoever asks in an asynchronous round begins anew with the newest version, as far as there are places.
    fn asked(&mut self, now: UnixMs, before: &RoundMachine, machine: &RoundMachine, client: &ClientId) {
        let Some(seen) = self.round.as_ref().filter(|seen| seen.config.mode == Mode::Async) else { return };
        let is_same = before.open_round().is_some_and(|round| round.number == seen.open.number);
        if !is_same || machine.phase() != Phase::Training {
            return;
        }
        if let Ok(Task::Train(task)) = machine.task(now, client) {
            assert_eq!((task.round, task.version), (seen.open.number, seen.open.base_version));
            self.at_work.insert(client.clone(), task.round);
        } else if is_eligible(machine.client(client).unwrap().state) && !seen.updates.contains_key(client) {
            let others = before.clients().filter(|c| c.id != *client && is_eligible(c.state));
            let (awaited, others): (Vec<_>, Vec<_>) =
                others.partition(|c| seen.open.cohort.contains(&c.id) && !seen.updates.contains_key(&c.id));
            let eligible = awaited.len() + others.len() + 1;
            let most = seen.config.cohort.of(eligible).max(seen.config.min_clients as usize);
            assert!(awaited.len() >= most, "{client} is given no work though there is a place");
        }
    }

    /// Whether a round that has its quorum is to be closed.
    fn is_due(&self, now: UnixMs, machine: &RoundMachine, seen: &Seen) -> bool {
        let updates = seen.updates.len();
        let missing = seen.open.cohort.iter().filter(|id| !seen.updates.contains_key(*id));
        let states: Vec<_> = missing.filter_map(|id| machine.client(id)).map(|c| c.state).collect();
        let is_awaited = states.iter().any(|state| is_eligible(*state));
        let may_be_back =
            now < seen.grace_until_ms && states.iter().any(|state| !is_eligible(*state) && !is_out(*state));
        let is_free = |c: &ClientView| is_eligible(c.state) && !seen.open.cohort.contains(&c.id);
        let has_others = seen.config.mode == Mode::Async && machine.clients().any(is_free);
        updates >= seen.config.min_clients as usize
            && (updates >= seen.open.target as usize
                || now >= seen.open.deadline_ms
                || !is_awaited && !may_be_back && !has_others)
    }

    /// What is combined is what was counted, of those who may take part, as stale as it is.
    fn parts(&self, machine: &RoundMachine) {
        let seen = self.round.as_ref().unwrap();
        let expected = seen.updates.iter().map(|(id, asked)| (id.clone(), seen.open.base_version - self.bases[asked]));
        let parts = machine.parts().into_iter().map(|part| (part.client, machine.version() - part.version));
        assert_eq!(parts.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        for id in seen.updates.keys().filter(|id| !self.out_too_late.contains(*id)) {
            // One that has left by itself leaves its update in.
            assert!(machine.client(id).is_none_or(|c| !is_out(c.state)), "{id} is out and counted");
        }
    }

    fn state(&mut self, now: UnixMs, machine: &RoundMachine) {
        let round = machine.open_round();
        self.at_work
            .retain(|id, _| machine.client(id).is_some_and(|c| !is_out(c.state) && c.state != ClientState::Error));
        if round.is_none() && machine.autorun().is_none() {
            self.at_work.clear();
            assert_eq!(machine.oldest_round(), self.last_number + 1, "no work is to be taken");
        }
        if round.is_none() {
            self.release();
        }
        assert_eq!(round, self.round.as_ref().map(|seen| &seen.open), "what was told adds up to what is");
        let is_open = machine.phase() == Phase::Training;
        assert_eq!(is_open, self.round.as_ref().is_some_and(|r| !r.is_aggregating));
        let timer = machine.poll_timeout();
        assert!(timer.is_none_or(|at| at > now) && (timer.is_some() || !is_open), "a timer that is missing or overdue");
        if let Some(seen) = &self.round {
            self.parts(machine);
            assert!(seen.is_aggregating || !self.is_due(now, machine, seen), "still open: {seen:?}");
            assert!(seen.is_aggregating || now < seen.open.deadline_ms);
        }
        let may_deliver =
            |id: &ClientId| machine.assignment(id).is_some_and(|a| machine.may_update(id, a.round).is_ok());
        let has_failed = |id: &ClientId| machine.client(id).is_some_and(|c| c.state == ClientState::Error);
        self.silent.retain(|id| may_deliver(id) && !has_failed(id));
        for id in &self.silent {
            let state = machine.client(id).map(|client| client.state);
            assert_eq!(state, Some(ClientState::Training), "{id} is silent, and the deadline has not passed");
        }
        for ClientView { id, state, .. } in machine.clients() {
            let is_counted = round.is_some_and(|r| r.updated.contains(id));
            let assignment = machine.assignment(id);
            assert_eq!(assignment.is_some(), round.is_some_and(|r| r.cohort.contains(id)));
            assert!(*state != ClientState::Finish || is_counted, "{id} is at finish without an update");
            let is_asked = is_open && assignment.is_some() && !is_counted;
            let task = match machine.task(now, id) {
                Ok(Task::Train(task)) => Some((task.round, task.version)),
                _ => None,
            };
            let work = assignment.filter(|_| is_asked && is_eligible(*state)).map(|a| (a.round, a.version));
            assert_eq!(task, work, "{id} is {state}");
            if let Some(assignment) = assignment {
                assert_eq!(assignment.version, self.bases[&assignment.round]);
                let answer = machine.may_update(id, assignment.round);
                let twice = Reject::AlreadyUpdated { client: id.clone(), round: assignment.round };
                assert!(is_out(*state) || is_counted == (answer == Err(twice)), "{id} is {state}: {answer:?}");
                assert_eq!(answer.is_ok(), is_asked && !is_out(*state), "{id} is {state}: {answer:?}");
            }
        }
    }

    /// The coordinator was away; what it knows is what the ledger holds.
    pub fn restarted(&mut self, now: UnixMs, machine: &RoundMachine, ledger: &Ledger) {
        self.last_number = ledger.last_number;
        self.version = ledger.version;
        self.out_too_late.clear();
        self.silent.clear();
        self.round = None;
        let Some(stored) = &ledger.round else {
            assert_eq!(machine.open_round(), None);
            self.at_work.retain(|id, asked| ledger.carried.get(id).is_some_and(|work| work.round == *asked));
            return;
        };
        let open = machine.open_round().unwrap();
        let counts = |id: &&ClientId| machine.client(id).is_none_or(|c| !is_out(c.state));
        let asked = |id: &ClientId| stored.earlier.get(id).map_or(stored.open.number, |earlier| earlier.round);
        let updates: BTreeMap<_, _> = stored.received.keys().filter(counts).map(|id| (id.clone(), asked(id))).collect();
        assert_eq!((open.number, &open.cohort), (stored.open.number, &stored.open.cohort));
        assert!(open.updated.iter().eq(updates.keys()), "what was acknowledged is counted");
        stored.open.cohort.iter().for_each(|id| _ = self.counted.remove(&(id.clone(), asked(id))));
        self.counted.extend(updates.clone());
        self.at_work.retain(|id, asked| {
            machine.assignment(id).is_some_and(|work| work.round == *asked) && !updates.contains_key(id)
        });
        // What was to be combined is combined, if enough of it is there.
        let (min, has_quorum) = (stored.config.min_clients as usize, |min| updates.len() >= min);
        let is_aggregating = stored.closed.as_ref().is_some_and(|c| has_quorum(min) || c.by_operator && has_quorum(1));
        assert_eq!(machine.phase() == Phase::Aggregating, is_aggregating);
        let grace_until_ms = if is_aggregating { 0 } else { now + OFFLINE_AFTER_MS };
        // A shorter one may have been told, but not yet stored.
        let latest_ms = now + u64::from(self.config.deadline_s) * 1_000;
        let deadline_ms = stored.open.deadline_ms;
        let expected = if is_aggregating { deadline_ms } else { deadline_ms.min(latest_ms).max(grace_until_ms) };
        assert_eq!(open.deadline_ms, expected);
        let (open, config) = (open.clone(), stored.config.clone());
        self.round = Some(Seen { open, config, updates, is_aggregating, grace_until_ms });
    }
}
