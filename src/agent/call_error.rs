//! Why a call did not succeed, in words that name what to do about it.

use super::network_error::{NetworkError, origin, proxy_of};
use app::api::{ErrorBody, ErrorCode};
use reqwest::{Response, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The most of a refusal's body that is read.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// How much is shown of an answer that cannot be read.
const SHOWN_CHARS: usize = 80;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The coordinator refused, or something in front of it.
    #[error("{message} ({status})")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What to act on; `None` if the answer did not come from a coordinator.
        code: Option<ErrorCode>,
        /// For people.
        message: String,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// No answer, or half of one.
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
    /// The file with certificates.
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
    /// The same call may succeed when it is repeated at once; if not, it will not.
    AFewTimes,
    /// Repeating it changes nothing.
    Never,
}

impl CallError {
    /// The coordinator's code.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether to repeat the call; `was_answered`: the coordinator has answered before.
    pub(super) fn repeat(&self, was_answered: bool) -> Repeat {
        match self {
            Self::Refused { code: Some(ErrorCode::Internal), .. } | Self::Unreadable { .. } => Repeat::AFewTimes,
            Self::Refused { status, .. } if status.is_server_error() => Repeat::Always,
            Self::Refused { status, .. } if matches!(status.as_u16(), 408 | 425 | 429) => Repeat::Always,
            Self::Network(error) if error.is_passing() || was_answered => Repeat::Always,
            _ => Repeat::Never,
        }
    }
}

/// A successful answer, or why it is none.
pub(super) async fn answer(mut response: Response) -> Result<Response, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let retry_after = text(header::RETRY_AFTER).and_then(|v| v.parse().ok()).map(Duration::from_secs);
    let (server, url) = (text(header::SERVER), response.url().clone());
    let mut body = Vec::new();
    while body.len() < MAX_REFUSAL_BYTES {
        // Half a refusal is a refusal still.
        let Ok(Some(chunk)) = response.chunk().await else { break };
        body.extend_from_slice(&chunk);
    }
    let (code, message) = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { code, message, problems }) => {
            (Some(code), if problems.is_empty() { message } else { problems.join("; ") })
        }
        Err(_) => (None, foreign(status, server.as_deref(), &url)),
    };
    Err(CallError::Refused { status, code, message, retry_after })
}

/// A refusal that did not come from a coordinator.
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
        404 => format!("{who} knows no coordinator at {}: check the address", origin(url)),
        _ => format!("{who} refused a request to {}", origin(url)),
    }
}

/// The answer as JSON, up to its last byte.
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
