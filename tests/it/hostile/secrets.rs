//! Tokens, sessions and cookies: 401, and 403 for requests of other sites.

use crate::harness::{Coordinator, Guest, refused, safetensors, take, with};
use app::api::{DASHBOARD_HEADER, ErrorCode};
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};

const UNAUTHORIZED: (u16, ErrorCode) = (401, ErrorCode::Unauthorized);

async fn unauthorized(request: RequestBuilder) {
    refused(UNAUTHORIZED.0, UNAUTHORIZED.1, request).await;
}

/// Logs in, and returns the cookie as it is sent back.
async fn log_in(coordinator: &Coordinator) -> String {
    let login = coordinator.anybody(Method::POST, "/session").json(&json!({"token": coordinator.admin}));
    let response = take(204, login).await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    let attributes: Vec<&str> = cookie.split("; ").skip(1).collect();
    for wanted in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(attributes.contains(&wanted), "{wanted} is not in {cookie}");
    }
    let pair = cookie.split(';').next().unwrap().to_owned();
    coordinator.remember(pair.split_once('=').unwrap().1);
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_needs_its_own_token() {
    let coordinator = Coordinator::tiny(&[]).await;
    let (a, b) = (Guest::join(&coordinator, "tiny", "a").await, Guest::join(&coordinator, "tiny", "b").await);
    let elsewhere = Guest::join(&coordinator, "default", "c").await;
    coordinator.order("/runs/tiny/rounds").await;
    let paths = [
        (Method::GET, format!("/runs/tiny/clients/{}/task", a.id)),
        (Method::PUT, format!("/runs/tiny/clients/{}/status", a.id)),
        (Method::DELETE, format!("/runs/tiny/clients/{}", a.id)),
        (Method::PUT, format!("/runs/tiny/rounds/1/updates/{}?samples=1", a.id)),
    ];
    for (method, path) in paths {
        let request = || {
            let request = coordinator.anybody(method.clone(), &path);
            request.header(header::CONTENT_TYPE, "application/vnd.safetensors").body(safetensors(&with(9.0)))
        };
        unauthorized(request()).await;
        let wrong = "0".repeat(64);
        for token in [&b.token, &elsewhere.token, &wrong, "", &a.token[..63], &format!("{}0", a.token)] {
            unauthorized(request().bearer_auth(token)).await;
        }
        unauthorized(request().basic_auth("a", Some(&a.token))).await;
    }
    // The roster is nobody's business: a client that is not there is answered as a wrong token is.
    unauthorized(a.request(Method::GET, "/clients/c0/task")).await;
    let run = coordinator.snapshot("tiny").await;
    assert_eq!((run.clients.len(), run.round.unwrap().updated.len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_is_for_clients_of_the_run_and_for_the_operator() {
    let coordinator = Coordinator::tiny(&[]).await;
    let elsewhere = Guest::join(&coordinator, "default", "c").await;
    let model = || coordinator.anybody(Method::GET, "/runs/tiny/models/0");
    unauthorized(model()).await;
    unauthorized(model().bearer_auth("x")).await;
    unauthorized(model().bearer_auth(&elsewhere.token)).await;
    unauthorized(coordinator.anybody(Method::GET, "/runs/tiny/models/latest")).await;
    take(200, model().bearer_auth(&coordinator.admin)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_without_a_token() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "a").await;
    coordinator.order("/runs/tiny/rounds").await;
    let document = coordinator.http.get(format!("{}/api/openapi.json", coordinator.origin()));
    let document: Value = take(200, document).await.json().await.unwrap();
    let before = coordinator.snapshot("tiny").await;
    // Registration and log-in are how one comes by a token.
    let open = [("/api/v1/runs/{run}/clients", "post"), ("/api/v1/session", "post")];
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|m| !matches!(m.as_str(), "get" | "parameters")) {
            if open.contains(&(path.as_str(), method.as_str())) {
                continue;
            }
            let filled = path.replace("{run}", "tiny").replace("{id}", guest.id.as_str()).replace("{round}", "1");
            let url = format!("{}{filled}", coordinator.origin());
            let request = || {
                let method = method.to_uppercase().parse().unwrap();
                let request = coordinator.http.request(method, &url).query(&[("samples", "1"), ("run", "other")]);
                request.header(header::IF_MATCH, "\"1\"").json(&json!({"rounds": 1}))
            };
            unauthorized(request()).await;
            unauthorized(request().bearer_auth("f".repeat(64))).await;
            let guessed = request().header(header::COOKIE, "fedlearn_session=guessed");
            unauthorized(guessed.header(DASHBOARD_HEADER, "1")).await;
            let is_of_clients =
                path.contains("/status") || path.contains("/updates/") || path.ends_with("/clients/{id}");
            if !is_of_clients {
                unauthorized(request().bearer_auth(&guest.token)).await;
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 18, "every operation that changes something");
    assert_eq!(coordinator.snapshot("tiny").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_gives_a_session_that_ends_with_the_logout() {
    let coordinator = Coordinator::tiny(&[]).await;
    let wrong = coordinator.anybody(Method::POST, "/session").json(&json!({"token": "guess"}));
    unauthorized(wrong).await;
    let cookie = log_in(&coordinator).await;
    let delete = |path| {
        let request = coordinator.anybody(Method::DELETE, path).header(header::COOKIE, &cookie);
        request.header(DASHBOARD_HEADER, "1")
    };
    let stop = || delete("/runs/tiny/autorun");
    take(202, stop()).await;
    take(204, delete("/session")).await;
    unauthorized(stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_form_needs_no_javascript() {
    let coordinator = Coordinator::tiny(&[]).await;
    let form = |token: &str| {
        let request = coordinator.anybody(Method::POST, "/session");
        let form = "application/x-www-form-urlencoded";
        request.header(header::CONTENT_TYPE, form).body(format!("token={token}"))
    };
    let welcome = take(303, form(&coordinator.admin)).await;
    assert_eq!(welcome.headers()["location"], "../../");
    assert!(welcome.headers().contains_key("set-cookie"));
    let again = take(303, form("guess")).await;
    assert_eq!(again.headers()["location"], "../../login?refused");
    assert!(!again.headers().contains_key("set-cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_for_pages_of_other_sites() {
    let coordinator = Coordinator::tiny(&[]).await;
    let cookie = log_in(&coordinator).await;
    let url = |path| format!("{}/api/v1{path}", coordinator.origin());
    let request = |method, path| coordinator.http.request(method, url(path)).header(header::COOKIE, &cookie);
    let stop = || request(Method::DELETE, "/runs/tiny/autorun");
    // What a form or a script of another origin can send without asking first, whatever it names as its origin: also
    // the coordinator's own address, which a proxy gives to many.
    let elsewhere = format!("{}.evil.example", coordinator.origin());
    for origin in ["https://evil.example", "http://127.0.0.1:1", "null", "", &elsewhere, &coordinator.origin()] {
        refused(403, ErrorCode::CrossSite, stop().header(header::ORIGIN, origin)).await;
    }
    refused(403, ErrorCode::CrossSite, stop()).await;
    refused(403, ErrorCode::CrossSite, request(Method::DELETE, "/session")).await;
    // If a browser ever sent the header along for another origin, it would still say so itself.
    for site in ["cross-site", "same-site", "none"] {
        refused(403, ErrorCode::CrossSite, stop().header(DASHBOARD_HEADER, "1").header("sec-fetch-site", site)).await;
    }
    // It asks first by this, and is not allowed to.
    let preflight = request(Method::OPTIONS, "/runs/tiny/autorun").header(header::ORIGIN, "https://evil.example");
    let preflight = preflight.header("access-control-request-headers", DASHBOARD_HEADER);
    let answer = take(405, preflight.header("access-control-request-method", "DELETE")).await;
    let granted = answer.headers().keys().find(|name| name.as_str().starts_with("access-control-"));
    assert_eq!(granted, None);
    // A token is not something that a browser adds by itself, and what only reads changes nothing.
    take(202, stop().header(header::ORIGIN, "https://evil.example").bearer_auth(&coordinator.admin)).await;
    take(200, request(Method::GET, "/runs/tiny/models/0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_works_behind_a_proxy_whatever_host_it_names() {
    let coordinator = Coordinator::tiny(&[]).await;
    let cookie = log_in(&coordinator).await;
    // As nginx passes a request on by `proxy_pass` alone, and with `$host`, which drops the port; behind TLS; over HTTPS.
    let asked = [
        ("http://fl.example:8080", "127.0.0.1:3000", None),
        ("http://fl.example:8080", "fl.example", None),
        ("https://fl.example", "fl.example", Some("same-origin")),
    ];
    for (origin, host, site) in asked {
        let stop = coordinator.anybody(Method::DELETE, "/runs/tiny/autorun").header(header::COOKIE, &cookie);
        let stop = stop.header(header::ORIGIN, origin).header(header::HOST, host).header(DASHBOARD_HEADER, "1");
        take(202, site.into_iter().fold(stop, |stop, site| stop.header("sec-fetch-site", site))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_hold_no_token_but_the_one_they_give() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "a").await;
    let v1 = ["/runs", "/runs/tiny", "/runs/tiny/clients", "/runs/tiny/rounds", "/runs/tiny/export.csv"];
    let all = v1.map(|path| format!("/api/v1{path}")).into_iter().chain(["/metrics", "/"].map(str::to_owned));
    for path in all {
        let text =
            take(200, coordinator.http.get(format!("{}{path}", coordinator.origin()))).await.text().await.unwrap();
        assert!(!text.contains(&guest.token) && !text.contains(&coordinator.admin), "a token is in {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_cannot_be_read_is_refused_without_a_word_of_it() {
    let coordinator = Coordinator::tiny(&[]).await;
    // As curl sends JSON where it is not told that it is JSON, a form without the token, and JSON of another shape.
    let form = "application/x-www-form-urlencoded";
    for (kind, body) in [
        (form, "{\"token\": \"sesame\"}"),
        (form, "sesame=1"),
        ("application/json", "{\"sesame\": 1}"),
        ("application/json", "sesame"),
        ("text/plain", "sesame"),
    ] {
        let login = coordinator.anybody(Method::POST, "/session").header(header::CONTENT_TYPE, kind).body(body);
        let answer = login.send().await.unwrap();
        assert!(answer.status().is_client_error(), "{kind} {body}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains("sesame") && text.contains("token"), "{kind} {body}: {text}");
    }
}
