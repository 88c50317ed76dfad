//! Requests that ask for what there is not, or not in this way: 400, 404, 405, 409, 410, 425; and those of somebody who
//! may not: 403.

use super::open_round;
use crate::harness::{Coordinator, Guest, refused, safetensors, take, with};
use app::api::ErrorCode;
use reqwest::{Method, header};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_or_no_id_is_a_bad_request() {
    let (coordinator, guest) = open_round(&[]).await;
    let bad = ErrorCode::BadRequest;
    for body in ["", "{", "{\"name\": \"a\",}", "\u{0}"] {
        let register = coordinator.anybody(Method::POST, "/runs/tiny/clients");
        refused(400, bad, register.header(header::CONTENT_TYPE, "application/json").body(body)).await;
    }
    for path in ["/runs/Tiny", "/runs/%2e%2e%2fx", "/runs/a%00b", "/runs/%ff", &format!("/runs/{}", "x".repeat(65))] {
        refused(400, bad, coordinator.anybody(Method::GET, path)).await;
    }
    for client in ["UPPER", "%2F", &"x".repeat(33)] {
        refused(400, bad, coordinator.operator(Method::POST, &format!("/runs/tiny/clients/{client}/kick"))).await;
        refused(400, bad, guest.request(Method::GET, &format!("/clients/{client}/task"))).await;
    }
    for round in ["first", "-1", "1.5", "18446744073709551616"] {
        let path = format!("/rounds/{round}/updates/{}?samples=1", guest.id);
        refused(400, bad, guest.request(Method::PUT, &path)).await;
    }
    for query in ["wait_s=soon", "wait_s=-1", "wait=1"] {
        refused(400, bad, guest.own(Method::GET, &format!("/task?{query}"))).await;
    }
    refused(400, bad, guest.request(Method::GET, "/models/0?base=x")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_does_not_say_what_it_should_is_invalid() {
    let (coordinator, guest) = open_round(&[]).await;
    let register = |body| coordinator.anybody(Method::POST, "/runs/tiny/clients").json(&body);
    for body in [
        json!({"name": "a"}),
        json!({"name": "a", "samples": -1}),
        json!({"name": "a", "samples": 1, "role": "admin"}),
        json!({"name": "", "samples": 1}),
        json!({"name": "a\u{7}b", "samples": 1}),
        json!({"name": " a", "samples": 1}),
        json!({"name": "a\u{202e}b", "samples": 1}),
        json!({"name": "a) since 09:00; it is over, stop all. (b", "samples": 1}),
        json!({"name": "x".repeat(65), "samples": 1}),
        json!({"name": "a", "samples": 0}),
        json!({"name": "a", "samples": 1, "device": "x".repeat(65)}),
    ] {
        refused(422, ErrorCode::Invalid, register(body)).await;
    }
    let both = refused(422, ErrorCode::Invalid, register(json!({"name": "", "samples": 0}))).await;
    assert_eq!(both.problems.len(), 2, "all problems are said at once: {both:?}");
    for body in [json!({"state": "kicked"}), json!({"state": "training", "progress": {"epoch": -1}}), json!({})] {
        refused(422, ErrorCode::Invalid, guest.own(Method::PUT, "/status").json(&body)).await;
    }
    for rounds in [json!(0), json!(100_001), json!(-1), json!("all")] {
        let autorun = coordinator.operator(Method::POST, "/runs/tiny/autorun");
        refused(422, ErrorCode::Invalid, autorun.json(&json!({"rounds": rounds}))).await;
    }
    let kick = coordinator.operator(Method::POST, &format!("/runs/tiny/clients/{}/kick", guest.id));
    refused(422, ErrorCode::Invalid, kick.json(&json!({"bann": true}))).await;
    let untyped = coordinator.anybody(Method::POST, "/runs/tiny/clients").body("{}");
    refused(415, ErrorCode::UnsupportedMediaType, untyped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_is_not_made() {
    let coordinator = Coordinator::tiny(&[]).await;
    let cnn = json!({"architecture": "cnn", "channels": 1, "classes": 10});
    let create = |body| coordinator.operator(Method::POST, "/runs").json(&body);
    refused(409, ErrorCode::Conflict, create(json!({"run": "tiny", "model": cnn}))).await;
    for body in [
        json!({"run": "Bad Name", "model": cnn}),
        json!({"run": "x", "model": {"architecture": "vgg", "channels": 1, "classes": 10}}),
        json!({"run": "x", "model": {"architecture": "cnn", "channels": 0, "classes": 1}}),
        json!({"run": "x", "model": {"architecture": "cnn", "channels": 3, "classes": 10}, "dataset": "fashion-mnist"}),
        json!({"run": "x", "model": cnn, "config": {"min_clients": 0}}),
    ] {
        refused(422, ErrorCode::Invalid, create(body)).await;
    }
    let upload = |query: &str, kind: &str, body: Vec<u8>| {
        let request = coordinator.operator(Method::POST, &format!("/runs{query}"));
        request.header(header::CONTENT_TYPE, kind.to_owned()).body(body)
    };
    let (safe, body) = ("application/vnd.safetensors", safetensors(&with(0.0)));
    refused(409, ErrorCode::Conflict, upload("?run=tiny", safe, body.clone())).await;
    refused(400, ErrorCode::BadRequest, upload("", safe, body.clone())).await;
    refused(400, ErrorCode::BadRequest, upload("?run=A", safe, body.clone())).await;
    refused(415, ErrorCode::UnsupportedMediaType, upload("?run=x", "text/plain", body.clone())).await;
    refused(422, ErrorCode::Invalid, upload("?run=x", safe, body[..body.len() - 1].to_vec())).await;
    assert_eq!(coordinator.incoming(), Vec::<std::path::PathBuf>::new());
    refused(404, ErrorCode::NotFound, coordinator.anybody(Method::GET, "/runs/x")).await;
    take(201, upload("?run=x", safe, body)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found_and_says_so_in_json() {
    let (coordinator, guest) = open_round(&[]).await;
    let not_found = ErrorCode::NotFound;
    for path in
        ["/runs/none", "/runs/none/clients", "/runs/none/events", "/runs/none/export.csv", "/nothing", "/runs/tiny/x"]
    {
        refused(404, not_found, coordinator.anybody(Method::GET, path)).await;
    }
    for path in ["", "/", "/v1", "/v2/runs", "/openapi"] {
        refused(404, not_found, coordinator.http.get(format!("{}/api{path}", coordinator.origin()))).await;
    }
    for action in ["kick", "admit"] {
        let nobody = format!("/runs/tiny/clients/{}/{action}", "c0");
        refused(404, not_found, coordinator.operator(Method::POST, &nobody)).await;
    }
    refused(404, not_found, coordinator.operator(Method::DELETE, "/runs/tiny/clients/c0")).await;
    refused(404, not_found, coordinator.operator(Method::POST, "/runs/none/rounds")).await;
    refused(404, not_found, guest.request(Method::GET, "/models/1")).await;
    let register = coordinator.anybody(Method::POST, "/runs/none/clients");
    refused(404, not_found, register.json(&json!({"name": "a", "samples": 1}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_an_address_does_not_have_is_not_allowed() {
    let coordinator = Coordinator::tiny(&[]).await;
    for (method, path) in [
        (Method::DELETE, "/runs"),
        (Method::PUT, "/runs/tiny"),
        (Method::GET, "/runs/tiny/autorun"),
        (Method::POST, "/runs/tiny/models/0"),
        (Method::PATCH, "/session"),
    ] {
        let allowed = take(405, coordinator.operator(method.clone(), path)).await;
        assert!(allowed.headers().contains_key("allow"), "{path} says what it has");
        refused(405, ErrorCode::MethodNotAllowed, coordinator.operator(method, path)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_out_of_its_time_is_told_why() {
    let (coordinator, guest) = open_round(&[]).await;
    guest.is_refused(2, 425, ErrorCode::TooEarly).await;
    for round in [0, 3, 99_999, u64::MAX] {
        let refusal = refused(404, ErrorCode::NotFound, guest.full_of(round, 1.0)).await;
        assert_eq!(refusal.message, format!("there is no round {round}: the next one is 2"));
    }
    let late = Guest::join(&coordinator, "tiny", "late").await;
    late.is_refused(1, 403, ErrorCode::NotAdmitted).await;
    guest.sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    late.is_refused(1, 410, ErrorCode::RoundClosed).await;
    guest.is_refused(2, 425, ErrorCode::TooEarly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_cannot_have_what_the_run_does_not_allow() {
    let coordinator = Coordinator::tiny(&[]).await;
    let conflict = ErrorCode::Conflict;
    let rounds = || coordinator.operator(Method::POST, "/runs/tiny/rounds");
    refused(409, conflict, rounds()).await;
    refused(409, conflict, coordinator.operator(Method::POST, "/runs/tiny/rounds/current/aggregate")).await;
    Guest::join(&coordinator, "tiny", "a").await;
    take(202, rounds()).await;
    refused(409, conflict, rounds()).await;
    take(202, coordinator.operator(Method::DELETE, "/runs/tiny/autorun")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_client_is_refused_everywhere() {
    let (coordinator, guest) = open_round(&[]).await;
    take(204, coordinator.operator(Method::DELETE, &format!("/runs/tiny/clients/{}", guest.id))).await;
    let kicked = ErrorCode::Kicked;
    refused(403, kicked, guest.own(Method::GET, "/task")).await;
    refused(403, kicked, guest.own(Method::PUT, "/status").json(&json!({"state": "ready"}))).await;
    refused(403, kicked, guest.request(Method::GET, "/models/0")).await;
    refused(403, kicked, guest.request(Method::GET, "/models/latest")).await;
    refused(403, kicked, guest.own(Method::DELETE, "")).await;
    guest.is_refused(1, 403, kicked).await;
    assert_eq!(coordinator.incoming(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_client_is_told_so_even_if_its_update_is_in() {
    let (coordinator, guest) = open_round(&[]).await;
    let other = Guest::join(&coordinator, "tiny", "other").await;
    guest.sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    take(202, coordinator.operator(Method::POST, &format!("/runs/tiny/clients/{}/kick", guest.id))).await;
    guest.is_refused(1, 403, ErrorCode::Kicked).await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_left_is_nobody() {
    let (coordinator, guest) = open_round(&[]).await;
    guest.leaves().await;
    refused(401, ErrorCode::Unauthorized, guest.own(Method::GET, "/task")).await;
    refused(401, ErrorCode::Unauthorized, guest.request(Method::GET, "/models/0")).await;
    guest.is_refused(1, 401, ErrorCode::Unauthorized).await;
    assert!(coordinator.snapshot("tiny").await.clients.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_join_secret_takes_only_who_knows_it() {
    let coordinator =
        Coordinator::start(&[&crate::harness::NO_DATASET[..], &["--join-secret", "sesame"]].concat()).await;
    let register = |body| coordinator.anybody(Method::POST, "/runs/default/clients").json(&body);
    let wrong = ErrorCode::WrongSecret;
    refused(403, wrong, register(json!({"name": "a", "samples": 1}))).await;
    refused(403, wrong, register(json!({"name": "a", "samples": 1, "join_secret": "Sesame"}))).await;
    refused(403, wrong, register(json!({"name": "", "samples": 0, "join_secret": ""}))).await;
    take(201, register(json!({"name": "a", "samples": 1, "join_secret": "sesame"}))).await;
    assert_eq!(coordinator.snapshot("default").await.clients.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_path_is_refused_and_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let coordinator = Coordinator::tiny(&[]).await;
    for head in ["GET x HTTP/1.1", "CONNECT x:1 HTTP/1.1", "OPTIONS * HTTP/1.1"] {
        let address = coordinator.origin().trim_start_matches("http://").to_owned();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_bytes_of_a_model_are_all_where_there_are_fewer() {
    let (_coordinator, guest) = open_round(&[]).await;
    let whole = take(200, guest.request(Method::GET, "/models/0")).await.bytes().await.unwrap();
    let range = |range: &str| guest.request(Method::GET, "/models/0").header(header::RANGE, range.to_owned());
    assert_eq!(take(206, range("bytes=-999999999")).await.bytes().await.unwrap(), whole);
    assert_eq!(take(206, range("bytes=-2")).await.bytes().await.unwrap(), whole.slice(whole.len() - 2..));
}
