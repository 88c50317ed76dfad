//! One run's task: hears what is wanted, and has the run's conductor do it, one thing after the other.

use super::handle::{Message, RunError};
use super::published::Published;
use super::world::Real;
use crate::conductor::Conductor;
use crate::round::Reject;
use tokio::sync::mpsc;

pub(super) struct RunTask {
    pub(super) conductor: Conductor<Real>,
    pub(super) inbox: mpsc::Receiver<Message>,
}

impl RunTask {
    /// Runs until the coordinator stops.
    pub(super) async fn run(self) {
        let published = self.conductor.world().published.clone();
        watched(&published, self.go_on()).await;
    }

    async fn go_on(mut self) {
        let world = self.conductor.world().clone();
        self.conductor.tick().await;
        loop {
            let timeout = self.conductor.machine().poll_timeout().map(|at| world.clock.instant(at));
            let timer = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // a run that must end does nothing more
                () = world.halt.cancelled() => break,
                message = self.inbox.recv() => match message {
                    Some(message) => self.receive(message).await,
                    None => break,
                },
                () = timer => self.conductor.tick().await,
            }
        }
        world.published.uploads.clear(u64::MAX);
    }

    async fn receive(&mut self, message: Message) {
        if message.is_given_up() {
            return;
        }
        let conductor = &mut self.conductor;
        // A caller that has gone away in the meantime is not waiting for the answer: hence the `let _`s.
        match message {
            Message::Command(command, reply) => {
                let _ = reply.send(conductor.command(command).await.map_err(RunError::from));
            }
            Message::Register { client, token, request, reply } => {
                let _ = reply.send(conductor.register(client, token, request).await.map_err(RunError::from));
            }
            Message::Status { client, report, reply } => {
                let _ = reply.send(conductor.status(&client, report).await.map_err(RunError::from));
            }
            Message::Task { client, at_work_for, is_heard, reply } => {
                let _ = reply.send(conductor.task(&client, at_work_for, is_heard).await.map_err(RunError::from));
            }
            Message::Prior { client, round, reply } => {
                let prior = conductor.prior(&client, round).await;
                let from = conductor.machine().assignment(&client).map(|assignment| assignment.version);
                let _ = reply.send(prior.map(|prior| (prior, from)).map_err(RunError::from));
            }
            Message::Update(update, reply) => {
                let _ = reply.send(conductor.update(*update).await.map_err(RunError::from));
            }
            Message::Configure { expected, patch, reply } => {
                let _ = reply.send(conductor.configure(expected, &patch).await.map_err(RunError::from));
            }
            Message::End(retired, reply) => {
                let in_work = conductor.machine().open_round().map(|round| round.number);
                if in_work.is_none() {
                    conductor.world().published.retire(retired);
                    conductor.world().halt.cancel();
                }
                let _ = reply.send(in_work.map_or(Ok(()), |round| Err(Reject::RoundInWork { round }.into())));
            }
            Message::Aggregated(round, result) => conductor.aggregated(round, result).await,
        }
    }
}

/// Waits for a run's task. If it breaks down, which is a defect of this program, the run says so to all who ask from then on:
/// it is not known what state it is in, but what is stored is whole, so a restart takes it up from there.
async fn watched(published: &Published, task: impl Future<Output = ()> + Send + 'static) {
    let Err(error) = tokio::spawn(task).await else { return };
    let run = published.read(|run| run.run.clone());
    tracing::error!(%run, %error, "a run has broken down");
    let why =
        format!("The run has broken down ({error}); it goes on where it was once the coordinator is started again.");
    published.trouble(|trouble| trouble.broken_down = Some(why));
    published.uploads.clear(u64::MAX);
    published.wake_clients();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::clock::Clock;
    use super::super::handle::RunHandle;
    use super::*;
    use crate::model::Device;
    use crate::round::Command;
    use crate::store::Store;
    use app::api::{ClientId, ReportedState, RunId, StatusReport};
    use std::sync::Arc;
    use tokio::sync::oneshot;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    /// A run to which one message can be sent, and nobody who receives it yet.
    async fn run() -> (tempfile::TempDir, RunHandle, mpsc::Receiver<Message>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let run: RunId = "run".parse().unwrap();
        let published = Arc::new(Published::of_nobody(store.clone()));
        let (sender, inbox) = mpsc::channel(1);
        let (clock, device, evaluator) = (Clock::start(), Device::Cpu, None);
        let (halt, outbox, tasks) = (CancellationToken::new(), sender.downgrade(), TaskTracker::new());
        let world = Real { run, store, clock, device, published, max_upload_mb: 1, evaluator, halt, outbox, tasks };
        (folder, RunHandle::new(sender, Arc::new(world)), inbox)
    }

    #[tokio::test]
    async fn a_run_that_has_broken_down_says_so_to_all() {
        let (_folder, handle, inbox) = run().await;
        let published = handle.published();
        // Given a run whose task has met a defect,
        let task = async move {
            let _inbox = inbox;
            panic!("this should not happen");
        };
        watched(published, task).await;
        // then whoever asks is told, and so is whoever watches or monitors.
        let refusal = handle.command(Command::StopAutorun).await.unwrap_err();
        assert!(matches!(&refusal, RunError::Stuck(why) if why.contains("this should not happen")), "{refusal}");
        assert_eq!(published.snapshot().waiting, refusal.to_string());
        assert_eq!(published.stuck.borrow().as_ref(), Some(&refusal.to_string()));
    }

    #[tokio::test]
    async fn a_run_that_is_stuck_and_asked_for_more_than_it_can_queue_names_the_cause() {
        let (_folder, handle, _inbox) = run().await;
        handle.inbox.try_send(Message::Aggregated(1, Err("of long ago".into()))).unwrap();
        // Given a queue that is full, then whoever asks is told how many wait,
        let refusal = async || handle.command(Command::StopAutorun).await.unwrap_err().to_string();
        assert_eq!(refusal().await, "run 'run' is busy: 1 requests wait for it, the most that may");
        // but while the run is stuck, why it is.
        handle.published().trouble(|trouble| trouble.decided = Some("the disk is full".into()));
        assert_eq!(refusal().await, "the disk is full");
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_carried_out() {
        let client: ClientId = "client".parse().unwrap();
        let report = StatusReport { state: ReportedState::Training, round: Some(1), progress: None, error: None };
        let (patch, at_work_for) = (serde_json::json!({}), Some(1));
        let answers = (oneshot::channel(), oneshot::channel(), oneshot::channel(), oneshot::channel());
        let (waiting, answer) = oneshot::channel();
        // Given those who ask, have been told that the run is stuck, and have gone away,
        let given_up = [
            Message::Status { client: client.clone(), report, reply: answers.0.0 },
            Message::Task { client: client.clone(), at_work_for, is_heard: true, reply: answers.1.0 },
            Message::Prior { client, round: 1, reply: answers.2.0 },
            Message::Configure { expected: 1, patch, reply: answers.3.0 },
        ];
        drop((answers.0.1, answers.1.1, answers.2.1, answers.3.1));
        assert!(given_up.iter().all(Message::is_given_up));
        // then those who wait have no more before them than each other, and what was combined.
        assert!(!Message::Command(Command::StopAutorun, waiting).is_given_up());
        assert!(!Message::Aggregated(1, Err("not combined".into())).is_given_up());
        drop(answer);
    }
}
