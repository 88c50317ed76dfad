//! How requests reach a run.

use super::error::{Retired, RunError};
use super::feed::Feed;
use super::mailbox::{Job, LiveRun};
use super::parts::Parts;
use super::tokens::Tokens;
use crate::coordinator::uploads::{Rejection, SizeLimit, Uploads, limits};
use crate::coordinator::versions::Versions;
use crate::digest::Sha256Digest;
use crate::round::{Command, Order, Reject};
use crate::run::{Expectation, Refusal};
use crate::store::{StoreError, blocking};
use crate::wire;
use app::api::{ClientId, ClientState, RegisterRequest, RunConfig, RunId, StatusReply, StatusReport, Task};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a request waits for a run that is blocked, because some requests can be answered all the same.
const BLOCKED_PATIENCE: Duration = Duration::from_millis(500);

/// How long an update waits for the next round that accepts it.
const NEXT_ROUND: Duration = Duration::from_secs(30);

/// A handle on a run; cheap to clone.
#[derive(Debug, Clone)]
pub struct RunHandle {
    inbox: mpsc::Sender<Job>,
    parts: Arc<Parts>,
}

impl RunHandle {
    pub(in crate::coordinator) fn new(inbox: mpsc::Sender<Job>, parts: Arc<Parts>) -> Self {
        Self { inbox, parts }
    }

    /// The run's name.
    pub fn run(&self) -> &RunId {
        &self.parts.run
    }

    /// What the run shows to everybody.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.parts.feed
    }

    /// The tokens of the run's clients.
    pub fn tokens(&self) -> &Tokens {
        &self.parts.tokens
    }

    /// The run's global versions.
    pub fn versions(&self) -> &Arc<Versions> {
        &self.parts.versions
    }

    /// The run's uploads.
    pub fn uploads(&self) -> &Uploads {
        &self.parts.uploads
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// How many bytes an update may have.
    pub(super) fn size_limit(&self) -> SizeLimit {
        SizeLimit::new(self.parts.max_upload_mb).of_model(self.versions().schema())
    }

    /// Whether the run is archived: it can be read, and has no actor.
    pub fn is_archived(&self) -> bool {
        self.feed().read(|run| run.archived_ms.is_some())
    }

    /// Whether the run takes no more requests.
    pub(in crate::coordinator) fn is_retired(&self) -> bool {
        self.feed().retired().is_some()
    }

    /// Has the run's actor do some work, unless this call is cancelled before: a request that was answered with an error
    /// must not take effect later.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a mut LiveRun) -> BoxFuture<'a, Result<T, RunError>> + Send + 'static,
    ) -> Result<T, RunError> {
        self.send(false, work).await
    }

    /// The same; with `is_unconditional` the work is done even if this call is cancelled.
    pub(super) async fn send<T: Send + 'static>(
        &self,
        is_unconditional: bool,
        work: impl for<'a> FnOnce(&'a mut LiveRun) -> BoxFuture<'a, Result<T, RunError>> + Send + 'static,
    ) -> Result<T, RunError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |run| {
            async move {
                if is_unconditional || !reply.is_closed() {
                    let _ = reply.send(work(run).await);
                }
            }
            .boxed()
        });
        self.inbox.try_send(job).map_err(|error| match error {
            // Requests that wait for a blocked run fill its mailbox: then that is the cause to be reported.
            mpsc::error::TrySendError::Full(_) => self
                .blocked()
                .unwrap_or_else(|| RunError::Busy { run: self.run().clone(), limit: self.inbox.max_capacity() }),
            mpsc::error::TrySendError::Closed(_) => self.ended(),
        })?;
        let mut blocked = self.feed().blocked.subscribe();
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| self.ended())?,
            reason = async {
                let reason = blocked.wait_for(Option::is_some).await.map(|reason| reason.clone().unwrap_or_default());
                tokio::time::sleep(BLOCKED_PATIENCE).await;
                reason
            } => Err(reason.map_or_else(|_| RunError::stopping(), RunError::Blocked)),
        }
    }

    /// Ends the run's actor and the work beside it, and waits for that. From then on every request is rejected with the
    /// reason.
    ///
    /// # Errors
    /// Without `force`: a round is in work, or the run cannot answer.
    pub(in crate::coordinator) async fn retire(&self, force: bool, reason: String) -> Result<(), RunError> {
        let retired = Retired { reason, is_archived: false };
        if !force {
            let retired = retired.clone();
            self.ask(move |run| async move { end(run, retired) }.boxed()).await?;
        }
        self.feed().retire(retired);
        self.parts.halt.cancel();
        self.feed().notify_tasks();
        self.parts.tasks.close();
        self.parts.tasks.wait().await;
        Ok(())
    }

    /// Why the run takes no more jobs.
    fn ended(&self) -> RunError {
        if let Some(retired) = self.feed().retired() {
            return RunError::Retired(retired.clone());
        }
        self.blocked().unwrap_or_else(RunError::stopping)
    }

    fn blocked(&self) -> Option<RunError> {
        self.feed().blocked.borrow().clone().map(RunError::Blocked)
    }

    pub(super) async fn command(&self, command: Command) -> Result<(), RunError> {
        self.ask(move |run| async move { Ok(run.command(command).await?) }.boxed()).await
    }

    /// Carries out an order of the operator. When this returns, its effects are durable.
    ///
    /// # Errors
    /// The round machine rejects it, or the run cannot answer now.
    pub async fn order(&self, order: Order) -> Result<(), RunError> {
        self.command(Command::Order(order)).await
    }

    /// A client has another number of training images. It applies to updates from now on.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn change_samples(&self, client: ClientId, samples: u64) -> Result<(), RunError> {
        self.command(Command::ChangeSamples { client, samples }).await
    }

    /// A client leaves.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn leave(&self, client: ClientId) -> Result<(), RunError> {
        self.command(Command::Leave { client }).await
    }

    /// Adds a client to the roster.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn register(
        &self,
        client: ClientId,
        token: Sha256Digest,
        request: RegisterRequest,
    ) -> Result<ClientState, RunError> {
        self.ask(move |run| async move { Ok(run.register(client, token, request).await?) }.boxed()).await
    }

    /// Passes on a client's report of its state.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn status(&self, client: ClientId, report: StatusReport) -> Result<StatusReply, RunError> {
        self.ask(move |run| async move { Ok(run.status(&client, report).await?) }.boxed()).await
    }

    /// The task of a client; waits up to `patience` for something to do. A client that works for a round waits until an
    /// update for that round would not be accepted any more.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn task(
        &self,
        client: &ClientId,
        patience: Duration,
        at_work_for: Option<u64>,
    ) -> Result<Task, RunError> {
        let mut changes = self.feed().task_changes();
        let until = tokio::time::Instant::now() + patience;
        let mut is_heard = true;
        loop {
            changes.mark_unchanged();
            let client = client.clone();
            let asked =
                self.ask(move |run| async move { Ok(run.task(&client, at_work_for, is_heard).await?) }.boxed()).await;
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
                Ok(Err(_)) => return Err(RunError::stopping()),
                Err(_) => return Ok(task),
            }
        }
    }

    /// What the run expects of a client for a round. While the round before is being aggregated and the next one accepts
    /// the update, waits for that.
    ///
    /// # Errors
    /// No update would be accepted, or the run cannot answer now.
    pub(super) async fn expect(&self, client: &ClientId, round: u64) -> Result<Expectation, RunError> {
        let mut changes = self.feed().task_changes();
        let until = tokio::time::Instant::now() + NEXT_ROUND;
        loop {
            changes.mark_unchanged();
            let client = client.clone();
            let expected = self.ask(move |run| async move { Ok(run.expect(&client, round).await?) }.boxed()).await;
            let is_next = matches!(expected, Err(RunError::Refusal(Refusal::Reject(Reject::Aggregating { .. }))));
            if !is_next || !tokio::time::timeout_at(until, changes.changed()).await.is_ok_and(|changed| changed.is_ok())
            {
                return expected;
            }
        }
    }

    /// Shows to the operator why an awaited update was rejected.
    ///
    /// # Errors
    /// No update of that client is awaited for that round, or the run cannot answer now.
    pub async fn reject_update(&self, client: &ClientId, round: u64, rejection: Rejection) -> Result<(), RunError> {
        if let Expectation::Awaited { .. } = self.expect(client, round).await? {
            let Rejection { reason, strike } = rejection;
            // That the run stops, or the client is kicked meanwhile, does not change the response.
            let _ = self.command(Command::Rejected { client: client.clone(), round, reason, strike }).await;
        }
        Ok(())
    }

    /// Changes the configuration, if it still has the version that the caller expects. Returns the new version.
    ///
    /// # Errors
    /// It has another version, the result is out of bounds, or the model cannot be sent in the new encoding.
    pub async fn configure(&self, expected: u64, patch: serde_json::Value) -> Result<u64, RunError> {
        if self.is_archived() {
            return Err(self.ended());
        }
        let too_large =
            |config: &RunConfig| limits::problem(self.versions().schema(), config, self.parts.max_upload_mb);
        // A version other than the expected one is rejected by the run itself.
        let (version, current) = self.feed().read(|run| (run.config_version, run.config.clone()));
        let size = |config: &RunConfig| (config.encoding, config.topk_fraction);
        let patched =
            current.patched(&patch).ok().filter(|config| version == expected && size(config) != size(&current));
        if let Some(problem) = patched.as_ref().and_then(too_large) {
            return Err(Refusal::BadConfig(vec![problem]).into());
        }
        if let Some(encoding) = patched.map(|config| config.encoding).filter(|to| *to != current.encoding) {
            let model = self.versions().parameters(self.versions().version()).await?;
            let checked = blocking(move || wire::check_model(&model, encoding)).await;
            checked.map_err(|error| Refusal::<StoreError>::BadConfig(vec![error.to_string()]))?;
        }
        let version = self.ask(move |run| async move { Ok(run.configure(expected, &patch).await?) }.boxed()).await?;
        let problem = self.feed().read(|run| too_large(&run.config));
        self.feed().health(|health| health.too_large = problem);
        Ok(version)
    }
}

/// Halts a run, unless a round is in work.
fn end(run: &LiveRun, retired: Retired) -> Result<(), RunError> {
    if let Some(round) = run.machine().open_round() {
        return Err(Reject::RoundInWork { round: round.number }.into());
    }
    run.environment().parts.feed.retire(retired);
    run.environment().parts.halt.cancel();
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::coordinator::clock::Clock;
    use crate::coordinator::uploads::{InterruptedUploads, Uploads};
    use crate::store::Store;
    use crate::wire::{Parameters, Schema};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    /// A run whose mailbox holds one job, and nobody who does it.
    async fn run() -> (tempfile::TempDir, RunHandle, mpsc::Receiver<Job>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let run: RunId = "run".parse().unwrap();
        let parameters = Parameters::new(Arc::new(Schema::new(Vec::new()).unwrap()), Vec::new());
        let versions = Arc::new(Versions::new(run.clone(), store.clone(), 0, Arc::new(parameters)));
        let interrupted = Arc::new(InterruptedUploads::default());
        let uploads = Arc::new(Uploads::new(store.clone(), versions.clone(), interrupted));
        let (feed, places, clock) = (Arc::new(Feed::idle()), Arc::default(), Clock::start());
        let (halt, tasks) = (CancellationToken::new(), TaskTracker::new());
        let parts = Parts {
            run,
            store,
            clock,
            feed,
            tokens: Arc::default(),
            versions,
            uploads,
            places,
            max_upload_mb: 1,
            halt,
            tasks,
        };
        let (sender, inbox) = mpsc::channel(1);
        (folder, RunHandle::new(sender, Arc::new(parts)), inbox)
    }

    #[tokio::test]
    async fn a_full_mailbox_is_reported_with_its_limit_or_why_the_run_is_blocked() {
        let (_folder, handle, _inbox) = run().await;
        // Given a full mailbox,
        let waiting = handle.order(Order::StopAutorun);
        assert!(waiting.now_or_never().is_none());
        // then the next request is answered with the number that wait,
        let refusal = async || handle.order(Order::StopAutorun).await.unwrap_err().to_string();
        assert_eq!(refusal().await, "run 'run' is busy: 1 requests wait for it, which is the most at once");
        // but while the run is blocked, why it is.
        handle.feed().health(|health| health.blocked = Some("the disk is full".into()));
        assert_eq!(refusal().await, "the disk is full");
    }

    #[tokio::test]
    async fn a_request_that_waits_for_a_failed_run_is_told_why() {
        let (_folder, handle, inbox) = run().await;
        drop(inbox);
        handle.feed().health(|health| health.failed = Some("the run has failed".into()));
        let refusal = handle.order(Order::StopAutorun).await.unwrap_err();
        assert!(matches!(&refusal, RunError::Blocked(reason) if reason == "the run has failed"), "{refusal}");
    }
}
