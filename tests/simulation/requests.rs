//! Requests as the coordinator's HTTP side would pass them to the run, and what is answered.

use super::client::{Answer, Lie, Request, SAMPLES, Sent};
use super::environment::DiskFull;
use super::schedule::{Died, Schedule};
use app::api::{ClientId, Task};
use fedlearn::digest::Sha256Digest;
use fedlearn::round::{Command, Received, Reject, StoredBody};
use fedlearn::run::{Expectation, Receipt, Refusal};
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
                let result = self.act(async move |run| run.register(new, Sha256Digest([0; 32]), request).await)?;
                result.map_or_else(refused, |_| Answer::Registered(id))
            }
            Request::Task { id, at_work_for } => {
                let asked = id.clone();
                // At times nobody but its own long-poll looks, and finds what it would find itself.
                let is_heard = self.rng.random_bool(0.8);
                if at_work_for.is_some() && is_heard {
                    self.silent.remove(&id);
                }
                let result = self.act(async move |run| run.task(&asked, at_work_for, is_heard).await)?;
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
                let result = self.act(async move |run| run.status(&id, report).await)?;
                result.map_or_else(refused, |reply| Answer::Cancel(reply.cancel))
            }
            Request::Update { id, sent } => return self.receive(id, sent),
            Request::Samples { id, samples } => {
                let change = Command::ChangeSamples { client: id, samples };
                let result = self.act(async move |run| run.command(change).await)?;
                result.map_or_else(refused, |()| Answer::Taken)
            }
            Request::Leave { id } => {
                let result = self.act(async move |run| run.command(Command::Leave { client: id }).await)?;
                result.map_or_else(refused, |()| Answer::Unknown)
            }
        };
        Ok(Some(answer))
    }

    /// Nobody is asked for what is in.
    fn may_be_asked(&self, id: &ClientId, round: u64) {
        assert_eq!(
            self.environment.lock().database.contribution(id, round),
            None,
            "{id} trains twice for round {round}"
        );
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
        let body = StoredBody { sha256, bytes: 100, file: sha256.to_string(), format: "container".to_owned() };
        let received = Received { samples, loss: Some(0.5), norm, body };
        let client = id.clone();
        let result = self.act(async move |run| run.update(&client, round, received).await)?;
        Ok(Some(match result {
            Ok(receipt) => {
                // Durable before it is answered: whatever happens now, it is in.
                let stored = self.environment.lock().database.contribution(&id, round);
                assert_eq!(stored, Some(sha256), "an acknowledged update of {id} is not stored");
                assert!(norm.is_finite() && norm < 1e6 && samples <= SAMPLES, "a bad one is taken");
                if let Some(known) = self.acknowledged.insert((id.clone(), round), sent.sha256) {
                    let is_out = self.environment.lock().database.dropped.contains(&(id, round, known));
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
        let result = self.act(async move |run| {
            if matches!(run.expect(&client, round).await?, Expectation::Awaited { .. }) {
                let (reason, strike) = ("it contradicts itself".to_owned(), Some(sha256));
                run.command(Command::Rejected { client, round, reason, strike }).await?;
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
