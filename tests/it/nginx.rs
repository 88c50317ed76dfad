//! A real nginx in front of the coordinator, with the configurations of docs/behind-a-proxy.md.

use crate::harness::{Agent, Coordinator, Guest, Watch, refused, soon, take};
use app::api::{Encoding, ErrorCode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Url, header};
use serde_json::json;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Duration;
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../../docs/behind-a-proxy.md");

/// An nginx of this test's own.
struct Nginx {
    process: Child,
    /// `http://127.0.0.1:PORT`, or `https://`.
    origin: String,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one with the document's block of that name.
    async fn start(coordinator: &Coordinator, name: &str) -> Self {
        Self::start_with(coordinator, name, |block| block).await
    }

    /// Starts one with that block as it is after a change.
    async fn start_with(coordinator: &Coordinator, name: &str, change: impl Fn(String) -> String) -> Self {
        let block = DOCUMENT.split("```nginx\n").find_map(|part| part.strip_prefix(&format!("# {name}\n")));
        let block = block.and_then(|part| part.split("```").next()).expect("the document has that block");
        let block = change(block.replace("127.0.0.1:3000", &coordinator.authority()));
        // Another program may take a free port before nginx does; then nginx ends.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(this) = Self::listening_at(port, &block).await {
                return this;
            }
        }
        panic!("nginx ends at once, see its words above");
    }

    async fn listening_at(port: u16, block: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let places =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {path}/{kind};"));
        let (scheme, server) = match block.contains("listen 443 ssl") {
            true => ("https", block.replace("listen 443", &format!("listen 127.0.0.1:{port}"))),
            false => ("http", format!("server {{ listen 127.0.0.1:{port};\n{block}\n}}")),
        };
        let text = format!(
            "daemon off; master_process off; error_log stderr; pid {path}/pid; events {{}}\n\
             http {{ access_log off; {} {server} }}",
            places.concat()
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        // Debian keeps it where only root looks.
        let program =
            ["/usr/sbin/nginx", "nginx"].into_iter().find(|path| Command::new(path).arg("-v").output().is_ok());
        let program = program.expect("`make setup` installs nginx");
        let process = Command::new(program).args(["-p".as_ref(), folder.path(), "-c".as_ref(), &file]).spawn();
        let origin = format!("{scheme}://127.0.0.1:{port}");
        let mut this = Self { process: process.unwrap(), origin, _folder: folder };
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if this.process.try_wait().unwrap().is_some() {
                    return false;
                }
            }
            this.process.try_wait().unwrap().is_none()
        };
        soon("nginx listens", listens).await.then_some(this)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Logs in with the admin token, and returns the session's cookie.
async fn log_in(http: &reqwest::Client, origin: &str, token: &str) -> String {
    let login = http.post(format!("{origin}/api/v1/session")).json(&json!({"token": token}));
    take(204, login).await.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_but_proxy_pass_the_page_is_live_and_its_buttons_work() {
    let coordinator = Coordinator::tiny(&[]).await;
    let nginx = Nginx::start(&coordinator, "plain").await;
    let http = &coordinator.http;
    // Given a page that watches through nginx, an event arrives though the stream stays open, and not with the heartbeat of
    // the stream that pushes it on 15 s later.
    let mut watch = Watch::open(http.get(nginx.url("/api/v1/runs/tiny/events"))).await;
    let guest = Guest::register(http.clone(), nginx.origin.clone(), "tiny", "guest", 10).await;
    let seen = watch.until("the guest is seen", |run| run.client(&guest.id).is_some());
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("nginx passes events on at once");
    // When the operator logs in there, the session may act, with the header of the page's own script alone.
    let cookie = log_in(http, &nginx.origin, &coordinator.admin).await;
    let autorun = || {
        let request = http.post(nginx.url("/api/v1/runs/tiny/autorun")).json(&json!({"rounds": 1}));
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
async fn a_button_works_where_the_proxy_drops_the_port_of_the_host() {
    let coordinator = Coordinator::tiny(&[]).await;
    let without_port = |block: String| format!("proxy_set_header Host $host;\n{block}");
    let nginx = Nginx::start_with(&coordinator, "plain", without_port).await;
    let cookie = log_in(&coordinator.http, &nginx.origin, &coordinator.admin).await;
    let autorun = coordinator.http.post(nginx.url("/api/v1/runs/tiny/autorun")).json(&json!({"rounds": 1}));
    let autorun = autorun.header(header::COOKIE, cookie).header(header::ORIGIN, &nginx.origin);
    take(202, autorun.header("fedlearn-dashboard", "1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_path_the_page_its_links_the_log_in_and_an_agent_stay_below_it() {
    // Given nginx that removes the path, and one that passes it on to a coordinator that knows it,
    for (block, flags) in [("prefix", &[][..]), ("base-path", &["--base-path", "/fl"][..])] {
        let coordinator = Coordinator::start(flags).await;
        let nginx = Nginx::start(&coordinator, block).await;
        let (http, admin) = (&coordinator.http, &coordinator.admin);
        let origin = nginx.url("/fl");
        // when a browser follows each link of the page, and loads what the page is made of,
        let page_url = Url::parse(&format!("{origin}/runs/default")).unwrap();
        let page = take(200, http.get(page_url.clone())).await.text().await.unwrap();
        let quoted = |start: &str| -> Vec<String> {
            page.split(start).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
        };
        let base = page_url.join(&quoted("<base href=\"")[0]).unwrap();
        let links: Vec<Url> = quoted(" href=\"").iter().skip(1).map(|link| base.join(link).unwrap()).collect();
        let links: Vec<Url> = links.into_iter().filter(|link| link.origin() == base.origin()).collect();
        assert!(links.iter().any(|link| link.path() == "/fl/pkg/fedlearn.css"), "{page}");
        for link in links {
            // then it stays below the path, and gets what the coordinator answers by itself.
            let path =
                link.path().strip_prefix("/fl").unwrap_or_else(|| panic!("{block}: {link} leads out of the path"));
            let (there, here) = (http.get(link.clone()), http.get(format!("http://{}{path}", coordinator.authority())));
            let (there, here) = (there.send().await.unwrap().status(), here.send().await.unwrap().status());
            assert_eq!(there, here, "{block}: {link}");
        }
        let latest = http.get(format!("{origin}/api/v1/runs/default/models/latest")).bearer_auth(admin);
        let answer = take(307, latest).await;
        let model = answer.url().join(answer.headers()["location"].to_str().unwrap()).unwrap();
        assert!(model.path().starts_with("/fl/api/"), "{model}");
        take(200, http.get(model).bearer_auth(admin)).await;
        let cookie = log_in(http, &origin, admin).await;
        let autorun = http.post(format!("{origin}/api/v1/runs/default/autorun")).json(&json!({"rounds": 1}));
        take(202, autorun.header(header::COOKIE, cookie).header("fedlearn-dashboard", "1")).await;
        let agent = Agent::noise(origin, "agent", Encoding::Q4);
        coordinator.until("default", "a round is complete", |run| run.version == 1).await;
        agent.leaves().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_over_the_limit_of_nginx_is_reported_and_passes_where_the_document_says_so() {
    // Given updates of 1.3 MB, and nginx that takes 1 MB,
    let larger = ["--dataset", "none", "--channels", "1", "--classes", "1000"];
    let coordinator = Coordinator::start(&larger).await;
    let nginx = Nginx::start(&coordinator, "plain").await;
    let bystander = Guest::join(&coordinator, "default", "bystander").await;
    let agent = Agent::noise(nginx.origin.clone(), "agent", Encoding::F32);
    coordinator.until("default", "both are there", |run| run.clients.len() == 2).await;
    // when nginx refuses one, then the client's row and what the run waits for say what to change,
    coordinator.order("/runs/default/rounds").await;
    let run = coordinator
        .until("default", "its report", |run| run.waiting.contains("; agent reported an error: the update of "))
        .await;
    assert!(run.waiting.contains("nginx"), "{}", run.waiting);
    let error = run.clients.iter().find_map(|client| client.error.clone()).expect("the row says why");
    assert!(error.contains("'nginx/") && error.contains("client_max_body_size"), "{error}");
    // and with the document's limit it passes.
    agent.leaves().await;
    bystander.leaves().await;
    coordinator.until("default", "the round is over", |run| run.rounds.len() == 1).await;
    let nginx = Nginx::start(&coordinator, "updates").await;
    let agent = Agent::noise(nginx.origin.clone(), "second", Encoding::F32);
    coordinator.autorun("default", 1).await;
    coordinator.until("default", "a round is complete", |run| run.version == 1).await;
    agent.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_as_a_trusted_proxy_each_address_has_a_budget_of_its_own() {
    let from = |address: [u8; 4]| {
        reqwest::Client::builder().no_proxy().local_address(std::net::IpAddr::from(address)).build().unwrap()
    };
    for (flags, is_shared) in [(&["--trusted-proxy", "127.0.0.1"][..], false), (&[][..], true)] {
        let coordinator = Coordinator::tiny(flags).await;
        let nginx = Nginx::start(&coordinator, "updates").await;
        let status = async |http: &reqwest::Client| {
            let guess = http.post(nginx.url("/api/v1/session")).json(&json!({"token": "guess"}));
            guess.send().await.unwrap().status().as_u16()
        };
        // When one address has spent its budget of wrong tokens,
        let guesser = from([127, 0, 0, 2]);
        let spends = async { while status(&guesser).await != 429 {} };
        soon("the budget is spent", spends).await;
        // then another one has its own if the proxy is trusted.
        let other = status(&from([127, 0, 0, 3])).await;
        assert_eq!(other, if is_shared { 429 } else { 401 }, "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_an_agent_that_knows_the_authority_takes_part() {
    // Given the certificate of an own authority,
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let place = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = place("ca.pem", certificate.pem());
    let (pem, secret) = (place("own.pem", own.pem()), place("own.key", key.serialize_pem()));
    let coordinator = Coordinator::start(&[]).await;
    let nginx = Nginx::start_with(&coordinator, "tls", |block| {
        let block = block.replace("/etc/ssl/fl.example.pem", &pem.display().to_string());
        block.replace("/etc/ssl/fl.example.key", &secret.display().to_string())
    })
    .await;
    // then an agent with that authority completes a round.
    let agent = Agent::trusting(nginx.origin.clone(), "agent", ca);
    coordinator.autorun("default", 1).await;
    coordinator.until("default", "a round is complete", |run| run.version == 1).await;
    agent.leaves().await;
}
