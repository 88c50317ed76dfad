//! Who comes in masses: wrong tokens, connections that say nothing, bodies without an end. 408, 413, 429, 503; and the
//! rounds of the others go on.

use super::open_round;
use crate::harness::{Coordinator, Guest, NO_DATASET, read_to_end, refused, safetensors, soon, take};
use app::api::{DASHBOARD_HEADER, ErrorBody, ErrorCode};
use fedlearn::wire::{Dtype, Parameters, Schema, TensorSpec, Values};
use reqwest::{Method, RequestBuilder, header};
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Far more than any budget.
const MANY: usize = 2_000;

/// Whether that is the word to wait; else it is the answer to what is wrong.
async fn is_told_to_wait(wrong: u16, request: RequestBuilder) -> bool {
    let answer = soon("an answer", request.send()).await.unwrap();
    if answer.status() == wrong {
        return false;
    }
    assert_eq!(answer.status(), 429);
    let seconds: u32 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1);
    answer.json::<ErrorBody>().await.unwrap().code == ErrorCode::TooMany
}

/// Sends the same again and again until it is told to wait; returns how often it was not.
async fn until_told_to_wait(wrong: u16, request: impl Fn() -> RequestBuilder) -> usize {
    for tries in 0..MANY {
        if is_told_to_wait(wrong, request()).await {
            return tries;
        }
    }
    panic!("{MANY} wrong ones, and nobody minds");
}

async fn connect(coordinator: &Coordinator) -> TcpStream {
    TcpStream::connect(coordinator.authority()).await.unwrap()
}

/// A connection from another address of this machine than that of the clients.
async fn connect_from_elsewhere(authority: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(authority.parse().unwrap()).await.unwrap()
}

/// Waits until that many new connections have an answer side by side.
async fn has_room(coordinator: &Coordinator, connections: usize) {
    let answered = async || {
        let mut stream = connect(coordinator).await;
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.is_ok_and(|_| &status == b"HTTP/1.1 200").then_some(stream)
    };
    let all = async {
        loop {
            let mut open = Vec::new();
            while open.len() < connections {
                match answered().await {
                    Some(stream) => open.push(stream),
                    None => break,
                }
            }
            if open.len() == connections {
                return;
            }
        }
    };
    soon("room for connections", all).await;
}

/// A connection that has sent the head of an update without an end, and is asked for the body.
async fn endless(coordinator: &Coordinator, guest: &Guest, round: u64) -> TcpStream {
    let mut stream = connect(coordinator).await;
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/{round}/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/vnd.safetensors\r\nContent-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n",
        guest.id, guest.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    soon("the word to go on", stream.read_exact(&mut go_on)).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn guessed_log_ins_must_wait_and_rounds_continue_while_tokens_are_guessed() {
    // Given an address that has guessed the admin token on the log-in form too often: then the right one waits as well,
    let (coordinator, guest) = open_round(&[]).await;
    let log_in = |token: &str| coordinator.anybody(Method::POST, "/session").json(&json!({"token": token}));
    until_told_to_wait(401, || log_in("guess")).await;
    let right_waits_too = async {
        loop {
            let _ = log_in("guess").send().await;
            if is_told_to_wait(204, log_in(&coordinator.admin)).await {
                return;
            }
        }
    };
    soon("the word to wait", right_waits_too).await;
    // when it guesses tokens of clients and of the operator as fast as it can,
    let task = format!("/runs/tiny/clients/{}/task", guest.id);
    let (get, order) =
        (coordinator.anybody(Method::GET, &task), coordinator.anybody(Method::POST, "/runs/tiny/rounds"));
    let mut flood = JoinSet::new();
    for guess in [get, order] {
        let guess = guess.bearer_auth("0".repeat(64));
        for _ in 0..4 {
            let guess = guess.try_clone().unwrap();
            flood.spawn(async move {
                loop {
                    assert_eq!(guess.try_clone().unwrap().send().await.unwrap().status(), 401);
                }
            });
        }
    }
    // then the clients of that address continue their rounds, others join, and the operator's orders are accepted.
    for round in 1..=5 {
        assert_eq!(guest.asked().await.round, round);
        take(200, guest.request(Method::GET, &format!("/models/{}", round - 1))).await;
        guest.sends(round, round as f32).await;
        coordinator.until("tiny", "the round is over", |run| run.version == round).await;
        coordinator.order("/runs/tiny/rounds").await;
    }
    Guest::join(&coordinator, "tiny", "newcomer").await;
    assert!(flood.try_join_next().is_none(), "each guess is answered with 401");
    flood.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_the_join_secret_is_told_to_wait_even_when_right() {
    let coordinator = Coordinator::start(&[&NO_DATASET[..], &["--join-secret", "sesame"]].concat()).await;
    let register = |secret: &str| {
        let body = json!({"name": "a", "samples": 1, "join_secret": secret});
        coordinator.anybody(Method::POST, "/runs/default/clients").json(&body)
    };
    take(201, register("sesame")).await;
    let guesses = until_told_to_wait(403, || register("guess")).await;
    assert!(guesses >= 20, "{guesses}: who mistypes it is not shut out");
    // Else the one guess that is right would be found among the others.
    let right_waits_too = async {
        loop {
            let _ = register("guess").send().await;
            if is_told_to_wait(201, register("sesame")).await {
                return;
            }
        }
    };
    soon("the word to wait", right_waits_too).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_each_client_has_a_budget_of_its_own() {
    let secret = ["--join-secret", "sesame"];
    let guess_as = |coordinator: &Coordinator, client: &str| {
        let body = json!({"name": "a", "samples": 1, "join_secret": "guess"});
        coordinator.anybody(Method::POST, "/runs/default/clients").json(&body).header("x-forwarded-for", client)
    };
    // What the client says itself stands before what the proxy adds.
    let trusting = Coordinator::start(&[&NO_DATASET[..], &secret, &["--trusted-proxy", "127.0.0.1"]].concat()).await;
    until_told_to_wait(403, || guess_as(&trusting, "10.9.9.9, 10.0.0.1")).await;
    assert!(is_told_to_wait(403, guess_as(&trusting, "10.0.0.1")).await);
    assert!(!is_told_to_wait(403, guess_as(&trusting, "10.0.0.2")).await);
    // Without a word of the operator the header counts for nothing.
    let plain = Coordinator::start(&[&NO_DATASET[..], &secret].concat()).await;
    until_told_to_wait(403, || guess_as(&plain, "10.0.0.1")).await;
    assert!(is_told_to_wait(403, guess_as(&plain, "10.0.0.2")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_token_stays_right_only_as_long_as_it_is() {
    // Given tokens that were right a moment ago, the client's and that of a session,
    let (coordinator, guest) = open_round(&[]).await;
    take(200, guest.own(Method::GET, "/task")).await;
    let login = coordinator.anybody(Method::POST, "/session").json(&json!({"token": coordinator.admin}));
    let cookie = take(204, login).await.headers()["set-cookie"].to_str().unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();
    let stop = || {
        let request = coordinator.anybody(Method::DELETE, "/runs/tiny/autorun").header(header::COOKIE, cookie);
        request.header(DASHBOARD_HEADER, "1")
    };
    take(202, stop()).await;
    // when the operator makes another admin token, with the program in another process, and the client leaves,
    let store = fedlearn::store::Store::attach(coordinator.folder()).await.unwrap();
    let renewed = store.renew_admin_token().await.unwrap();
    coordinator.remember(renewed.reveal());
    guest.leaves().await;
    // then neither is right any more.
    let unauthorized = ErrorCode::Unauthorized;
    refused(401, unauthorized, stop()).await;
    refused(401, unauthorized, coordinator.operator(Method::DELETE, "/runs/tiny/autorun")).await;
    refused(401, unauthorized, guest.own(Method::GET, "/task")).await;
    refused(401, unauthorized, guest.request(Method::GET, "/models/0")).await;
    take(202, coordinator.anybody(Method::DELETE, "/runs/tiny/autorun").bearer_auth(renewed.reveal())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_one_address_keep_no_other_address_out() {
    let (coordinator, guest) = open_round(&["--max-connections", "16"]).await;
    let elsewhere = async || connect_from_elsewhere(&coordinator.authority()).await;
    // Given an address with as many connections as one may have, some of which have sent a half head,
    let mut idle = Vec::new();
    for i in 0..12 {
        let mut stream = elsewhere().await;
        if i % 2 == 0 {
            stream.write_all(b"PUT /api/v1/runs/tiny HTTP/1.1\r\nHost:").await.unwrap();
        }
        idle.push(stream);
    }
    // when it opens another one, then that gets 429,
    let mut stream = elsewhere().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("\"too_many\"") && answer.contains("12 connections"), "{answer}");
    // and when it opens hundreds, then a round of another address ends, and the next one opens.
    for _ in 0..200 {
        idle.push(elsewhere().await);
    }
    has_room(&coordinator, 1).await;
    guest.sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    coordinator.order("/runs/tiny/rounds").await;
    assert_eq!(guest.asked().await.round, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_connections_are_in_use_the_next_one_gets_503() {
    // Given as many idle connections as there may be, of a trusted proxy, which may have all of them,
    let flags = ["--max-connections", "4", "--trusted-proxy", "127.0.0.1"];
    let coordinator = Coordinator::tiny(&flags).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(connect(&coordinator).await);
    }
    // when one more connection comes, then it gets 503 at once,
    let mut stream = connect(&coordinator).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("\"unavailable\""), "{answer}");
    // and there is room as soon as they are closed.
    drop(idle);
    has_room(&coordinator, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_watch() {
    let coordinator = Coordinator::tiny(&["--max-connections", "16"]).await;
    let events = || coordinator.anybody(Method::GET, "/runs/tiny/events");
    let mut watches = Vec::new();
    for _ in 0..4 {
        watches.push(coordinator.watch("tiny").await);
    }
    refused(429, ErrorCode::TooMany, events()).await;
    watches.pop();
    let is_let_in = async {
        while !events().send().await.unwrap().status().is_success() {
            tokio::task::yield_now().await;
        }
    };
    soon("a place to watch from", is_let_in).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_head_is_closed() {
    let coordinator = Coordinator::tiny(&["--head-timeout-s", "1"]).await;
    // One that never says anything, one that stops in the middle, one whose first bytes could be of HTTP/2,
    for beginning in ["", "GET /healthz HTTP/1.1\r\nHost", "PRI"] {
        let mut stream = connect(&coordinator).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await;
    }
    // and one that has nothing more to ask.
    let mut stream = connect(&coordinator).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_what_it_asked_for_is_cut_off() {
    // Given a model that is more than a socket takes (32 MB),
    let flags = ["--head-timeout-s", "3", "--max-connections", "4", "--trusted-proxy", "127.0.0.1"];
    let coordinator = Coordinator::tiny(&flags).await;
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![8 << 20] };
    let schema = Arc::new(Schema::new(vec![spec]).unwrap());
    let large = safetensors(&Parameters::new(schema, vec![Values::F32(vec![1.0; 8 << 20])]));
    let create = coordinator.operator(Method::POST, "/runs?run=large");
    take(201, create.header(header::CONTENT_TYPE, "application/vnd.safetensors").body(large)).await;
    // and as many who ask for it as there is room for,
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&coordinator).await;
        let head = format!(
            "GET /api/v1/runs/large/models/0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
            coordinator.admin
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        soon("its first bytes", stream.readable()).await.unwrap();
        silent.push(stream);
    }
    // when none of them ever reads it, then there is room for as many again.
    has_room(&coordinator, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_steadily_is_given_up_and_the_round_goes_on() {
    // Given an update that brings a byte again and again, but never its end,
    let (coordinator, slow) = open_round(&["--body-timeout-s", "1"]).await;
    let mut stream = endless(&coordinator, &slow, 1).await;
    let (mut answers, mut asks) = stream.split();
    let trickles = async {
        loop {
            // Paced by an answer to somebody else.
            take(200, coordinator.anybody(Method::GET, "/runs/tiny")).await;
            if asks.write_all(b"1\r\n(\r\n").await.is_err() {
                std::future::pending().await
            }
        }
    };
    let mut answer = String::new();
    let given_up = async {
        tokio::select! {
            () = trickles => unreachable!("it trickles for ever"),
            read = answers.read_to_string(&mut answer) => read,
        }
    };
    // then it is given up while it still comes,
    let _ = soon("the end of a trickle", given_up).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"timeout\""), "{answer}");
    super::nothing_was_kept(&coordinator, &slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_go_on_while_all_of_it_comes_at_once() {
    // Given two honest clients and a third one, whose token is as good as theirs,
    let coordinator = Coordinator::tiny(&["--max-connections", "256", "--body-timeout-s", "1"]).await;
    let (one, other) =
        (Guest::join(&coordinator, "tiny", "one").await, Guest::join(&coordinator, "tiny", "other").await);
    let third = Guest::join(&coordinator, "tiny", "third").await;
    for round in 1..=3 {
        coordinator.order("/runs/tiny/rounds").await;
        // when that one sends bodies without an end, also as fast as it can, and announces a huge one,
        let mut attack = JoinSet::new();
        for is_fast in [false, true] {
            let mut stream = endless(&coordinator, &third, round).await;
            attack.spawn(async move {
                let chunk = [&b"10000\r\n"[..], &[0; 0x10000], b"\r\n"].concat();
                while is_fast && stream.write_all(&chunk).await.is_ok() {}
                read_to_end(&mut stream).await
            });
        }
        let huge = third.update(round).header(header::CONTENT_TYPE, "application/vnd.safetensors");
        let huge = huge
            .header(header::CONTENT_LENGTH, u64::MAX / 2)
            .body(reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()));
        refused(413, ErrorCode::TooLarge, huge).await;
        // and somebody else opens one connection after the other, keeps 1,000, and guesses tokens,
        let mut idle = JoinSet::new();
        let authority = coordinator.authority();
        idle.spawn(async move {
            let mut open = std::collections::VecDeque::new();
            loop {
                let mut stream = connect_from_elsewhere(&authority).await;
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
                let _ = stream.read(&mut [0; 1_024]).await; // no faster than it is dealt with
                open.push_back(stream);
                if open.len() > 1_000 {
                    open.pop_front();
                }
            }
        });
        let (http, path) = (coordinator.http.clone(), format!("{}/api/v1/runs/tiny/models/0", coordinator.origin()));
        idle.spawn(async move {
            loop {
                let _ = http.get(&path).bearer_auth("guess").send().await;
            }
        });
        // then the round of the honest ones is made of their updates, and waits for no client whose update was rejected,
        one.sends(round, 1.0).await;
        other.sends(round, 3.0).await;
        let run = coordinator.until("tiny", "the round is over", |run| run.version == round).await;
        assert_eq!(run.rounds.last().unwrap().updates, 2);
        idle.shutdown().await;
        // and each attack has had its answer.
        let mut answers = attack.join_all().await;
        answers.sort();
        let status = answers.iter().map(|answer| answer.get(9..12).unwrap_or_default()).collect::<Vec<_>>();
        assert!(matches!(status[..], ["408" | "410", "413"] | ["" | "413", "408" | "410" | "413"]), "{status:?}");
    }
    assert!(coordinator.incoming().is_empty(), "nothing of it is left");
}
