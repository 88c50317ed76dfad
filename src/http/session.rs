//! Log-in and log-out of the dashboard.

use super::AppState;
use super::auth::{Admin, SESSION_COOKIE};
use super::error::{ApiError, ApiResult};
use super::proxies::Peer;
use app::api::{ErrorCode, LoginRequest};
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::{Cookie, SameSite};

/// The longest session; the cookie ends with the browser.
const SESSION_DAYS: u64 = 30;

/// Log in with the admin token. The answer to JSON is 204; to an HTML form, which needs no JavaScript, 303.
#[utoipa::path(
    post, path = "/session", tag = "admin", security(()),
    request_body(content((LoginRequest = "application/json"), (LoginRequest = "application/x-www-form-urlencoded"))),
    responses(
        (status = 204, description = "to JSON: the session cookie is set", headers(("Set-Cookie" = String, description = "the session"))),
        (status = 303, description = "to a form: to the dashboard, or back to the form where the token is wrong"),
        (status = 401), (status = 415), (status = 429), (status = 500), (status = 503)),
)]
pub async fn log_in(
    State(state): State<AppState>,
    peer: Peer,
    jar: CookieJar,
    request: Request,
) -> ApiResult<Response> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_form = content_type.starts_with("application/x-www-form-urlencoded");
    let read = if is_form {
        axum::Form::from_request(request, &state).await.map(|form| form.0).map_err(ApiError::from)
    } else {
        axum::Json::from_request(request, &state).await.map(|json| json.0).map_err(ApiError::from)
    };
    let LoginRequest { token } = read.map_err(|error| {
        error.with_message(
            "a log-in has only the field 'token', as application/json or application/x-www-form-urlencoded",
        )
    })?;
    state.auth_limiter.count_try(peer)?;
    if !state.coordinator.store().is_admin_token(token.trim()).await? {
        tracing::warn!("log-in rejected: wrong admin token");
        if is_form {
            return Ok(Redirect::to("../../login?refused").into_response());
        }
        return Err(ApiError::new(
            ErrorCode::Unauthorized,
            "this is not the admin token: it was shown at the first start; `fedlearn token` makes a new one",
        ));
    }
    let now = state.coordinator.clock().now_ms();
    let session = state.coordinator.store().open_session(now, now + SESSION_DAYS * 86_400_000).await?;
    let jar = jar.add(session_cookie(session.reveal().to_owned(), &state));
    // Relative: a proxy may serve the coordinator under a path.
    Ok(if is_form {
        (jar, Redirect::to("../../")).into_response()
    } else {
        (jar, StatusCode::NO_CONTENT).into_response()
    })
}

/// Log out.
#[utoipa::path(
    delete, path = "/session", tag = "admin",
    responses((status = 204, description = "the session has ended")),
)]
pub async fn log_out(_: Admin, State(state): State<AppState>, jar: CookieJar) -> ApiResult<impl IntoResponse> {
    if let Some(cookie) = jar.get(SESSION_COOKIE) {
        state.coordinator.store().close_session(cookie.value()).await?;
    }
    Ok((jar.remove(session_cookie(String::new(), &state)), StatusCode::NO_CONTENT))
}

fn session_cookie(value: String, state: &AppState) -> Cookie<'static> {
    let path = match state.base_path.as_str() {
        "" => "/",
        prefix => prefix,
    };
    // Not `Secure`: the coordinator itself always speaks plain HTTP, also behind a TLS proxy.
    Cookie::build((SESSION_COOKIE, value)).http_only(true).same_site(SameSite::Strict).path(path.to_owned()).build()
}
