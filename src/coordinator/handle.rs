//! How the rest of the program speaks to a run: questions and wishes, each answered.

use super::aggregation::NewModel;
use super::incoming::{Body, CheckedUpdate, Incoming};
use super::models::{ModelError, blocking};
use super::published::Published;
use super::rejection::Rejection;
use super::trouble::Sent;
use super::upload_limit;
use super::uploads::Turn;
use super::world::Real;
use crate::conductor::{Made, Receipt, Refusal, Update};
use crate::digest::Sha256Digest;
use crate::round::{Command, Reject};
use crate::store::{Spool, StoreError};
use crate::wire::{self, BodyFormat};
use app::api::{ClientId, ClientState, RegisterRequest, RunConfig, RunId, StatusReply, StatusReport, Task};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Why a run did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run's word.
    #[error(transparent)]
    Refusal(#[from] Refusal<StoreError>),
    /// The run has more to do than it can queue.
    #[error("run '{run}' is busy: {most} requests wait for it, the most that may")]
    Busy {
        /// Which run.
        run: RunId,
        /// How many may wait.
        most: usize,
    },
    /// The run cannot go on, and why: something is decided and cannot be stored, or it has broken down.
    #[error("{0}")]
    Stuck(String),
    /// The version that an update was trained from.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The update was read and is not acceptable.
    #[error("the update was rejected: {0}")]
    BadUpdate(#[from] Rejection),
    /// An upload cannot be gone on with there.
    #[error("offset is {offset}, but of this update {have} bytes are here")]
    Offset {
        /// Where the client would go on.
        offset: u64,
        /// How many bytes are here.
        have: u64,
    },
    /// A later request has taken the upload over.
    #[error("another request goes on with this update")]
    Superseded,
    /// The run is archived, or was renamed or deleted meanwhile.
    #[error("{}", .0.reason)]
    Retired(Retired),
    /// Ours.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Refusal::Store(error).into()
    }
}

impl From<Reject> for RunError {
    fn from(reject: Reject) -> Self {
        Refusal::from(reject).into()
    }
}

/// Why a run takes no more requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// In a sentence.
    pub reason: String,
    /// There is an archived run of that name; else there is none.
    pub is_archived: bool,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, RunError>>;

/// What a run's task is sent.
pub(super) enum Message {
    Command(Command, Reply<()>),
    Register {
        client: ClientId,
        token: Sha256Digest,
        request: RegisterRequest,
        reply: Reply<ClientState>,
    },
    Status {
        client: ClientId,
        report: StatusReport,
        reply: Reply<StatusReply>,
    },
    Task {
        client: ClientId,
        at_work_for: Option<u64>,
        is_heard: bool,
        reply: Reply<(Task, bool)>,
    },
    Prior {
        client: ClientId,
        round: u64,
        reply: Reply<(Option<Sha256Digest>, Option<u64>)>,
    },
    Update(Box<Update<Body>>, Reply<Receipt>),
    Configure {
        expected: u64,
        patch: serde_json::Value,
        reply: Reply<u64>,
    },
    /// Ends the run's task for that reason, unless a round is in work.
    End(Retired, Reply<()>),
    Aggregated(u64, Result<Made<Box<NewModel>>, String>),
}

impl Message {
    /// Whether it would be done behind the back of who asked for it, and was told that it is not done or has gone away:
    /// a round would close late, who registers twice be there twice, and a run that was stuck for a while be busy with
    /// questions of long ago. An update may come after all: it is awaited, durable, and harmless to repeat.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Command(_, reply) => reply.is_closed(),
            Self::Register { reply, .. } => reply.is_closed(),
            Self::Status { reply, .. } => reply.is_closed(),
            Self::Task { reply, .. } => reply.is_closed(),
            Self::Prior { reply, .. } => reply.is_closed(),
            Self::Configure { reply, .. } => reply.is_closed(),
            Self::End(_, reply) => reply.is_closed(),
            Self::Update(..) | Self::Aggregated(..) => false,
        }
    }
}

/// What is known of a client's update for a round before its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// It is awaited, trained from that version.
    Awaited {
        /// The version.
        version: u64,
    },
    /// It is in already, with that hash.
    In(Sha256Digest),
}

/// What a run that is stuck can answer all the same, it answers within this time.
const ALL_THE_SAME: Duration = Duration::from_millis(500);

/// How long an update waits for the next round that takes it.
const NEXT_ROUND: Duration = Duration::from_secs(30);

/// A handle on a run; cheap to clone.
#[derive(Debug, Clone)]
pub struct RunHandle {
    pub(super) inbox: mpsc::Sender<Message>,
    world: Arc<Real>,
}

impl RunHandle {
    pub(super) fn new(inbox: mpsc::Sender<Message>, world: Arc<Real>) -> Self {
        Self { inbox, world }
    }

    /// The run's name.
    pub fn run(&self) -> &RunId {
        &self.world.run
    }

    /// What the run shows to everybody.
    pub fn published(&self) -> &Arc<Published> {
        &self.world.published
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, RunError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.try_send(message(reply)).map_err(|error| match error {
            // Those who were told the cause, and ask again all the same, are what fills it: the cause is what matters.
            mpsc::error::TrySendError::Full(_) => self
                .stuck()
                .unwrap_or_else(|| RunError::Busy { run: self.run().clone(), most: self.inbox.max_capacity() }),
            mpsc::error::TrySendError::Closed(_) => self.ended(),
        })?;
        let mut stuck = self.published().stuck.subscribe();
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| self.ended())?,
            // What is being done may still come to its end, once it can; but nobody should wait for that in the dark.
            why = async {
                let why = stuck.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default());
                tokio::time::sleep(ALL_THE_SAME).await;
                why
            } => Err(why.map_or_else(|_| Refusal::Stopping.into(), RunError::Stuck)),
        }
    }

    /// Whether the run is archived: it can be read, and has no task.
    pub fn is_archived(&self) -> bool {
        self.published().read(|run| run.archived_ms.is_some())
    }

    /// Ends the run's task and all that works beside it, and waits for that. From then on each request for it is rejected with the reason.
    ///
    /// # Errors
    /// A round is in work, and `force` is false; or the run cannot answer, then with `force` it ends all the same.
    pub(super) async fn retire(&self, force: bool, reason: String) -> Result<(), RunError> {
        let retired = Retired { reason, is_archived: false };
        if !force {
            self.ask(|reply| Message::End(retired.clone(), reply)).await?;
        }
        self.published().retire(retired);
        self.world.halt.cancel();
        self.published().wake_clients();
        self.world.tasks.close();
        self.world.tasks.wait().await;
        Ok(())
    }

    /// Why the run takes no more messages.
    fn ended(&self) -> RunError {
        if let Some(retired) = self.published().retired() {
            return RunError::Retired(retired.clone());
        }
        self.stuck().unwrap_or_else(|| Refusal::Stopping.into())
    }

    /// Why the run cannot go on, if it cannot.
    fn stuck(&self) -> Option<RunError> {
        self.published().stuck.borrow().clone().map(RunError::Stuck)
    }

    /// Has the round machine handle a command. What it decides is durable when this returns.
    ///
    /// # Errors
    /// The machine's refusal, or the run cannot take it now.
    pub async fn command(&self, command: Command) -> Result<(), RunError> {
        self.ask(|reply| Message::Command(command, reply)).await
    }

    /// Takes a new client on the roster.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn register(
        &self,
        client: ClientId,
        token: Sha256Digest,
        request: RegisterRequest,
    ) -> Result<ClientState, RunError> {
        self.ask(|reply| Message::Register { client, token, request, reply }).await
    }

    /// Takes a client's word of itself.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn status(&self, client: ClientId, report: StatusReport) -> Result<StatusReply, RunError> {
        self.ask(|reply| Message::Status { client, report, reply }).await
    }

    /// What a client is to do; waits up to `patience` for something to do. One that works for a round waits for the end of
    /// that instead: until no update of it would be taken any more.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn task(
        &self,
        client: &ClientId,
        patience: Duration,
        at_work_for: Option<u64>,
    ) -> Result<Task, RunError> {
        let mut changes = self.published().task_changes();
        let until = tokio::time::Instant::now() + patience;
        let mut is_heard = true;
        loop {
            changes.mark_unchanged();
            let client = client.clone();
            let asked = self.ask(|reply| Message::Task { client, at_work_for, is_heard, reply }).await;
            if let Err(RunError::Retired(Retired { reason, .. })) = asked {
                return Ok(Task::Stop { reason });
            }
            let (task, is_news) = asked?;
            is_heard = false; // its connection may be dead by the next time
            if is_news {
                return Ok(task);
            }
            match tokio::time::timeout_at(until, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Stopping.into()),
                Err(_) => return Ok(task),
            }
        }
    }

    /// What is known of a client's update for a round before its body is read. While the round before is being combined
    /// and the next one takes it, waits for that.
    ///
    /// # Errors
    /// No update would be taken, or the run cannot say now.
    pub async fn prior(&self, client: &ClientId, round: u64) -> Result<Prior, RunError> {
        let mut changes = self.published().task_changes();
        let until = tokio::time::Instant::now() + NEXT_ROUND;
        loop {
            changes.mark_unchanged();
            return match self.ask(|reply| Message::Prior { client: client.clone(), round, reply }).await {
                Ok((Some(sha256), _)) => Ok(Prior::In(sha256)),
                Ok((None, Some(version))) => Ok(Prior::Awaited { version }),
                Ok((None, None)) => Err(Reject::RoundClosed { round }.into()),
                Err(RunError::Refusal(Refusal::Reject(Reject::Aggregating { .. })))
                    if tokio::time::timeout_at(until, changes.changed()).await.is_ok_and(|waited| waited.is_ok()) =>
                {
                    continue;
                }
                Err(error) => Err(error),
            };
        }
    }

    /// Hears of a client without a word of it: as its upload goes on.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn seen(&self, client: &ClientId) -> Result<(), RunError> {
        self.command(Command::Seen { client: client.clone() }).await
    }

    /// A place for the body of an update.
    ///
    /// # Errors
    /// The file system.
    pub async fn spool(&self) -> Result<Spool, RunError> {
        self.noted(self.world.store.spool().await.map_err(|error| StoreError::from(error).into()))
    }

    /// Receives a body for an update of this run, trained from that version: checked as it arrives.
    ///
    /// # Errors
    /// The version cannot be read; or the file system.
    pub async fn receive(&self, format: BodyFormat, version: u64) -> Result<Incoming, RunError> {
        let base = self.published().models.parameters(version).await?;
        Ok(Incoming::new(self.spool().await?, format, (version, base)))
    }

    /// Notes of what was done with the body of an update that it failed, if the file system is why: that is said to all
    /// until one is stored.
    pub fn noted<T>(&self, done: Result<T, RunError>) -> Result<T, RunError> {
        if let Err(RunError::Refusal(Refusal::Store(error @ StoreError::Blob(_)))) = &done {
            self.world.not_stored(Sent::Bodies, error);
        }
        done
    }

    /// All of an update's body has come: it is checked to the end and stored. The update is not counted yet.
    ///
    /// # Errors
    /// It cannot be accepted; or the file system.
    pub async fn finish(&self, turn: &mut Turn) -> Result<CheckedUpdate, RunError> {
        let checked = self.noted(turn.finish(&self.world.store).await)?;
        self.world.stored(Sent::Bodies);
        Ok(checked)
    }

    /// Counts an update. When this returns it is in.
    ///
    /// # Errors
    /// It is not taken. Then nothing is kept.
    pub async fn update(&self, update: Update<Body>) -> Result<Receipt, RunError> {
        self.prior(&update.client, update.round).await?; // which waits where the update would have to
        self.ask(|reply| Message::Update(Box::new(update), reply)).await
    }

    /// Shows to the operator that an update of this client for that round was rejected.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn rejected(&self, client: &ClientId, round: u64, rejection: Rejection) -> Result<(), RunError> {
        let Rejection { reason, strike } = rejection;
        self.command(Command::Rejected { client: client.clone(), round, reason, strike }).await
    }

    /// Changes the configuration, if it still is at the version that the caller knows. Returns the new version.
    ///
    /// # Errors
    /// It has changed since, or the result is out of bounds, or the model cannot be sent in the new encoding.
    pub async fn configure(&self, expected: u64, patch: serde_json::Value) -> Result<u64, RunError> {
        if self.is_archived() {
            return Err(self.ended());
        }
        let too_large = |config: &RunConfig| {
            upload_limit::problem(self.published().models.schema(), config, self.world.max_upload_mb)
        };
        // Of another version than the expected one the run itself says so.
        let (version, current) = self.published().read(|run| (run.config_version, run.config.clone()));
        let update = |config: &RunConfig| (config.encoding, config.topk_fraction);
        let patched =
            current.patched(&patch).ok().filter(|config| version == expected && update(config) != update(&current));
        if let Some(problem) = patched.as_ref().and_then(too_large) {
            return Err(Refusal::BadConfig(vec![problem]).into());
        }
        if let Some(encoding) = patched.map(|config| config.encoding).filter(|to| *to != current.encoding) {
            let models = &self.published().models;
            let model = models.parameters(models.version()).await?;
            let checked = blocking(move || wire::check_model(&model, encoding)).await;
            checked.map_err(|error| Refusal::<StoreError>::BadConfig(vec![error.to_string()]))?;
        }
        let version = self.ask(|reply| Message::Configure { expected, patch, reply }).await?;
        let problem = self.published().read(|run| too_large(&run.config));
        self.published().trouble(|trouble| trouble.too_large = problem);
        Ok(version)
    }
}
