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
