//! Answers, as they must be.

use super::soon;
use app::api::{ErrorBody, ErrorCode};
use reqwest::{RequestBuilder, Response};

/// Sends, and takes an answer of that status only.
pub async fn take(status: u16, request: RequestBuilder) -> Response {
    let response = soon("an answer", request.send()).await.unwrap();
    if response.status() != status {
        let url = response.url().clone();
        panic!("{url}: {} instead of {status}: {}", response.status(), response.text().await.unwrap_or_default());
    }
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    response
}

/// Sends, and takes a refusal of that status and code only. A refusal says why.
pub async fn refused(status: u16, code: ErrorCode, request: RequestBuilder) -> ErrorBody {
    let response = take(status, request).await;
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/json");
    let is_passing = matches!(status, 425 | 429 | 503);
    assert_eq!(headers.contains_key("retry-after"), is_passing, "who may come back is told when");
    assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    let body: ErrorBody = response.json().await.unwrap();
    assert_eq!(body.code, code, "{body:?}");
    assert!(!body.message.is_empty());
    body
}
