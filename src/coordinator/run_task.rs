//! One run's task: owns the round machine, feeds it, and carries out what it decides.
//!
//! The order is always: durable, then visible, then answered.

use super::evaluator::Evaluator;
use super::handle::{Message, RunError, Update};
use super::ledger::Ledger;
use super::models::{blocking, to_blob};
use super::published::Published;
use crate::aggregate::WeightedMean;
use crate::model::Device;
use crate::model::Evaluation;
use crate::round::{Command, Effect, RoundMachine};
use crate::store::{NewVersion, Sha256Digest, Standing};
use crate::wire::{Base, Parameters};
use app::api::{BestVersion, Change, ClientId, RoundOutcome, RoundSummary, RunConfig, StatusReply};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Global versions whose blobs are kept behind the current one, the best one aside.
const KEEP_VERSIONS: u64 = 10;

/// A new global model: combined, stored as a blob, evaluated; not yet committed.
pub(super) struct NewModel {
    parameters: Parameters,
    sha256: Sha256Digest,
    evaluation: Option<Evaluation>,
}

pub(super) struct RunTask {
    pub(super) ledger: Ledger,
    pub(super) machine: RoundMachine,
    pub(super) device: Device,
    pub(super) published: Arc<Published>,
    pub(super) evaluator: Option<Arc<Evaluator>>,
    pub(super) inbox: mpsc::Receiver<Message>,
    /// To itself, from work that runs beside it.
    pub(super) outbox: mpsc::WeakSender<Message>,
    /// The open round's running sum; an error if folding failed.
    pub(super) mean: Option<Result<WeightedMean, String>>,
    /// What the round being committed made.
    pub(super) new_model: Option<Box<NewModel>>,
    /// As last stored.
    pub(super) autorun_rounds: u32,
}

impl RunTask {
    pub(super) async fn run(mut self) {
        self.drain().await;
        loop {
            let timeout = self.machine.poll_timeout().map(|at| self.ledger.clock.instant(at));
            let timer = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.ledger.shutdown.cancelled() => break,
                message = self.inbox.recv() => match message {
                    Some(message) => self.receive(message).await,
                    None => break,
                },
                () = timer => {
                    self.machine.handle_timeout(self.ledger.clock.now_ms());
                    self.drain().await;
                }
            }
        }
        self.published.uploads.clear(u64::MAX);
    }

    async fn receive(&mut self, message: Message) {
        // A caller that has gone away in the meantime is not waiting for the answer: hence the `let _`s.
        match message {
            Message::Command(command, reply) => {
                let _ = reply.send(self.command(command).await);
            }
            Message::Register { client, token, request, reply } => {
                let result = self.register(client, token, request).await;
                let _ = reply.send(result);
            }
            Message::Status { client, report, reply } => {
                let round = report.round;
                let result = self.command(Command::Status { client: client.clone(), report }).await.map(|()| {
                    let cancel = round.is_some_and(|round| self.machine.is_cancelled(&client, round));
                    let state = self.machine.client(&client).map(|c| c.state);
                    StatusReply { cancel, state: state.unwrap_or(app::api::ClientState::Offline) }
                });
                let _ = reply.send(result);
            }
            Message::Task(client, reply) => {
                let seen = self.command(Command::Seen { client: client.clone() }).await;
                let _ = reply.send(seen.and_then(|()| Ok(self.machine.task(self.ledger.clock.now_ms(), &client)?)));
            }
            Message::MayUpdate { client, round, reply } => {
                let _ = reply.send(self.machine.may_update(&client, round).map_err(RunError::from));
            }
            Message::Update(update, reply) => {
                let result = self.update(*update).await;
                let _ = reply.send(result);
            }
            Message::Configure { expected, patch, reply } => {
                let result = self.configure(expected, &patch).await;
                let _ = reply.send(result);
            }
            Message::Aggregated(result) => self.aggregated(result).await,
        }
    }

    async fn command(&mut self, command: Command) -> Result<(), RunError> {
        self.machine.handle(self.ledger.clock.now_ms(), command)?;
        self.drain().await;
        Ok(())
    }

    async fn register(
        &mut self,
        client: ClientId,
        token: Sha256Digest,
        request: app::api::RegisterRequest,
    ) -> Result<app::api::ClientState, RunError> {
        let now = self.ledger.clock.now_ms();
        let join = Command::Join {
            client: client.clone(),
            name: request.name,
            samples: request.samples,
            device: request.device,
        };
        self.machine.handle(now, join)?;
        let view = self.machine.client(&client).cloned().ok_or_else(|| RunError::Internal("no client".into()))?;
        // With its token, and before the machine's effects touch its row.
        if let Err(error) = self.ledger.store.add_client(&self.ledger.run, &view, token).await {
            self.machine.handle(now, Command::Leave { client })?;
            self.drain().await;
            return Err(error.into());
        }
        self.ledger.note("joined", Some(&view), None, &view.name).await;
        self.drain().await;
        Ok(view.state)
    }

    async fn update(&mut self, update: Update) -> Result<(), RunError> {
        // Asked once more: the round may have closed while the body came in.
        self.machine.may_update(&update.client, update.round)?;
        let Update { client, round, samples, loss, body } = update;
        let (bytes, sha256) = (body.spool.bytes(), body.spool.digest());
        // Stored before it is folded in: one that cannot be stored is sent again, and must not weigh twice.
        self.ledger
            .store
            .add_contribution(
                &self.ledger.run,
                round,
                &client,
                sha256,
                bytes,
                samples,
                loss,
                self.ledger.clock.now_ms(),
            )
            .await?;
        let mean = match self.mean.take() {
            Some(mean) => mean,
            None => WeightedMean::new(self.published.models.schema().clone(), self.device).map_err(|e| e.to_string()),
        };
        let mean = blocking(move || {
            let base = Base { version: body.version, parameters: &body.base };
            let fold = |mean: &mut WeightedMean| mean.fold(&body.plan, &body.file, Some(base), samples);
            mean.and_then(|mut mean| fold(&mut mean).map(|()| mean).map_err(|e| e.to_string()))
        })
        .await;
        // A sum that failed is kept as such: it makes the round void, and says why.
        self.mean = Some(mean);
        self.command(Command::Update { client, round, samples, loss, bytes }).await
    }

    async fn configure(&mut self, expected: u64, patch: &serde_json::Value) -> Result<u64, RunError> {
        let current = self.machine.config_version();
        if expected != current {
            return Err(RunError::ConfigChanged { current, expected });
        }
        let config: RunConfig = self.machine.config().patched(patch).map_err(RunError::BadConfig)?;
        let config_version = current + 1;
        self.ledger.store.add_config(&self.ledger.run, config_version, &config, self.ledger.clock.now_ms()).await?;
        self.published.publish(Change::Config { config: Box::new(config.clone()), config_version });
        self.ledger.note("configured", None, None, &patch.to_string()).await;
        self.command(Command::Configure { config: Box::new(config), config_version }).await?;
        Ok(config_version)
    }

    async fn aggregated(&mut self, result: Result<Box<NewModel>, String>) {
        let command = match result {
            Ok(new) => {
                let command = Command::Committed {
                    version: self.machine.version() + 1,
                    test_loss: new.evaluation.map(|e| e.loss),
                    test_accuracy: new.evaluation.map(|e| e.accuracy),
                };
                self.new_model = Some(new);
                command
            }
            Err(reason) => Command::AggregationFailed { reason },
        };
        if let Err(error) = self.command(command).await {
            tracing::error!(run = %self.ledger.run, %error, "a result of aggregation was not wanted");
        }
    }

    /// Carries out everything that the machine has decided, in its order.
    async fn drain(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::StoreClient(id) => self.store_client(&id).await,
                Effect::ShowClient(id) => self.show_client(&id),
                Effect::RemoveClient(client) => {
                    self.ledger
                        .persist(|store, run| {
                            let id = client.id.clone();
                            async move { store.remove_client(&run, &id).await }
                        })
                        .await;
                    self.ledger.note("left", Some(&client), None, &client.name).await;
                    self.published.publish(Change::ClientLeft { id: client.id });
                }
                Effect::RoundOpened => self.round_opened().await,
                Effect::Aggregate { round } => self.aggregate(round),
                Effect::RoundEnded(summary) => self.round_ended(*summary).await,
                Effect::Course => self.course().await,
            }
        }
    }

    async fn store_client(&mut self, id: &ClientId) {
        let Some(client) = self.machine.client(id).cloned() else { return };
        let banned = self.machine.is_banned(&client.name);
        self.ledger
            .persist(|store, run| {
                let client = client.clone();
                async move { store.update_client(&run, &client, banned).await }
            })
            .await;
        let before = self.published.read(|s| s.client(id).map(|c| Standing::of(c.state)));
        let now = Standing::of(client.state);
        if before.is_some_and(|before| before != now) {
            let kind = if now == Standing::Kicked { "kicked" } else { "admitted" };
            self.ledger.note(kind, Some(&client), None, &client.name).await;
            self.published.wake_clients();
        }
        self.show_client(id);
    }

    fn show_client(&self, id: &ClientId) {
        if let Some(client) = self.machine.client(id) {
            self.published.publish(Change::Client { client: Box::new(client.clone()) });
        }
    }

    async fn round_opened(&mut self) {
        let Some(round) = self.machine.open_round().cloned() else { return };
        self.mean = None;
        self.ledger
            .persist(|store, run| {
                let round = round.clone();
                async move { store.open_round(&run, &round).await }
            })
            .await;
        self.ledger
            .note("round opened", None, Some(round.number), &format!("{} clients asked", round.cohort.len()))
            .await;
        self.published.wake_clients();
    }

    /// Starts the heavy part beside this task, which stays responsive; its result comes back as a message.
    fn aggregate(&mut self, round: u64) {
        let mean = self.mean.take().unwrap_or_else(|| Err("no update was folded in".into()));
        let (store, evaluator, outbox) = (self.ledger.store.clone(), self.evaluator.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let result = blocking(move || {
                let parameters = mean?.finish().map_err(|e| e.to_string())?;
                let evaluate = || evaluator.map(|e| e.evaluate(&parameters)).transpose();
                // Side by side: writing is fast enough, but waiting for the disk may take as long as evaluating.
                let (stored, evaluated) = std::thread::scope(|scope| {
                    let stored = scope.spawn(|| to_blob(&store, &parameters));
                    let evaluated = evaluate();
                    (stored.join(), evaluated)
                });
                let stored = stored.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let (sha256, evaluation) = (stored.map_err(|e| e.to_string())?, evaluated.map_err(|e| e.to_string())?);
                Ok(Box::new(NewModel { parameters, sha256, evaluation }))
            })
            .await;
            if let Err(reason) = &result {
                tracing::error!(round, reason, "a round could not be aggregated");
            }
            // Without an outbox the run has ended: nobody is left to tell.
            if let Some(outbox) = outbox.upgrade() {
                let _ = outbox.send(Message::Aggregated(result)).await;
            }
        });
    }

    async fn round_ended(&mut self, summary: RoundSummary) {
        let old_best = self.published.read(|s| s.best);
        let made = match summary.outcome {
            RoundOutcome::Complete => self.new_model.take().zip(summary.version),
            RoundOutcome::Void => None,
        };
        let new_version = made.as_ref().map(|(new, version)| NewVersion {
            version: *version,
            sha256: new.sha256,
            test_accuracy: summary.test_accuracy,
            is_best: summary.test_accuracy.is_some_and(|a| old_best.is_none_or(|best| a > best.test_accuracy)),
        });
        let autorun_rounds = self.machine.autorun().map_or(0, |a| a.rounds);
        self.ledger
            .persist(|store, run| {
                let summary = summary.clone();
                async move { store.end_round(&run, &summary, new_version, autorun_rounds).await }
            })
            .await;
        if let Some((new, version)) = made {
            self.published.models.swap(version, Arc::new(new.parameters));
            if let Err(error) = self.ledger.store.prune_models(&self.ledger.run, KEEP_VERSIONS).await {
                tracing::warn!(run = %self.ledger.run, %error, "cannot remove old models");
            }
        }
        let best = match (new_version, summary.test_accuracy) {
            (Some(NewVersion { version, is_best: true, .. }), Some(test_accuracy)) => {
                Some(BestVersion { version, round: summary.number, test_accuracy })
            }
            _ => old_best,
        };
        let detail = match summary.test_accuracy {
            Some(accuracy) => format!("{}; test accuracy {:.2}%", summary.reason, accuracy * 100.0),
            None => summary.reason.clone(),
        };
        self.ledger.note("round ended", None, Some(summary.number), &detail).await;
        self.mean = None;
        self.published.uploads.clear(summary.number);
        let version = self.machine.version();
        self.published.publish(Change::RoundEnded { summary: Box::new(summary), version, best });
    }

    async fn course(&mut self) {
        let autorun = self.machine.autorun();
        let rounds = autorun.map_or(0, |a| a.rounds);
        if rounds != self.autorun_rounds {
            self.ledger.persist(|store, run| async move { store.set_autorun(&run, rounds).await }).await;
            self.autorun_rounds = rounds;
        }
        self.published.publish(Change::Course {
            phase: self.machine.phase(),
            waiting: self.machine.waiting(),
            autorun,
            round: self.machine.open_round().cloned(),
        });
    }
}
