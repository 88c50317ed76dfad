//! Clients that cost next to nothing, so that thousands fit beside the coordinator.

use crate::cluster::{Cluster, accepted, checked};
use anyhow::{Context, Result};
use app::api::{RegisterReply, Task};
use bytes::Bytes;
use fedlearn::wire::CONTAINER;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde_json::json;
use std::time::Duration;

/// Clients that register side by side.
const REGISTER_AT_ONCE: usize = 64;

/// How long a client waits after 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A registered client of a run.
pub struct Member {
    http: reqwest::Client,
    run_url: String,
    reply: RegisterReply,
    /// Responses 503, after which it repeated the request.
    pub busy: u32,
}

/// Registers that many clients.
pub async fn register(cluster: &Cluster<'_>, run: &str, clients: u32) -> Result<Vec<Member>> {
    let members = (1..=clients).map(|client| Member::register(cluster, run, format!("client-{client}")));
    stream::iter(members).buffer_unordered(REGISTER_AT_ONCE).try_collect().await
}

impl Member {
    async fn register(cluster: &Cluster<'_>, run: &str, name: String) -> Result<Self> {
        let (http, run_url) = (cluster.http.clone(), format!("{}/api/v1/runs/{run}", cluster.origin));
        let request = http.post(format!("{run_url}/clients")).json(&json!({"name": name, "samples": 1}));
        let reply = accepted(request).await?.json().await?;
        Ok(Self { http, run_url, reply, busy: 0 })
    }

    /// Asks for its task, and waits up to 25 s for one, as agents do.
    pub async fn task(&mut self) -> Result<Task> {
        let request = self.request(Method::GET, &format!("/clients/{}/task?wait_s=25", self.reply.client_id));
        Ok(self.send(request).await?.json().await?)
    }

    /// Fetches a global version.
    pub async fn model(&mut self, version: u64) -> Result<Bytes> {
        let request = self.request(Method::GET, &format!("/models/{version}")).header(header::ACCEPT, CONTAINER);
        Ok(self.send(request).await?.bytes().await?)
    }

    /// Reports that it trains.
    pub async fn report_training(&mut self, round: u64) -> Result<()> {
        let request = self.request(Method::PUT, &format!("/clients/{}/status", self.reply.client_id));
        self.send(request.json(&json!({"state": "training", "round": round}))).await.map(drop)
    }

    /// Sends its update.
    pub async fn update(&mut self, round: u64, body: Bytes) -> Result<()> {
        let request = self.request(Method::PUT, &format!("/rounds/{round}/updates/{}?samples=1", self.reply.client_id));
        self.send(request.header(header::CONTENT_TYPE, CONTAINER).body(body)).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.run_url)).bearer_auth(&self.reply.token)
    }

    async fn send(&mut self, request: RequestBuilder) -> Result<Response> {
        loop {
            let response = request.try_clone().context("the body cannot be sent twice")?.send().await?;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                return checked(response).await;
            }
            self.busy += 1;
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}
