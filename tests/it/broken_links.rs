//! Connections that break: what has come is kept, and the rest alone is sent.

use crate::harness::{BadLink, Coordinator, Guest, Way, read_to_end, refused, safetensors, soon, take, value_of, with};
use app::api::{ErrorCode, RegisterRequest, UpdateQuery, UploadView};
use fedlearn::agent::Transport;
use fedlearn::wire::{self, CONTAINER, Dtype, Parameters, Schema, TensorSpec, Values};
use reqwest::{Method, RequestBuilder, header};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SAFETENSORS: &str = "application/vnd.safetensors";

fn hash(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// Four MB of values.
fn large(factor: f32) -> Parameters {
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![1 << 20] };
    let values = (0..1 << 20).map(|i: u32| factor * (i.wrapping_mul(2_654_435_761) as i32 as f32) / 1e9);
    Parameters::new(Arc::new(Schema::new(vec![spec]).unwrap()), vec![Values::F32(values.collect())])
}

/// A run of such a model, and a transport that reaches it by a link which breaks.
async fn over_a_bad_link(way: Way, breaks_after: u64) -> (Coordinator, BadLink, Transport) {
    let coordinator = Coordinator::tiny(&[]).await;
    let create = coordinator.operator(Method::POST, "/runs?run=large");
    take(201, create.header(header::CONTENT_TYPE, SAFETENSORS).body(safetensors(&large(1.0)))).await;
    coordinator.configure("large", serde_json::json!({"encoding": "f32"})).await;
    let link = BadLink::to(&coordinator, way, breaks_after).await;
    let mut transport = Transport::new(&link.origin, &"large".parse().unwrap()).unwrap();
    let request = RegisterRequest { name: "far".into(), samples: 1, device: String::new(), join_secret: None };
    coordinator.remember(&transport.register(&request).await.unwrap().token);
    (coordinator, link, transport)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_cut_at_90_percent_is_completed_not_repeated() {
    let body = wire::encode(&large(2.0), app::api::Encoding::F32, Some(0)).unwrap();
    let size = body.len() as u64;
    let (coordinator, link, transport) = over_a_bad_link(Way::Up, size * 9 / 10).await;
    coordinator.order("/runs/large/rounds").await;
    let query = UpdateQuery { sha256: Some(hash(&body)), ..UpdateQuery::whole(1, None) };
    soon("the update", transport.update(1, &query, CONTAINER, body.into())).await.unwrap();
    let run = coordinator.until("large", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.rounds[0].received_bytes, size, "the whole body counts");
    // A tenth is left to send; requests and their heads come on top.
    let sent = link.up.load(Ordering::SeqCst);
    assert!((size..size + 8_192).contains(&sent), "{sent} bytes went up for a body of {size}");
    let model = take(200, coordinator.operator(Method::GET, "/runs/large/models/1")).await.bytes().await.unwrap();
    let model = wire::safe::read(&model, large(2.0).schema()).unwrap();
    assert!(model == large(2.0), "what was put together is what was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_cut_at_90_percent_is_completed_not_repeated() {
    let size = wire::encode(&large(1.0), app::api::Encoding::F32, None).unwrap().len() as u64;
    let (_coordinator, link, transport) = over_a_bad_link(Way::Down, size * 9 / 10).await;
    let body = soon("the model", transport.model(0, fedlearn::wire::CONTAINER, None)).await.unwrap();
    assert!(wire::decode(&body, large(1.0).schema()).unwrap() == large(1.0));
    let received = link.down.load(Ordering::SeqCst);
    assert!((size..size + 8_192).contains(&received), "{received} bytes went down for a body of {size}");
}

/// The run `tiny` with a client in its open round, and the update that it is to send.
async fn open_round() -> (Coordinator, Guest, Vec<u8>) {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    coordinator.order("/runs/tiny/rounds").await;
    (coordinator, guest, safetensors(&with(3.0)))
}

/// Sends the first bytes of a body on a connection of their own, which is returned open.
async fn begins(coordinator: &Coordinator, guest: &Guest, query: &str, body: &[u8], bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(coordinator.authority()).await.unwrap();
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/1/updates/{}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: {SAFETENSORS}\r\nContent-Length: {}\r\n\r\n",
        guest.id,
        guest.token,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body[..bytes]].concat()).await.unwrap();
    let came = async {
        while view(guest).await.is_none_or(|view| view.bytes != Some(bytes as u64)) {
            tokio::task::yield_now().await
        }
    };
    soon("these bytes", came).await;
    stream
}

/// The same, and the connection breaks.
async fn breaks_off(coordinator: &Coordinator, guest: &Guest, body: &[u8], bytes: usize) {
    let query = format!("samples=10&sha256={}", hash(body));
    let mut stream = begins(coordinator, guest, &query, body, bytes).await;
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await;
}

async fn view(guest: &Guest) -> Option<UploadView> {
    let response = guest.request(Method::GET, &format!("/rounds/1/updates/{}", guest.id)).send().await.unwrap();
    if response.status() == 404 { None } else { Some(response.json().await.unwrap()) }
}

fn goes_on(guest: &Guest, body: &[u8], offset: usize) -> RequestBuilder {
    let query = format!("samples=10&sha256={}&offset={offset}", hash(body));
    guest.update_of(1, &query).header(header::CONTENT_TYPE, SAFETENSORS).body(body[offset..].to_vec())
}

async fn is_taken(coordinator: &Coordinator, guest: &Guest, request: RequestBuilder) {
    take(202, request).await;
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.rounds[0].updates, 1);
    let model = take(200, guest.request(Method::GET, "/models/1")).await.bytes().await.unwrap();
    assert_eq!(value_of(&model), 3.0);
    assert!(coordinator.incoming().is_empty(), "no upload is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_of_an_update_is_told_until_it_counts() {
    let (coordinator, guest, body) = open_round().await;
    assert_eq!(view(&guest).await, None);
    breaks_off(&coordinator, &guest, &body, 30).await;
    let here = UploadView { round: 1, sha256: hash(&body), counted: false, bytes: Some(30) };
    assert_eq!(view(&guest).await, Some(here.clone()));
    is_taken(&coordinator, &guest, goes_on(&guest, &body, 30)).await;
    assert_eq!(view(&guest).await, Some(UploadView { counted: true, bytes: None, ..here }));
    // Repeated, whole or in part, it is in already.
    take(200, goes_on(&guest, &body, 30)).await;
    take(200, goes_on(&guest, &body, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_here_already_may_come_again() {
    let (coordinator, guest, body) = open_round().await;
    breaks_off(&coordinator, &guest, &body, 30).await;
    is_taken(&coordinator, &guest, goes_on(&guest, &body, 7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_can_break_off_again_and_again() {
    let (coordinator, guest, body) = open_round().await;
    for bytes in 1..=body.len() / 10 {
        let offset = 10 * (bytes - 1);
        let query = format!("samples=10&sha256={}&offset={offset}", hash(&body));
        let stream = TcpStream::connect(coordinator.authority()).await.unwrap();
        let head = format!(
            "PUT /api/v1/runs/tiny/rounds/1/updates/{}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: {SAFETENSORS}\r\nContent-Length: {}\r\n\r\n",
            guest.id,
            guest.token,
            body.len() - offset
        );
        let mut stream = stream;
        stream.write_all(&[head.as_bytes(), &body[offset..10 * bytes]].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        read_to_end(&mut stream).await;
        assert_eq!(view(&guest).await.unwrap().bytes, Some(10 * bytes as u64));
    }
    is_taken(&coordinator, &guest, goes_on(&guest, &body, body.len() / 10 * 10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_has_arrived_counts_even_if_nobody_waits_for_the_answer() {
    let (coordinator, guest, body) = open_round().await;
    // Given a client whose connection breaks right after the last byte
    let query = format!("samples=10&sha256={}", hash(&body));
    let mut stream = begins(&coordinator, &guest, &query, &body, 30).await;
    stream.write_all(&body[30..]).await.unwrap();
    drop(stream);
    // then its update counts, and is in already when it comes back.
    let run = coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(run.rounds[0].updates, 1);
    take(200, goes_on(&guest, &body, body.len())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_dead_connection_lets_go_of_the_update_for_the_next_one() {
    let (coordinator, guest, body) = open_round().await;
    // Given a connection that brings nothing more and is not closed either,
    let query = format!("samples=10&sha256={}", hash(&body));
    let mut dead = begins(&coordinator, &guest, &query, &body, 30).await;
    // when the client comes back on another one, it goes on there,
    is_taken(&coordinator, &guest, goes_on(&guest, &body, 30)).await;
    // and the first one is told so.
    let answer = read_to_end(&mut dead).await;
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("another request resumes this update"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_same_update_goes_on_where_it_was() {
    let (coordinator, mut guests) = Guest::in_round(&["guest", "bystander"]).await;
    let (bystander, guest, body) = (guests.remove(1), guests.remove(0), safetensors(&with(3.0)));
    breaks_off(&coordinator, &guest, &body, 30).await;
    let words = async |request, status, code, words: &str| {
        let refusal = refused(status, code, request).await;
        assert!(refusal.message.contains(words), "'{words}' is not in '{}'", refusal.message);
    };
    // Further on than what is here,
    words(goes_on(&guest, &body, 31), 409, ErrorCode::Conflict, "offset is 31, but 30 bytes of this update are stored")
        .await;
    // without saying of what, or with what is no hash,
    let of = |query: &str| guest.update_of(1, query).header(header::CONTENT_TYPE, SAFETENSORS).body("x");
    words(of("samples=10&offset=30"), 422, ErrorCode::Invalid, "offset needs sha256").await;
    words(of("samples=10&sha256=abc"), 422, ErrorCode::Invalid, "no SHA-256").await;
    // as another format or another update, neither of which has begun,
    let as_container = goes_on(&guest, &body, 30).header(header::CONTENT_TYPE, CONTAINER);
    let mut as_container = as_container.build().unwrap();
    as_container.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTAINER));
    let answer = soon("an answer", coordinator.http.execute(as_container)).await.unwrap();
    assert_eq!(answer.status(), 409);
    words(goes_on(&guest, &safetensors(&with(9.0)), 30), 409, ErrorCode::Conflict, "0 bytes").await;
    // further on than any update,
    let query = format!("samples=10&sha256={}&offset={}", hash(&body), u64::MAX);
    let far = guest.update_of(1, &query).header(header::CONTENT_TYPE, SAFETENSORS);
    words(far.body("x"), 413, ErrorCode::TooLarge, "no update of this run's model has more").await;
    assert_eq!(view(&guest).await.unwrap().bytes, Some(30), "what is here stays");
    // or the beginning of one with the end of another: every byte of safetensors is as good as another there.
    let mut mixed = body[30..].to_vec();
    let last = mixed.len() - 1;
    mixed[last] ^= 1;
    let query = format!("samples=10&sha256={}&offset=30", hash(&body));
    let mixed = guest.update_of(1, &query).header(header::CONTENT_TYPE, SAFETENSORS).body(mixed);
    words(mixed, 422, ErrorCode::Invalid, "its SHA-256 is").await;
    // What was refused is gone, and the right one is still welcome.
    assert_eq!(view(&guest).await, None);
    words(goes_on(&guest, &body, 30), 409, ErrorCode::Conflict, "0 bytes").await;
    take(202, goes_on(&guest, &body, 0)).await;
    bystander.leaves().await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(coordinator.tiny_value(1).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_update_takes_the_place_of_one_that_was_broken_off() {
    let (coordinator, guest, body) = open_round().await;
    breaks_off(&coordinator, &guest, &safetensors(&with(9.0)), 30).await;
    breaks_off(&coordinator, &guest, &body, 20).await;
    assert_eq!(view(&guest).await.unwrap().sha256, hash(&body));
    assert_eq!(coordinator.incoming().len(), 1, "one of each client");
    is_taken(&coordinator, &guest, goes_on(&guest, &body, 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_broken_off_is_nobody_elses_and_goes_with_its_round() {
    let (coordinator, guest, body) = open_round().await;
    let other = Guest::join(&coordinator, "tiny", "other").await;
    breaks_off(&coordinator, &guest, &body, 30).await;
    let of_guest = other.request(Method::GET, &format!("/rounds/1/updates/{}", guest.id));
    refused(401, ErrorCode::Unauthorized, of_guest).await;
    let unknown = guest.request(Method::GET, &format!("/rounds/2/updates/{}", guest.id));
    refused(404, ErrorCode::NotFound, unknown).await;
    guest.leaves().await; // the round is void
    coordinator.until("tiny", "the round is over", |run| run.round.is_none()).await;
    assert!(coordinator.incoming().is_empty());
}
