//! Requests as the coordinator's HTTP side would hand them to the conductor, and what is answered.

use super::client::{Answer, Lie, Request, SAMPLES, Sent};
use super::schedule::{Died, Schedule};
use super::world::DiskFull;
use app::api::{ClientId, Task};
use fedlearn::conductor::{Receipt, Refusal, Update};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::{Command, Reject};
use rand::RngExt;

impl Schedule {
    pub(super) fn serve(&mut self, request: Request) -> Result<Option<Answer>, Died> {
        type Refused = Refusal<DiskFull>;
        let refused = |refusal: Refused| match refusal {
            Refusal::Reject(Reject::UnknownClient(_)) => Answer::Unknown,
            Refusal::Store(_) | Refusal::Reject(Reject::Aggregating { .. } | Reject::TooEarly { .. }) => {
                Answer::Unavailable
            }
            _ => Answer::Refused,
        };
        let answer = match request {
            Request::Register(request) => {
                self.next_id += 1;
                let id: ClientId = format!("c{}", self.next_id).parse().unwrap();
                let new = id.clone();
                let result = self.act(async move |c| c.register(new, Sha256Digest([0; 32]), request).await)?;
                result.map_or_else(refused, |_| Answer::Registered(id))
            }
            Request::Task { id, at_work_for } => {
                let asked = id.clone();
                // At times nobody but its own long-poll looks, and finds what it would find itself.
                let is_heard = self.rng.random_bool(0.8);
                if at_work_for.is_some() && is_heard {
                    self.silent.remove(&id);
                }
                let result = self.act(async move |c| c.task(&asked, at_work_for, is_heard).await)?;
                if let Ok((Task::Train(task), _)) = &result {
                    self.may_be_asked(&id, task.round);
                    if at_work_for.is_none() {
                        self.silent.insert(id, task.deadline_ms);
                    }
                }
                match (result, at_work_for) {
                    (Ok((_, is_cancelled)), Some(_)) => Answer::Cancel(is_cancelled),
                    (Ok((task, _)), None) => Answer::Task(task),
                    (Err(refusal), _) => refused(refusal),
                }
            }
            Request::Status { id, report } => {
                self.silent.remove(&id);
                let result = self.act(async move |c| c.status(&id, report).await)?;
                result.map_or_else(refused, |reply| Answer::Cancel(reply.cancel))
            }
            Request::Update { id, sent } => return self.receive(id, sent),
            Request::Samples { id, samples } => {
                let change = Command::ChangeSamples { client: id, samples };
                let result = self.act(async move |c| c.command(change).await)?;
                result.map_or_else(refused, |()| Answer::Taken)
            }
            Request::Leave { id } => {
                let result = self.act(async move |c| c.command(Command::Leave { client: id }).await)?;
                result.map_or_else(refused, |()| Answer::Unknown)
            }
        };
        Ok(Some(answer))
    }

    /// Nobody is asked for what is in.
    fn may_be_asked(&self, id: &ClientId, round: u64) {
        assert_eq!(self.world.lock().database.contribution(id, round), None, "{id} trains twice for round {round}");
    }

    fn receive(&mut self, id: ClientId, sent: Sent) -> Result<Option<Answer>, Died> {
        let (samples, norm) = (sent.samples(), sent.norm());
        let (round, sha256) = (sent.round, Sha256Digest(sent.sha256));
        if sent.lie == Lie::Outlier {
            self.outliers.insert(sent.sha256);
        }
        if sent.lie == Lie::Forged {
            return self.reject(id, round, sha256);
        }
        let update = Update { client: id.clone(), round, samples, loss: Some(0.5), norm, bytes: 100, sha256, body: () };
        let result = self.act(async move |c| c.update(update).await)?;
        Ok(Some(match result {
            Ok(receipt) => {
                // Durable before it is answered: whatever happens now, it is in.
                let stored = self.world.lock().database.contribution(&id, round);
                assert_eq!(stored, Some(sha256), "an acknowledged update of {id} is not stored");
                assert!(norm.is_finite() && norm < 1e6 && samples <= SAMPLES, "a bad one is taken");
                if let Some(known) = self.acknowledged.insert((id.clone(), round), sent.sha256) {
                    let is_out = self.world.lock().database.dropped.contains(&(id, round, known));
                    assert!(is_out || known == sent.sha256, "two updates for one round");
                }
                match receipt {
                    Receipt::Counted => self.tally.acknowledged += 1,
                    Receipt::Again => self.tally.again += 1,
                }
                Answer::Taken
            }
            Err(Refusal::Fault(_)) => {
                self.tally.faults += 1;
                Answer::Refused
            }
            Err(Refusal::Reject(Reject::RoundClosed { .. })) => {
                self.tally.late += 1;
                Answer::Refused
            }
            Err(Refusal::Store(_) | Refusal::Reject(Reject::Aggregating { .. })) => Answer::Unavailable,
            Err(Refusal::Reject(Reject::UnknownClient(_))) => Answer::Unknown,
            Err(_) => Answer::Refused,
        }))
    }

    /// What was read of an update that is awaited is not acceptable.
    fn reject(&mut self, client: ClientId, round: u64, sha256: Sha256Digest) -> Result<Option<Answer>, Died> {
        let result = self.act(async move |c| {
            if c.prior(&client, round).await?.is_none() {
                let (reason, strike) = ("it contradicts itself".to_owned(), Some(sha256));
                c.command(Command::Rejected { client, round, reason, strike }).await?;
            }
            Ok::<_, Refusal<DiskFull>>(())
        })?;
        Ok(Some(match result {
            Err(Refusal::Store(_) | Refusal::Reject(Reject::Aggregating { .. })) => Answer::Unavailable,
            Err(Refusal::Reject(Reject::UnknownClient(_))) => Answer::Unknown,
            _ => Answer::Refused,
        }))
    }
}
