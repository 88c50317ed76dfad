//! The client plane as seen from a client: typed calls, repeated until they are answered.

use super::call_error::{CallError, Repeat, answer, json};
use app::api::{
    ClientId, ClientPatch, ErrorCode, RegisterReply, RegisterRequest, RunId, RunSnapshot, StatusReply, StatusReport,
    Task, UpdateQuery, UploadView,
};
use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Method, RequestBuilder, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The wait of one long-poll.
const WAIT_S: u64 = 25;
const CONNECT: Duration = Duration::from_secs(10);
/// The longest pause within an answer. It is longer than a long-poll.
const SILENCE: Duration = Duration::from_secs(60);
/// The first pause before a call is repeated; it doubles up to the longest. Both are jittered, so that a thousand agents do
/// not call again in the same instant.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Tries of a call whose answer cannot be read or is an internal error of the coordinator.
const ODD_ANSWERS: u32 = 5;

/// An HTTP client for that coordinator. It trusts the certificate authorities of this machine and those in the PEM file.
///
/// # Errors
/// Certificate authorities cannot be read.
pub(super) fn http_client(coordinator_url: &str, ca_cert: Option<&Path>) -> Result<reqwest::Client, CallError> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = ca_cert.map(certificates).transpose()?;
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .user_agent(concat!("fedlearn/", env!("CARGO_PKG_VERSION")));
    let http = match authorities {
        Some(authorities) => http.tls_certs_merge(authorities),
        // Plain HTTP works on a machine without certificate authorities, too.
        None if coordinator_url.starts_with("http://") => http.tls_certs_only([]),
        None => http,
    };
    Ok(http.build()?)
}

/// Calls to one run, with the client's identity there.
#[derive(Debug, Clone)]
pub struct Transport {
    http: reqwest::Client,
    run_url: String,
    identity: Option<Identity>,
    /// The coordinator has answered, so its address is right.
    was_answered: Arc<AtomicBool>,
}

/// The client's id and token.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    pub client_id: ClientId,
    pub token: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.client_id)
    }
}

impl Transport {
    /// For the run at that coordinator. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificate authorities of this machine cannot be read.
    pub fn new(coordinator_url: &str, run: &RunId) -> Result<Self, CallError> {
        Self::trusting(coordinator_url, run, None)
    }

    /// Like [`Self::new`], and trusts the certificate authorities in the PEM file too.
    ///
    /// # Errors
    /// Certificate authorities cannot be read.
    pub fn trusting(coordinator_url: &str, run: &RunId, ca_cert: Option<&Path>) -> Result<Self, CallError> {
        Ok(Self {
            http: http_client(coordinator_url, ca_cert)?,
            run_url: format!("{}/api/v1/runs/{run}", coordinator_url.trim_end_matches('/')),
            identity: None,
            was_answered: Arc::default(),
        })
    }

    /// The client's id, once registered.
    pub fn id(&self) -> Option<&ClientId> {
        self.identity.as_ref().map(|i| &i.client_id)
    }

    /// The client's identity, once registered.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Resumes as a client that registered earlier.
    pub(super) fn resume(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    /// The public state of the run.
    ///
    /// # Errors
    /// The coordinator rejects it.
    pub async fn snapshot(&self) -> Result<RunSnapshot, CallError> {
        self.call(|| self.request(Method::GET, "")).await
    }

    /// Registers, and makes all later calls as that client.
    ///
    /// # Errors
    /// The coordinator rejects it.
    pub async fn register(&mut self, request: &RegisterRequest) -> Result<RegisterReply, CallError> {
        self.identity = None;
        let reply: RegisterReply = self.call(|| self.request(Method::POST, "/clients").json(request)).await?;
        self.identity = Some(Identity { client_id: reply.client_id.clone(), token: reply.token.clone() });
        Ok(reply)
    }

    /// Changes the number of images that the client holds.
    ///
    /// # Errors
    /// The coordinator rejects it.
    pub async fn change_samples(&self, samples: u64) -> Result<(), CallError> {
        let path = self.own("");
        let patch = || self.request(Method::PATCH, &path).json(&ClientPatch { samples });
        self.repeat(|| async { answer(patch().send().await?).await.map(|_| ()) }).await
    }

    /// The next task; waits until there is one.
    ///
    /// # Errors
    /// The coordinator rejects it.
    pub async fn task(&self) -> Result<Task, CallError> {
        self.task_within(WAIT_S).await
    }

    /// The next task; waits up to `wait_s` until there is one.
    pub(super) async fn task_within(&self, wait_s: u64) -> Result<Task, CallError> {
        let path = self.own("/task");
        let wait = [("wait_s", wait_s)];
        self.call(|| self.request(Method::GET, &path).query(&wait)).await
    }

    /// Waits while work on that round is wanted. [`Self::status`] then says whether to stop. Without an answer it keeps waiting:
    /// the coordinator may be restarting.
    pub async fn news(&self, round: u64) {
        let path = self.own("/task");
        let query = [("wait_s", WAIT_S), ("round", round)];
        loop {
            match self.call(|| self.request(Method::GET, &path).query(&query)).await {
                Ok(Task::Train(task)) if task.round == round => {} // it is still wanted
                _ => return,
            }
        }
    }

    /// Reports state and progress. A failed report is not repeated: the next one is newer.
    ///
    /// # Errors
    /// The coordinator rejects it, or there is no answer.
    pub async fn status(&self, report: &StatusReport) -> Result<StatusReply, CallError> {
        let request = self.request(Method::PUT, &self.own("/status")).json(report);
        json(answer(request.send().await?).await?).await
    }

    /// A version of the global model in the encoding that `accept` names, possibly as a difference to the version `base`. If the
    /// connection breaks, the download resumes where it stopped.
    ///
    /// # Errors
    /// The coordinator rejects it.
    pub async fn model(&self, version: u64, accept: &str, base: Option<u64>) -> Result<Bytes, CallError> {
        let path = format!("/models/{version}");
        let whole = || {
            let request = self.request(Method::GET, &path).header(header::ACCEPT, accept);
            request.query(&base.map(|base| ("base", base)).as_slice())
        };
        // What has arrived so far, and the ETag of its whole.
        let part = tokio::sync::Mutex::new((BytesMut::new(), None::<HeaderValue>));
        let fetch = || async {
            let mut part = part.lock().await;
            let (body, etag) = &mut *part;
            let mut request = whole();
            if let Some(etag) = etag.as_ref().filter(|_| !body.is_empty()) {
                request =
                    request.header(header::RANGE, format!("bytes={}-", body.len())).header(header::IF_RANGE, etag);
            }
            let mut response = match answer(request.send().await?).await {
                // Everything had arrived before the connection broke.
                Err(CallError::Rejected { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) if !body.is_empty() => {
                    answer(whole().send().await?).await?
                }
                answered => answered?,
            };
            if response.status() != StatusCode::PARTIAL_CONTENT {
                body.clear(); // this answer has the whole
                *etag = response.headers().get(header::ETAG).cloned();
            }
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
            }
            Ok(std::mem::take(body).freeze())
        };
        self.repeat(fetch).await
    }

    /// Sends an update. Repeating it is harmless. If the connection breaks, the upload resumes where it stopped.
    ///
    /// # Errors
    /// The coordinator rejects it.
    pub async fn update(
        &self,
        round: u64,
        query: &UpdateQuery,
        content_type: &str,
        body: Bytes,
    ) -> Result<(), CallError> {
        let path = format!("/rounds/{round}/updates/{}", self.id().map_or("", ClientId::as_str));
        let is_first = AtomicBool::new(true);
        let put = async |query: &UpdateQuery, body: Bytes| {
            let request = self.request(Method::PUT, &path).query(query).header(header::CONTENT_TYPE, content_type);
            answer(request.body(body).send().await?).await.map(|_| ())
        };
        let send = || async {
            let (mut query, mut rest) = (query.clone(), body.clone());
            if !is_first.swap(false, Ordering::Relaxed) {
                match self.upload(&path).await? {
                    Some(here) if Some(&here.sha256) != query.sha256.as_ref() => {}
                    Some(UploadView { counted: true, .. }) => return Ok(()),
                    Some(UploadView { bytes: Some(bytes), .. }) if bytes <= body.len() as u64 => {
                        query.offset = Some(bytes);
                        rest = body.slice(bytes as usize..); // of a body in memory
                    }
                    _ => {}
                }
            }
            match put(&query, rest).await {
                // It was counted since the question, or it is gone because the coordinator was killed.
                Err(error) if query.offset.is_some() && error.code() == Some(ErrorCode::Conflict) => {
                    let here = self.upload(&path).await?;
                    if here.is_some_and(|here| here.counted && Some(&here.sha256) == query.sha256.as_ref()) {
                        return Ok(());
                    }
                    query.offset = None;
                    put(&query, body.clone()).await
                }
                sent => sent,
            }
        };
        self.repeat(send).await
    }

    /// What the coordinator has of an update; `None` means nothing.
    async fn upload(&self, path: &str) -> Result<Option<UploadView>, CallError> {
        match answer(self.request(Method::GET, path).send().await?).await {
            Ok(response) => json(response).await.map(Some),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Leaves the run. Not repeated: the agent does not wait for it.
    ///
    /// # Errors
    /// The coordinator rejects it, or there is no answer.
    pub async fn leave(&self) -> Result<(), CallError> {
        answer(self.request(Method::DELETE, &self.own("")).send().await?).await.map(|_| ())
    }

    fn own(&self, rest: &str) -> String {
        format!("/clients/{}{rest}", self.id().map_or("", ClientId::as_str))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.run_url));
        match &self.identity {
            Some(identity) => request.bearer_auth(&identity.token),
            None => request,
        }
    }

    /// Repeats until the whole answer has arrived: a coordinator may be killed while it answers.
    async fn call<T: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder) -> Result<T, CallError> {
        self.repeat(|| async { json(answer(request().send().await?).await?).await }).await
    }

    /// Repeats while the failure is temporary, such as a restart of the coordinator, however long it takes.
    async fn repeat<T, F>(&self, call: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times()
            .build();
        let mut odd_answers = 0;
        let result = call
            .retry(pauses)
            .when(|error: &CallError| match error.repeat(self.was_answered.load(Ordering::Relaxed)) {
                Repeat::Always => true,
                Repeat::AFewTimes => {
                    odd_answers += 1;
                    odd_answers < ODD_ANSWERS
                }
                Repeat::Never => false,
            })
            .adjust(|error, pause| match error {
                CallError::Rejected { retry_after: Some(wait), .. } => pause.map(|pause| pause.max(*wait)),
                _ => pause,
            })
            .notify(|error, pause| tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f64()))
            .await;
        if result.is_ok() || result.as_ref().is_err_and(|error| error.code().is_some()) {
            self.was_answered.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// The certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<Certificate>, CallError> {
    let failed = |reason: String| CallError::CaCert { path: path.display().to_string(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(format!("cannot read it: {error}")))?;
    let certificates = Certificate::from_pem_bundle(&pem);
    let certificates = certificates.map_err(|_| failed("it is not a PEM file of certificates".into()))?;
    if certificates.is_empty() {
        return Err(failed("it has no certificate (a block that begins with -----BEGIN CERTIFICATE-----)".into()));
    }
    Ok(certificates)
}
