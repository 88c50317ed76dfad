//! The page as a browser gets it: what it may load, and addresses that work under any path by which a proxy serves it.

use crate::harness::{Coordinator, safetensors, take, with};
use reqwest::{Method, Response, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;

async fn get(coordinator: &Coordinator, path: &str) -> Response {
    coordinator.http.get(format!("{}{path}", coordinator.origin())).send().await.unwrap()
}

fn policy(response: &Response) -> BTreeMap<String, String> {
    let text = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    let directives = text.split("; ").map(|directive| directive.split_once(' ').unwrap());
    directives.map(|(name, sources)| (name.to_owned(), sources.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_loads_what_the_coordinator_serves_and_runs_no_script_but_its_own() {
    let coordinator = Coordinator::tiny(&[]).await;
    let mut nonces = Vec::new();
    for path in ["/", "/", "/runs/tiny", "/runs/none", "/login", "/nowhere"] {
        let page = get(&coordinator, path).await;
        let policy = policy(&page);
        let scripts = policy["script-src"].strip_prefix("'self' 'nonce-").unwrap();
        let nonce = scripts.strip_suffix("' 'wasm-unsafe-eval'").unwrap().to_owned();
        for (name, sources) in [
            ("default-src", "'self'"),
            ("style-src", "'self'"),
            ("connect-src", "'self'"),
            ("object-src", "'none'"),
            ("base-uri", "'self'"),
            ("form-action", "'self'"),
            ("frame-ancestors", "'none'"),
        ] {
            assert_eq!(policy[name], sources, "{path}: {name}");
        }
        let html = page.text().await.unwrap();
        let scripts: Vec<_> = html.split("<script").skip(1).filter_map(|script| script.split('>').next()).collect();
        assert!(!scripts.is_empty());
        for script in scripts {
            assert!(script.contains(&format!("nonce=\"{nonce}\"")), "{path}: {script}");
        }
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!html.contains(inline), "{path}: {inline}");
        }
        nonces.push(nonce);
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 6, "each page has a nonce of its own");
    for path in ["/healthz", "/api/v1/runs", "/api/openapi.json", "/api/nowhere"] {
        let response = get(&coordinator, path).await;
        assert_eq!(policy(&response)["default-src"], "'none'", "{path}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(response.headers()["cross-origin-resource-policy"], "same-origin", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_that_is_sent_is_relative() {
    let coordinator = Coordinator::tiny(&[]).await;
    for (path, root) in
        [("/", "./"), ("/login", "./"), ("/runs/tiny", "../"), ("/runs/none", "../"), ("/a/b/c", "../../")]
    {
        let html = get(&coordinator, path).await.text().await.unwrap();
        assert!(html.contains(&format!("<base href=\"{root}\">")), "{path}: {html}");
        for absolute in ["href=\"/", "src=\"/", "action=\"/", "import(\"/"] {
            assert!(!html.contains(absolute), "{path}: {absolute} in {html}");
        }
    }
    let latest = take(307, coordinator.operator(Method::GET, "/runs/tiny/models/latest")).await;
    assert_eq!(latest.headers()["location"], "0");
    let create = coordinator.operator(Method::POST, "/runs?run=other");
    let create = create.header(header::CONTENT_TYPE, "application/vnd.safetensors").body(safetensors(&with(0.0)));
    assert_eq!(take(201, create).await.headers()["location"], "runs/other");
    let document: Value = get(&coordinator, "/api/openapi.json").await.json().await.unwrap();
    assert_eq!(document["servers"][0]["url"], "..");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_base_path_all_is_served_below_it_too() {
    let coordinator = Coordinator::tiny(&["--base-path", "/fl"]).await;
    for (path, status) in [
        ("/fl/", 200),
        ("/fl/runs/tiny", 200),
        ("/fl/api/v1/runs?archived=false", 200),
        ("/", 200),
        ("/flow", 404),
        ("/fl/fl/", 404),
    ] {
        assert_eq!(get(&coordinator, path).await.status(), status, "{path}");
    }
    // The page's addresses lead out of the path where the slash at its end is missing.
    let without_slash = get(&coordinator, "/fl").await;
    assert_eq!((without_slash.status().as_u16(), &without_slash.headers()["location"]), (308, &"fl/".parse().unwrap()));
    let login = coordinator.anybody(Method::POST, "/session").json(&json!({"token": coordinator.admin}));
    let cookie = take(204, login).await.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("; Path=/fl"), "{cookie}");
}
