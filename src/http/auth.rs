//! Identifies the sender of a request: the operator by admin token or session cookie, a client by its token.

use super::AppState;
use super::error::ApiError;
use super::extract::Run;
use crate::coordinator::RunHandle;
use app::api::{ClientId, ClientState, DASHBOARD_HEADER, ErrorCode};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum_extra::extract::CookieJar;

/// Name of the dashboard's session cookie.
pub const SESSION_COOKIE: &str = "fedlearn_session";

const NEEDS_ADMIN: &str = "this needs the admin token as Authorization: Bearer TOKEN, or a log-in on the dashboard; \
                           `fedlearn token` makes a new one if it was lost";

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

/// Whether the request has the operator's token or an open session. Reads the store each time: another process can make both
/// void.
///
/// # Errors
/// The store; or a change whose session cookie another site may have sent.
pub async fn is_admin(parts: &Parts, state: &AppState) -> Result<bool, ApiError> {
    let store = state.coordinator.store();
    if let Some(token) = bearer(&parts.headers) {
        return Ok(store.is_admin_token(token).await?);
    }
    let jar = CookieJar::from_headers(&parts.headers);
    let Some(cookie) = jar.get(SESSION_COOKIE) else { return Ok(false) };
    if !parts.method.is_safe() && !is_from_dashboard(&parts.headers) {
        let message = format!(
            "a change with the dashboard's session needs the header '{DASHBOARD_HEADER}: 1' from a page of the same origin; \
             programs send the admin token instead: 'Authorization: Bearer TOKEN'"
        );
        return Err(ApiError::new(ErrorCode::CrossSite, message));
    }
    Ok(store.is_session(cookie.value(), state.coordinator.clock().now_ms()).await?)
}

/// Whether the dashboard's own script sent this request.
///
/// The cookie does not show that. `SameSite=Strict` keeps other sites out, but another port of this host is the same site.
/// Comparing `Origin` with `Host` fails behind a proxy, which replaces `Host`. So the script sends a header of its own: a
/// form cannot set one, and a script of another origin must ask first by a CORS preflight, which the coordinator never
/// grants. `Sec-Fetch-Site` is missing over plain HTTP; where the browser sends it, it must agree.
fn is_from_dashboard(headers: &HeaderMap) -> bool {
    let is_same_origin = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin");
    headers.contains_key(DASHBOARD_HEADER) && is_same_origin
}

/// The operator.
pub struct Admin;

impl FromRequestParts<AppState> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        if is_admin(parts, state).await? {
            return Ok(Self);
        }
        Err(unauthorized(NEEDS_ADMIN))
    }
}

/// The client that the path names; its token was right.
pub struct Client {
    /// Its run.
    pub run: RunHandle,
    /// Its id.
    pub id: ClientId,
}

impl FromRequestParts<AppState> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct IdPath {
            id: ClientId,
        }
        let Run(run) = Run::from_request_parts(parts, state).await?;
        let Path(IdPath { id }) = Path::from_request_parts(parts, state).await?;
        let token = bearer(&parts.headers).ok_or_else(|| {
            unauthorized("this needs the token that the client got when it registered, as Authorization: Bearer TOKEN")
        })?;
        // An unknown client gets the same answer as a wrong token: the roster is not public.
        if !run.tokens().is_of(&id, token) {
            return Err(unauthorized("this is not the token of that client"));
        }
        Ok(Self { run, id })
    }
}

/// An admitted client of the run, or the operator: they may fetch the model.
pub struct ModelReader(pub RunHandle);

impl FromRequestParts<AppState> for ModelReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Run(run) = Run::from_request_parts(parts, state).await?;
        let token = bearer(&parts.headers);
        let Some(id) = token.and_then(|token| run.tokens().holder(token)) else {
            return if is_admin(parts, state).await? {
                Ok(Self(run))
            } else if token.is_some() {
                Err(unauthorized("this is neither the token of a client of this run nor the admin token"))
            } else {
                Err(unauthorized("this needs the token of a client of this run, or the admin token"))
            };
        };
        match run.feed().read(|snapshot| snapshot.client(&id).map(|c| c.state)) {
            Some(ClientState::Kicked) => {
                Err(ApiError::new(ErrorCode::Kicked, format!("client {id} was removed by the operator")))
            }
            Some(ClientState::Pending) => {
                Err(ApiError::new(ErrorCode::NotAdmitted, format!("client {id} waits for the operator to admit it")))
            }
            _ => Ok(Self(run)),
        }
    }
}
