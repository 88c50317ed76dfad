//! Clients: who joins, is admitted, put out, struck, heard of, given work.

use super::command::Standing;
use super::roster::{MAX_CLIENTS, OFFLINE_AFTER_MS, is_eligible, is_out};
use super::{Effect, Reject, RoundMachine, UnixMs};
use crate::digest::Sha256Digest;
use app::api::{Admission, ClientId, ClientState, ClientView, CohortStep, ReportedState, StatusReport};

/// The longest text of a client's error that is kept, in characters.
const MAX_ERROR_CHARS: usize = 500;

impl RoundMachine {
    /// A client as it will be once it has joined: to be stored before `Command::Join`, which then cannot fail.
    ///
    /// # Errors
    /// It may not join.
    pub fn newcomer(
        &self,
        now: UnixMs,
        id: ClientId,
        name: String,
        samples: u64,
        device: String,
    ) -> Result<ClientView, Reject> {
        if self.roster.is_banned(&name) {
            return Err(Reject::Banned(name));
        }
        if self.roster.len() >= MAX_CLIENTS && self.roster.dispensable(now).is_none() {
            return Err(Reject::RosterFull(self.roster.len()));
        }
        self.may_have(samples)?;
        let state = match self.config.admission {
            Admission::Open => ClientState::Join,
            Admission::Approval => ClientState::Pending,
        };
        Ok(ClientView::new(id, name, samples, device, state, now))
    }

    pub(super) fn join(
        &mut self,
        now: UnixMs,
        id: ClientId,
        name: String,
        samples: u64,
        device: String,
    ) -> Result<(), Reject> {
        if self.roster.get(&id).is_some() {
            return self.seen(now, &id);
        }
        let view = self.newcomer(now, id.clone(), name, samples, device)?;
        if self.roster.len() >= MAX_CLIENTS
            && let Some(other) = self.roster.dispensable(now).cloned()
        {
            self.take_off(&other);
        }
        // Those of its name who are offline are not waited for any more.
        let name = view.name.clone();
        self.roster.insert(view);
        let namesakes: Vec<_> = self.roster.namesakes(&name).filter(|other| **other != id).cloned().collect();
        for other in namesakes {
            self.place(&other);
        }
        self.to_show.insert(id);
        Ok(())
    }

    pub(super) fn admit(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        let view = self.roster.known(id)?;
        if !is_out(view.state) {
            return Ok(());
        }
        self.roster.lift_ban(id);
        self.roster.lift_strikes(id);
        let resting = self.resting_state(id);
        self.change(id, |c| {
            c.strikes = 0;
            c.error = None;
            c.state = if now >= c.seen_ms.saturating_add(OFFLINE_AFTER_MS) {
                ClientState::Offline
            } else if resting == ClientState::Finish {
                resting
            } else {
                ClientState::Join
            };
        });
        self.store(id, Standing::Admitted);
        Ok(())
    }

    pub(super) fn kick(&mut self, id: &ClientId, ban: bool) -> Result<(), Reject> {
        self.roster.known(id)?;
        if ban {
            self.roster.ban(id);
        }
        self.change(id, |c| {
            c.state = ClientState::Kicked;
            c.progress = None;
            c.error = None;
        });
        self.store(id, Standing::Kicked);
        self.take_out(id);
        Ok(())
    }

    /// Nothing of this client is taken any more, nor what it is at: an update that is in is taken out of its round again,
    /// unless it is being combined already. After its standing is stored: a crash between the two must not lose the update
    /// of a client that is still welcome.
    fn take_out(&mut self, id: &ClientId) {
        if self.round.as_mut().is_some_and(|round| round.is_open() && round.uncount(id)) {
            self.step(id, CohortStep::Dropped);
        }
        self.carried.remove(id);
    }

    /// Shows in the client's row why its update was rejected. Stores nothing where the row shows that already, so that a
    /// client which repeats itself costs nothing.
    pub(super) fn rejected(
        &mut self,
        now: UnixMs,
        id: &ClientId,
        round: u64,
        reason: &str,
        strike: Option<Sha256Digest>,
    ) -> Result<(), Reject> {
        self.seen(now, id)?;
        let is_awaited = self.may_update(id, round).is_ok();
        let is_strike = strike.is_some_and(|digest| self.roster.strike(id, digest));
        let view = self.roster.known(id)?;
        let reason: String = reason.chars().take(MAX_ERROR_CHARS).collect();
        let strikes = view.strikes.saturating_add(u32::from(is_strike));
        let is_last = is_strike && strikes >= self.config.max_strikes;
        let is_news = is_strike || view.error.as_ref() != Some(&reason);
        if let Some(round) = self.round.as_mut().filter(|_| is_awaited) {
            round.reject(id, &reason);
        }
        self.change(id, |c| {
            c.strikes = strikes;
            c.error = Some(reason);
            if is_last {
                c.state = ClientState::Quarantine;
            } else if is_awaited {
                c.state = ClientState::Error;
            }
            if is_last || is_awaited {
                c.progress = None;
            }
        });
        if is_news {
            let what = match (is_strike, is_last) {
                (_, true) => Standing::Quarantined,
                (true, false) => Standing::Struck,
                (false, false) => Standing::Rejected,
            };
            self.store(id, what);
        }
        if is_last {
            self.take_out(id);
        }
        Ok(())
    }

    /// Whether a client may have that many images.
    fn may_have(&self, samples: u64) -> Result<(), Reject> {
        let max_samples = self.config.max_samples;
        if samples <= max_samples { Ok(()) } else { Err(Reject::TooManySamples { samples, max_samples }) }
    }

    pub(super) fn change_samples(&mut self, now: UnixMs, id: &ClientId, samples: u64) -> Result<(), Reject> {
        let before = self.roster.welcome(id)?.samples;
        self.may_have(samples)?;
        self.seen(now, id)?;
        if samples != before {
            self.change(id, |c| c.samples = samples);
            self.store(id, Standing::SamplesChanged);
        }
        Ok(())
    }

    pub(super) fn late(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.seen(now, id)?;
        self.change(id, |c| c.late_updates = c.late_updates.saturating_add(1));
        Ok(())
    }

    /// Beside being heard of: in asynchronous runs whoever asks is given work, as far as the cohort's size allows.
    pub(super) fn ask(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.seen(now, id)?;
        let has_place = self.has_place(id);
        let Some(round) = self.round.as_mut().filter(|round| round.is_async()) else {
            self.carried.remove(id);
            return Ok(());
        };
        if !round.is_open() {
            round.cohort.stop_work(id);
        } else if (has_place || round.cohort.awaited().contains(id)) && round.take_up(id) {
            self.roster.set_asked(std::slice::from_ref(id), round.open.number);
            self.step(id, CohortStep::Asked);
            self.is_course_stale = true;
        }
        Ok(())
    }

    /// From now on the client trains, and may be silent until the deadline.
    pub(super) fn take(&mut self, id: &ClientId) {
        if self.round.as_ref().is_some_and(|round| round.is_open() && round.cohort.awaited().contains(id)) {
            if self.roster.get(id).is_some_and(|c| c.state != ClientState::Training || c.progress.is_some()) {
                self.change(id, |c| {
                    c.state = ClientState::Training;
                    c.progress = None;
                });
            }
            self.roster.set_silent(id, true);
        }
    }

    /// Whether the open round is asynchronous and has a place for a client that it has not asked yet.
    pub fn has_place(&self, id: &ClientId) -> bool {
        let round =
            self.round.as_ref().filter(|round| round.is_open() && round.is_async() && !round.cohort.contains(id));
        let is_there = self.roster.get(id).is_some_and(|client| is_eligible(client.state));
        is_there
            && round.is_some_and(|round| {
                round.cohort.awaited().len() < round.config.cohort.of(self.roster.eligible()).max(round.min_clients())
            })
    }

    /// A client that was kicked or is in quarantine cannot leave: it would take the record of that along.
    pub(super) fn leave(&mut self, id: &ClientId) -> Result<(), Reject> {
        if self.roster.welcome(id)?.state == ClientState::Quarantine {
            return Err(Reject::Quarantined(id.clone()));
        }
        self.take_off(id);
        Ok(())
    }

    fn take_off(&mut self, id: &ClientId) {
        if let Some(view) = self.roster.remove(id) {
            self.effects.push_back(Effect::RemoveClient(Box::new(view)));
        }
        self.carried.remove(id);
        if let Some(round) = &mut self.round {
            round.cohort.place(id, None);
        }
    }

    pub(super) fn seen(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.roster.welcome(id)?;
        let resting = self.resting_state(id);
        self.change(id, |c| {
            c.seen_ms = c.seen_ms.max(now);
            if c.state == ClientState::Offline {
                c.state = resting;
            }
        });
        Ok(())
    }

    /// A client that has begun to send heartbeats is given up when three are missing.
    pub(super) fn heartbeat(&mut self, now: UnixMs, id: &ClientId) -> Result<(), Reject> {
        self.seen(now, id)?;
        self.record_heartbeat(id);
        Ok(())
    }

    fn record_heartbeat(&mut self, id: &ClientId) {
        if self.roster.heartbeat(id) {
            self.effects.push_back(Effect::HeartbeatsBegan(id.clone()));
        }
    }

    pub(super) fn status(&mut self, now: UnixMs, id: &ClientId, report: StatusReport) -> Result<(), Reject> {
        self.roster.welcome(id)?;
        self.record_heartbeat(id);
        let resting = self.resting_state(id);
        // Work that no longer counts is not shown as work, nor its failure: the client is being told to stop.
        let is_cancelled = report.round.is_some_and(|round| self.is_cancelled(id, round));
        // What is carried from round to round is given up by an error.
        let has_failed = report.state == ReportedState::Error && !is_cancelled;
        let is_given_up = has_failed && self.carried.remove(id).is_some();
        let is_idle = resting == ClientState::Finish || is_cancelled || is_given_up;
        let error = report.error.map(|text| text.chars().take(MAX_ERROR_CHARS).collect::<String>());
        let error = error.filter(|_| report.state == ReportedState::Error);
        self.change(id, |c| {
            c.seen_ms = c.seen_ms.max(now);
            if matches!(c.state, ClientState::Pending | ClientState::Quarantine) {
                return;
            }
            c.progress = None;
            c.error.clone_from(&error);
            c.state = match report.state {
                _ if is_idle => resting,
                ReportedState::Error => ClientState::Error,
                ReportedState::Ready => ClientState::Ready,
                ReportedState::Update => ClientState::Update,
                ReportedState::Training => {
                    c.progress = report.progress;
                    ClientState::Training
                }
            };
        });
        // Noted once a round, so that a client which repeats itself costs nothing.
        let has_failed = self.roster.get(id).is_some_and(|client| client.state == ClientState::Error);
        let round =
            self.round.as_mut().filter(|round| has_failed && round.cohort.contains(id) && !round.has_update(id));
        if round.zip(error).is_some_and(|(round, error)| round.fail(id, &error)) {
            self.store(id, Standing::Failed);
        }
        Ok(())
    }
}
