//! The page as a browser gets it: what it may load.

use crate::harness::Coordinator;
use reqwest::{Response, header};
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
