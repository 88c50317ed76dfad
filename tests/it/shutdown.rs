//! A coordinator that is told to stop: what is under way may end, nothing new begins, and all goes on at the next start.

use crate::harness::{
    Coordinator, Guest, NO_DATASET, Program, Served, Watch, read_to_end, refused, safetensors, soon, take, with,
};
use app::api::{ErrorCode, Phase};
use reqwest::Method;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Executor};
use std::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

/// A client in an open round, and a connection on which all of its update but the last byte is sent.
async fn all_but_the_last_byte() -> (Coordinator, Guest, TcpStream, u8) {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    let body = safetensors(&with(2.0));
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/1/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/vnd.safetensors\r\nContent-Length: {}\r\n\r\n",
        guest.id,
        guest.token,
        body.len()
    );
    let mut stream = TcpStream::connect(coordinator.authority()).await.unwrap();
    let (last, most) = body.split_last().unwrap();
    stream.write_all(&[head.as_bytes(), most].concat()).await.unwrap();
    let appears = async {
        while coordinator.incoming().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the file of an upload", appears).await;
    (coordinator, guest, stream, *last)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_under_way_may_end_and_counts_after_the_restart() {
    let (mut coordinator, guest, mut stream, last) = all_but_the_last_byte().await;
    coordinator.begin_to_stop();
    stream.write_all(&[last]).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    coordinator.stop().await;
    coordinator.start_again().await;
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!((run.rounds[0].updates, &run.clients[0].id), (1, &guest.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_does_not_end_is_told_to_come_back() {
    let (mut coordinator, guest, mut stream, _) = all_but_the_last_byte().await;
    coordinator.begin_to_stop();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains(ErrorCode::Unavailable.as_str()), "{answer}");
    // Nothing of it is left, and it is welcome after the restart, in the same round.
    coordinator.stop().await;
    assert_eq!(coordinator.incoming(), Vec::<std::path::PathBuf>::new());
    coordinator.start_again().await;
    assert_eq!(guest.asked().await.round, 1);
    guest.sends(1, 2.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_waits_for_the_next_round_is_told_to_come_back() {
    // Given an asynchronous run whose round is being combined, which takes as long as there is no folder for the model,
    let coordinator = Coordinator::tiny(&[]).await;
    coordinator.configure("tiny", serde_json::json!({"mode": "async", "buffer_size": 1})).await;
    let (fast, slow) =
        (Guest::join(&coordinator, "tiny", "fast").await, Guest::join(&coordinator, "tiny", "slow").await);
    coordinator.autorun("tiny", 10).await;
    assert_eq!((fast.asked().await.round, slow.asked().await.round), (1, 1));
    let (models, aside) = (coordinator.folder().join("models"), coordinator.folder().join("models-aside"));
    std::fs::rename(&models, &aside).unwrap();
    fast.sends(1, 1.0).await;
    let run = coordinator.until("tiny", "the round is combined", |run| run.phase == Phase::Aggregating).await;
    // and an update that waits for the round after it,
    let seen_ms = run.client(&slow.id).unwrap().seen_ms;
    let waiting = tokio::spawn(refused(503, ErrorCode::Unavailable, slow.full_of(1, 2.0)));
    let is_heard = |run: &app::api::RunSnapshot| run.client(&slow.id).is_some_and(|slow| slow.seen_ms > seen_ms);
    coordinator.until("tiny", "the update is heard of", is_heard).await;
    // when the coordinator stops, then it is answered.
    coordinator.begin_to_stop();
    let refusal = soon("an answer", waiting).await.unwrap();
    assert_eq!(refusal.message, "the coordinator is stopping");
    std::fs::rename(&aside, &models).unwrap();
}

/// A coordinator as a process, a client in its open round, and that client's upload, which stalls.
async fn with_a_stalling_upload(folder: &Path) -> (Served, Guest, TcpStream) {
    let served = Served::start(folder, "127.0.0.1:0", &NO_DATASET).await;
    let guest = served.guest("guest").await;
    take(202, served.order("/rounds")).await;
    let mut stream = served.connect().await;
    let head = format!(
        "PUT /api/v1/runs/default/rounds/1/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/vnd.safetensors\r\nContent-Length: 100\r\n\r\n\u{5}",
        guest.id, guest.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let appears = async {
        while std::fs::read_dir(folder.join("data/incoming")).unwrap().count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the file of an upload", appears).await;
    (served, guest, stream)
}

/// The exit code of one that was told to stop, and ends by itself.
async fn is_gone(served: &mut Served) -> Option<i32> {
    soon("the end of the program", served.program.child.wait()).await.unwrap().code()
}

/// Whether that is the exit code of one that was told to stop once: in good order, or because it would have taken longer than
/// is promised, as on a machine that has other work. How long it took says more of the machine.
fn is_as_promised(exit: Option<i32>) -> bool {
    matches!(exit, Some(0 | 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_when_told_to_whatever_its_clients_do() {
    // Given an upload that stalls, a client that waits for something to do, somebody who watches, and one who is silent,
    let folder = tempfile::tempdir().unwrap();
    let (mut served, _guest, mut upload) = with_a_stalling_upload(folder.path()).await;
    let idle = served.guest("idle").await;
    let mut watch = Watch::open(served.http.get(format!("{}/api/v1/runs/default/events", served.origin))).await;
    let poll = tokio::spawn(refused(503, ErrorCode::Unavailable, idle.own(Method::GET, "/task?wait_s=60")));
    soon("its heartbeat", watch.next()).await.unwrap();
    let _silent = served.connect().await;
    // when the coordinator is told to stop,
    served.program.terminate();
    // then it ends, whatever they do, and each of them had its answer.
    let exit = is_gone(&mut served).await;
    assert!(is_as_promised(exit), "{exit:?}: {}", served.program.logged());
    let answer = read_to_end(&mut upload).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    soon("an answer", poll).await.unwrap();
    while soon("the end of the events", watch.next()).await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_ends_when_told_to_though_the_database_is_locked() {
    // Given a database that somebody else holds, so that what the operator orders cannot be stored, and an upload,
    let folder = tempfile::tempdir().unwrap();
    let (mut served, guest, _upload) = with_a_stalling_upload(folder.path()).await;
    let _database = locked(&folder.path().join("data")).await;
    refused(503, ErrorCode::Unavailable, served.order(&format!("/clients/{}/kick", guest.id))).await;
    // when the coordinator is told to stop, then it ends all the same.
    served.program.terminate();
    let exit = is_gone(&mut served).await;
    assert!(is_as_promised(exit), "{exit:?}: {}", served.program.logged());
}

/// Nobody else can write to the database in that folder.
async fn locked(folder: &Path) -> SqliteConnection {
    let database = SqliteConnectOptions::new().filename(folder.join("fedlearn.sqlite"));
    let mut database = database.connect().await.unwrap();
    database.execute("BEGIN IMMEDIATE").await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tells_the_program_to_stop_twice_does_not_wait_for_anybody() {
    // Given a coordinator that was told to stop and waits for an upload,
    let folder = tempfile::tempdir().unwrap();
    let (mut served, _guest, _upload) = with_a_stalling_upload(folder.path()).await;
    served.program.terminate();
    let is_told = async {
        while !served.program.logged().contains("send the signal again to stop at once") {
            tokio::task::yield_now().await;
        }
    };
    soon("the word that it stops", is_told).await;
    // when it is told so once more, then that ends it: interrupted, not done.
    served.program.terminate();
    assert_eq!(is_gone(&mut served).await, Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_still_starting_ends_when_told_to() {
    // Given a coordinator whose disk does not answer: in place of its model is a pipe, into which nobody writes,
    let folder = tempfile::tempdir().unwrap();
    let mut served = Served::start(folder.path(), "127.0.0.1:0", &NO_DATASET).await;
    assert_eq!(served.program.ends().await, Some(0), "{}", served.program.logged());
    let mut models = std::fs::read_dir(folder.path().join("data/models")).unwrap();
    let model = models.next().unwrap().unwrap().path();
    let whole = std::fs::read(&model).unwrap();
    std::fs::remove_file(&model).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&model).status().unwrap().success());
    let args = [&["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"][..], &NO_DATASET].concat();
    let mut starting = Program::start(folder.path(), "starting", &args);
    // when it is told to stop while it reads that, which is when the pipe can be opened,
    let opened = async {
        loop {
            match pipe::OpenOptions::new().open_sender(&model) {
                Ok(pipe) => break pipe,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let _pipe = soon("that the model is read", opened).await;
    starting.terminate();
    // then it does not wait for the start,
    let exit = soon("the end of the program", starting.child.wait()).await.unwrap().code();
    assert!(is_as_promised(exit), "{exit:?}: {}", starting.logged());
    assert!(starting.logged().contains("stopped before it was started"), "{}", starting.logged());
    // and is what it was at the next start.
    std::fs::remove_file(&model).unwrap();
    std::fs::write(&model, whole).unwrap();
    let mut served = Served::start(folder.path(), "127.0.0.1:0", &NO_DATASET).await;
    served.until("it is there", |run| run.version == 0).await;
    assert_eq!(served.program.ends().await, Some(0), "{}", served.program.logged());
}
