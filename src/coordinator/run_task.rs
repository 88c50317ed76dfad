//! One run's task: hears what is wanted, and has the run's conductor do it, one thing after the other.

use super::handle::{Message, RunError};
use super::world::Real;
use crate::conductor::Conductor;
use tokio::sync::mpsc;

pub(super) struct RunTask {
    pub(super) conductor: Conductor<Real>,
    pub(super) inbox: mpsc::Receiver<Message>,
}

impl RunTask {
    pub(super) async fn run(mut self) {
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
            Message::Task { client, at_work_for, reply } => {
                let _ = reply.send(conductor.task(&client, at_work_for).await.map_err(RunError::from));
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
            Message::Aggregated(round, result) => conductor.aggregated(round, result).await,
        }
    }
}
