//! The update: checked as far as headers go, received onto disk and checked as it comes, then folded in and counted.

use super::auth::Client;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiPath, ApiQuery};
use super::{AppState, header_text};
use crate::coordinator::{RunError, Update};
use crate::round::Reject;
use crate::store::Spool;
use crate::wire;
use app::api::{ClientId, ErrorBody, ErrorCode, RunId, UpdateQuery, UpdateReply};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;

/// Send an update. Harmless to repeat: 202 when it is taken, 200 when this very one was in already.
#[utoipa::path(
    put, path = "/runs/{run}/rounds/{round}/updates/{id}", tag = "client",
    params(("run" = RunId, Path), ("round" = u64, Path), ("id" = ClientId, Path), UpdateQuery),
    request_body(content(
        (Vec<u8> = "application/vnd.fedlearn.params"), (Vec<u8> = "application/vnd.safetensors"),
    )),
    responses(
        (status = 202, body = UpdateReply), (status = 200, body = UpdateReply), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 408, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 410, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 425, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub async fn put_update(
    State(state): State<AppState>,
    Client { run, id }: Client,
    ApiPath((_, round, _)): ApiPath<(RunId, u64, ClientId)>,
    ApiQuery(query): ApiQuery<UpdateQuery>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<UpdateReply>)> {
    let store = state.coordinator.store();
    // All that headers tell comes before the first byte of the body is asked for.
    let earlier = match run.may_update(&id, round).await {
        Ok(()) => None,
        // The first answer may have been lost. Looked up only now: an update is stored before it is counted, so that
        // the one which closed this way in is there to be found.
        Err(RunError::Reject(no @ (Reject::AlreadyUpdated { .. } | Reject::RoundClosed { .. }))) => {
            let earlier = store.contribution(run.run(), round, &id).await?;
            Some(earlier.ok_or(no)?)
        }
        Err(error) => return Err(error.into()),
    };
    if query.samples == 0 || query.samples > 1_000_000_000_000 {
        let message = format!("samples is {}, allowed are 1 to 10^12", query.samples);
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    if query.loss.is_some_and(|loss| !loss.is_finite()) {
        return Err(ApiError::new(ErrorCode::Invalid, "loss is not finite"));
    }
    let format = wire::body_format(
        header_text(&headers, header::CONTENT_TYPE)?,
        header_text(&headers, header::CONTENT_ENCODING)?,
    )
    .map_err(|e| ApiError::new(ErrorCode::UnsupportedMediaType, e.to_string()))?;
    let cap = wire::max_body_bytes(run.published().models.schema()).min(state.max_body_bytes);
    if let Some(length) = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok()) {
        within(length, cap)?;
    }

    if let Some(earlier) = earlier {
        let spool = receive(store.spool(), body, cap).await?;
        let reply = Json(UpdateReply { round, sha256: spool.digest().to_string(), bytes: spool.bytes() });
        return if earlier == spool.digest() {
            Ok((StatusCode::OK, reply))
        } else {
            Err(Reject::AlreadyUpdated { client: id, round }.into())
        };
    }
    let mut incoming = run.receive(store.spool(), format).await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        within(incoming.bytes() + chunk.len() as u64, cap)?;
        incoming.append(&chunk).await?;
    }
    let body = incoming.finish().await?;
    let digest = body.spool().digest();
    let reply = Json(UpdateReply { round, sha256: digest.to_string(), bytes: body.spool().bytes() });
    let (samples, loss) = (query.samples, query.loss);
    match run.update(Update { client: id.clone(), round, samples, loss, body }).await {
        Ok(()) => Ok((StatusCode::ACCEPTED, reply)),
        // The same update, sent twice at once: the other one was counted first.
        Err(RunError::Reject(Reject::AlreadyUpdated { .. } | Reject::RoundClosed { .. }))
            if store.contribution(run.run(), round, &id).await? == Some(digest) =>
        {
            Ok((StatusCode::OK, reply))
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes a body onto disk, up to `cap` bytes.
pub(super) async fn receive(mut spool: Spool, body: Body, cap: u64) -> ApiResult<Spool> {
    let mut file = spool.create().await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        within(spool.bytes() + chunk.len() as u64, cap)?;
        spool.append(&mut file, &chunk).await?;
    }
    spool.flush(&mut file).await?;
    Ok(spool)
}

fn within(bytes: u64, cap: u64) -> ApiResult<()> {
    if bytes <= cap {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::TooLarge, format!("the body has {bytes} bytes or more, the cap is {cap}")))
}
