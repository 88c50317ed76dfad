//! HTTP: the REST resources, the events, the page.
//!
//! Decides permissions, status codes, limits of size and time. Leaves the rules of rounds and storage to the coordinator: each
//! handler parses the request, calls the coordinator, and answers.

mod auth;
mod auth_limiter;
mod clients;
mod connections;
mod control;
mod description;
mod error;
mod events;
mod export;
mod extract;
mod health;
mod lifecycle;
mod linger;
mod models;
mod page;
mod proxies;
mod runs;
mod server;
mod session;
mod updates;

pub use error::{ApiError, ApiResult};
pub use server::{ServeError, Server};

use auth_limiter::AuthLimiter;
use page::options as leptos_options;

use crate::config::BasePath;
use crate::coordinator::{Coordinator, SizeLimit};
use crate::digest::Sha256Digest;
use app::api::ErrorCode;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRef, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use futures::{StreamExt, stream};
use leptos::config::LeptosOptions;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const MAX_JSON_BYTES: usize = 64 << 10;
/// The longest time for a JSON body to arrive. Anybody may send one to register, and it occupies a connection.
const JSON_TIMEOUT: Duration = Duration::from_secs(30);
/// The Content-Security-Policy of all answers other than pages.
const NO_CONTENT: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The state that all handlers share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The runs.
    pub coordinator: Arc<Coordinator>,
    /// Hash of the join secret, if one is required.
    pub join_secret: Option<Sha256Digest>,
    /// The largest body accepted, whatever the model.
    pub size_limit: SizeLimit,
    /// Limits join secrets and log-ins by address.
    pub auth_limiter: Arc<AuthLimiter>,
    /// The path under which a proxy serves the coordinator, if set.
    pub base_path: BasePath,
    /// Location of the page's files.
    pub leptos: LeptosOptions,
}

impl FromRef<AppState> for LeptosOptions {
    fn from_ref(state: &AppState) -> Self {
        state.leptos.clone()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "fedlearn",
        description = "Federated learning over plain REST. Clients: register, then repeat: task, model, status, update.",
        version = env!("CARGO_PKG_VERSION"),
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "client", description = "With the client's token"),
        (name = "admin", description = "With the admin token, or the dashboard's session cookie"),
        (name = "read", description = "Without a token"),
        (name = "health", description = "For monitoring"),
    ),
    components(schemas(app::api::ErrorBody)),
    servers((url = "..", description = "the coordinator's root, seen from this document")),
)]
struct ApiDoc;

/// The REST resources, with their description. A JSON body must arrive within `body_timeout`, and within 30 s. At most `watchers`
/// streams of events are open at once: each occupies a connection, and anybody may open one.
fn documented_routes(body_timeout: Duration, watchers: usize) -> OpenApiRouter<AppState> {
    let most = watchers.clamp(1, Semaphore::MAX_PERMITS);
    let watchers = Arc::new(Semaphore::new(most));
    let watched = middleware::from_fn(move |request, next| {
        let too_many = move || format!("{most} streams of events are open, which is the most at once");
        connections::at_most(watchers.clone(), too_many, request, next)
    });
    let control = OpenApiRouter::new()
        // the client plane
        .routes(routes!(runs::clients, clients::register))
        .routes(routes!(clients::task))
        .routes(routes!(clients::status))
        .routes(routes!(clients::change, clients::leave))
        .routes(routes!(models::get_model))
        // the admin plane
        .routes(routes!(runs::snapshot, runs::configure, lifecycle::delete))
        .routes(routes!(lifecycle::archive))
        .routes(routes!(lifecycle::unarchive))
        .routes(routes!(lifecycle::rename))
        .routes(routes!(control::start_autorun, control::stop_autorun))
        .routes(routes!(runs::rounds, control::start_round))
        .routes(routes!(control::aggregate_now))
        .routes(routes!(control::cancel_round))
        .routes(routes!(control::admit))
        .routes(routes!(control::kick))
        .routes(routes!(session::log_in, session::log_out))
        // open to readers
        .merge(OpenApiRouter::new().routes(routes!(events::events)).layer(watched))
        .routes(routes!(export::export))
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(MapRequestBodyLayer::new(move |body| within(JSON_TIMEOUT.min(body_timeout), body)));
    // These check the size themselves, because their limits depend on the model.
    let bodies = OpenApiRouter::new()
        .routes(routes!(updates::put_update, updates::get_update))
        .routes(routes!(runs::list, runs::create))
        .layer(DefaultBodyLimit::disable())
        .layer(MapRequestBodyLayer::new(linger::linger));
    OpenApiRouter::with_openapi(ApiDoc::openapi())
        .nest("/api/v1", control.merge(bodies))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// All routes of the coordinator. A body must arrive within `body_timeout`.
pub fn router(state: AppState, body_timeout: Duration, watchers: usize) -> Router {
    let (api, document) = documented_routes(body_timeout, watchers).split_for_parts();
    let document = description::completed(document);
    let fixed = |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    let api = api
        .route("/api/openapi.json", axum::routing::get(move || async move { Json(document) }))
        .route("/api", axum::routing::any(no_such_address))
        .route("/api/", axum::routing::any(no_such_address))
        .route("/api/{*rest}", axum::routing::any(no_such_address))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state.clone())
        // A cache would serve an old round.
        .layer(fixed(header::CACHE_CONTROL, "no-store"));

    api.merge(page::routes(state).layer(CompressionLayer::new()))
        .layer(MapRequestBodyLayer::new(move |body| within(body_timeout, body)))
        .layer(middleware::from_fn(with_path))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        // No page of another origin may load any of this as an image or a script.
        .layer(fixed(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"))
        // Pages have their own policy; other answers load nothing.
        .layer(fixed(header::CONTENT_SECURITY_POLICY, NO_CONTENT))
        // The one place that logs requests. Paths hold no secrets, and queries are left out.
        .layer(TraceLayer::new_for_http().make_span_with(
            |request: &Request| tracing::debug_span!("http", method = %request.method(), path = request.uri().path()),
        ))
}

/// A body that fails if its last byte has not arrived within `limit`.
fn within(limit: Duration, body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let deadline = tokio::time::Instant::now() + limit;
    Body::from_stream(stream::unfold(Some(body.into_data_stream()), move |chunks| async move {
        let mut chunks = chunks?;
        match tokio::time::timeout_at(deadline, chunks.next()).await {
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
            Ok(Some(Err(error))) => Some((Err(axum::BoxError::from(error)), None)),
            Ok(None) => None,
            Err(elapsed) => Some((Err(elapsed.into()), None)),
        }
    }))
}

/// Rejects a request target without a path, with which the page's router panics.
async fn with_path(request: Request, next: Next) -> Response {
    if request.uri().path().starts_with('/') {
        return next.run(request).await;
    }
    let message = format!("'{}' is not a path", request.uri());
    ApiError::new(ErrorCode::BadRequest, message).into_response()
}

async fn no_such_address() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "this address does not exist; see /api/openapi.json")
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "this address does not have that method; see /api/openapi.json")
}

/// A header as text, if the request has it.
fn header_text(headers: &HeaderMap, name: HeaderName) -> ApiResult<Option<&str>> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let text = value.to_str();
    text.map(Some).map_err(|_| ApiError::new(ErrorCode::BadRequest, format!("the header {name} is not text")))
}
