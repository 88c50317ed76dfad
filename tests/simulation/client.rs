//! A simulated client: registers, asks, trains, sends, repeats what was not answered; crashes and comes back.

use app::api::{ClientId, RegisterRequest, ReportedState, StatusReport, Task};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What is wrong with what a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    None,
    NotANumber,
    Huge,
    /// Within the absolute bound, and 1,000 times what the others have.
    Outlier,
    ManySamples,
    /// A body that contradicts itself.
    Forged,
}

/// An update as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub round: u64,
    pub sha256: [u8; 32],
    pub lie: Lie,
}

impl Sent {
    pub fn norm(&self) -> f64 {
        match self.lie {
            Lie::NotANumber => f64::NAN,
            Lie::Huge => 1e9,
            Lie::Outlier => 1_000.0 * self.honest_norm(),
            _ => self.honest_norm(),
        }
    }

    /// Within a factor of 2 in a round, as those of like clients are; over the rounds it jumps, as when the operator changes
    /// the learning rate.
    fn honest_norm(&self) -> f64 {
        let scale = [1.0, 30.0, 0.001, 0.03][(self.round / 3 % 4) as usize];
        scale * (1.0 + f64::from(self.sha256[0]) / 255.0)
    }

    pub fn samples(&self) -> u64 {
        if self.lie == Lie::ManySamples { 1_000_000 } else { SAMPLES }
    }
}

/// What every client has at first, and sends; it may say that it has up to 100 times as many.
pub const SAMPLES: u64 = 10;

#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Register(RegisterRequest),
    Task { id: ClientId, at_work_for: Option<u64> },
    Status { id: ClientId, report: StatusReport },
    Update { id: ClientId, sent: Sent },
    Samples { id: ClientId, samples: u64 },
    Leave { id: ClientId },
}

/// What comes back, as far as a client acts on it.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Registered(ClientId),
    Task(Task),
    /// Of a status.
    Cancel(bool),
    Taken,
    /// It is of no use to send this again.
    Refused,
    /// Come back with the same.
    Unavailable,
    /// Nobody knows this client.
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
struct Job {
    sent: Sent,
    is_done: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    pub name: String,
    pub id: Option<ClientId>,
    pub is_liar: bool,
    /// It was one, before all became honest.
    pub was_liar: bool,
    pub may_fail: bool,
    /// It sends nothing while it trains.
    pub is_silent: bool,
    job: Option<Job>,
    /// What is heard of an earlier turn is old news.
    pub turn: u64,
}

impl Client {
    pub fn new(name: String, is_liar: bool, is_silent: bool) -> Self {
        Self { name, id: None, is_liar, was_liar: is_liar, may_fail: true, is_silent, job: None, turn: 0 }
    }

    /// What it sends now that it is its turn.
    pub fn request(&mut self, rng: &mut ChaCha8Rng) -> Request {
        let Some(id) = self.id.clone() else {
            let (name, device) = (self.name.clone(), String::new());
            return Request::Register(RegisterRequest { name, samples: SAMPLES, device, join_secret: None });
        };
        match &mut self.job {
            None if rng.random_bool(0.01) => Request::Leave { id },
            None if rng.random_bool(0.01) => {
                Request::Samples { id, samples: rng.random_range(SAMPLES..=100 * SAMPLES) }
            }
            None => Request::Task { id, at_work_for: None },
            Some(job) if self.is_silent => Request::Update { id, sent: job.sent.clone() },
            Some(job) if self.may_fail && rng.random_bool(0.02) => {
                let (state, round, error) = (ReportedState::Error, Some(job.sent.round), Some("no memory".to_owned()));
                self.job = None;
                Request::Status { id, report: StatusReport { state, round, progress: None, error } }
            }
            Some(job) if job.is_done => Request::Update { id, sent: job.sent.clone() },
            Some(job) => {
                let round = Some(job.sent.round);
                job.is_done = rng.random_bool(0.7);
                match rng.random_bool(0.5) {
                    true => {
                        let state = ReportedState::Training;
                        Request::Status { id, report: StatusReport { state, round, progress: None, error: None } }
                    }
                    false => Request::Task { id, at_work_for: round },
                }
            }
        }
    }

    /// Takes an answer. Returns how long it then waits until its next turn, in ms.
    pub fn hear(&mut self, answer: Answer, rng: &mut ChaCha8Rng) -> u64 {
        self.turn += 1;
        match answer {
            Answer::Registered(id) => {
                self.id = Some(id);
                rng.random_range(0..500)
            }
            Answer::Task(Task::Train(task)) => {
                if self.job.as_ref().is_none_or(|job| job.sent.round != task.round) {
                    let lies = [
                        Lie::NotANumber,
                        Lie::Huge,
                        Lie::Outlier,
                        Lie::Outlier,
                        Lie::ManySamples,
                        Lie::Forged,
                        Lie::Forged,
                        Lie::Forged,
                    ];
                    let is_lying = self.is_liar && rng.random_bool(0.7);
                    let lie = if is_lying { lies[rng.random_range(0..lies.len())] } else { Lie::None };
                    let sent = Sent { round: task.round, sha256: rng.random(), lie };
                    self.job = Some(Job { sent, is_done: false });
                }
                rng.random_range(100..if self.is_silent { 110_000 } else { 30_000 })
            }
            Answer::Task(_) => {
                self.job = None;
                rng.random_range(1_000..25_000)
            }
            Answer::Cancel(false) => rng.random_range(100..20_000),
            Answer::Cancel(true) | Answer::Taken => {
                self.job = None;
                rng.random_range(0..1_000)
            }
            Answer::Refused => {
                self.job = None;
                rng.random_range(500..10_000)
            }
            Answer::Unavailable => rng.random_range(500..5_000),
            Answer::Unknown => {
                (self.id, self.job) = (None, None);
                rng.random_range(1_000..20_000)
            }
        }
    }

    /// It loses what it was at; mostly it comes back with the token that it had.
    pub fn crash(&mut self, rng: &mut ChaCha8Rng) {
        self.turn += 1;
        self.job = None;
        if rng.random_bool(0.2) {
            self.id = None;
        }
    }
}
