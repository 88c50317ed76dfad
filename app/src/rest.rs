//! Sends the requests of [`crate::action`] from the browser. The session cookie goes along by itself.

use crate::action::{Outcome, Request};
use crate::api::{DASHBOARD_HEADER, ErrorBody, ErrorCode};
use gloo_net::http::{Method, RequestBuilder};

/// Sends it; a refusal comes back in the server's words.
pub async fn send(request: Request) -> Outcome {
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
