//! Who is it: the operator, by admin token or session cookie; or a client, by its own token.

use super::AppState;
use super::error::ApiError;
use super::extract::Run;
use crate::coordinator::RunHandle;
use crate::digest::Sha256Digest;
use app::api::{ClientId, ClientState, ErrorCode};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum_extra::extract::CookieJar;

/// Name of the dashboard's session cookie.
pub const SESSION_COOKIE: &str = "fedlearn_session";

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

/// Whether the request comes from the operator.
///
/// # Errors
/// The store; or the cookie comes with a request that another site has made.
pub async fn is_admin(state: &AppState, headers: &HeaderMap) -> Result<bool, ApiError> {
    let store = state.coordinator.store();
    if let Some(token) = bearer(headers) {
        return Ok(store.is_admin_token(token).await?);
    }
    let jar = CookieJar::from_headers(headers);
    let Some(cookie) = jar.get(SESSION_COOKIE) else { return Ok(false) };
    if !same_origin(headers) {
        let message = "a session's requests are taken from the dashboard's own pages only";
        return Err(ApiError::new(ErrorCode::CrossSite, message));
    }
    Ok(store.is_session(cookie.value(), state.coordinator.clock().now_ms()).await?)
}

/// SameSite=Strict keeps other sites out, but a site is more than an origin: another port of this host is the same
/// site. Browsers name the origin with every request that changes something.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, authority)| authority) == host
}

/// The operator.
pub struct Admin;

impl FromRequestParts<AppState> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        if is_admin(state, &parts.headers).await? {
            Ok(Self)
        } else {
            Err(unauthorized("this needs the admin token, or a dashboard login"))
        }
    }
}

/// The client that the path names, with its token.
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
        let token = bearer(&parts.headers).ok_or_else(|| unauthorized("this needs the client's token"))?;
        // An unknown client is answered as a wrong token is: who is on the roster is nobody else's business.
        match state.coordinator.store().client_token(run.run(), &id).await? {
            Some(kept) if kept == Sha256Digest::of(token) => Ok(Self { run, id }),
            _ => Err(unauthorized("this is not the token of that client")),
        }
    }
}

/// Anybody who may have the model: an admitted client of the run, or the operator.
pub struct ModelReader(pub RunHandle);

impl FromRequestParts<AppState> for ModelReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Run(run) = Run::from_request_parts(parts, state).await?;
        if is_admin(state, &parts.headers).await? {
            return Ok(Self(run));
        }
        let token = bearer(&parts.headers).ok_or_else(|| unauthorized("this needs a client's token"))?;
        let id = state.coordinator.store().has_client_token(run.run(), token).await?;
        let id = id.ok_or_else(|| unauthorized("this is not the token of a client of this run"))?;
        match run.published().read(|snapshot| snapshot.client(&id).map(|c| c.state)) {
            Some(ClientState::Kicked) => {
                Err(ApiError::new(ErrorCode::Kicked, format!("client {id} was removed by the operator")))
            }
            Some(ClientState::Pending) => {
                Err(ApiError::new(ErrorCode::NotAdmitted, format!("client {id} awaits admission")))
            }
            _ => Ok(Self(run)),
        }
    }
}
