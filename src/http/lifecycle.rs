//! The operator archives, renames and deletes runs.

use super::AppState;
use super::auth::Admin;
use super::error::ApiResult;
use super::extract::{ApiJson, ApiPath, ApiQuery};
use app::api::{ErrorBody, ForceQuery, RenameRequest, RunId};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

/// Names a run, also one that cannot be read.
#[derive(serde::Deserialize)]
pub struct RunPath {
    run: RunId,
}

/// Delete a run with its clients, rounds, models and files. Files that another run uses stay.
#[utoipa::path(
    delete, path = "/runs/{run}", tag = "admin", params(("run" = RunId, Path), ForceQuery),
    responses(
        (status = 204, description = "the run is deleted"), (status = 409, body = ErrorBody, description = "clients are at work on a round")),
)]
pub async fn delete(
    _: Admin,
    State(state): State<AppState>,
    ApiPath(RunPath { run }): ApiPath<RunPath>,
    ApiQuery(ForceQuery { force }): ApiQuery<ForceQuery>,
) -> ApiResult<StatusCode> {
    state.coordinator.delete_run(&run, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Archive a run: it can be read, takes no clients, opens no rounds, and is not counted among the open runs. Its clients
/// receive `stop`.
#[utoipa::path(
    post, path = "/runs/{run}/archive", tag = "admin", params(("run" = RunId, Path), ForceQuery),
    responses(
        (status = 204, description = "the run is archived"), (status = 409, body = ErrorBody, description = "clients are at work on a round")),
)]
pub async fn archive(
    _: Admin,
    State(state): State<AppState>,
    ApiPath(RunPath { run }): ApiPath<RunPath>,
    ApiQuery(ForceQuery { force }): ApiQuery<ForceQuery>,
) -> ApiResult<StatusCode> {
    state.coordinator.archive_run(&run, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take a run out of the archive: it resumes where it was.
#[utoipa::path(
    post, path = "/runs/{run}/unarchive", tag = "admin", params(("run" = RunId, Path)),
    responses(
        (status = 204, description = "the run is open"), (status = 409, body = ErrorBody, description = "as many runs are open as --max-runs allows")),
)]
pub async fn unarchive(
    _: Admin,
    State(state): State<AppState>,
    ApiPath(RunPath { run }): ApiPath<RunPath>,
) -> ApiResult<StatusCode> {
    state.coordinator.unarchive_run(&run).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Rename a run. Its clients receive `stop`; they can join under the new name.
#[utoipa::path(
    post, path = "/runs/{run}/rename", tag = "admin", params(("run" = RunId, Path), ForceQuery),
    request_body = RenameRequest,
    responses(
        (status = 204, description = "the run has the new name, which Location gives"), (status = 409, body = ErrorBody, description = "the name is taken, or clients are at work on a round")),
)]
pub async fn rename(
    _: Admin,
    State(state): State<AppState>,
    ApiPath(RunPath { run }): ApiPath<RunPath>,
    ApiQuery(ForceQuery { force }): ApiQuery<ForceQuery>,
    ApiJson(RenameRequest { run: to }): ApiJson<RenameRequest>,
) -> ApiResult<impl IntoResponse> {
    state.coordinator.rename_run(&run, &to, force).await?;
    Ok((StatusCode::NO_CONTENT, [(header::LOCATION, format!("../{to}"))]))
}
