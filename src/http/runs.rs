//! Runs: list, create, snapshot, configuration, history, roster.

use super::AppState;
use super::auth::Admin;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiJson, ApiQuery, Run};
use super::models::names;
use super::{MAX_JSON_BYTES, header_text};
use crate::coordinator::{Origin, SizeLimit, View};
use crate::store::{BlobError, Expanded, Spool};
use crate::wire::{self, BodyFormat, Parameters, Plan, ReadError};
use app::api::{
    ClientView, CreateRun, CreateRunQuery, Encoding, ErrorCode, ListRunsQuery, RoundSummary, RunConfig, RunId, RunLine,
    RunSnapshot,
};
use axum::Json;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use futures::StreamExt;
use serde::Serialize;

/// The open runs, or the archived ones.
#[utoipa::path(
    get, path = "/runs", tag = "read", security(()), params(ListRunsQuery),
    responses((status = 200, body = Vec<RunLine>)),
)]
pub async fn list(
    State(state): State<AppState>,
    ApiQuery(ListRunsQuery { archived }): ApiQuery<ListRunsQuery>,
) -> Json<Vec<RunLine>> {
    let lines = state.coordinator.lines().into_iter();
    Json(lines.filter(|line| line.archived_ms.is_some() == archived).collect())
}

/// Create a run: JSON for a built-in network, or safetensors as the initial parameters of your own.
#[utoipa::path(
    post, path = "/runs", tag = "admin",
    params(
        ("run" = Option<RunId>, Query, description = "the run's name, with safetensors"),
        ("encoding" = Option<Encoding>, Query, description = "of the run's updates, with safetensors"),
        ("Content-Encoding" = Option<String>, Header, description = "`zstd`, of compressed safetensors"),
    ),
    request_body(content((CreateRun = "application/json"), (Vec<u8> = "application/vnd.safetensors"))),
    responses(
        (status = 201, body = RunSnapshot, headers(("Location" = String, description = "the run, relative to this address"))),
        (status = 409)),
)]
pub async fn create(_: Admin, State(state): State<AppState>, mut request: Request) -> ApiResult<impl IntoResponse> {
    let content_type = header_text(request.headers(), header::CONTENT_TYPE)?.unwrap_or_default();
    let (run, origin, config) = if content_type.starts_with("application/json") {
        DefaultBodyLimit::max(MAX_JSON_BYTES).apply(&mut request);
        let ApiJson(CreateRun { run, model, dataset, config }) = ApiJson::from_request(request, &state).await?;
        (run, Origin::BuiltIn { model, dataset }, config)
    } else {
        let encoding = header_text(request.headers(), header::CONTENT_ENCODING)?;
        let format = wire::body_format(Some(content_type), encoding)
            .map_err(|e| ApiError::new(ErrorCode::UnsupportedMediaType, e.to_string()))?;
        let (mut parts, body) = request.into_parts();
        let ApiQuery(CreateRunQuery { run, encoding }) = ApiQuery::from_request_parts(&mut parts, &state).await?;
        let default = RunConfig::default();
        let config = RunConfig { encoding: encoding.unwrap_or(default.encoding), ..default };
        let body = receive(state.coordinator.store().spool().await?, body, state.size_limit).await?;
        let most = state.size_limit.bytes();
        let parameters = tokio::task::spawn_blocking(move || read_parameters(body, format, most))
            .await
            .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
        (run, Origin::Parameters(parameters), config)
    };
    state.coordinator.create_run(run.clone(), origin, config).await?;
    let handle = state.coordinator.run(&run).ok_or_else(|| ApiError::new(ErrorCode::Internal, "the run is gone"))?;
    let location = [(header::LOCATION, format!("runs/{run}"))];
    Ok((StatusCode::CREATED, location, Json(handle.feed().snapshot())))
}

/// The public state of a run. Its ETag is the version of its configuration.
#[utoipa::path(
    get, path = "/runs/{run}", tag = "read", security(()), params(("run" = RunId, Path)),
    responses((status = 200, body = RunSnapshot, headers(("ETag" = String, description = "the version of its configuration")))),
)]
pub async fn snapshot(Run(run): Run) -> impl IntoResponse {
    let told = run.feed().view(View::Snapshot, json);
    ([(header::ETAG, etag(told.config_version))], [JSON], told.bytes)
}

const JSON: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));

fn etag(config_version: u64) -> String {
    format!("\"{config_version}\"")
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    // Our own types have string keys and no failing serializers.
    serde_json::to_vec(value).expect("types of app::api always serialize")
}

/// Change the configuration by JSON merge patch. It applies from the next round; admission, `deadline_s`, `below_quorum`, and the
/// bounds of the ingest gate (`max_update_norm`, `max_norm_ratio`, `max_samples`, `max_strikes`) apply at once.
#[utoipa::path(
    patch, path = "/runs/{run}", tag = "admin",
    params(("run" = RunId, Path), ("If-Match" = String, Header, description = "the ETag of the run, or `*` for any version")),
    request_body = ref("#/components/schemas/RunConfigPatch"),
    responses(
        (status = 200, body = RunSnapshot, headers(("ETag" = String, description = "the version of its configuration"))),
        (status = 412),
        (status = 428)),
)]
pub async fn configure(
    _: Admin,
    Run(run): Run,
    headers: HeaderMap,
    ApiJson(patch): ApiJson<serde_json::Value>,
) -> ApiResult<impl IntoResponse> {
    if !patch.is_object() {
        return Err(ApiError::new(ErrorCode::Invalid, "a patch of the configuration is a JSON object"));
    }
    let known = header_text(&headers, header::IF_MATCH)?.ok_or_else(|| {
        ApiError::new(
            ErrorCode::PreconditionRequired,
            "If-Match is missing: send the ETag that a GET of the run returns",
        )
    })?;
    let current = run.feed().read(|snapshot| snapshot.config_version);
    let expected: u64 = if names(&headers, header::IF_MATCH, &format!("\"{current}\"")) {
        current
    } else {
        known.trim().trim_matches('"').parse().map_err(|_| {
            let message =
                format!("If-Match is {known}, the configuration is at version \"{current}\": read the run again");
            ApiError::new(ErrorCode::PreconditionFailed, message)
        })?
    };
    run.configure(expected, patch).await?;
    let snapshot = run.feed().snapshot();
    Ok(([(header::ETAG, etag(snapshot.config_version))], Json(snapshot)))
}

/// Receives a body into a file.
async fn receive(mut spool: Spool, body: Body, limit: SizeLimit) -> ApiResult<Spool> {
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        limit.check(spool.bytes() + chunk.len() as u64)?;
        spool.append(chunk).await?;
    }
    spool.flush().await?;
    Ok(spool)
}

/// Blocking: reads initial parameters, block by block.
fn read_parameters(body: Spool, format: BodyFormat, max_bytes: u64) -> ApiResult<Parameters> {
    let read = || {
        let zstd = format == BodyFormat::Safetensors { zstd: true };
        let expanded = if zstd { Some(body.expand(max_bytes)?) } else { None };
        let file = expanded.as_ref().map_or_else(|| body.file(), Expanded::file);
        let plan = Plan::of_source(format, &file, file.bytes())?;
        plan.expect_at_most(wire::MAX_VALUES)?;
        plan.load(&file, None)
    };
    read().map_err(|error| match error {
        ReadError::Decode(error) => ApiError::new(ErrorCode::Invalid, error.to_string()),
        ReadError::Source(error) => BlobError::Body(error).into(),
    })
}

/// The rounds that have ended.
#[utoipa::path(
    get, path = "/runs/{run}/rounds", tag = "read", security(()), params(("run" = RunId, Path)),
    responses((status = 200, body = Vec<RoundSummary>)),
)]
pub async fn rounds(Run(run): Run) -> impl IntoResponse {
    ([JSON], run.feed().view(View::Rounds, |snapshot| json(&snapshot.rounds)).bytes)
}

/// The roster.
#[utoipa::path(
    get, path = "/runs/{run}/clients", tag = "read", security(()), params(("run" = RunId, Path)),
    responses((status = 200, body = Vec<ClientView>)),
)]
pub async fn clients(Run(run): Run) -> impl IntoResponse {
    ([JSON], run.feed().view(View::Clients, |snapshot| json(&snapshot.clients)).bytes)
}
