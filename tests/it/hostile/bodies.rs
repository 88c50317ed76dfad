//! Updates that are not what they should be: 413, 415, 422.

use super::{nothing_was_kept, open_round, round_of_two};
use crate::harness::{Coordinator, Guest, container, read_to_end, refused, safetensors, schema, take, with};
use app::api::ErrorCode;
use fedlearn::wire::{
    self, CONTAINER, Dtype, Parameters, SAFETENSORS, Schema, TensorSpec, Values, max_body_bytes, safe,
};
use reqwest::{Body, RequestBuilder, header};
use serde_json::json;
use std::io::Read;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

const JSON: &str = "application/json";

fn update(guest: &Guest, content_type: &str, body: impl Into<Body>) -> RequestBuilder {
    guest.update(1).header(header::CONTENT_TYPE, content_type).body(body)
}

/// Refused with 422, in these words.
async fn is_invalid(request: RequestBuilder, words: &str) {
    let refusal = refused(422, ErrorCode::Invalid, request).await;
    assert!(refusal.message.contains(words), "'{words}' is not in '{}'", refusal.message);
}

/// A tensor of the header of a container: name, dtype, encoding, shape.
type Tensor = (&'static str, u8, u8, Vec<u64>);

const N: (&str, u8, u8) = ("n", 1, 2);
const W: (&str, u8, u8) = ("w", 0, 0);

/// A container of that header, with right checksums: only what it says is wrong.
fn handmade(tensors: &[Tensor]) -> Vec<u8> {
    let blocks = [vec![0; 24], [&[0][..], &8u32.to_le_bytes(), &[0; 8]].concat()];
    let rows: Vec<_> =
        blocks.iter().map(|b| [(b.len() as u32).to_le_bytes(), crc32fast::hash(b).to_le_bytes()]).collect();
    let fields = (*schema().digest(), 0u8, None::<u64>, tensors, 6u32, rows);
    let header = postcard::to_stdvec(&fields).unwrap();
    let mut body = b"\x89FLP\r\n\x1a\n\x01\0\0\0".to_vec();
    body.extend((header.len() as u32).to_le_bytes());
    body.extend(header);
    body.extend(crc32fast::hash(&body).to_le_bytes());
    body.extend(blocks.concat());
    body
}

fn tensor((name, dtype, encoding): (&'static str, u8, u8), shape: &[u64]) -> Tensor {
    (name, dtype, encoding, shape.to_vec())
}

/// Safetensors of this header, with 32 bytes of data.
fn handmade_safetensors(header: serde_json::Value) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 32]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_sound_is_refused() {
    let (coordinator, guest) = round_of_two().await;
    let sound = container(&with(1.0), 0);
    wire::decode(&handmade(&[tensor(N, &[1]), tensor(W, &[2, 3])]), &schema()).expect("what is made by hand is sound");
    let changed = |at: usize, to: u8| {
        let mut body = sound.clone();
        body[at] = to;
        body
    };
    let cases = [
        (changed(1, b'X'), "signature"),
        (changed(8, 9), "format version 9"),
        (changed(20, sound[20] ^ 1), "checksum"),
        (changed(sound.len() - 20, sound[sound.len() - 20] ^ 0x10), "checksum"),
        (sound[..sound.len() - 1].to_vec(), "ends after"),
        (sound[..10].to_vec(), "ends after"),
        (Vec::new(), "ends after"),
        ([&sound[..], b"!"].concat(), "should end after"),
        (handmade(&[tensor(N, &[1]), tensor(("w", 7, 0), &[2, 3])]), "has dtype 7; known are F32"),
        (handmade(&[tensor(N, &[1]), tensor(W, &[2, 3]), tensor(W, &[2, 3])]), "'w' appears twice"),
    ];
    for (body, words) in cases {
        is_invalid(update(&guest, CONTAINER, body), words).await;
    }
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_model_is_refused_by_the_name_of_the_tensor() {
    let (coordinator, guest) = round_of_two().await;
    let of = |specs: Vec<(&str, Dtype, Vec<u64>)>| {
        let specs = specs.into_iter().map(|(name, dtype, shape)| TensorSpec { name: name.into(), dtype, shape });
        let schema = Arc::new(Schema::new(specs.collect()).unwrap());
        let values = schema.tensors().iter().map(|t| match t.dtype {
            Dtype::F32 => Values::F32(vec![0.0; t.values().unwrap() as usize]),
            Dtype::I64 => Values::I64(vec![0; t.values().unwrap() as usize]),
        });
        Parameters::new(schema.clone(), values.collect())
    };
    let n = || ("n", Dtype::I64, vec![1]);
    let w = || ("w", Dtype::F32, vec![2, 3]);
    let cases = [
        (vec![w()], "tensor 'n' is missing"),
        (vec![n(), ("w", Dtype::F32, vec![3, 2])], "has shape [3, 2], the model's is [2, 3]"),
        (vec![n(), w(), ("x", Dtype::F32, vec![1])], "tensor 'x' is not one of the model's"),
        (vec![("n", Dtype::F32, vec![1]), w()], "has dtype F32, the model's is I64"),
    ];
    for (specs, words) in cases {
        is_invalid(update(&guest, CONTAINER, container(&of(specs.clone()), 0)), words).await;
        is_invalid(update(&guest, SAFETENSORS, safetensors(&of(specs))), words).await;
    }
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn safetensors_that_are_not_sound_are_refused() {
    let (coordinator, guest) = round_of_two().await;
    let sound = safetensors(&with(1.0));
    let n = json!({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]});
    let w = |dtype: &str, begin: u64| json!({"dtype": dtype, "shape": [2, 3], "data_offsets": [begin, 32]});
    let twice = format!(r#"{{"n":{n},"w":{0},"w":{0}}}"#, w("F32", 8));
    let twice = [&(twice.len() as u64).to_le_bytes(), twice.as_bytes(), &[0; 32]].concat();
    let cases = [
        (sound[..sound.len() - 1].to_vec(), "ends after"),
        ([&sound[..], b"!"].concat(), "should end after"),
        ([&[0xff; 8], &sound[8..]].concat(), "the header has"),
        ([&sound[..8], b"[", &sound[9..]].concat(), "cannot be read"),
        (handmade_safetensors(json!({"n": n, "w": w("Q4", 8)})), "has dtype Q4; known are F32"),
        (handmade_safetensors(json!({"n": n, "w": w("F32", 4)})), "begins at byte 4"),
        (handmade_safetensors(json!({"n": n, "w": w("F32", 12)})), "begins at byte 12"),
        (twice, "begins at byte 8"), // a second tensor of the same name covers bytes that are covered
    ];
    for (body, words) in cases {
        is_invalid(update(&guest, SAFETENSORS, body), words).await;
    }
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zstd_body_is_not_expanded_beyond_the_model() {
    let (coordinator, guest) = round_of_two().await;
    let zstd = |body: Vec<u8>| update(&guest, SAFETENSORS, body).header(header::CONTENT_ENCODING, "zstd");
    let bomb = zstd::stream::encode_all(std::io::repeat(0).take(1 << 30), 1).unwrap();
    assert!(bomb.len() < 200_000, "1 GiB in {} bytes", bomb.len());
    is_invalid(zstd(bomb), "expands to more than").await;
    is_invalid(zstd(b"no zstd".to_vec()), "no zstd").await;
    let sound = safe::compress(&safetensors(&with(1.0))).unwrap();
    is_invalid(zstd(sound[..sound.len() - 3].to_vec()), "no zstd").await;
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_no_numbers_or_go_too_far_are_refused() {
    // Given a run that takes steps up to 3 only (6 values: each may move by 1.22),
    let (coordinator, guest) = round_of_two().await;
    coordinator.configure("tiny", json!({"max_update_norm": 3.0})).await;
    let filled = |value: f32| {
        let one = safetensors(&with(1.0));
        let start = one.len() - 24;
        [&one[..start], &value.to_le_bytes().repeat(6)].concat()
    };
    for (value, words) in [
        (f32::NAN, "NaN or infinite at index 0"),
        (f32::INFINITY, "NaN or infinite at index 0"),
        (f32::MAX, "max_update_norm is 3"),
        (-1.25, "max_update_norm is 3"),
    ] {
        is_invalid(update(&guest, SAFETENSORS, filled(value)), words).await;
    }
    take(202, update(&guest, SAFETENSORS, filled(1.2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_or_loss_that_makes_no_sense_is_refused() {
    let (coordinator, guest) = round_of_two().await;
    let body = safetensors(&with(1.0));
    let with_query = |query| guest.update_of(1, query).header(header::CONTENT_TYPE, SAFETENSORS).body(body.clone());
    for (query, words) in
        [("samples=0", "10^12, got 0"), ("samples=1000000000001", "10^12"), ("samples=1&loss=NaN", "finite")]
    {
        is_invalid(with_query(query), words).await;
    }
    for query in ["", "samples=-1", "samples=many", "samples=18446744073709551616", "samples=1&weight=9"] {
        refused(400, ErrorCode::BadRequest, with_query(query)).await;
    }
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_trained_from_another_version_is_refused() {
    let (coordinator, guest) = round_of_two().await;
    is_invalid(update(&guest, CONTAINER, container(&with(1.0), 7)), "version 7").await;
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_kind_that_is_not_read_is_refused_before_it_comes() {
    let (coordinator, guest) = round_of_two().await;
    let body = || safetensors(&with(1.0));
    let code = ErrorCode::UnsupportedMediaType;
    refused(415, code, guest.update(1).body(body())).await;
    refused(415, code, update(&guest, JSON, "{}")).await;
    refused(415, code, update(&guest, SAFETENSORS, body()).header(header::CONTENT_ENCODING, "gzip")).await;
    let twice = update(&guest, CONTAINER, container(&with(1.0), 0)).header(header::CONTENT_ENCODING, "zstd");
    refused(415, code, twice).await;
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    let (coordinator, guest) = round_of_two().await;
    let length = max_body_bytes(&schema()) + 1;
    let mut stream = tokio::net::TcpStream::connect(coordinator.authority()).await.unwrap();
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/1/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: {SAFETENSORS}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
        guest.id, guest.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("too_large"), "{answer}");
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_grows_too_large_is_refused_while_it_comes() {
    let (coordinator, guest) = round_of_two().await;
    let mut stream = tokio::net::TcpStream::connect(coordinator.authority()).await.unwrap();
    let head = format!(
        "PUT /api/v1/runs/tiny/rounds/1/updates/{}?samples=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: {SAFETENSORS}\r\nContent-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n",
        guest.id, guest.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut left = max_body_bytes(&schema()) + 1;
    while left > 0 {
        let chunk = left.min(64 << 10);
        let bytes = [format!("{chunk:x}\r\n").as_bytes(), &vec![0; chunk as usize], b"\r\n"].concat();
        stream.write_all(&bytes).await.unwrap();
        left -= chunk;
    }
    // The body never ends: it is refused for what has come.
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("too_large"), "{answer}");
    nothing_was_kept(&coordinator, &guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_json_body_is_refused_wherever_it_is_sent() {
    let coordinator = Coordinator::tiny(&[]).await;
    let huge = json!({"name": "x".repeat(100 << 10), "samples": 1}).to_string();
    for (method, path) in [
        ("POST", "/runs"),
        ("PATCH", "/runs/tiny"),
        ("POST", "/runs/tiny/clients"),
        ("POST", "/runs/tiny/autorun"),
        ("POST", "/session"),
    ] {
        let request = coordinator.operator(method.parse().unwrap(), path).header(header::IF_MATCH, "\"1\"");
        refused(413, ErrorCode::TooLarge, request.header(header::CONTENT_TYPE, JSON).body(huge.clone())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_may_be_sent_again_but_not_another() {
    let (coordinator, guest) = open_round(&[]).await;
    let first: serde_json::Value = take(202, guest.full_of(1, 1.0)).await.json().await.unwrap();
    coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    // Even when the round is over: the first answer may have been lost.
    let again: serde_json::Value = take(200, guest.full_of(1, 1.0)).await.json().await.unwrap();
    assert_eq!(first, again);
    refused(409, ErrorCode::Conflict, guest.full_of(1, 9.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_same_update_sent_several_times_at_once_one_is_taken_and_the_others_are_had_already() {
    // Whether it is the last of its round, which closes it, or not.
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "a").await;
    for round in 1..=10 {
        let slow = if round > 5 { Some(Guest::join(&coordinator, "tiny", "b").await) } else { None };
        coordinator.order("/runs/tiny/rounds").await;
        let answers = futures::future::join_all((0..4).map(|_| guest.full_of(round, 1.0).send())).await;
        let mut answers: Vec<u16> = answers.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
        answers.sort();
        assert_eq!(answers, [200, 200, 200, 202], "round {round}");
        if let Some(slow) = slow {
            slow.leaves().await;
        }
        let run = coordinator.until("tiny", "the round is over", |run| run.version == round).await;
        assert_eq!(run.rounds[round as usize - 1].updates, 1);
    }
}
