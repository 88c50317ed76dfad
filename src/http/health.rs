//! For those who operate the coordinator: liveness, readiness, Prometheus.

use super::AppState;
use super::error::{ApiError, ApiResult};
use crate::store::StoreError;
use app::api::{ClientState, ErrorCode, RunSnapshot};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::fmt::Write;
use std::sync::Arc;

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The database can be written, no run is stuck or unreadable, and what is sent to them can be stored.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()), responses((status = 200, content_type = "text/plain", body = String), (status = 503)),
)]
pub async fn readyz(State(state): State<AppState>) -> ApiResult<&'static str> {
    let unwritable = |error: Arc<StoreError>| ApiError::new(ErrorCode::Unavailable, error.to_string());
    state.coordinator.store().ping().await.map_err(unwritable)?;
    if let Some(trouble) = state.coordinator.trouble() {
        return Err(ApiError::new(ErrorCode::Unavailable, trouble));
    }
    Ok("ready\n")
}

/// Gauges of every open run, in Prometheus' text format 0.0.4.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let lines = state.coordinator.lines().into_iter().filter(|line| line.archived_ms.is_none());
    let runs: Vec<_> = lines.filter_map(|line| state.coordinator.run(&line.run)).collect();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&RunSnapshot) -> Vec<(String, f64)>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP fedlearn_{name} {help}\n# TYPE fedlearn_{name} gauge");
        for run in &runs {
            for (labels, value) in run.published().read(value) {
                let _ = writeln!(text, "fedlearn_{name}{{run=\"{}\"{labels}}} {value}", run.run());
            }
        }
    };
    let plain = |value: f64| vec![(String::new(), value)];
    gauge("clients", "Clients on the roster, by state.", &|s| {
        ClientState::ALL.iter().map(|state| (format!(",state=\"{state}\""), s.count(*state) as f64)).collect()
    });
    gauge("late_updates", "Updates of the roster's clients that came when their round was closed.", &|s| {
        plain(s.clients.iter().map(|c| c.late_updates).sum::<u64>() as f64)
    });
    gauge("strikes", "Updates of the roster's clients that were refused, since each was last admitted.", &|s| {
        plain(s.clients.iter().map(|c| u64::from(c.strikes)).sum::<u64>() as f64)
    });
    gauge("rounds", "Rounds that are over.", &|s| plain(s.rounds.len() as f64));
    gauge("model_version", "Current global version.", &|s| plain(s.version as f64));
    gauge("received_bytes", "Bytes of all counted updates.", &|s| {
        plain(s.rounds.iter().map(|r| r.received_bytes).sum::<u64>() as f64)
    });
    gauge("test_accuracy", "Accuracy of the newest evaluated version: 0 to 1.", &|s| {
        s.rounds.iter().rev().find_map(|r| r.test_accuracy).map(plain).unwrap_or_default()
    });
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
