//! Who sends slowly, or sends while the coordinator stops: 408, 503.

use super::{nothing_was_kept, open_round};
use crate::harness::{Coordinator, Guest, read_to_end, soon};
use app::api::ErrorCode;
use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Sends a head that promises 100 bytes, then `part` of them, and reads what comes back.
async fn stalls(coordinator: &Coordinator, target: &str, token: &str, content_type: &str, part: &str) -> String {
    let mut stream = TcpStream::connect(coordinator.authority()).await.unwrap();
    let head = format!(
        "{target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {content_type}\r\n\
         If-Match: \"1\"\r\nContent-Length: 100\r\n\r\n{part}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_stalls_is_given_up() {
    let (coordinator, guest) = open_round(&["--body-timeout-s", "1"]).await;
    let target = format!("PUT /api/v1/runs/tiny/rounds/1/updates/{}?samples=1", guest.id);
    let answer =
        stalls(&coordinator, &target, &guest.token, "application/vnd.safetensors", "\u{5}\0\0\0\0\0\0\0{").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"timeout\""), "{answer}");
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_given_up_on_every_other_route() {
    let coordinator = Coordinator::tiny(&["--body-timeout-s", "1"]).await;
    let json = "application/json";
    let cases = [
        ("POST /api/v1/runs/tiny/clients", json),
        ("PATCH /api/v1/runs/tiny", json),
        ("POST /api/v1/runs/tiny/autorun", json),
        ("POST /api/v1/runs/tiny/clients/x/kick", json),
        ("POST /api/v1/session", json),
        ("POST /api/v1/session", "application/x-www-form-urlencoded"),
        ("POST /api/v1/runs", json),
        ("POST /api/v1/runs?run=slow", "application/vnd.safetensors"),
    ];
    let answers =
        cases.map(|(target, content_type)| stalls(&coordinator, target, &coordinator.admin, content_type, "{"));
    for (answer, (target, content_type)) in futures::future::join_all(answers).await.iter().zip(cases) {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{target} with {content_type}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_in_the_middle_leaves_nothing_behind() {
    let (coordinator, guest) = open_round(&[]).await;
    let mut stream = TcpStream::connect(coordinator.authority()).await.unwrap();
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/1/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/vnd.safetensors\r\nContent-Length: 100\r\n\r\nhalf",
        guest.id, guest.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Once its file is there, the connection goes away, and so does the file.
    let appears = async {
        while coordinator.incoming().is_empty() {
            tokio::task::yield_now().await
        }
    };
    soon("the file of an upload", appears).await;
    drop(stream);
    let vanishes = async {
        while !coordinator.incoming().is_empty() {
            tokio::task::yield_now().await
        }
    };
    soon("the end of that file", vanishes).await;
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_task_is_told_that_the_coordinator_stops() {
    // Given a client that waits for something to do,
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    let mut watch = coordinator.watch("tiny").await;
    let waiting = tokio::spawn(guest.own(Method::GET, "/task?wait_s=60").send());
    soon("its heartbeat", watch.next()).await.unwrap();
    // when the coordinator stops, it is not left waiting,
    coordinator.begin_to_stop();
    let answer = soon("an answer", waiting).await.unwrap().unwrap();
    // but told to come back.
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    let body: app::api::ErrorBody = answer.json().await.unwrap();
    assert_eq!(body.code, ErrorCode::Unavailable);
}
