//! A real nginx in front of the coordinator, with the configurations of docs/behind-a-proxy.md.

use crate::harness::{Agent, Coordinator, Guest, Watch, refused, safetensors, soon, take, with};
use app::api::{Encoding, ErrorCode};
use reqwest::{Method, header};
use serde_json::json;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../../docs/behind-a-proxy.md");

/// An nginx of this test's own.
struct Nginx {
    process: Child,
    /// `http://127.0.0.1:PORT`.
    origin: String,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one with the document's block of that name.
    async fn start(coordinator: &Coordinator, name: &str) -> Self {
        let block = DOCUMENT.split("```nginx\n").find_map(|part| part.strip_prefix(&format!("# {name}\n")));
        let block = block.and_then(|part| part.split("```").next()).expect("the document has that block");
        let block = block.replace("127.0.0.1:3000", &coordinator.authority());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let places =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {path}/{kind};"));
        let text = format!(
            "daemon off; master_process off; error_log stderr; pid {path}/pid; events {{}}\n\
             http {{ access_log off; {} server {{ listen 127.0.0.1:{port};\n{block}\n}} }}",
            places.concat()
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        // Debian keeps it where only root looks.
        let program =
            ["/usr/sbin/nginx", "nginx"].into_iter().find(|path| Command::new(path).arg("-v").output().is_ok());
        let program = program.expect("`make setup` installs nginx");
        let process = Command::new(program)
            .args(["-p".as_ref(), folder.path(), "-c".as_ref(), &file])
            .stderr(Stdio::null())
            .spawn();
        let this = Self { process: process.unwrap(), origin: format!("http://127.0.0.1:{port}"), _folder: folder };
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon("nginx listens", listens).await;
        this
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_but_proxy_pass_the_page_is_live_and_its_buttons_work() {
    let coordinator = Coordinator::tiny(&[]).await;
    let nginx = Nginx::start(&coordinator, "plain").await;
    let http = &coordinator.http;
    // Given a page that watches through nginx, an event arrives though the stream stays open.
    let mut watch = Watch::open(http.get(format!("{}/api/v1/runs/tiny/events", nginx.origin))).await;
    let guest = Guest::register(http.clone(), nginx.origin.clone(), "tiny", "guest", 10).await;
    watch.until("the guest is seen", |run| run.client(&guest.id).is_some()).await;
    // When the operator logs in there, the session may act, with the header of the page's own script alone.
    let login = http.post(format!("{}/api/v1/session", nginx.origin)).json(&json!({"token": coordinator.admin}));
    let cookie = take(204, login).await.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let autorun = || {
        let request = http.post(format!("{}/api/v1/runs/tiny/autorun", nginx.origin)).json(&json!({"rounds": 1}));
        request.header(header::COOKIE, &cookie).header(header::ORIGIN, "https://fl.example")
    };
    refused(403, ErrorCode::CrossSite, autorun()).await;
    refused(
        403,
        ErrorCode::CrossSite,
        autorun().header("fedlearn-dashboard", "1").header("sec-fetch-site", "cross-site"),
    )
    .await;
    take(202, autorun().header("fedlearn-dashboard", "1").header("sec-fetch-site", "same-origin")).await;
    watch.until("the round is open", |run| run.round.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_path_the_page_the_newest_model_and_an_agent_stay_below_it() {
    let coordinator = Coordinator::start(&[]).await;
    let nginx = Nginx::start(&coordinator, "prefix").await;
    let origin = format!("{}/fl", nginx.origin);
    let page = take(200, coordinator.http.get(format!("{origin}/runs/default"))).await.text().await.unwrap();
    assert!(page.contains("<base href=\"../\">"), "{page}");
    let latest =
        coordinator.http.get(format!("{origin}/api/v1/runs/default/models/latest")).bearer_auth(&coordinator.admin);
    let to = take(307, latest).await.headers()["location"].to_str().unwrap().to_owned();
    let model =
        coordinator.http.get(format!("{origin}/api/v1/runs/default/models/{to}")).bearer_auth(&coordinator.admin);
    take(200, model).await;
    let agent = Agent::noise(origin, "agent", Encoding::Q4);
    coordinator.until("default", "the agent is there", |run| !run.clients.is_empty()).await;
    coordinator.autorun("default", 1).await;
    coordinator.until("default", "a round is complete", |run| run.version == 1).await;
    agent.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_updates_pass_where_the_document_says_so_and_not_by_default() {
    let coordinator = Coordinator::tiny(&["--trusted-proxy", "127.0.0.1"]).await;
    let large = || {
        let mut body = safetensors(&with(0.0));
        body.resize(2 << 20, 0);
        body
    };
    for (name, status) in [("plain", 413), ("updates", 422)] {
        let nginx = Nginx::start(&coordinator, name).await;
        let create = coordinator.http.request(Method::POST, format!("{}/api/v1/runs?run=large", nginx.origin));
        let create = create.bearer_auth(&coordinator.admin).header(header::CONTENT_TYPE, "application/vnd.safetensors");
        let answer = create.body(large()).send().await.unwrap();
        // 422: the coordinator has read all of it, and finds bytes after the last tensor.
        assert_eq!(answer.status(), status, "{name}");
    }
}
