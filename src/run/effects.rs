//! Carries out the decisions of the round machine, in its order.

use super::{Aggregation, Environment, NewVersion, Record, Refusal, Run};
use crate::round::{Command, Effect, Standing};
use app::api::{BestVersion, Change, ClientId, ClientView, CohortStep, Mode, RoundOutcome, RoundSummary};

/// The environment ended in the middle of a step.
struct Stopped;

impl<E: Environment> Run<E> {
    /// Carries out everything that the machine has decided.
    pub(super) async fn drain(&mut self) -> Result<(), Refusal<E::Error>> {
        while let Some(effect) = self.machine.poll_effect() {
            if !self.is_stopped {
                self.is_stopped = self.carry_out(effect).await.is_err();
            }
        }
        if self.is_stopped { Err(Refusal::Stopping) } else { Ok(()) }
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), Stopped> {
        match effect {
            Effect::StoreClient { client, what } => self.store_client(&client, what).await?,
            Effect::ShowClient(id) => self.show_client(&id),
            Effect::HeartbeatsBegan(client) => self.persist(Record::HeartbeatsBegan { client: &client }).await?,
            Effect::RemoveClient(client) => self.remove_client(&client).await?,
            Effect::RoundOpened => self.round_opened().await?,
            Effect::Cohort { client, step } => self.cohort(&client, step).await?,
            Effect::DeadlineMoved => {
                if let Some(round) = self.machine.open_round() {
                    let (round, deadline_ms) = (round.number, round.deadline_ms);
                    self.persist(Record::Deadline { round, deadline_ms }).await?;
                    self.environment.notify_tasks(); // clients that failed may try again
                }
            }
            Effect::Aggregate { round } => {
                if let Some(closed) = self.machine.closed() {
                    self.persist(Record::Closed { round, closed }).await?;
                    for (client, reason) in &closed.rejected {
                        self.log("update left out", Some(client), Some(round), reason).await;
                    }
                }
                let parts = self.machine.parts();
                if parts.is_empty() {
                    let reason = "all updates are out of proportion (max_norm_ratio)".to_owned();
                    // Cannot be rejected: the round is closed.
                    let _ = self.machine.handle(self.environment.now_ms(), Command::AggregationFailed { reason });
                } else {
                    let base_version = self.machine.version();
                    self.environment.aggregate(Aggregation { round, base_version, parts });
                }
                self.environment.notify_tasks(); // clients that still train for it stop
            }
            Effect::RoundEnded(summary) => self.round_ended(*summary).await?,
            Effect::Course => self.course().await?,
        }
        Ok(())
    }

    /// Stores a decision, repeating a write that fails until it succeeds or the run stops: a decision cannot be taken back,
    /// so a full disk delays the run.
    async fn persist(&self, record: Record<'_>) -> Result<(), Stopped> {
        let mut attempt = 0;
        while let Err(error) = self.environment.save(&record).await {
            attempt += 1;
            self.environment.set_blocked(Some(format!("Cannot store the run's progress, trying again: {error}")));
            if self.environment.backoff(attempt, &error).await.is_break() {
                return Err(Stopped);
            }
        }
        if attempt > 0 {
            self.environment.set_blocked(None);
        }
        Ok(())
    }

    /// Adds an entry to the event log. A failure is only logged: nothing but people depends on it.
    pub(super) async fn log(&self, kind: &str, client: Option<&ClientId>, round: Option<u64>, detail: &str) {
        let at_ms = self.environment.now_ms();
        let _ = self.environment.save(&Record::Event { kind, client, round, detail, at_ms }).await;
    }

    async fn store_client(&self, id: &ClientId, what: Standing) -> Result<(), Stopped> {
        let Some(client) = self.machine.client(id) else { return Ok(()) };
        let banned = self.machine.is_banned(&client.name);
        self.persist(Record::Client { client, banned }).await?;
        let detail = match (&client.error, what) {
            (Some(error), Standing::Failed | Standing::Rejected | Standing::Struck | Standing::Quarantined) => {
                format!("{}: {error}", client.name)
            }
            _ => client.name.clone(),
        };
        self.log(what.as_str(), Some(id), None, &detail).await;
        self.show_client(id);
        self.environment.notify_tasks();
        Ok(())
    }

    fn show_client(&self, id: &ClientId) {
        if let Some(client) = self.machine.client(id) {
            self.environment.publish(Change::Client { client: Box::new(client.clone()) });
        }
    }

    async fn remove_client(&self, client: &ClientView) -> Result<(), Stopped> {
        self.persist(Record::Left { client: &client.id }).await?;
        self.log("left", Some(&client.id), None, &client.name).await;
        self.environment.publish(Change::ClientLeft { id: client.id.clone() });
        Ok(())
    }

    async fn round_opened(&self) -> Result<(), Stopped> {
        let Some(round) = self.machine.open_round() else { return Ok(()) };
        let assignments: Vec<_> = round.cohort.iter().filter_map(|id| self.machine.assignment(id)).collect();
        self.persist(Record::RoundOpened { round, assignments: &assignments }).await?;
        let detail = format!("{} clients asked", round.cohort.len());
        self.log("round opened", None, Some(round.number), &detail).await;
        self.environment.publish(Change::RoundOpened { round: Box::new(round.clone()) });
        self.environment.notify_tasks();
        Ok(())
    }

    async fn cohort(&self, client: &ClientId, step: CohortStep) -> Result<(), Stopped> {
        // A round that has ended in the same step has published all of it.
        let Some(round) = self.machine.open_round().map(|round| round.number) else { return Ok(()) };
        match (step, self.machine.assignment(client)) {
            (CohortStep::Asked, Some(assignment)) => {
                self.persist(Record::Asked { round, client, assignment }).await?;
            }
            (CohortStep::Dropped, _) => {
                let is_open = self.machine.closed().is_none();
                self.persist(Record::Dropped { round, client, is_open }).await?;
            }
            _ => {} // an update is stored before it is counted
        }
        self.environment.publish(Change::Cohort { client: client.clone(), step });
        if self.machine.config().mode == Mode::Async {
            self.environment.notify_tasks(); // a place in the cohort may have become free
        }
        Ok(())
    }

    async fn round_ended(&mut self, summary: RoundSummary) -> Result<(), Stopped> {
        let is_complete = summary.outcome == RoundOutcome::Complete;
        let candidate = self.candidate.take().filter(|_| is_complete).zip(summary.version);
        let best = match (summary.version, summary.test_accuracy) {
            (Some(version), Some(test_accuracy)) if self.best.is_none_or(|best| test_accuracy > best.test_accuracy) => {
                Some(BestVersion { version, round: summary.number, test_accuracy })
            }
            _ => self.best,
        };
        let is_best = best != self.best;
        let autorun_rounds = self.machine.autorun().map_or(0, |autorun| autorun.rounds);
        let version =
            candidate.as_ref().map(|((_, sha256), version)| NewVersion { version: *version, sha256: *sha256, is_best });
        self.persist(Record::RoundEnded { summary: &summary, version, autorun_rounds }).await?;
        self.best = best;
        self.autorun_rounds = autorun_rounds;
        if let Some(((parameters, _), version)) = candidate {
            self.environment.install(version, parameters);
        }
        let detail = match summary.test_accuracy {
            Some(accuracy) => format!("{}; test accuracy {:.2}%", summary.reason, accuracy * 100.0),
            None => summary.reason.clone(),
        };
        self.log("round ended", None, Some(summary.number), &detail).await;
        self.environment.discard_uploads_before(self.machine.oldest_round());
        self.environment.publish(Change::RoundEnded {
            summary: Box::new(summary),
            version: self.machine.version(),
            best,
        });
        self.environment.notify_tasks();
        Ok(())
    }

    async fn course(&mut self) -> Result<(), Stopped> {
        let rounds = self.machine.autorun().map_or(0, |autorun| autorun.rounds);
        if rounds != self.autorun_rounds {
            self.persist(Record::Autorun { rounds }).await?;
            self.autorun_rounds = rounds;
        }
        self.environment.publish(Change::Course {
            phase: self.machine.phase(),
            waiting: self.machine.waiting(),
            autorun: self.machine.autorun(),
            deadline_ms: self.machine.open_round().map(|round| round.deadline_ms),
        });
        Ok(())
    }
}
