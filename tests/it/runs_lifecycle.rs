//! Runs that are archived, renamed and deleted; the limit of open runs; the best model.

use crate::harness::{Coordinator, Guest, NO_DATASET, Served, refused, safetensors, soon, take, with};
use app::api::{ClientState, ErrorCode, Phase, RunLine, Task};
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const SAFETENSORS: &str = "application/vnd.safetensors";

fn create(coordinator: &Coordinator, run: &str, value: f32) -> RequestBuilder {
    let create = coordinator.operator(Method::POST, &format!("/runs?run={run}"));
    create.header(header::CONTENT_TYPE, SAFETENSORS).body(safetensors(&with(value)))
}

fn archive(coordinator: &Coordinator, run: &str) -> RequestBuilder {
    coordinator.operator(Method::POST, &format!("/runs/{run}/archive"))
}

fn unarchive(coordinator: &Coordinator, run: &str) -> RequestBuilder {
    coordinator.operator(Method::POST, &format!("/runs/{run}/unarchive"))
}

fn rename(coordinator: &Coordinator, run: &str, to: &str) -> RequestBuilder {
    coordinator.operator(Method::POST, &format!("/runs/{run}/rename")).json(&json!({"run": to}))
}

fn delete(coordinator: &Coordinator, run: &str) -> RequestBuilder {
    coordinator.operator(Method::DELETE, &format!("/runs/{run}"))
}

async fn names(coordinator: &Coordinator, query: &str) -> Vec<String> {
    let runs = take(200, coordinator.anybody(Method::GET, &format!("/runs{query}"))).await;
    let runs: Vec<RunLine> = runs.json().await.unwrap();
    runs.into_iter().map(|line| line.run.to_string()).collect()
}

fn files(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

async fn message(response: Response) -> String {
    response.json::<serde_json::Value>().await.unwrap()["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_tensors_is_rejected() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    for header in [r#"{}"#, r#"{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#] {
        let mut body = (header.len() as u64).to_le_bytes().to_vec();
        body.extend(header.as_bytes());
        let create = coordinator.operator(Method::POST, "/runs?run=empty");
        let answer = take(422, create.header(header::CONTENT_TYPE, SAFETENSORS).body(body)).await;
        let answer: serde_json::Value = answer.json().await.unwrap();
        assert!(answer.to_string().contains("at least one tensor"), "{answer}");
    }
    assert_eq!(names(&coordinator, "").await, ["default"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_runs_do_not_count_against_the_limit_of_runs() {
    // Given as many runs as `--max-runs` allows,
    let coordinator = Coordinator::tiny(&["--max-runs", "2"]).await;
    let full = message(take(409, create(&coordinator, "third", 0.0)).await).await;
    assert!(full.contains("there are 2 open runs already") && full.contains("--max-runs"), "{full}");
    // when one is archived, then there is room for another one,
    take(204, archive(&coordinator, "tiny")).await;
    take(204, archive(&coordinator, "tiny")).await; // again
    take(201, create(&coordinator, "third", 0.0)).await;
    assert_eq!(names(&coordinator, "").await, ["default", "third"]);
    assert_eq!(names(&coordinator, "?archived=true").await, ["tiny"]);
    // and none for the archived one, until the other one is deleted. Its name stays taken.
    refused(409, ErrorCode::Conflict, unarchive(&coordinator, "tiny")).await;
    take(204, delete(&coordinator, "third")).await;
    refused(409, ErrorCode::Conflict, create(&coordinator, "tiny", 0.0)).await;
    take(204, unarchive(&coordinator, "tiny")).await;
    assert_eq!(names(&coordinator, "").await, ["default", "tiny"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_run_takes_no_clients_can_be_read_and_resumes_where_it_was() {
    // Given a run with a round behind it, an auto-run that waits for more clients, and one that waits for a task,
    let mut coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    guest.sends(guest.asked().await.round, 1.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    coordinator.configure("tiny", json!({"min_clients": 2})).await;
    coordinator.autorun("tiny", 1).await;
    let waiting = tokio::spawn(guest.own(Method::GET, "/task?wait_s=25").send());
    // when it is archived,
    take(204, archive(&coordinator, "tiny")).await;
    // then its client is told to stop, whether it waits or asks anew,
    let Task::Stop { reason } = waiting.await.unwrap().unwrap().json().await.unwrap() else { panic!("not told") };
    assert!(reason.contains("archived"), "{reason}");
    for times in 0..2 {
        assert!(matches!(guest.task(0).await, Task::Stop { .. }));
        // nobody can join or begin a round,
        let join = coordinator.anybody(Method::POST, "/runs/tiny/clients").json(&json!({"name": "b", "samples": 1}));
        let refusal = message(take(409, join).await).await;
        assert!(refusal.contains("archived") && refusal.contains("unarchived"), "{refusal}");
        refused(409, ErrorCode::Conflict, coordinator.operator(Method::POST, "/runs/tiny/rounds")).await;
        // and everything can be read,
        let run = coordinator.snapshot("tiny").await;
        assert!(run.archived_ms.is_some() && run.waiting.starts_with("Archived"), "{}", run.waiting);
        assert_eq!((run.phase, run.version, run.rounds.len(), run.clients.len()), (Phase::Idle, 1, 1, 1));
        assert_eq!((coordinator.tiny_value(0).await, coordinator.tiny_value(1).await), (0.0, 1.0));
        take(200, guest.request(Method::GET, "/models/1")).await;
        take(200, coordinator.anybody(Method::GET, "/runs/tiny/export.csv")).await;
        // also after a restart.
        if times == 0 {
            coordinator.stop().await;
            coordinator.start_again().await;
        }
    }
    // When it is unarchived, then it resumes: the same client, the same auto-run.
    take(204, unarchive(&coordinator, "tiny")).await;
    let other = Guest::join(&coordinator, "tiny", "other").await;
    guest.task(0).await;
    assert_eq!((guest.asked().await.version, other.asked().await.version), (1, 1));
    guest.sends(2, 2.0).await;
    other.sends(2, 2.0).await;
    coordinator.until("tiny", "the second round is over", |run| run.version == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_clients_are_at_work_is_left_alone_unless_forced() {
    let (coordinator, guests) = Guest::in_round(&["quick", "slow"]).await;
    let round = guests[1].asked().await.round;
    guests[0].sends(round, 1.0).await;
    for request in [archive(&coordinator, "tiny"), rename(&coordinator, "tiny", "other"), delete(&coordinator, "tiny")]
    {
        let refusal = message(take(409, request).await).await;
        assert!(refusal.contains("at work on round 1") && refusal.contains("force=true"), "{refusal}");
    }
    // Archived by force, the round resumes with what is in it once the run is unarchived.
    take(204, archive(&coordinator, "tiny").query(&[("force", "true")])).await;
    assert!(matches!(guests[1].task(0).await, Task::Stop { .. }));
    assert_eq!(guests[1].full_of(round, 3.0).send().await.unwrap().status(), 409);
    take(204, unarchive(&coordinator, "tiny")).await;
    assert_eq!(guests[1].asked().await.round, round);
    guests[1].sends(round, 3.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_run_is_gone_with_its_files_and_its_name_is_free() {
    // Given two runs that begin with the same model, and one with an update in an open round and a model of its own,
    let mut coordinator = Coordinator::tiny(&[]).await;
    take(201, create(&coordinator, "twin", 0.0)).await;
    let (alice, bob) =
        (Guest::join(&coordinator, "tiny", "alice").await, Guest::join(&coordinator, "tiny", "bob").await);
    coordinator.autorun("tiny", 2).await;
    for guest in [&alice, &bob] {
        guest.sends(guest.asked().await.round, 5.0).await;
    }
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    alice.sends(alice.asked().await.round, 6.0).await;
    let models = coordinator.folder().join("models");
    assert_eq!((files(&models).len(), coordinator.incoming().len()), (3, 1));
    let mut events = coordinator.watch("tiny").await;
    // when it is deleted,
    refused(409, ErrorCode::Conflict, delete(&coordinator, "tiny")).await;
    take(204, delete(&coordinator, "tiny").query(&[("force", "true")])).await;
    // then the events of it end,
    soon("the end of the events", async { while events.next().await.is_some() {} }).await;
    // nothing of it is left but the model that the other one has, too,
    refused(404, ErrorCode::NotFound, coordinator.anybody(Method::GET, "/runs/tiny")).await;
    refused(404, ErrorCode::NotFound, delete(&coordinator, "tiny")).await;
    refused(404, ErrorCode::NotFound, alice.own(Method::GET, "/task")).await;
    assert_eq!((files(&models).len(), coordinator.incoming().len()), (2, 0));
    take(200, coordinator.operator(Method::GET, "/runs/twin/models/0")).await;
    // its name is free for a run that has nothing of it,
    take(201, create(&coordinator, "tiny", 9.0)).await;
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.version, run.clients.len(), run.rounds.len()), (0, 0, 0));
    // and none comes back with a restart, not even the run that the first start makes.
    take(204, delete(&coordinator, "default")).await;
    coordinator.stop().await;
    coordinator.start_again().await;
    assert_eq!(names(&coordinator, "").await, ["tiny", "twin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_run_keeps_all_but_its_name() {
    let mut coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    guest.sends(guest.asked().await.round, 1.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    refused(409, ErrorCode::Conflict, rename(&coordinator, "tiny", "default")).await;
    refused(422, ErrorCode::Invalid, rename(&coordinator, "tiny", "Not A Name")).await;
    let answer = take(204, rename(&coordinator, "tiny", "large")).await;
    assert_eq!(answer.headers()[header::LOCATION], "../large");
    let has_all = async |run: &str| {
        let run = coordinator.snapshot(run).await;
        assert_eq!((run.version, run.rounds.len(), run.clients.len()), (1, 1, 1));
        assert_eq!(run.clients[0].state, ClientState::Offline);
    };
    has_all("large").await;
    refused(404, ErrorCode::NotFound, coordinator.anybody(Method::GET, "/runs/tiny")).await;
    // An archived one, too; and the old name is free.
    take(201, create(&coordinator, "tiny", 0.0)).await;
    take(204, archive(&coordinator, "large")).await;
    take(204, rename(&coordinator, "large", "old")).await;
    has_all("old").await;
    coordinator.stop().await;
    coordinator.start_again().await;
    assert_eq!(names(&coordinator, "?archived=true").await, ["old"]);
    assert_eq!(names(&coordinator, "").await, ["default", "tiny"]);
    // Its client's token is good under the new name.
    take(204, unarchive(&coordinator, "old")).await;
    let task = coordinator.anybody(Method::GET, &format!("/runs/old/clients/{}/task", guest.id));
    let task: Task = take(200, task.bearer_auth(&guest.token)).await.json().await.unwrap();
    assert!(matches!(task, Task::Wait { state: ClientState::Ready, .. }), "{task:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_archives_renames_and_deletes() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    for (method, path) in
        [(Method::DELETE, ""), (Method::POST, "/archive"), (Method::POST, "/unarchive"), (Method::POST, "/rename")]
    {
        refused(401, ErrorCode::Unauthorized, guest.request(method, path).json(&json!({"run": "mine"}))).await;
    }
    assert_eq!(names(&coordinator, "").await, ["default", "tiny"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_in_the_middle_of_a_deletion_a_run_is_whole_or_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut served = Served::start(folder.path(), "127.0.0.1:0", &NO_DATASET).await;
    let token = served.token.clone().unwrap();
    for times in 0..6 {
        // Given a run with a model of its own and a client,
        let http = reqwest::Client::new();
        let at = |served: &Served, path: &str| format!("{}/api/v1/runs{path}", served.origin);
        let create = http.post(at(&served, "?run=doomed")).bearer_auth(&token);
        let made = create.header(header::CONTENT_TYPE, SAFETENSORS).body(safetensors(&with(7.0))).send().await;
        assert!(matches!(made.unwrap().status().as_u16(), 201 | 409), "409: it survived the kill before");
        Guest::register(http.clone(), served.origin.clone(), "doomed", "guest", 1).await;
        // when the coordinator is killed while it deletes it,
        let deletion = tokio::spawn(http.delete(at(&served, "/doomed")).bearer_auth(&token).send());
        tokio::time::sleep(Duration::from_millis(times * 2)).await;
        served.program.child.kill().await.unwrap();
        let is_answered = deletion.await.unwrap().is_ok_and(|answer| answer.status() == 204);
        served = Served::start(folder.path(), "127.0.0.1:0", &NO_DATASET).await;
        // then it is whole, down to the last byte of its model, or gone with its file.
        let run = http.get(at(&served, "/doomed")).send().await.unwrap();
        if run.status() == 200 {
            assert!(!is_answered, "it is back");
            take(200, http.get(at(&served, "/doomed/models/0")).bearer_auth(&token)).await;
        } else {
            assert_eq!((run.status().as_u16(), files(&folder.path().join("data/models")).len()), (404, 1));
        }
    }
    served.program.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_archives_renames_and_deletes_runs() {
    let coordinator = Coordinator::tiny(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let (origin, token) = (coordinator.origin(), coordinator.admin.clone());
    let runs = async |args: &[&str]| {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_fedlearn"));
        program.arg("runs").args(args).args(["--url", &origin]).current_dir(folder.path());
        program.env("FEDLEARN_ADMIN_TOKEN", &token);
        let output = program.output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let done = async |args: &[&str]| {
        let (code, text) = runs(args).await;
        assert_eq!(code, Some(0), "{args:?}: {text}");
        text
    };
    done(&["rename", "tiny", "small"]).await;
    done(&["archive", "small"]).await;
    let listed = done(&["list"]).await;
    let lines: Vec<Vec<_>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines[1][..2].to_vec(), lines[2][..2].to_vec()), (vec!["default", "idle"], vec!["small", "archived"]));
    done(&["unarchive", "small"]).await;
    done(&["delete", "small"]).await;
    assert_eq!(names(&coordinator, "").await, ["default"]);
    let (code, text) = runs(&["delete", "small"]).await;
    assert_eq!((code, text.contains("there is no run 'small'")), (Some(3), true), "{text}");
    let (code, text) = runs(&["rename", "default"]).await;
    assert_eq!((code, text.contains("fedlearn runs rename RUN NEW-NAME")), (Some(2), true), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_model_is_beside_the_latest_one() {
    // Given a run that is evaluated,
    let coordinator = Coordinator::start(&[]).await;
    let best = || coordinator.operator(Method::GET, "/runs/default/models/best");
    let nothing = message(take(404, best()).await).await;
    assert!(
        nothing.contains("no version of it has been evaluated yet") && nothing.contains("models/latest"),
        "{nothing}"
    );
    // when two rounds make models of the same accuracy,
    let guest = Guest::join(&coordinator, "default", "guest").await;
    let model = take(200, guest.request(Method::GET, "/models/0")).await.bytes().await.unwrap();
    coordinator.autorun("default", 2).await;
    for version in 1..=2 {
        let round = guest.asked().await.round;
        let update = guest.update(round).header(header::CONTENT_TYPE, SAFETENSORS).body(model.clone());
        take(202, update).await;
        coordinator.until("default", "the round is over", |run| run.version == version).await;
    }
    // then the first of them is the best, and the other one the latest.
    let location = async |word: &str| {
        let answer = take(307, guest.request(Method::GET, &format!("/models/{word}"))).await;
        answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
    };
    assert_eq!((location("best").await, location("latest").await), ("1".to_owned(), "2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_test_split_has_no_best_model() {
    let coordinator = Coordinator::tiny(&[]).await;
    let best = coordinator.operator(Method::GET, "/runs/tiny/models/best");
    let why = message(take(404, best).await).await;
    assert!(why.contains("no test split") && why.contains("models/latest"), "{why}");
}
