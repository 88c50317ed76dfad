//! Who is it: the operator, by admin token or session cookie; or a client, by its own token.

use super::AppState;
use super::connections::is_known;
use super::error::ApiError;
use super::extract::Run;
use super::guesses::{self, Holder, Peer};
use crate::coordinator::RunHandle;
use crate::digest::Sha256Digest;
use app::api::{ClientId, ClientState, DASHBOARD_HEADER, ErrorCode, RunId};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum_extra::extract::CookieJar;
use std::time::Instant;

/// Name of the dashboard's session cookie.
pub const SESSION_COOKIE: &str = "fedlearn_session";

/// What the operator's requests need.
const NEEDS_ADMIN: &str = "this needs the admin token as Authorization: Bearer TOKEN, or a log-in on the dashboard; \
                           `fedlearn token` makes a new one in place of one that was lost";

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, message)
}

/// What came with the request is wrong: the address has that much less to guess with.
fn was_wrong(state: &AppState, peer: Peer) {
    state.guesses.was_wrong(peer, guesses::TOKEN, Instant::now());
}

/// Whether the request comes from the operator. A token that is not the operator's may be a client's: only the caller can
/// tell whether it is wrong.
///
/// # Errors
/// The store; the session cookie comes with a change that another site may have sent; or the address was wrong too often.
pub async fn is_admin(parts: &Parts, state: &AppState) -> Result<bool, ApiError> {
    let peer = Peer::of(&parts.extensions);
    if let Some(token) = bearer(&parts.headers) {
        return is_operators(state, token, false, peer).await;
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
    let is_session = is_operators(state, cookie.value(), true, peer).await?;
    if !is_session {
        was_wrong(state, peer);
    }
    Ok(is_session)
}

/// Whether that is the admin token, or else an open session. Asked of the store each time: both can be made void, also
/// by another process.
///
/// # Errors
/// The store; or it is not known, and the address was wrong too often.
pub async fn is_operators(state: &AppState, secret: &str, is_session: bool, peer: Peer) -> Result<bool, ApiError> {
    let (store, digest) = (state.coordinator.store(), Sha256Digest::of(secret));
    match state.guesses.holder(&digest) {
        Some(Holder::Client(..)) => return Ok(false),
        Some(Holder::Operator) => {}
        None => state.guesses.may_try(peer, guesses::TOKEN, Instant::now())?,
    }
    let is_right = if is_session {
        store.is_session(secret, state.coordinator.clock().now_ms()).await?
    } else {
        store.is_admin_token(secret).await?
    };
    if is_right {
        state.guesses.was_right(&digest, Holder::Operator);
    }
    Ok(is_right)
}

/// The client of that run whose token this is known to be, if it is on the roster still: who has left is not. Who was
/// kicked is, and is told so.
fn known_client(state: &AppState, run: &RunHandle, token: &Sha256Digest) -> Option<ClientId> {
    match state.guesses.holder(token)? {
        Holder::Client(its_run, id) if its_run == *run.run() => {
            run.published().read(|snapshot| snapshot.client(&id).is_some()).then_some(id)
        }
        _ => None,
    }
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
            is_known(&parts.extensions);
            return Ok(Self);
        }
        if bearer(&parts.headers).is_some() {
            was_wrong(state, Peer::of(&parts.extensions));
        }
        Err(unauthorized(NEEDS_ADMIN))
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
        let token = bearer(&parts.headers).ok_or_else(|| {
            unauthorized("this needs the token that the client got when it registered, as Authorization: Bearer TOKEN")
        })?;
        let digest = Sha256Digest::of(token);
        if known_client(state, &run, &digest).as_ref() == Some(&id) {
            is_known(&parts.extensions);
            return Ok(Self { run, id });
        }
        state.guesses.may_try(Peer::of(&parts.extensions), guesses::TOKEN, Instant::now())?;
        // An unknown client is answered as a wrong token is: who is on the roster is nobody else's business.
        match state.coordinator.store().client_token(run.run(), &id).await? {
            Some(kept) if kept == digest => {
                state.guesses.was_right(&digest, Holder::Client(run.run().clone(), id.clone()));
                is_known(&parts.extensions);
                Ok(Self { run, id })
            }
            _ => {
                was_wrong(state, Peer::of(&parts.extensions));
                Err(unauthorized("this is not the token of that client"))
            }
        }
    }
}

/// Anybody who may have the model: an admitted client of the run, or the operator.
pub struct ModelReader(pub RunHandle);

impl FromRequestParts<AppState> for ModelReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Run(run) = Run::from_request_parts(parts, state).await?;
        let known = bearer(&parts.headers).and_then(|token| known_client(state, &run, &Sha256Digest::of(token)));
        let id = match known {
            Some(id) => id,
            None if is_admin(parts, state).await? => return Ok(Self(run)),
            None => {
                let token = bearer(&parts.headers)
                    .ok_or_else(|| unauthorized("this needs the token of a client of this run, or the admin token"))?;
                client_with(state, run.run(), token, Peer::of(&parts.extensions)).await?
            }
        };
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

/// The client of that run with this token.
async fn client_with(state: &AppState, run: &RunId, token: &str, peer: Peer) -> Result<ClientId, ApiError> {
    state.guesses.may_try(peer, guesses::TOKEN, Instant::now())?;
    match state.coordinator.store().has_client_token(run, token).await? {
        Some(id) => {
            state.guesses.was_right(&Sha256Digest::of(token), Holder::Client(run.clone(), id.clone()));
            Ok(id)
        }
        None => {
            was_wrong(state, peer);
            Err(unauthorized("this is neither the token of a client of this run nor the admin token"))
        }
    }
}
