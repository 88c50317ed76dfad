//! The program itself, as processes of their own: what it prints, what it logs, how it ends.

use crate::harness::{Program, Served, safetensors, soon, take, with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// An agent with one of two parts of Fashion-MNIST.
fn join(served: &Served, folder: &Path, part: usize) -> Program {
    let (name, partition) = (format!("agent-{part}"), format!("{part}/2"));
    let data = app::api::Dataset::FashionMnist;
    let data = fedlearn::model::dataset::default_path(data).unwrap().canonicalize().unwrap();
    let args = ["join", &served.origin, "--name", &name, "--partition", &partition, "--limit", "400"];
    let more = ["--data", data.to_str().unwrap(), "--threads", "1", "--split", "dirichlet-label:0.5"];
    Program::start(folder, &name, &[&args[..], &more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_whose_address_is_taken_keeps_the_data_of_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("data/demo/kept");
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::write(&kept, "of the last demo").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
    let demo = demo.args(["demo", "--listen", &listen]).current_dir(folder.path()).kill_on_drop(true);
    let output = soon("the demo ends", demo.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot listen on"), "{output:?}");
    assert!(kept.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_and_agents_as_processes_survive_a_crash_and_end_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let data = fedlearn::model::dataset::default_path(app::api::Dataset::FashionMnist).unwrap().canonicalize().unwrap();
    let dataset_path = format!("fashion-mnist={}", data.display());
    let flags = ["--min-clients", "2", "--dataset-path", &dataset_path];
    // Given a coordinator and two agents, each a process,
    let mut served = Served::start(folder.path(), "127.0.0.1:0", &flags).await;
    let token = served.token.clone().expect("the first start shows the admin token");
    assert!(served.program.line().await.contains(&token));
    let mut agents = [join(&served, folder.path(), 1), join(&served, folder.path(), 2)];
    served.autorun(&token, 4).await;
    let before = served.until("a round is complete", |run| run.version >= 1).await;
    // when the coordinator is killed on the spot, and started again where it was,
    served.program.child.kill().await.unwrap();
    let address = served.origin.trim_start_matches("http://").to_owned();
    let crashed_log = served.program.logged();
    let flags = ["--min-clients", "3", "--dataset-path", &dataset_path];
    let mut served = Served::start(folder.path(), &address, &flags).await;
    assert_eq!(served.token, None, "the admin token is shown once");
    // then the log names the flag that has no effect on the existing run,
    let ignored = "--min-clients 3 has no effect: run 'default' already exists with min_clients 2";
    assert!(served.program.logged().contains(ignored), "{}", served.program.logged());
    // the agents come back, and the auto-run ends as was wanted.
    let run = served.until("the auto-run is over", |run| run.version == 4 && run.autorun.is_none()).await;
    assert!(run.rounds.starts_with(&before.rounds));
    assert_eq!(run.clients.len(), 2);
    assert!(run.rounds.iter().filter_map(|round| round.test_accuracy).all(|accuracy| accuracy > 0.1));
    // Everybody ends in good order,
    for agent in &mut agents {
        assert_eq!(agent.ends().await, Some(0), "{}", agent.logged());
    }
    served.until("all have left", |run| run.clients.is_empty()).await;
    assert_eq!(served.program.ends().await, Some(0), "{}", served.program.logged());
    // and no log has a token in it: none is as long as one in hexadecimal, but for hashes.
    for log in [&crashed_log, &served.program.logged(), &agents[0].logged(), &agents[1].logged()] {
        assert!(!log.contains(&token), "the admin token is in a log");
        assert!(!log.contains("Bearer"), "a header is in a log");
        for line in log.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let mut words = line.split(|c: char| !c.is_ascii_hexdigit());
            assert!(!words.any(|word| word.len() == 64), "what could be a token is in a log: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_comes_back_as_the_client_that_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("me.json");
    let kept = || serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap();
    let mut served = Served::start(folder.path(), "127.0.0.1:0", &crate::harness::NO_DATASET).await;
    let admin = served.token.clone().unwrap();
    let args = ["join", &served.origin.clone(), "--name", "agent", "--noise", "0.01", "--identity", "me.json"];
    // Given an agent that has taken part in a round, and keeps who it is,
    let mut agent = Program::start(folder.path(), "agent", &args);
    served.until("it is there", |run| run.clients.len() == 1).await;
    served.autorun(&admin, 1).await;
    let before = served.until("a round is over", |run| run.version == 1).await.clients.remove(0);
    assert_eq!((before.id.as_str(), before.rounds), (kept()["client_id"].as_str().unwrap(), 1));
    // which no second one can be at the same time,
    let mut second = Program::start(folder.path(), "second", &args);
    assert_eq!(soon("its end", second.child.wait()).await.unwrap().code(), Some(1));
    assert!(second.logged().contains("me.json is in use by another agent"), "{}", second.logged());
    // when it is killed on the spot and started again,
    agent.child.kill().await.unwrap();
    let mut agent = Program::start(folder.path(), "agent-again", &args);
    served.autorun(&admin, 1).await;
    // then it takes part as the client that it was.
    let run = served.until("another round is over", |run| run.version == 2).await;
    assert_eq!((run.clients.len(), &run.clients[0].id, run.clients[0].rounds), (1, &before.id, 2));
    // If the coordinator does not know that one any more, it registers anew, and is that one from then on.
    agent.child.kill().await.unwrap();
    let own = format!("{}/api/v1/runs/default/clients/{}", served.origin, before.id);
    take(204, served.http.delete(own).bearer_auth(kept()["token"].as_str().unwrap())).await;
    let mut last = Program::start(folder.path(), "agent-anew", &args);
    let run = served.until("it is there again", |run| !run.clients.is_empty()).await;
    assert_ne!(run.clients[0].id, before.id);
    served.autorun(&admin, 1).await;
    served.until("a third round is over", |run| run.version == 3).await;
    assert_eq!(kept()["client_id"], run.clients[0].id.as_str());
    let token = kept()["token"].as_str().unwrap().to_owned();
    // Leaving in good order, it leaves no file either; and no log has its token.
    assert_eq!(last.ends().await, Some(0), "{}", last.logged());
    served.until("it has left", |run| run.clients.is_empty()).await;
    assert!(!file.exists());
    assert!(!last.logged().contains(&token) && !served.program.logged().contains(&token));
    assert_eq!(served.program.ends().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_mean_something() {
    let folder = tempfile::tempdir().unwrap();
    let code = async |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
        program.args(args).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        let output = soon("its end", program.output()).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(code(&["--help"]).await.0, Some(0));
    assert_eq!(code(&["serve", "--no-such-flag"]).await.0, Some(2));
    assert_eq!(code(&["serve", "--listen", "192.0.2.1:1"]).await.0, Some(1), "an address of somebody else");
    let mut served = Served::start(folder.path(), "127.0.0.1:0", &crate::harness::NO_DATASET).await;
    let (refused, said) = code(&["join", &served.origin, "--run", "none"]).await;
    assert_eq!(refused, Some(3), "{said}");
    assert!(said.contains("there is no run 'none'"), "{said}");
    let create = reqwest::Client::new().post(format!("{}/api/v1/runs?run=own", served.origin));
    let create =
        create.bearer_auth(served.token.as_ref().unwrap()).header("content-type", "application/vnd.safetensors");
    take(201, create.body(safetensors(&with(0.0)))).await;
    let (_, said) = code(&["join", &served.origin, "--run", "own"]).await;
    assert!(said.contains("run 'own' has an uploaded model"), "{said}");
    assert!(said.contains("take part with a client of your own") && !said.contains("--dataset"), "{said}");
    assert_eq!(served.program.ends().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_any_more_stops_nothing() {
    // Given a coordinator whose log goes into a pipe, as in `fedlearn serve 2>&1 | head`
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--dataset", "none", "--channels", "1", "--classes", "2"]);
    command.args(["--device", "cpu", "--log", "debug"]).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = soon("the dashboard's address", lines.next_line()).await.unwrap().unwrap();
    let origin = line.trim_start_matches("Dashboard:").trim().split("/login").next().unwrap().to_owned();
    // when that pipe is closed
    drop(child.stderr.take());
    // then clients join all the same,
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let register =
        || http.post(format!("{origin}/api/v1/runs/default/clients")).json(&json!({"name": "a", "samples": 1}));
    take(201, register()).await;
    // and it ends when it is told to.
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(soon("the end of a process", child.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_needs_to_read_where_the_dashboard_is() {
    // Given a standard output that is closed at once, as in `fedlearn serve | true`
    let folder = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // free again by then
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
    command.args(["serve", "--listen", &address.to_string(), "--device", "cpu"]).args(crate::harness::NO_DATASET);
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    // then the coordinator serves all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answers = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            tokio::task::yield_now().await;
        }
    };
    soon("a coordinator", answers).await;
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    let health = soon("an answer", reqwest::get(format!("http://{address}/healthz"))).await.unwrap();
    assert_eq!(health.status(), 200);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(soon("the end of a process", child.wait()).await.unwrap().code(), Some(0));
}
