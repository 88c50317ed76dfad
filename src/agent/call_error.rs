//! Failed calls: what failed, and what to do about it.

use super::network_error::{NetworkError, origin, proxy_of};
use app::api::{ErrorBody, ErrorCode};
use reqwest::{Response, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The most that is read of a rejection's body.
const MAX_REJECTION_BYTES: usize = 64 << 10;
/// How much is shown of an answer that cannot be read.
const SHOWN_CHARS: usize = 80;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The coordinator or a server in front of it rejected the request.
    #[error("{message} ({status})")]
    Rejected {
        /// The HTTP status.
        status: StatusCode,
        /// What to act on; `None` if the answer did not come from a coordinator.
        code: Option<ErrorCode>,
        /// For people.
        message: String,
        /// When to come back, from `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or a part of one.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A successful answer that cannot be read.
    #[error(
        "cannot read the answer of {url} ({status}, {reason}): check that a coordinator is at that address, and that it is not \
         newer than fedlearn {} here; the answer begins with {start:?}",
        env!("CARGO_PKG_VERSION")
    )]
    Unreadable {
        /// The address of the request, without its query.
        url: String,
        /// The HTTP status.
        status: StatusCode,
        /// Why it cannot be read.
        reason: String,
        /// Its first characters.
        start: String,
    },
    /// The file with certificates cannot be used.
    #[error("--ca-cert {path}: {reason}")]
    CaCert {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        NetworkError::from(error).into()
    }
}

/// What to do after a call that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The same call may succeed later, however long that takes.
    Always,
    /// The same call may succeed when it is repeated soon; if a few tries fail, it never will.
    AFewTimes,
    /// Repeating it changes nothing.
    Never,
}

impl CallError {
    /// The coordinator's code.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Rejected { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether to repeat the call. `was_answered`: the coordinator has answered before, so the address is right.
    pub(super) fn repeat(&self, was_answered: bool) -> Repeat {
        match self {
            Self::Rejected { code: Some(ErrorCode::Internal), .. } | Self::Unreadable { .. } => Repeat::AFewTimes,
            Self::Rejected { status, .. } if status.is_server_error() => Repeat::Always,
            Self::Rejected { status, .. } if matches!(status.as_u16(), 408 | 425 | 429) => Repeat::Always,
            Self::Network(error) if error.is_temporary() || was_answered => Repeat::Always,
            _ => Repeat::Never,
        }
    }
}

/// The answer if it is successful.
pub(super) async fn answer(mut response: Response) -> Result<Response, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let retry_after = text(header::RETRY_AFTER).and_then(|v| v.parse().ok()).map(Duration::from_secs);
    let (server, url) = (text(header::SERVER), response.url().clone());
    let mut body = Vec::new();
    while body.len() < MAX_REJECTION_BYTES {
        // A part of a rejection is enough.
        let Ok(Some(chunk)) = response.chunk().await else { break };
        body.extend_from_slice(&chunk);
    }
    let (code, message) = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { code, message, problems }) => {
            (Some(code), if problems.is_empty() { message } else { problems.join("; ") })
        }
        Err(_) => (None, foreign(status, server.as_deref(), &url)),
    };
    Err(CallError::Rejected { status, code, message, retry_after })
}

/// The message of a rejection that is not a coordinator's.
fn foreign(status: StatusCode, server: Option<&str>, url: &Url) -> String {
    let proxy = proxy_of(url);
    let who = match (&proxy, server) {
        (Some(proxy), _) => proxy.to_string(),
        (None, Some(server)) => {
            format!("the server '{}' in front of the coordinator", server.replace(char::is_control, ""))
        }
        (None, None) => "a server that is not a coordinator".to_owned(),
    };
    match status.as_u16() {
        413 => format!("{who} rejected the body as too large: raise its limit (of nginx, client_max_body_size)"),
        403 | 407 | 502..=504 if proxy.is_some() => {
            let host = url.host_str().unwrap_or_default();
            format!("{who} does not let requests through to {host}: allow it there, or except {host} with NO_PROXY")
        }
        404 => format!("{who} has no coordinator at {}: check the address", origin(url)),
        _ => format!("{who} rejected a request to {}", origin(url)),
    }
}

/// Reads the whole answer as JSON.
pub(super) async fn json<T: DeserializeOwned>(response: Response) -> Result<T, CallError> {
    let (url, status) = (response.url().clone(), response.status());
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("no content type").to_owned();
    let body = response.bytes().await?;
    serde_json::from_slice(&body).map_err(|error| CallError::Unreadable {
        url: format!("{}{}", origin(&url), url.path()),
        status,
        reason: if content_type.starts_with("application/json") {
            error.to_string()
        } else {
            format!("expected application/json, got {content_type}")
        },
        start: String::from_utf8_lossy(&body).chars().take(SHOWN_CHARS).collect(),
    })
}
