//! The dashboard, rendered by Leptos with the coordinator's state as context, and its files.

use super::AppState;
use super::auth::is_admin;
use super::connections::at_most;
use app::ServerContext;
use app::api::RunSnapshot;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use leptos::config::{Env, LeptosOptions, ReloadWSProtocol};
use leptos::nonce::use_nonce;
use leptos::prelude::{provide_context, use_context};
use leptos_axum::{LeptosRoutes, ResponseOptions, generate_route_list};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tower_http::set_header::SetResponseHeaderLayer;

/// Pages that are rendered or sent at once, not counting the operator's and the log-in page.
const MAX_PAGES: usize = 64;
/// Clients in a page: it has some 400 kB then instead of 200 MB. A browser gets the others with the events a moment later.
const MAX_CLIENTS: usize = 200;

#[derive(Debug, Clone, Copy)]
struct IsAdmin(bool);

/// The places of the page's files as cargo-leptos makes them, or as the variables of `cargo leptos watch` set them.
pub fn options(site_root: &Path) -> LeptosOptions {
    let is_watched = std::env::var_os("LEPTOS_WATCH").is_some();
    let reload_port = std::env::var("LEPTOS_RELOAD_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3001);
    LeptosOptions::builder()
        .output_name("fedlearn")
        .site_root(site_root.display().to_string())
        .site_pkg_dir("pkg")
        .env(if is_watched { Env::DEV } else { Env::PROD })
        .reload_port(reload_port)
        .reload_ws_protocol(ReloadWSProtocol::WS)
        .build()
}

/// A page may load only files of this coordinator, no script without the page's nonce, and may not be in a frame.
///
/// WebAssembly needs a permission of its own, which does not extend to JavaScript's `eval`. `base-uri` is not `'none'`
/// since the page names its own base, see [`ServerContext`]. `cargo leptos watch` reloads by a WebSocket of another port.
fn content_security_policy(nonce: &str, options: &LeptosOptions) -> String {
    let watched = if options.env == Env::DEV { " ws:" } else { "" };
    format!(
        "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{watched}; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )
}

/// The routes of the page and its files.
pub fn routes(state: AppState) -> Router {
    let context = {
        let state = state.clone();
        move || {
            let parts = use_context::<axum::http::request::Parts>();
            let admin = parts.as_ref().and_then(|parts| parts.extensions.get::<IsAdmin>().copied());
            let path = parts.as_ref().map_or("/", |parts| parts.uri.path());
            let root = match path.matches('/').count() {
                0 | 1 => "./".to_owned(),
                slashes => "../".repeat(slashes - 1),
            };
            let host = parts.as_ref().and_then(|parts| parts.headers.get(header::HOST)?.to_str().ok());
            let response = use_context::<ResponseOptions>();
            // Both are missing if a file is sent, which needs none.
            if let (Some(response), Some(nonce)) = (&response, use_nonce())
                && let Ok(policy) = HeaderValue::from_str(&content_security_policy(&nonce, &state.leptos))
            {
                response.insert_header(header::CONTENT_SECURITY_POLICY, policy);
            }
            let (one, all) = (state.coordinator.clone(), state.coordinator.clone());
            provide_context(ServerContext {
                snapshot: Arc::new(move |run| one.run(run).map(|handle| handle.feed().read(for_page))),
                runs: Arc::new(move || all.lines()),
                set_status: Arc::new(move |status| {
                    if let (Some(response), Ok(status)) = (&response, StatusCode::from_u16(status)) {
                        response.set_status(status);
                    }
                }),
                admin: admin.is_some_and(|IsAdmin(admin)| admin),
                // Shown as a line to copy. Behind a proxy the browser's script replaces it.
                origin: format!("http://{}", host.unwrap_or("localhost")),
                root,
                now_ms: state.coordinator.clock().now_ms(),
            });
        }
    };
    let shell = {
        let options = state.leptos.clone();
        move || app::shell(options.clone())
    };
    let pages = Arc::new(Semaphore::new(MAX_PAGES));
    let limited = middleware::from_fn(move |request, next| limit(pages.clone(), request, next));
    Router::new()
        .leptos_routes_with_context(&state, generate_route_list(app::App), context.clone(), shell)
        .route_layer(limited)
        .fallback(leptos_axum::file_and_error_handler_with_context::<AppState, _>(context, app::shell))
        .layer(middleware::from_fn_with_state(state.clone(), mark_admin))
        // A cached page would show an old round. Files are requested again too, and mostly answered with 304.
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .with_state(state)
}

/// The snapshot that the page is rendered from. The browser hydrates it with the same one, or the two would not match.
fn for_page(run: &RunSnapshot) -> RunSnapshot {
    RunSnapshot {
        seq: run.seq,
        run: run.run.clone(),
        created_ms: run.created_ms,
        archived_ms: run.archived_ms,
        model: run.model.clone(),
        parameters: run.parameters,
        dataset: run.dataset,
        config: run.config.clone(),
        config_version: run.config_version,
        phase: run.phase,
        waiting: run.waiting.clone(),
        autorun: run.autorun,
        version: run.version,
        best: run.best,
        // Its counts are the lengths of its lists, so a shortened one would be wrong. `waiting` describes the round in any case.
        round: run.round.as_ref().filter(|round| round.cohort.len() <= MAX_CLIENTS).cloned(),
        clients: run.clients.iter().take(MAX_CLIENTS).cloned().collect(),
        rounds: run.rounds.clone(),
    }
}

async fn mark_admin(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    // If the store does not answer, the page is shown without controls.
    let admin = is_admin(&parts, &state).await.unwrap_or(false);
    parts.extensions.insert(IsAdmin(admin));
    next.run(Request::from_parts(parts, body)).await
}

async fn limit(pages: Arc<Semaphore>, request: Request, next: Next) -> Response {
    let is_admin = matches!(request.extensions().get(), Some(IsAdmin(true)));
    // The log-in page is small and always available.
    if is_admin || request.uri().path() == "/login" {
        return next.run(request).await;
    }
    at_most(pages, || format!("{MAX_PAGES} pages are being sent, which is the most at once"), request, next).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::http::connections::{Limits, serve};
    use axum::body::Body;
    use axum::routing::get;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn the_number_of_pages_sent_at_once_is_limited_except_for_the_operators() {
        // Given pages without an end, and a limit of one,
        let (pages, stop) = (Arc::new(Semaphore::new(1)), CancellationToken::new());
        let page = || async { Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()) };
        let limited = middleware::from_fn(move |mut request: Request, next| {
            let is_admin = request.uri().query() == Some("admin");
            request.extensions_mut().insert(IsAdmin(is_admin));
            limit(pages.clone(), request, next)
        });
        let router = Router::new().route("/", get(page)).route("/login", get(page)).route_layer(limited);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let limits = Limits { connections: 10, patience: Duration::from_secs(30), trusted_proxies: Vec::new() };
        let serving = tokio::spawn(serve(listener, router, limits, stop.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ask = async |query| reqwest::get(format!("{origin}/{query}")).await.unwrap();
        let first = ask("").await;
        assert_eq!(first.status(), 200);
        // then the next one gets 429, unless it is the operator's or the log-in page.
        let second = ask("").await;
        assert_eq!((second.status().as_u16(), second.headers()["retry-after"].to_str().unwrap()), (429, "1"));
        let (operators, login) = (ask("?admin").await, ask("login").await);
        assert_eq!((operators.status(), login.status()), (StatusCode::OK, StatusCode::OK));
        drop((first, second, operators, login));
        stop.cancel();
        serving.await.unwrap();
    }
}
