//! What an agent makes of refusals that stay: it reports the reason, leaves the round alone, and waits for the next one.

use crate::harness::{Agent, Coordinator, Guest, soon};
use app::api::{ClientState, Encoding, ModelSpec, RoundOutcome, TrainConfig};
use fedlearn::agent::AgentError;
use fedlearn::model::{Device, Network};
use fedlearn::wire;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A run whose update has 0.7 MB in the encoding bf16, and 1.3 MB as f32.
const LARGER: [&str; 6] = ["--dataset", "none", "--channels", "1", "--classes", "1000"];

#[tokio::test(flavor = "multi_thread")]
async fn an_update_over_the_upload_limit_is_reported_and_its_round_is_not_trained_again() {
    // Given a limit that the run's own encoding meets, and an agent that sends another one,
    let coordinator = Coordinator::start(&[&LARGER[..], &["--max-upload-mb", "1"]].concat()).await;
    let bystander = Guest::join(&coordinator, "default", "bystander").await;
    let agent = Agent::noise(coordinator.origin(), "agent", Encoding::F32);
    let agents = |run: &app::api::RunSnapshot| run.clients.iter().find(|c| c.name == "agent").cloned();
    coordinator.until("default", "both are there", |run| run.clients.len() == 2).await;
    coordinator.order("/runs/default/rounds").await;
    // when its update is refused, then its row shows why, and so does what the run waits for,
    let run = coordinator
        .until("default", "its report", |run| {
            agents(run).is_some_and(|c| c.error.is_some_and(|error| error.starts_with("the update of ")))
        })
        .await;
    let client = agents(&run).unwrap();
    assert_eq!((client.state, client.strikes), (ClientState::Error, 0));
    let error = client.error.unwrap();
    assert!(error.contains("--max-upload-mb 1 of the coordinator allows 1048576"), "{error}");
    assert!(error.contains("restart the coordinator with --max-upload-mb 2 or more"), "{error}");
    assert!(run.waiting.contains("; agent's update was rejected: the body has at least "), "{}", run.waiting);
    // the round closes without it,
    bystander.leaves().await;
    let run = coordinator.until("default", "the round is over", |run| run.rounds.len() == 1).await;
    assert_eq!(run.rounds[0].outcome, RoundOutcome::Void);
    assert!(run.rounds[0].reason.contains("agent's update was rejected"), "{}", run.rounds[0].reason);
    // and the next one asks it again.
    coordinator.order("/runs/default/rounds").await;
    coordinator.until("default", "the next round is void, too", |run| run.rounds.len() == 2).await;
    agent.leaves().await;
}

/// Reads a request: its method, its path, and its body.
async fn request(stream: &mut TcpStream) -> Option<(String, String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
        if bytes.len() >= end + 4 + length {
            let mut words = head.split_whitespace().map(str::to_owned);
            return Some((words.next()?, words.next()?, bytes.split_off(end + 4)));
        }
    }
}

/// A proxy with a coordinator behind it of which it lets updates through to nobody: each is answered like that. Asks for the
/// same round again, then says stop. Returns what it was asked.
async fn proxied(refusal: &'static str) -> (String, JoinHandle<Vec<(String, String, Vec<u8>)>>) {
    let spec = ModelSpec { architecture: app::api::Architecture::Cnn, ..small() };
    let model = Network::new(&spec, Device::Cpu).unwrap().parameters().unwrap();
    let model = wire::encode(&model, Encoding::Bf16, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut asked, mut tasks) = (Vec::new(), 0);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Some((method, path, body)) = request(&mut stream).await else { continue };
            let path = path.replace("/api/v1/runs/default", "");
            let json = |value: serde_json::Value| ("200 OK", "application/json", value.to_string().into_bytes());
            let (status, content_type, answer) = match (method.as_str(), path.split('?').next().unwrap()) {
                ("POST", "/clients") => json(json!({"client_id": "c1", "token": "t", "state": "join", "model": spec})),
                ("GET", "/clients/c1/task") => {
                    tasks += 1;
                    let train = TrainConfig::default();
                    json(match tasks {
                        3 => json!({"task": "stop", "reason": "as the test says"}),
                        _ => {
                            json!({"task": "train", "round": 1, "version": 0, "encoding": "bf16", "topk_fraction": 0.01,
                                    "train": train, "deadline_ms": 1, "heartbeat_interval_s": 20, "server_ms": 0})
                        }
                    })
                }
                ("GET", "/models/0") => ("200 OK", wire::CONTAINER, model.clone()),
                ("PUT", "/clients/c1/status") => json(json!({"cancel": false, "state": "error"})),
                ("PUT", _) => (refusal, "text/html", b"<html><body>nginx</body></html>".to_vec()),
                _ => ("204 No Content", "text/plain", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nserver: nginx/1.22.1\r\ncontent-type: {content_type}\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n",
                answer.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &answer].concat()).await;
            let _ = stream.shutdown().await;
            let is_last = method == "DELETE";
            asked.push((method, path, body));
            if is_last {
                return asked;
            }
        }
    });
    (origin, asked)
}

/// A model for images of 28x28.
fn small() -> ModelSpec {
    ModelSpec::for_dataset(app::api::Architecture::Cnn, app::api::Dataset::Mnist)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_a_proxy_is_reported_in_plain_words_and_its_round_is_not_trained_again() {
    for (refusal, words) in [
        ("413 Request Entity Too Large", "raise its limit (of nginx, client_max_body_size)"),
        ("403 Forbidden", "rejected a request"),
        ("400 Bad Request", "rejected a request"),
    ] {
        let (origin, asked) = proxied(refusal).await;
        let end = Agent::noise(origin, "agent", Encoding::Bf16).gives_up().await;
        assert!(matches!(&end, AgentError::Stopped(reason) if reason == "as the test says"), "{end}");
        let asked = soon("the end", asked).await.unwrap();
        let count = |method: &str, place: &str| {
            asked.iter().filter(|(m, path, _)| m == method && path.starts_with(place)).count()
        };
        assert_eq!((count("GET", "/models/"), count("PUT", "/rounds/1/updates/")), (1, 1), "{refusal}");
        let reports = asked.iter().filter(|(_, path, _)| path == "/clients/c1/status").map(|(.., body)| body);
        let reports: Vec<serde_json::Value> = reports.map(|body| serde_json::from_slice(body).unwrap()).collect();
        let errors: Vec<_> = reports.iter().filter(|report| report["state"] == "error").collect();
        assert_eq!(errors.len(), 2, "once when it was refused, and when it was asked for the same again: {reports:?}");
        for report in errors {
            let error = report["error"].as_str().unwrap();
            assert!(error.starts_with("the update of ") && error.contains("the server 'nginx/1.22.1'"), "{error}");
            assert!(error.contains(words) && !error.contains('<'), "{error}");
            assert_eq!(report["round"], 1);
        }
    }
}
