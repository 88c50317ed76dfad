//! Liveness, readiness, and metrics for Prometheus.

use super::AppState;
use super::error::{ApiError, ApiResult};
use app::api::{ClientState, ErrorCode, RunSnapshot};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The database can be written, every run can be read and can continue, and what clients send can be stored.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()), responses((status = 200, content_type = "text/plain", body = String), (status = 503)),
)]
pub async fn readyz(State(state): State<AppState>) -> ApiResult<&'static str> {
    match state.coordinator.not_ready().await {
        Some(reason) => Err(ApiError::new(ErrorCode::Unavailable, reason)),
        None => Ok("ready\n"),
    }
}

/// Metrics of every open run, in Prometheus' text format 0.0.4.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let mut registry = Registry::with_prefix("fedlearn");
    let metrics = Metrics::register(&mut registry);
    for line in state.coordinator.lines().into_iter().filter(|line| line.archived_ms.is_none()) {
        if let Some(run) = state.coordinator.run(&line.run) {
            run.feed().read(|snapshot| metrics.record(snapshot));
        }
    }
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).expect("writing to a String cannot fail");
    ([(header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text)
}

type Labels = Vec<(&'static str, String)>;

/// Made for each scrape out of the snapshots: nothing is counted twice.
#[derive(Default)]
struct Metrics {
    clients: Family<Labels, Gauge>,
    late_updates: Family<Labels, Gauge>,
    strikes: Family<Labels, Gauge>,
    rounds: Family<Labels, Counter>,
    model_version: Family<Labels, Gauge>,
    received: Family<Labels, Counter>,
    test_accuracy: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("clients", "Clients on the roster, by state", metrics.clients.clone());
        let help = "Late updates of the clients on the roster: their round was closed already";
        registry.register("late_updates", help, metrics.late_updates.clone());
        let help = "Rejected updates of the clients on the roster, since each was last admitted";
        registry.register("strikes", help, metrics.strikes.clone());
        registry.register("rounds", "Rounds that have ended", metrics.rounds.clone());
        registry.register("model_version", "Current version of the global model", metrics.model_version.clone());
        registry.register_with_unit("received", "Bytes of all counted updates", Unit::Bytes, metrics.received.clone());
        let help = "Accuracy of the newest evaluated version on the test split, 0 to 1";
        registry.register("test_accuracy", help, metrics.test_accuracy.clone());
        metrics
    }

    fn record(&self, s: &RunSnapshot) {
        let run = vec![("run", s.run.to_string())];
        for state in ClientState::ALL {
            let labels = [run.clone(), vec![("state", state.to_string())]].concat();
            self.clients.get_or_create(&labels).set(s.count(*state) as i64); // of at most 100,000
        }
        let sum = |of_one: fn(&app::api::ClientView) -> u64| s.clients.iter().map(of_one).sum::<u64>();
        let gauge = |family: &Family<Labels, Gauge>, value: u64| {
            family.get_or_create(&run).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.late_updates, sum(|client| client.late_updates));
        gauge(&self.strikes, sum(|client| client.strikes.into()));
        gauge(&self.model_version, s.version);
        self.rounds.get_or_create(&run).inc_by(s.rounds.len() as u64);
        self.received.get_or_create(&run).inc_by(s.rounds.iter().map(|round| round.received_bytes).sum());
        if let Some(accuracy) = s.rounds.iter().rev().find_map(|round| round.test_accuracy) {
            self.test_accuracy.get_or_create(&run).set(accuracy);
        }
    }
}
