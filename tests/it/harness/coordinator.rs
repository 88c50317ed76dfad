//! A coordinator in this process, and the operator who speaks to it.

use super::{NO_DATASET, Watch, invariants, safetensors, take, value_of, with};
use app::api::{RunConfig, RunSnapshot};
use fedlearn::cli::{self, Command};
use fedlearn::config::ServeSettings;
use fedlearn::coordinator::Clock;
use fedlearn::http::Server;
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

/// A coordinator with a data folder of its own. Dropped, it stops and is held to the invariants.
pub struct Coordinator {
    /// The admin token.
    pub admin: String,
    /// Speaks to it; follows no redirects.
    pub http: reqwest::Client,
    settings: Box<ServeSettings>,
    server: Option<Server>,
    folder: TempDir,
    /// Tokens that were handed out: none may be found in the data folder.
    secrets: Mutex<Vec<String>>,
}

impl Coordinator {
    /// Starts one with these flags of `fedlearn serve`.
    pub async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().to_str().unwrap();
        let serve = ["fedlearn", "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--data-dir", data_dir];
        let parsed = cli::parse(serve.iter().chain(flags).map(Into::into), []).unwrap();
        let Command::Serve(settings) = parsed.command else { panic!("not serve") };
        // One thread an operation: tests run side by side, and a sum of one thread is the same in every repetition.
        tch::set_num_threads(1);
        let _ = rustls::crypto::ring::default_provider().install_default(); // by an earlier test, then
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let server = Server::start(&settings).await.unwrap();
        let admin = server.new_admin_token().unwrap().reveal().to_owned();
        let secrets = Mutex::new(vec![admin.clone()]);
        Self { admin, http, settings, server: Some(server), folder, secrets }
    }

    /// Starts one whose run `tiny` has two small tensors, see [`with`].
    pub async fn tiny(flags: &[&str]) -> Self {
        let this = Self::start(&[&NO_DATASET, flags].concat()).await;
        let create = this.operator(Method::POST, "/runs?run=tiny");
        let body = safetensors(&with(0.0));
        take(201, create.header(header::CONTENT_TYPE, "application/vnd.safetensors").body(body)).await;
        this
    }

    /// `127.0.0.1:12345`.
    pub fn authority(&self) -> String {
        self.server.as_ref().unwrap().address().to_string()
    }

    /// The address itself.
    pub fn origin(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// A request of nobody in particular to a path below `/api/v1`.
    pub fn anybody(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.origin()))
    }

    /// A request of the operator.
    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.anybody(method, path).bearer_auth(&self.admin)
    }

    /// The operator's `POST`, which is accepted.
    pub async fn order(&self, path: &str) -> Response {
        take(202, self.operator(Method::POST, path)).await
    }

    /// The operator's wish for so many rounds.
    pub async fn autorun(&self, run: &str, rounds: u32) {
        let autorun = self.operator(Method::POST, &format!("/runs/{run}/autorun"));
        take(202, autorun.json(&json!({ "rounds": rounds }))).await;
    }

    /// Changes the configuration, whatever its version.
    pub async fn configure(&self, run: &str, patch: Value) -> RunConfig {
        let path = format!("/runs/{run}");
        let version = self.snapshot(run).await.config_version;
        let request = self.operator(Method::PATCH, &path).header(header::IF_MATCH, format!("\"{version}\""));
        take(200, request.json(&patch)).await.json::<RunSnapshot>().await.unwrap().config
    }

    /// `GET /runs/{run}`.
    pub async fn snapshot(&self, run: &str) -> RunSnapshot {
        take(200, self.anybody(Method::GET, &format!("/runs/{run}"))).await.json().await.unwrap()
    }

    /// The value that a version of the run `tiny` is full of.
    pub async fn tiny_value(&self, version: u64) -> f32 {
        let model = self.operator(Method::GET, &format!("/runs/tiny/models/{version}"));
        value_of(&take(200, model).await.bytes().await.unwrap())
    }

    /// Opens the stream of events.
    pub async fn watch(&self, run: &str) -> Watch {
        Watch::open(self.anybody(Method::GET, &format!("/runs/{run}/events"))).await
    }

    /// Waits until the run is as wanted, by its events.
    pub async fn until(&self, run: &str, what: &str, is_so: impl Fn(&RunSnapshot) -> bool) -> RunSnapshot {
        self.watch(run).await.until(what, is_so).await
    }

    /// Notes a token that was handed out.
    pub fn remember(&self, secret: &str) {
        self.secrets.lock().unwrap().push(secret.to_owned());
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        self.server.as_ref().unwrap().coordinator().clock()
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files of uploads that are under way or were left behind.
    pub fn incoming(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.folder().join("incoming")).unwrap().map(|e| e.unwrap().path()).collect()
    }

    /// Tells it to stop, without waiting for it.
    pub fn begin_to_stop(&self) {
        self.server.as_ref().unwrap().coordinator().shutdown().cancel();
    }

    /// Stops it, and checks what it leaves.
    pub async fn stop(&mut self) {
        let Some(server) = self.server.take() else { return };
        self.settings.listen = server.address();
        let runs: Vec<_> = server.coordinator().lines().into_iter().map(|line| line.run).collect();
        let handles: Vec<_> = runs.iter().map(|run| server.coordinator().run(run).unwrap()).collect();
        server.stop().await;
        let shown: Vec<_> = handles.iter().map(|handle| handle.feed().snapshot()).collect();
        let secrets = self.secrets.lock().unwrap().clone();
        invariants::check(self.folder.path(), &shown, &secrets).await;
    }

    /// From its next start on, bodies may have that many MB.
    pub fn limit_uploads(&mut self, max_upload_mb: u32) {
        self.settings.max_upload_mb = max_upload_mb;
    }

    /// Starts it again: same data folder, same port. The admin token is not shown again.
    pub async fn start_again(&mut self) {
        let server = Server::start(&self.settings).await.unwrap();
        assert!(server.new_admin_token().is_none(), "the admin token is made once");
        self.server = Some(server);
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the test has failed already; a second panic would only hide why
        }
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.stop()));
    }
}
