//! How the rest of the program speaks to a run: questions and wishes, each answered.

use super::incoming::{CheckedUpdate, Incoming};
use super::published::Published;
use crate::round::{Command, Reject};
use crate::store::{Sha256Digest, Spool, StoreError};
use crate::wire::BodyFormat;
use app::api::{ClientId, ClientState, RegisterRequest, RunId, StatusReply, StatusReport, Task};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Why a run did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The round machine's word.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// The run has more to do than it can queue.
    #[error("the run is busy")]
    Busy,
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The update was read and is not acceptable.
    #[error("the update is refused: {0}")]
    BadUpdate(String),
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
    /// The configuration is not acceptable.
    #[error("the configuration is refused")]
    BadConfig(Vec<String>),
    /// The configuration has changed since the caller read it.
    #[error("the configuration is at version {current}, not {expected}")]
    ConfigChanged {
        /// The version it has.
        current: u64,
        /// The version that the caller knows.
        expected: u64,
    },
    /// Ours.
    #[error("{0}")]
    Internal(String),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, RunError>>;

/// What a run's task is sent.
pub(super) enum Message {
    Command(Command, Reply<()>),
    Register { client: ClientId, token: Sha256Digest, request: RegisterRequest, reply: Reply<ClientState> },
    Status { client: ClientId, report: StatusReport, reply: Reply<StatusReply> },
    Task(ClientId, Reply<Task>),
    MayUpdate { client: ClientId, round: u64, reply: Reply<()> },
    Update(Box<Update>, Reply<()>),
    Configure { expected: u64, patch: serde_json::Value, reply: Reply<u64> },
    Aggregated(Result<Box<super::run_task::NewModel>, String>),
}

/// An update that is sound, and what its sender says of it.
pub struct Update {
    /// Whose it is.
    pub client: ClientId,
    /// For which round.
    pub round: u64,
    /// Images behind it.
    pub samples: u64,
    /// Mean training loss of the last local epoch.
    pub loss: Option<f64>,
    /// The body.
    pub body: CheckedUpdate,
}

/// A handle on a run; cheap to clone.
#[derive(Debug, Clone)]
pub struct RunHandle {
    pub(super) run: RunId,
    pub(super) inbox: mpsc::Sender<Message>,
    pub(super) published: Arc<Published>,
}

impl RunHandle {
    pub(super) fn new(run: RunId, inbox: mpsc::Sender<Message>, published: Arc<Published>) -> Self {
        Self { run, inbox, published }
    }

    /// The run's name.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// What the run shows to everybody.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, RunError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.try_send(message(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RunError::Busy,
            mpsc::error::TrySendError::Closed(_) => RunError::Stopping,
        })?;
        answer.await.map_err(|_| RunError::Stopping)?
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

    /// What a client is to do; waits up to `patience` for something to do. One that works for a round waits for the end
    /// of that instead: until no update of it would be taken any more.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn task(&self, client: &ClientId, patience: Duration, works_for: Option<u64>) -> Result<Task, RunError> {
        let (mut changes, mut closings) = (self.published.task_changes(), self.published.closings());
        let until = tokio::time::Instant::now() + patience;
        loop {
            changes.mark_unchanged();
            closings.mark_unchanged();
            let task = self.ask(|reply| Message::Task(client.clone(), reply)).await?;
            let is_as_before = match works_for {
                Some(round) => self.may_update(client, round).await.is_ok(),
                None => matches!(task, Task::Wait { .. }),
            };
            if !is_as_before {
                return Ok(task);
            }
            let changed = async {
                tokio::select! {
                    changed = changes.changed() => changed,
                    closed = closings.changed(), if works_for.is_some() => closed,
                }
            };
            match tokio::time::timeout_at(until, changed).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(RunError::Stopping),
                Err(_) => return Ok(task),
            }
        }
    }

    /// Whether an update of that client for that round would be taken.
    ///
    /// # Errors
    /// The machine's refusal, or the run cannot say now.
    pub async fn may_update(&self, client: &ClientId, round: u64) -> Result<(), RunError> {
        self.ask(|reply| Message::MayUpdate { client: client.clone(), round, reply }).await
    }

    /// Hears of a client without a word of it: as its upload goes on.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn seen(&self, client: &ClientId) -> Result<(), RunError> {
        self.command(Command::Seen { client: client.clone() }).await
    }

    /// Receives a body for an update of this run: checked as it arrives.
    pub fn receive(&self, spool: Spool, format: BodyFormat) -> Incoming {
        Incoming::new(self.published.clone(), spool, format)
    }

    /// Counts an update. When this returns it is in.
    ///
    /// # Errors
    /// The round is over by now. Then nothing is kept.
    pub async fn update(&self, update: Update) -> Result<(), RunError> {
        self.ask(|reply| Message::Update(Box::new(update), reply)).await
    }

    /// Changes the configuration, if it still is at the version that the caller knows. Returns the new version.
    ///
    /// # Errors
    /// It has changed since, or the result is out of bounds.
    pub async fn configure(&self, expected: u64, patch: serde_json::Value) -> Result<u64, RunError> {
        self.ask(|reply| Message::Configure { expected, patch, reply }).await
    }
}
