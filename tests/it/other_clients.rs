//! Clients that are not ours: Python's standard library, and curl.

use crate::harness::{Coordinator, safetensors, soon, take, value_of, with};
use app::api::{RegisterReply, Task, UpdateReply};
use reqwest::Method;
use serde_json::json;
use std::process::Stdio;
use tokio::process::Command;

async fn output(mut command: Command) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    let output = soon("a program's end", command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program:?} is needed for this test: {error}"));
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?}: {}\n{said}\n{complained}", output.status);
    said.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_script_without_any_library_takes_part() {
    let coordinator = Coordinator::tiny(&[]).await;
    coordinator.configure("tiny", json!({"min_clients": 2})).await;
    coordinator.autorun("tiny", 1).await;
    let script = |name: &str, step: &str| {
        let mut python = Command::new("python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rest_client.py"));
        python.args([&format!("{}/api/v1/runs/tiny", coordinator.origin()), name, step]);
        output(python)
    };
    let (one, two) = tokio::join!(script("one", "1"), script("two", "3"));
    assert!(one.starts_with("202 ") && two.starts_with("202 "), "{one}{two}");
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!((run.rounds[0].updates, run.rounds[0].train_loss), (2, Some(1.5)));
    let model = take(200, coordinator.operator(Method::GET, "/runs/tiny/models/1")).await;
    assert_eq!(value_of(&model.bytes().await.unwrap()), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_takes_part() {
    let coordinator = Coordinator::tiny(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let run = format!("{}/api/v1/runs/tiny", coordinator.origin());
    let curl = |args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(args);
        output(curl)
    };
    let json = "Content-Type: application/json";
    let clients = format!("{run}/clients");
    let me = curl(&["--header", json, "--data", r#"{"name": "curl", "samples": 5}"#, &clients]).await;
    let me: RegisterReply = serde_json::from_str(&me).unwrap();
    coordinator.autorun("tiny", 1).await;

    let token = format!("Authorization: Bearer {}", me.token);
    let task = curl(&["--header", &token, &format!("{clients}/{}/task?wait_s=25", me.client_id)]).await;
    let Task::Train(task) = serde_json::from_str(&task).unwrap() else { panic!("{task}") };
    let model = folder.path().join("model.safetensors");
    let latest = format!("{run}/models/latest");
    curl(&["--location", "--header", &token, "--output", model.to_str().unwrap(), &latest]).await;
    assert_eq!(value_of(&std::fs::read(&model).unwrap()), 0.0);

    std::fs::write(&model, safetensors(&with(4.0))).unwrap();
    let update = format!("{run}/rounds/{}/updates/{}?samples=5", task.round, me.client_id);
    let safe = "Content-Type: application/vnd.safetensors";
    let reply = curl(&["--header", &token, "--header", safe, "--upload-file", model.to_str().unwrap(), &update]).await;
    let reply: UpdateReply = serde_json::from_str(&reply).unwrap();
    assert_eq!((reply.round, reply.bytes), (1, std::fs::metadata(&model).unwrap().len()));
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.clients[0].rounds, 1);
}
