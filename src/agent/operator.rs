//! The admin plane as seen from the command line: the operator's commands for whole runs.

use super::call_error::{CallError, answer, json};
use super::transport::http_client;
use app::api::{RenameRequest, RunId, RunLine};
use reqwest::{Method, RequestBuilder};
use std::path::Path;

/// Calls a coordinator with the admin token.
pub struct Operator {
    http: reqwest::Client,
    api_url: String,
    admin_token: String,
}

impl Operator {
    /// For the coordinator at that address. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificate authorities cannot be read.
    pub fn new(coordinator_url: &str, admin_token: String, ca_cert: Option<&Path>) -> Result<Self, CallError> {
        let api_url = format!("{}/api/v1", coordinator_url.trim_end_matches('/'));
        Ok(Self { http: http_client(coordinator_url, ca_cert)?, api_url, admin_token })
    }

    /// The open runs, or the archived ones.
    ///
    /// # Errors
    /// The coordinator rejects it, or cannot be reached.
    pub async fn runs(&self, archived: bool) -> Result<Vec<RunLine>, CallError> {
        let request = self.request(Method::GET, "/runs").query(&[("archived", archived)]);
        json(answer(request.send().await?).await?).await
    }

    /// Archives a run.
    ///
    /// # Errors
    /// As [`Self::runs`].
    pub async fn archive(&self, run: &RunId, force: bool) -> Result<(), CallError> {
        send(self.request(Method::POST, &format!("/runs/{run}/archive")).query(&[("force", force)])).await
    }

    /// Takes a run out of the archive.
    ///
    /// # Errors
    /// As [`Self::runs`].
    pub async fn unarchive(&self, run: &RunId) -> Result<(), CallError> {
        send(self.request(Method::POST, &format!("/runs/{run}/unarchive"))).await
    }

    /// Gives a run another name.
    ///
    /// # Errors
    /// As [`Self::runs`].
    pub async fn rename(&self, run: &RunId, to: &RunId, force: bool) -> Result<(), CallError> {
        let request = self.request(Method::POST, &format!("/runs/{run}/rename")).query(&[("force", force)]);
        send(request.json(&RenameRequest { run: to.clone() })).await
    }

    /// Deletes a run.
    ///
    /// # Errors
    /// As [`Self::runs`].
    pub async fn delete(&self, run: &RunId, force: bool) -> Result<(), CallError> {
        send(self.request(Method::DELETE, &format!("/runs/{run}")).query(&[("force", force)])).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.api_url)).bearer_auth(&self.admin_token)
    }
}

async fn send(request: RequestBuilder) -> Result<(), CallError> {
    answer(request.send().await?).await.map(drop)
}
