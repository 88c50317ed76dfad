//! The API's description against the router.

use crate::harness::{Coordinator, Guest};
use reqwest::{Method, StatusCode};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_address_has_the_methods_that_its_description_names_and_no_others() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "guest").await;
    let http = &coordinator.http;
    let document = http.get(format!("{}/api/openapi.json", coordinator.origin())).send().await.unwrap();
    let document: Value = document.json().await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20, "{paths:?}");
    for (path, operations) in paths {
        let address = path.replace("{run}", "no-such-run").replace("{id}", guest.id.as_str());
        let address = address.replace("{version}", "0").replace("{round}", "1");
        for method in [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
            let request = http.request(method.clone(), format!("{}{address}", coordinator.origin()));
            let status = request.send().await.unwrap().status();
            let is_described = operations.get(method.as_str().to_lowercase()).is_some();
            assert_eq!(status != StatusCode::METHOD_NOT_ALLOWED, is_described, "{method} {path}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_committed_description_is_the_one_that_is_served() {
    let coordinator = Coordinator::tiny(&[]).await;
    let url = format!("{}/api/openapi.json", coordinator.origin());
    let served: Value = coordinator.http.get(url).send().await.unwrap().json().await.unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(file, format!("{served:#}\n")).unwrap();
    }
    let committed: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let parts = ["info", "paths", "components", "tags"];
    let differ: Vec<_> = parts.into_iter().filter(|part| committed[part] != served[part]).collect();
    assert!(
        committed == served,
        "docs/openapi.json is out of date in {differ:?}: run `make openapi`, and commit the result"
    );
}
