//! What the round machine has decided, carried out in its order.

use super::{Aggregation, Conductor, Record, Refusal, World};
use crate::round::{Command, Effect, Standing};
use app::api::{BestVersion, Change, ClientId, ClientView, CohortStep, Mode, RoundOutcome, RoundSummary};

/// The world has ended in the middle of a step.
struct Stopped;

impl<W: World> Conductor<W> {
    /// Carries out everything that the machine has decided.
    pub(super) async fn drain(&mut self) -> Result<(), Refusal<W::Error>> {
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
            Effect::HeartbeatsBegan(client) => self.persist(|| Record::HeartbeatsBegan { client: &client }).await?,
            Effect::RemoveClient(client) => self.remove_client(&client).await?,
            Effect::RoundOpened => self.round_opened().await?,
            Effect::Cohort { client, step } => self.cohort(&client, step).await?,
            Effect::DeadlineMoved => {
                if let Some(round) = self.machine.open_round() {
                    let (round, deadline_ms) = (round.number, round.deadline_ms);
                    self.persist(|| Record::Deadline { round, deadline_ms }).await?;
                    self.world.wake(); // those who failed have another chance
                }
            }
            Effect::Aggregate { round } => {
                if let Some(closed) = self.machine.closed() {
                    self.persist(|| Record::Closed { round, closed }).await?;
                    for (client, reason) in &closed.rejected {
                        self.note("update left out", Some(client), Some(round), reason).await;
                    }
                }
                let parts = self.machine.parts();
                if parts.is_empty() {
                    let reason = "all updates are out of proportion (max_norm_ratio)".to_owned();
                    // It cannot be refused: the round is closed.
                    let _ = self.machine.handle(self.world.now_ms(), Command::AggregationFailed { reason });
                } else {
                    let base_version = self.machine.version();
                    self.world.aggregate(Aggregation { round, base_version, parts });
                }
                self.world.wake(); // who still trains for it is to stop
            }
            Effect::RoundEnded(summary) => self.round_ended(*summary).await?,
            Effect::Course => self.course().await?,
        }
        Ok(())
    }

    /// Tries until it is stored or the run stops: a full disk delays a run, it does not make it forget. What is decided
    /// cannot be taken back.
    async fn persist<'a>(&self, record: impl Fn() -> Record<'a, W>) -> Result<(), Stopped>
    where
        W: 'a,
    {
        let mut attempt = 0;
        while let Err(error) = self.world.save(record()).await {
            attempt += 1;
            self.world.stuck(Some(format!("Cannot store what happened, trying again: {error}")));
            if self.world.pause(attempt, &error).await.is_break() {
                return Err(Stopped);
            }
        }
        if attempt > 0 {
            self.world.stuck(None);
        }
        Ok(())
    }

    /// Notes what happened, for people: a failure matters to nobody else.
    pub(super) async fn note(&self, kind: &str, client: Option<&ClientId>, round: Option<u64>, detail: &str) {
        let _ = self.world.save(Record::Event { kind, client, round, detail, at_ms: self.world.now_ms() }).await;
    }

    async fn store_client(&self, id: &ClientId, what: Standing) -> Result<(), Stopped> {
        let Some(client) = self.machine.client(id) else { return Ok(()) };
        let banned = self.machine.is_banned(&client.name);
        self.persist(|| Record::Client { client, banned }).await?;
        let detail = match (&client.error, what) {
            (Some(error), Standing::Failed | Standing::Rejected | Standing::Struck | Standing::Quarantined) => {
                format!("{}: {error}", client.name)
            }
            _ => client.name.clone(),
        };
        self.note(what.as_str(), Some(id), None, &detail).await;
        self.show_client(id);
        self.world.wake();
        Ok(())
    }

    fn show_client(&self, id: &ClientId) {
        if let Some(client) = self.machine.client(id) {
            self.world.publish(Change::Client { client: Box::new(client.clone()) });
        }
    }

    async fn remove_client(&self, client: &ClientView) -> Result<(), Stopped> {
        self.persist(|| Record::Left { client: &client.id }).await?;
        self.note("left", Some(&client.id), None, &client.name).await;
        self.world.publish(Change::ClientLeft { id: client.id.clone() });
        Ok(())
    }

    async fn round_opened(&self) -> Result<(), Stopped> {
        let Some(round) = self.machine.open_round() else { return Ok(()) };
        let assignments: Vec<_> = round.cohort.iter().filter_map(|id| self.machine.assignment(id)).collect();
        self.persist(|| Record::RoundOpened { round, assignments: &assignments }).await?;
        let detail = format!("{} clients asked", round.cohort.len());
        self.note("round opened", None, Some(round.number), &detail).await;
        self.world.publish(Change::RoundOpened { round: Box::new(round.clone()) });
        self.world.wake();
        Ok(())
    }

    async fn cohort(&self, client: &ClientId, step: CohortStep) -> Result<(), Stopped> {
        // A round that this very step has ended has told all of it.
        let Some(round) = self.machine.open_round().map(|round| round.number) else { return Ok(()) };
        match (step, self.machine.assignment(client)) {
            (CohortStep::Asked, Some(assignment)) => {
                self.persist(|| Record::Asked { round, client, assignment }).await?;
            }
            (CohortStep::Dropped, _) => {
                let is_open = self.machine.closed().is_none();
                self.persist(|| Record::Dropped { round, client, is_open }).await?;
            }
            _ => {} // stored already
        }
        self.world.publish(Change::Cohort { client: client.clone(), step });
        if self.machine.config().mode == Mode::Async {
            self.world.wake(); // a place in the cohort may have become free
        }
        Ok(())
    }

    async fn round_ended(&mut self, summary: RoundSummary) -> Result<(), Stopped> {
        let made = self.made.take().filter(|_| summary.outcome == RoundOutcome::Complete).zip(summary.version);
        let best = match (summary.version, summary.test_accuracy) {
            (Some(version), Some(test_accuracy)) if self.best.is_none_or(|best| test_accuracy > best.test_accuracy) => {
                Some(BestVersion { version, round: summary.number, test_accuracy })
            }
            _ => self.best,
        };
        let is_best = best != self.best;
        let autorun_rounds = self.machine.autorun().map_or(0, |autorun| autorun.rounds);
        let model = made.as_ref().map(|(model, _)| (model, is_best));
        self.persist(|| Record::RoundEnded { summary: &summary, model, autorun_rounds }).await?;
        self.best = best;
        self.autorun_rounds = autorun_rounds;
        if let Some((model, version)) = made {
            self.world.adopt(version, model);
        }
        let detail = match summary.test_accuracy {
            Some(accuracy) => format!("{}; test accuracy {:.2}%", summary.reason, accuracy * 100.0),
            None => summary.reason.clone(),
        };
        self.note("round ended", None, Some(summary.number), &detail).await;
        self.world.forget(self.machine.oldest_round());
        self.world.publish(Change::RoundEnded { summary: Box::new(summary), version: self.machine.version(), best });
        self.world.wake();
        Ok(())
    }

    async fn course(&mut self) -> Result<(), Stopped> {
        let rounds = self.machine.autorun().map_or(0, |autorun| autorun.rounds);
        if rounds != self.autorun_rounds {
            self.persist(|| Record::Autorun { rounds }).await?;
            self.autorun_rounds = rounds;
        }
        self.world.publish(Change::Course {
            phase: self.machine.phase(),
            waiting: self.machine.waiting(),
            autorun: self.machine.autorun(),
            deadline_ms: self.machine.open_round().map(|round| round.deadline_ms),
        });
        Ok(())
    }
}
