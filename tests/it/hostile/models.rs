//! The global model over HTTP: content negotiation, conditions, ranges.

use crate::harness::{Coordinator, Guest, refused, safetensors, schema, take, with};
use app::api::{Encoding, ErrorCode};
use fedlearn::wire::{self, CONTAINER, SAFETENSORS};
use reqwest::{Method, RequestBuilder, header};

async fn tiny() -> (Coordinator, Guest) {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    (coordinator, guest)
}

fn model(guest: &Guest) -> RequestBuilder {
    guest.request(Method::GET, "/models/0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_in_the_form_that_is_asked_for() {
    let (_coordinator, guest) = tiny().await;
    let plain = take(200, model(&guest)).await;
    assert_eq!(plain.headers()["content-type"], SAFETENSORS);
    assert_eq!(plain.bytes().await.unwrap(), safetensors(&with(0.0)));

    let zstd = take(200, model(&guest).header(header::ACCEPT_ENCODING, "zstd")).await;
    assert_eq!(zstd.headers()["content-encoding"], "zstd");
    let expanded = wire::safe::decompress(&zstd.bytes().await.unwrap(), 1 << 20).unwrap();
    assert_eq!(expanded, safetensors(&with(0.0)));

    let f32 = take(200, model(&guest).header(header::ACCEPT, format!("{CONTAINER}; encoding=f32"))).await;
    assert_eq!(f32.bytes().await.unwrap(), wire::encode(&with(0.0), Encoding::F32, None).unwrap());
    let bf16 = take(200, model(&guest).header(header::ACCEPT, CONTAINER)).await;
    assert_eq!(bf16.headers()["content-type"], format!("{CONTAINER}; encoding=bf16"));
    assert_eq!(wire::decode(&bf16.bytes().await.unwrap(), &schema()).unwrap(), with(0.0));

    refused(406, ErrorCode::NotAcceptable, model(&guest).header(header::ACCEPT, "text/html")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_etag_tells_it_from_every_other_body_and_saves_sending_it_again() {
    let (_coordinator, guest) = tiny().await;
    let mut etags = Vec::new();
    for (accept, coding) in [(SAFETENSORS, "identity"), (SAFETENSORS, "zstd"), (CONTAINER, "identity")] {
        let request = || model(&guest).header(header::ACCEPT, accept).header(header::ACCEPT_ENCODING, coding);
        let response = take(200, request()).await;
        let etag = response.headers()["etag"].to_str().unwrap().to_owned();
        assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
        assert!(response.headers()["vary"].to_str().unwrap().contains("accept"));
        let body = response.bytes().await.unwrap();
        let head = take(
            200,
            request()
                .try_clone()
                .unwrap()
                .build()
                .map(|r| {
                    let (client, url) = (reqwest::Client::new(), r.url().clone());
                    client.head(url).headers(r.headers().clone())
                })
                .unwrap(),
        )
        .await;
        assert_eq!(head.headers()["content-length"], body.len().to_string());
        assert_eq!(head.headers()["etag"], etag);
        assert_eq!(head.bytes().await.unwrap(), "");

        for same in [etag.clone(), format!("\"other\", {etag}"), "*".to_owned(), format!("W/{etag}")] {
            let unchanged = take(304, request().header(header::IF_NONE_MATCH, &same)).await;
            assert_eq!(unchanged.headers()["etag"], etag);
            assert_eq!(unchanged.bytes().await.unwrap(), "", "{same}");
        }
        take(200, request().header(header::IF_NONE_MATCH, "\"other\"")).await;
        etags.push(etag);
    }
    etags.sort();
    etags.dedup();
    assert_eq!(etags.len(), 3, "each representation has its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_it_can_be_fetched() {
    let (_coordinator, guest) = tiny().await;
    let whole = take(200, model(&guest)).await;
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    let etag = whole.headers()["etag"].clone();
    let whole = whole.bytes().await.unwrap();
    let total = whole.len();
    let range = |range: &str| model(&guest).header(header::RANGE, range);

    for (asked, first, last) in [
        ("bytes=0-9".to_owned(), 0, 9),
        ("bytes=5-".to_owned(), 5, total - 1),
        ("bytes=-4".to_owned(), total - 4, total - 1),
        (format!("bytes=10-{}", total * 2), 10, total - 1),
    ] {
        let part = take(206, range(&asked)).await;
        assert_eq!(part.headers()["content-range"], format!("bytes {first}-{last}/{total}"));
        assert_eq!(part.bytes().await.unwrap(), whole[first..=last]);
    }
    for asked in [format!("bytes={total}-"), "bytes=99999-100000".to_owned()] {
        let beyond = take(416, range(&asked)).await;
        assert_eq!(beyond.headers()["content-range"], format!("bytes */{total}"));
    }
    // What is not understood, or is of another body by now, is answered with the whole.
    for request in
        [range("lines=1-2"), range("bytes=0-1,4-5"), range("bytes=0-1").header(header::IF_RANGE, "\"other\"")]
    {
        assert_eq!(take(200, request).await.bytes().await.unwrap(), whole);
    }
    take(206, range("bytes=0-1").header(header::IF_RANGE, etag)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_redirects_to_the_current_version() {
    let (coordinator, guest) = tiny().await;
    let latest = || guest.request(Method::GET, "/models/latest");
    let to = take(307, latest()).await;
    assert_eq!(
        (to.headers()["location"].to_str().unwrap(), &to.headers()["cache-control"]),
        ("0", &"no-store".parse().unwrap())
    );
    coordinator.order("/runs/tiny/rounds").await;
    guest.sends(1, 1.0).await;
    coordinator.until("tiny", "the round is over", |run| run.version == 1).await;
    assert_eq!(take(307, latest()).await.headers()["location"], "1");
    // The version before is still there, unchanged.
    assert_eq!(take(200, model(&guest)).await.bytes().await.unwrap(), safetensors(&with(0.0)));
    for version in ["2", "18446744073709551615", "18446744073709551616", "-1", "newest"] {
        refused(404, ErrorCode::NotFound, guest.request(Method::GET, &format!("/models/{version}"))).await;
    }
}
