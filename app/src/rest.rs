//! Sends the requests of [`crate::action`] from the browser. The session cookie goes along by itself.

use crate::action::Request;
use crate::api::ErrorBody;
use gloo_net::http::{Method, RequestBuilder};

/// Sends it; a refusal comes back in the server's words.
pub async fn send(request: Request) -> Result<(), String> {
    let method = match request.method {
        "DELETE" => Method::DELETE,
        _ => Method::POST,
    };
    let builder = RequestBuilder::new(&request.path).method(method);
    let ready = match request.body {
        Some(body) => builder.header("content-type", "application/json").body(body),
        None => builder.build(),
    };
    let sent = match ready {
        Ok(ready) => ready.send().await,
        Err(error) => Err(error),
    };
    let response = sent.map_err(|error| format!("The coordinator did not answer: {error}"))?;
    if response.ok() {
        return Ok(());
    }
    let status = response.status();
    Err(match response.json::<ErrorBody>().await {
        Ok(body) if body.problems.is_empty() => body.message,
        Ok(body) => format!("{}: {}", body.message, body.problems.join("; ")),
        Err(_) => format!("Refused with status {status}."),
    })
}
