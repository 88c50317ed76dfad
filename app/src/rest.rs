//! Requests of the admin plane, and how the browser sends them. The session cookie goes along by itself.

use crate::api::{ErrorBody, LoginRequest};
use serde::Serialize;

/// A request of the admin plane.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Request {
    pub method: &'static str,
    /// From the coordinator's root, which is the base of every page.
    pub path: String,
    /// JSON.
    pub body: Option<String>,
    /// The version that is to be changed, and no later one.
    pub if_match: Option<u64>,
}

impl Request {
    pub fn new(method: &'static str, path: String, body: Option<&impl Serialize>) -> Self {
        let body = body.map(|body| serde_json::to_string(body).expect("plain structs always serialize"));
        Self { method, path, body, if_match: None }
    }

    /// Exchanges the admin token for a session cookie.
    pub fn login(token: String) -> Self {
        Self::new("POST", "api/v1/session".to_owned(), Some(&LoginRequest { token }))
    }

    /// Ends the session.
    pub fn logout() -> Self {
        Self::new("DELETE", "api/v1/session".to_owned(), None::<&()>)
    }
}

/// What came of a request.
pub type Outcome = Result<(), ErrorBody>;

/// A refusal in one line, with all that is wrong.
pub fn in_words(refusal: ErrorBody) -> String {
    match refusal.problems.as_slice() {
        [] => refusal.message,
        problems => format!("{}: {}", refusal.message, problems.join("; ")),
    }
}

/// Sends the request and hands on what came of it.
pub fn send(request: Request, then: impl FnOnce(Outcome) + 'static) {
    send_boxed(request, Box::new(then));
}

/// Boxed, so that the browser gets the code of a request once.
#[cfg(feature = "hydrate")]
fn send_boxed(request: Request, then: Box<dyn FnOnce(Outcome)>) {
    leptos::task::spawn_local(async move { then(send_now(request).await) });
}

/// The server renders buttons and never presses them.
#[cfg(not(feature = "hydrate"))]
fn send_boxed(_: Request, _: Box<dyn FnOnce(Outcome)>) {}

/// Sends it; a refusal comes back in the server's words.
#[cfg(feature = "hydrate")]
async fn send_now(request: Request) -> Outcome {
    use crate::api::{DASHBOARD_HEADER, ErrorCode};
    use gloo_net::http::{Method, RequestBuilder};
    let method = match request.method {
        "DELETE" => Method::DELETE,
        "PATCH" => Method::PATCH,
        _ => Method::POST,
    };
    let mut builder = RequestBuilder::new(&request.path).method(method).header(DASHBOARD_HEADER, "1");
    if let Some(version) = request.if_match {
        builder = builder.header("if-match", &format!("\"{version}\""));
    }
    let ready = match request.body {
        Some(body) => builder.header("content-type", "application/json").body(body),
        None => builder.build(),
    };
    let sent = match ready {
        Ok(ready) => ready.send().await,
        Err(error) => Err(error),
    };
    let refusal = |code, message| ErrorBody { code, message, problems: Vec::new() };
    let response =
        sent.map_err(|error| refusal(ErrorCode::Unavailable, format!("The coordinator did not answer: {error}")))?;
    if response.ok() {
        return Ok(());
    }
    let status = response.status();
    Err(match response.json::<ErrorBody>().await {
        Ok(body) => body,
        Err(_) => refusal(ErrorCode::Internal, format!("Refused with status {status}.")),
    })
}
