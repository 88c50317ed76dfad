//! The update: checked as far as headers go, received onto disk and checked as it comes, then folded in and counted.

use super::auth::Client;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiPath, ApiQuery};
use super::{AppState, header_text};
use crate::coordinator::{RunError, RunHandle, Turn, Update, UploadKey};
use crate::round::Reject;
use crate::store::{Sha256Digest, Spool, Store};
use crate::wire;
use app::api::{ClientId, ErrorBody, ErrorCode, RunId, UpdateQuery, UpdateReply, UploadView};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Buf;
use futures::StreamExt;
use std::time::{Duration, Instant};

/// Send an update. Harmless to repeat: 202 when it is taken, 200 when this very one was in already. With `sha256`, one whose
/// connection broke can be gone on with, at an `offset`.
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
    let mut earlier = earlier(&run, store, &id, round).await?;
    let (sha256, offset) = said(&query)?;
    let format = wire::body_format(
        header_text(&headers, header::CONTENT_TYPE)?,
        header_text(&headers, header::CONTENT_ENCODING)?,
    )
    .map_err(|e| ApiError::new(ErrorCode::UnsupportedMediaType, e.to_string()))?;
    let cap = wire::max_body_bytes(run.published().models.schema()).min(state.max_body_bytes);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    within(offset.saturating_add(length.unwrap_or(0)), cap)?;

    let mut turn = None;
    if earlier.is_none() {
        let key = sha256.map(|sha256| UploadKey { round, sha256, format });
        turn = Some(run.published().uploads.turn(&id, key, offset).await?);
        // Whoever had the turn before may have completed it.
        earlier = self::earlier(&run, store, &id, round).await?;
    }
    let mut turn = match (earlier, turn) {
        (None, Some(turn)) => turn,
        (earlier, _) => {
            let spool = receive(store.spool()?, body, cap).await?;
            let same = earlier == Some(spool.digest()) || offset > 0 && earlier == sha256;
            let sha256 = earlier.unwrap_or(spool.digest()).to_string();
            let reply = UpdateReply { round, sha256, bytes: offset + spool.bytes() };
            let other = Reject::AlreadyUpdated { client: id, round };
            return if same { Ok((StatusCode::OK, Json(reply))) } else { Err(other.into()) };
        }
    };
    let here = match offset {
        0 => {
            turn.begin(run.receive(store.spool()?, format));
            0
        }
        offset => turn.go_on(offset)?,
    };
    // By itself: this handler ends when the client hangs up, and what has arrived by then counts or stays.
    let store = store.clone();
    let received = tokio::spawn(async move {
        receive_update(&run, &id, &mut turn, body, Expected { here, length, cap }).await?;
        count(run, store, id, round, query, turn).await
    });
    received.await.map_err(|e| ApiError::new(ErrorCode::Internal, format!("receiving broke down: {e}")))?
}

/// What is known of a request's body.
struct Expected {
    /// How many of its first bytes are here already.
    here: u64,
    /// How many it has, if it says so.
    length: Option<u64>,
    /// How many an update may have.
    cap: u64,
}

/// The update of this client that is in already; none: one is awaited.
async fn earlier(run: &RunHandle, store: &Store, id: &ClientId, round: u64) -> ApiResult<Option<Sha256Digest>> {
    match run.may_update(id, round).await {
        Ok(()) => Ok(None),
        // The first answer may have been lost. Looked up only now: an update is stored before it is counted, so that
        // the one which closed this way in is there to be found.
        Err(RunError::Reject(no @ (Reject::AlreadyUpdated { .. } | Reject::RoundClosed { .. }))) => {
            let earlier = store.contribution(run.run(), round, id).await?;
            Ok(Some(earlier.ok_or(no)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks the rest of an update that is here as a whole, and has it counted.
async fn count(
    run: RunHandle,
    store: Store,
    id: ClientId,
    round: u64,
    query: UpdateQuery,
    mut turn: Turn,
) -> ApiResult<(StatusCode, Json<UpdateReply>)> {
    let body = turn.finish().await?;
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

/// What is here of an update: whether it is counted, or else how much of it has come and can be gone on with.
#[utoipa::path(
    get, path = "/runs/{run}/rounds/{round}/updates/{id}", tag = "client",
    params(("run" = RunId, Path), ("round" = u64, Path), ("id" = ClientId, Path)),
    responses(
        (status = 200, body = UploadView), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    ),
)]
pub async fn get_update(
    State(state): State<AppState>,
    Client { run, id }: Client,
    ApiPath((_, round, _)): ApiPath<(RunId, u64, ClientId)>,
) -> ApiResult<Json<UploadView>> {
    if let Some(sha256) = state.coordinator.store().contribution(run.run(), round, &id).await? {
        return Ok(Json(UploadView { round, sha256: sha256.to_string(), counted: true, bytes: None }));
    }
    match run.published().uploads.of(&id).filter(|(key, _)| key.round == round) {
        Some((key, bytes)) => {
            Ok(Json(UploadView { round, sha256: key.sha256.to_string(), counted: false, bytes: Some(bytes) }))
        }
        None => {
            let message = format!("of an update of client {id} for round {round} nothing is here");
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    }
}

/// What the query says, if it can be so: the whole body's hash, and where this one begins in it.
fn said(query: &UpdateQuery) -> ApiResult<(Option<Sha256Digest>, u64)> {
    let invalid = |message: String| ApiError::new(ErrorCode::Invalid, message);
    if query.samples == 0 || query.samples > 1_000_000_000_000 {
        return Err(invalid(format!("samples is {}, allowed are 1 to 10^12", query.samples)));
    }
    if query.loss.is_some_and(|loss| !loss.is_finite()) {
        return Err(invalid("loss is not finite".into()));
    }
    let sha256 = query.sha256.as_deref().map(str::parse).transpose().map_err(|e| invalid(format!("sha256: {e}")))?;
    match (sha256, query.offset.unwrap_or(0)) {
        (None, 1..) => Err(invalid("offset needs sha256: it tells which update is gone on with".into())),
        said => Ok(said),
    }
}

/// Takes what is left of an update.
async fn receive_update(
    run: &RunHandle,
    id: &ClientId,
    turn: &mut Turn,
    body: Body,
    Expected { mut here, length, cap }: Expected,
) -> ApiResult<()> {
    let mut chunks = body.into_data_stream();
    let mut received = 0;
    let mut heard = Instant::now();
    loop {
        let chunk = tokio::select! {
            biased;
            () = turn.superseded() => return Err(RunError::Superseded.into()),
            chunk = chunks.next() => chunk,
        };
        // What has come by now stays, however this ends.
        let Some(chunk) = chunk else {
            return match length {
                Some(length) if received < length => Err(ApiError::new(ErrorCode::BadRequest, "the body was cut off")),
                _ => Ok(()),
            };
        };
        let mut chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        received += chunk.len() as u64;
        let skipped = here.min(chunk.len() as u64);
        here -= skipped;
        chunk.advance(skipped as usize); // at most the chunk's length
        if let Err(error) = within(turn.bytes() + chunk.len() as u64, cap) {
            turn.discard();
            return Err(error);
        }
        turn.append(chunk).await?;
        if heard.elapsed() > HEARTBEAT {
            run.seen(id).await?;
            heard = Instant::now();
        }
    }
}

/// A client that sends is not offline, however long it takes: it is heard of so often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Takes a body onto disk, up to `cap` bytes.
pub(super) async fn receive(mut spool: Spool, body: Body, cap: u64) -> ApiResult<Spool> {
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        within(spool.bytes() + chunk.len() as u64, cap)?;
        spool.append(chunk).await?;
    }
    spool.flush().await?;
    Ok(spool)
}

fn within(bytes: u64, cap: u64) -> ApiResult<()> {
    if bytes <= cap {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::TooLarge, format!("the body has {bytes} bytes or more, the cap is {cap}")))
}
