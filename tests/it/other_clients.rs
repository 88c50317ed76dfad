//! Clients that are not ours: Python's standard library, a Python client of the container, and curl.

use crate::harness::{Coordinator, NO_DATASET, safetensors, soon, take, value_of, with};
use app::api::{Encoding, RegisterReply, Task, UpdateReply};
use fedlearn::wire::{self, Dtype, Parameters, Schema, TensorSpec, Values};
use reqwest::{Method, header};
use serde_json::json;
use std::process::Stdio;
use std::sync::Arc;
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

/// A matrix, a vector and a counter. The floats, and what is added to them, are multiples of 1/128 between 1 and 2: exact
/// in bf16, whose steps are as wide, so that a difference is the same everywhere and small.
fn grid(moved: f32) -> Parameters {
    let spec = |name: &str, dtype, shape| TensorSpec { name: name.into(), dtype, shape };
    let (matrix, vector) = (spec("weight", Dtype::F32, vec![64, 64]), spec("bias", Dtype::F32, vec![16]));
    let schema = Arc::new(Schema::new(vec![vector, spec("n", Dtype::I64, vec![1]), matrix]).unwrap());
    let floats = |count| Values::F32((0..count).map(|i| 1.0 + (i * 7919 % 64) as f32 / 128.0 + moved).collect());
    Parameters::new(schema, vec![floats(16), Values::I64(vec![1]), floats(4096)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_of_the_container_takes_part_in_every_encoding() {
    let root = env!("CARGO_MANIFEST_DIR");
    let coordinator = Coordinator::start(&NO_DATASET).await;
    for encoding in Encoding::ALL {
        // Given a run of that encoding
        let run = format!("python-{encoding}");
        let create = coordinator.operator(Method::POST, &format!("/runs?run={run}"));
        let create = create.header(header::CONTENT_TYPE, "application/vnd.safetensors").body(safetensors(&grid(0.0)));
        take(201, create).await;
        coordinator.configure(&run, json!({"encoding": encoding.to_string(), "topk_fraction": 1.0})).await;
        coordinator.autorun(&run, 2).await;
        // When the client adds an eighth in each of two rounds
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", format!("{root}/.tools/python:{root}/clients/python"));
        python.env("PYTHONDONTWRITEBYTECODE", "1").arg(format!("{root}/clients/python/tests/live.py"));
        let address = format!("{}/api/v1/runs/{run}", coordinator.origin());
        python.args([&address, "python", "0.125", &encoding.to_string(), "2"]);
        let said = output(python).await;
        // Then it has fetched the second model as a difference to the first, where the run does not ask for exactness
        let exact = *encoding == Encoding::F32;
        let (first, second) = if exact { ("f32", "f32") } else { ("bf16", "bf16-delta against 0") };
        let said: Vec<_> = said.lines().map(|line| line.rsplit_once(", ").unwrap().0.to_owned()).collect();
        let sent = |round| format!("sent {encoding} in round {round}");
        assert_eq!(said, [format!("fetched 0 as {first}"), sent(1), format!("fetched 1 as {second}"), sent(2)]);
        // And the model has moved by a quarter, as exactly as 127 or 7 scales make up an eighth
        coordinator.until(&run, "two rounds are over", |run| run.version == 2).await;
        let model = take(200, coordinator.operator(Method::GET, &format!("/runs/{run}/models/2"))).await;
        let want = grid(0.25);
        let model = wire::safe::read(&model.bytes().await.unwrap(), want.schema()).unwrap();
        for ((spec, found), want) in model.iter().zip(want.values()) {
            match (found, want) {
                (Values::F32(found), Values::F32(want)) => {
                    let furthest = found.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(furthest <= 1e-6, "{encoding}: {} is off by {furthest}", spec.name);
                }
                _ => assert_eq!(found, want, "{encoding}: {}", spec.name),
            }
        }
    }
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
