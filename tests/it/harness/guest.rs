//! A client made of single requests: does what the test says, when it says so.

use super::{Coordinator, refused, safetensors, take, with};
use app::api::{ClientId, ErrorCode, RegisterReply, ReportedState, StatusReply, StatusReport, Task, TrainTask};
use reqwest::{Method, RequestBuilder, header};
use serde_json::json;

/// A registered client.
pub struct Guest {
    /// Its id.
    pub id: ClientId,
    /// Its token.
    pub token: String,
    http: reqwest::Client,
    origin: String,
    run: String,
}

impl Guest {
    /// Registers with 10 images.
    pub async fn join(coordinator: &Coordinator, run: &str, name: &str) -> Self {
        Self::with_samples(coordinator, run, name, 10).await
    }

    /// Registers with so many images.
    pub async fn with_samples(coordinator: &Coordinator, run: &str, name: &str, samples: u64) -> Self {
        let this = Self::register(coordinator.http.clone(), coordinator.origin(), run, name, samples).await;
        coordinator.remember(&this.token);
        this
    }

    /// Registers where a coordinator listens.
    pub async fn register(http: reqwest::Client, origin: String, run: &str, name: &str, samples: u64) -> Self {
        let register = http.post(format!("{origin}/api/v1/runs/{run}/clients"));
        let reply: RegisterReply =
            take(201, register.json(&json!({"name": name, "samples": samples}))).await.json().await.unwrap();
        assert_eq!(reply.token.len(), 64, "256 bits in hexadecimal");
        Self { id: reply.client_id, token: reply.token, http, origin, run: run.to_owned() }
    }

    /// The run `tiny` with clients of these names, and its first round open.
    pub async fn in_round(names: &[&str]) -> (Coordinator, Vec<Self>) {
        let coordinator = Coordinator::tiny(&[]).await;
        let mut guests = Vec::new();
        for name in names {
            guests.push(Self::join(&coordinator, "tiny", name).await);
        }
        coordinator.order("/runs/tiny/rounds").await;
        (coordinator, guests)
    }

    /// A request below its run, with its token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1/runs/{}{path}", self.origin, self.run)).bearer_auth(&self.token)
    }

    /// A request below its own address.
    pub fn own(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &format!("/clients/{}{path}", self.id))
    }

    /// What it is to do; the coordinator may hold the answer back for so long.
    pub async fn task(&self, wait_s: u32) -> Task {
        take(200, self.own(Method::GET, &format!("/task?wait_s={wait_s}"))).await.json().await.unwrap()
    }

    /// Waits until it is asked to train.
    pub async fn asked(&self) -> TrainTask {
        match self.task(60).await {
            Task::Train(task) => task,
            other => panic!("asked to train is what it should be, not {other:?}"),
        }
    }

    /// Says that it trains for that round.
    pub async fn trains(&self, round: u64) -> StatusReply {
        let report = StatusReport { state: ReportedState::Training, round: Some(round), progress: None, error: None };
        take(200, self.own(Method::PUT, "/status").json(&report)).await.json().await.unwrap()
    }

    /// The address of its update, with 10 samples.
    pub fn update(&self, round: u64) -> RequestBuilder {
        self.update_of(round, "samples=10")
    }

    /// The same, with another query.
    pub fn update_of(&self, round: u64, query: &str) -> RequestBuilder {
        self.request(Method::PUT, &format!("/rounds/{round}/updates/{}?{query}", self.id))
    }

    /// An update of the run `tiny`, full of that value.
    pub fn full_of(&self, round: u64, value: f32) -> RequestBuilder {
        let body = safetensors(&with(value));
        self.update(round).header(header::CONTENT_TYPE, "application/vnd.safetensors").body(body)
    }

    /// Sends that update, which is taken.
    pub async fn sends(&self, round: u64, value: f32) {
        take(202, self.full_of(round, value)).await;
    }

    /// Sends an update that is refused.
    pub async fn is_refused(&self, round: u64, status: u16, code: ErrorCode) {
        refused(status, code, self.full_of(round, 1.0)).await;
    }

    /// Leaves.
    pub async fn leaves(&self) {
        take(204, self.own(Method::DELETE, "")).await;
    }
}
