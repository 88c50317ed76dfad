//! The update: received, checked and counted.

use super::auth::Client;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiPath, ApiQuery};
use super::{AppState, header_text};
use crate::coordinator::{Announced, Rejection, RunError, Upload};
use crate::digest::Sha256Digest;
use crate::run::Receipt;
use crate::wire;
use app::api::{ClientId, ErrorCode, RunId, UpdateQuery, UpdateReply, UploadView};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The most samples that an update may claim, whatever the configuration of its run.
const MAX_SAMPLES: u64 = 1_000_000_000_000;
/// How long uploads may continue when the coordinator begins to stop.
const LAST_UPLOADS: Duration = Duration::from_secs(5);

/// Send an update. Repeating it is harmless: 202 when it is counted, 200 when the same update was counted before. With
/// `sha256`, an interrupted upload can be resumed at an `offset`.
#[utoipa::path(
    put, path = "/runs/{run}/rounds/{round}/updates/{id}", tag = "client",
    params(("run" = RunId, Path), ("round" = u64, Path), ("id" = ClientId, Path), UpdateQuery,
        ("Content-Encoding" = Option<String>, Header, description = "`zstd`, of compressed safetensors"),
    ),
    request_body(content(
        (Vec<u8> = "application/vnd.safetensors"), (Vec<u8> = "application/vnd.fedlearn.params"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 202, body = UpdateReply), (status = 200, body = UpdateReply), (status = 403), (status = 409),
        (status = 410), (status = 425), (status = 429)),
)]
pub async fn put_update(
    State(state): State<AppState>,
    Client { run, id }: Client,
    ApiPath((_, round, _)): ApiPath<(RunId, u64, ClientId)>,
    query: Result<ApiQuery<UpdateQuery>, ApiError>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<UpdateReply>)> {
    let (query, announced) = match query.and_then(|ApiQuery(query)| announced(query, &headers)) {
        Ok(announced) => announced,
        Err(error) => {
            run.reject_update(&id, round, Rejection::mistake(error.message())).await?;
            return Err(error);
        }
    };
    let shutdown = state.coordinator.shutdown().clone();
    let begun = shutdown.run_until_cancelled(run.begin_upload(&id, round, announced)).await;
    let upload = begun.unwrap_or_else(|| Err(RunError::stopping()))?;
    // In a task of its own: this handler ends when the client disconnects, and what has arrived by then counts or is kept.
    let received = tokio::spawn(async move {
        tokio::select! {
            received = receive(upload, body, query, announced.content_length) => received,
            () = last_moment(&shutdown) => Err(RunError::stopping().into()),
        }
    });
    let committed = received.await.map_err(|e| ApiError::new(ErrorCode::Internal, format!("receiving failed: {e}")))?;
    committed.map(|(status, sha256, bytes)| (status, Json(UpdateReply { round, sha256: sha256.to_string(), bytes })))
}

/// Receives the body of an update and counts it. Returns the SHA-256 and the length of the whole update.
async fn receive(
    mut upload: Upload,
    body: Body,
    query: UpdateQuery,
    content_length: Option<u64>,
) -> ApiResult<(StatusCode, Sha256Digest, u64)> {
    let mut chunks = body.into_data_stream();
    let mut received_bytes = 0;
    while let Some(chunk) = upload.unless_superseded(chunks.next()).await? {
        let chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        received_bytes += chunk.len() as u64;
        upload.write(chunk).await?;
    }
    if content_length.is_some_and(|length| received_bytes < length) {
        return Err(ApiError::new(ErrorCode::BadRequest, "the body was cut off"));
    }
    let committed = upload.commit(query.samples, query.loss).await?;
    let status = match committed.receipt {
        Receipt::Counted => StatusCode::ACCEPTED,
        Receipt::Again => StatusCode::OK,
    };
    Ok((status, committed.sha256, committed.bytes))
}

/// Returns when uploads must end because the coordinator stops.
async fn last_moment(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LAST_UPLOADS).await;
}

/// What is stored of an update: whether it is counted, or else how many bytes of it can be resumed.
#[utoipa::path(
    get, path = "/runs/{run}/rounds/{round}/updates/{id}", tag = "client",
    params(("run" = RunId, Path), ("round" = u64, Path), ("id" = ClientId, Path)),
    responses(
        (status = 200, body = UploadView)),
)]
pub async fn get_update(
    State(state): State<AppState>,
    Client { run, id }: Client,
    ApiPath((_, round, _)): ApiPath<(RunId, u64, ClientId)>,
) -> ApiResult<Json<UploadView>> {
    if let Some(sha256) = state.coordinator.store().contribution(run.run(), round, &id).await? {
        return Ok(Json(UploadView { round, sha256: sha256.to_string(), counted: true, bytes: None }));
    }
    match run.uploads().resumable(&id).filter(|(key, _)| key.round == round) {
        Some((key, bytes)) => {
            Ok(Json(UploadView { round, sha256: key.sha256.to_string(), counted: false, bytes: Some(bytes) }))
        }
        None => {
            let message = format!("no upload from client {id} for round {round}");
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    }
}

/// Reads what a request announces before its body.
///
/// # Errors
/// An update cannot have these samples or this loss, hash and offset do not fit together, or the media type is not supported.
fn announced(query: UpdateQuery, headers: &HeaderMap) -> ApiResult<(UpdateQuery, Announced)> {
    let invalid = |message: String| ApiError::new(ErrorCode::Invalid, message);
    if query.samples == 0 || query.samples > MAX_SAMPLES {
        return Err(invalid(format!("samples must be between 1 and 10^12, got {}", query.samples)));
    }
    if let Some(loss) = query.loss.filter(|loss| !loss.is_finite()) {
        return Err(invalid(format!("loss must be a finite number, got {loss}: leave it out if there is none")));
    }
    let sha256 = query.sha256.as_deref().map(str::parse).transpose().map_err(|e| invalid(format!("sha256: {e}")))?;
    let offset = query.offset.unwrap_or(0);
    if offset > 0 && sha256.is_none() {
        return Err(invalid("offset needs sha256, which identifies the update that is resumed".into()));
    }
    let text = |name| header_text(headers, name);
    let format = wire::body_format(text(header::CONTENT_TYPE)?, text(header::CONTENT_ENCODING)?)
        .map_err(|e| ApiError::new(ErrorCode::UnsupportedMediaType, e.to_string()))?;
    let content_length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    Ok((query, Announced { format, sha256, offset, content_length }))
}
