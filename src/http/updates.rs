//! The update: checked as far as headers go, received onto disk and checked as it comes, then made durable and counted.

use super::auth::Client;
use super::cap::Cap;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiPath, ApiQuery};
use super::{AppState, header_text};
use crate::conductor::{Receipt, Refusal, Update};
use crate::coordinator::{Prior, Rejection, RunError, RunHandle, Turn, UploadKey};
use crate::digest::Sha256Digest;
use crate::round::Reject;
use crate::store::Spool;
use crate::wire::{self, BodyFormat};
use app::api::{ClientId, ErrorCode, RunId, UpdateQuery, UpdateReply, UploadView};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Buf;
use futures::StreamExt;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Send an update. Harmless to repeat: 202 when it is taken, 200 when this very one was in already. With `sha256`, one whose
/// connection broke can be gone on with, at an `offset`.
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
    let shutdown = state.coordinator.shutdown();
    // All that headers tell comes before the first byte of the body is asked for.
    let prior = unless_stopping(shutdown, run.prior(&id, round)).await?;
    let announced =
        query.map_err(Failure::Request).and_then(|ApiQuery(query)| announced(&state, &run, query, &headers));
    let Announced { query, sha256, offset, format, length, cap } = match announced {
        Ok(announced) => announced,
        Err(failure) if matches!(prior, Prior::Awaited { .. }) => return Err(answer(&run, &id, round, failure).await),
        Err(failure) => return Err(failure.into()),
    };

    let place = state.uploads.enter(run.run(), &id)?;
    let awaited = match prior {
        Prior::In(earlier) => Err(earlier),
        Prior::Awaited { .. } => {
            let key = sha256.map(|sha256| UploadKey { round, sha256, format });
            let turn = unless_stopping(shutdown, run.published().uploads.turn(&id, key, offset)).await?;
            // Whoever had the turn before may have completed it.
            match unless_stopping(shutdown, run.prior(&id, round)).await? {
                Prior::Awaited { version } => Ok((turn, version)),
                Prior::In(earlier) => Err(earlier),
            }
        }
    };
    let (mut turn, version) = match awaited {
        Ok(awaited) => awaited,
        Err(earlier) => {
            let spool = receive(run.spool().await?, body, cap).await?;
            let same = earlier == spool.digest() || offset > 0 && Some(earlier) == sha256;
            let reply = UpdateReply { round, sha256: earlier.to_string(), bytes: offset + spool.bytes() };
            let other = Reject::AlreadyUpdated { client: id, round };
            return if same { Ok((StatusCode::OK, Json(reply))) } else { Err(other.into()) };
        }
    };
    let here = match offset {
        0 => {
            turn.begin(run.receive(format, version).await?);
            0
        }
        offset => turn.go_on(offset)?,
    };
    // By itself: this handler ends when the client hangs up, and what has arrived by then counts or stays.
    let shutdown = shutdown.clone();
    let received = tokio::spawn(async move {
        let _place = place;
        let counting = async {
            receive_update(&run, &id, &mut turn, body, Expected { here, length, cap }).await?;
            count(&run, &id, round, query, turn).await.map_err(Failure::Run)
        };
        let counted = tokio::select! {
            counted = counting => counted,
            () = last_moment(&shutdown) => Err(Failure::Run(Refusal::Stopping.into())),
        };
        match counted {
            Ok(reply) => Ok(reply),
            Err(failure) => Err(answer(&run, &id, round, failure).await),
        }
    });
    received.await.map_err(|e| ApiError::new(ErrorCode::Internal, format!("receiving broke down: {e}")))?
}

/// What may have to wait, for the next round or for an earlier request, does not wait while the coordinator stops.
async fn unless_stopping<T>(
    shutdown: &CancellationToken,
    wait: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    shutdown.run_until_cancelled(wait).await.unwrap_or(Err(Refusal::Stopping.into()))
}

/// Uploads that are under way when the coordinator is told to stop have so long to end; then they are told to come back.
const LAST_MOMENT: Duration = Duration::from_secs(5);

async fn last_moment(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LAST_MOMENT).await;
}

/// Why an update was not received or counted.
enum Failure {
    /// The request itself is not acceptable.
    Request(ApiError),
    /// Its body did not come to its end.
    Broken(ApiError),
    /// The run.
    Run(RunError),
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Request(error) | Failure::Broken(error) => error,
            Failure::Run(error) => error.into(),
        }
    }
}

/// The answer to an update that was awaited and failed. Where sending it again changes nothing, the operator sees why.
async fn answer(run: &RunHandle, id: &ClientId, round: u64, failure: Failure) -> ApiError {
    let rejection = match &failure {
        Failure::Request(error) => Some(Rejection::mistake(error.message())),
        Failure::Run(RunError::BadUpdate(rejection)) => Some(rejection.clone()),
        // An update that the gate rejects is shown by the run itself.
        Failure::Run(_) | Failure::Broken(_) => None,
    };
    if let Some(rejection) = rejection {
        // That the run stops, or the client is kicked meanwhile, makes the refusal no other.
        let _ = run.rejected(id, round, rejection).await;
    }
    failure.into()
}

/// What the head of a request tells of an update.
struct Announced {
    query: UpdateQuery,
    /// SHA-256 of the whole body, where the client says it.
    sha256: Option<Sha256Digest>,
    /// Where in the whole body this one begins.
    offset: u64,
    format: BodyFormat,
    /// How many bytes this body has, where the client says it.
    length: Option<u64>,
    cap: Cap,
}

/// Reads what the head tells, if an update may be like that.
fn announced(state: &AppState, run: &RunHandle, query: UpdateQuery, headers: &HeaderMap) -> Result<Announced, Failure> {
    let (sha256, offset) = said(&query)?;
    let text = |name| header_text(headers, name).map_err(Failure::Request);
    let format = wire::body_format(text(header::CONTENT_TYPE)?, text(header::CONTENT_ENCODING)?)
        .map_err(|e| Failure::Request(ApiError::new(ErrorCode::UnsupportedMediaType, e.to_string())))?;
    let cap = state.upload_cap.of_model(wire::max_body_bytes(run.published().models.schema()));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    cap.check(offset.saturating_add(length.unwrap_or(0))).map_err(Failure::Request)?;
    Ok(Announced { query, sha256, offset, format, length, cap })
}

/// What is known of a request's body.
struct Expected {
    /// How many of its first bytes are here already.
    here: u64,
    /// How many it has, if it says so.
    length: Option<u64>,
    /// How many an update may have.
    cap: Cap,
}

/// Checks the rest of an update that is here as a whole, makes it durable, and has it counted.
async fn count(
    run: &RunHandle,
    id: &ClientId,
    round: u64,
    query: UpdateQuery,
    mut turn: Turn,
) -> Result<(StatusCode, Json<UpdateReply>), RunError> {
    let checked = run.finish(&mut turn).await?;
    let (bytes, sha256) = (checked.bytes(), checked.digest());
    let UpdateQuery { samples, loss, .. } = query;
    let update =
        Update { client: id.clone(), round, samples, loss, norm: checked.norm, bytes, sha256, body: checked.body };
    let status = match run.update(update).await? {
        Receipt::Counted => StatusCode::ACCEPTED,
        Receipt::Again => StatusCode::OK, // sent twice at once: the other one was counted first
    };
    Ok((status, Json(UpdateReply { round, sha256: sha256.to_string(), bytes })))
}

/// What is here of an update: whether it is counted, or else how much of it has come and can be gone on with.
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
    match run.published().uploads.of(&id).filter(|(key, _)| key.round == round) {
        Some((key, bytes)) => {
            Ok(Json(UploadView { round, sha256: key.sha256.to_string(), counted: false, bytes: Some(bytes) }))
        }
        None => {
            let message = format!("no upload from client {id} for round {round}");
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    }
}

/// What the query says, if it can be so: the whole body's hash, and where this one begins in it.
///
/// # Errors
/// No update of these samples and this loss is acceptable, or hash and offset do not go together.
fn said(query: &UpdateQuery) -> Result<(Option<Sha256Digest>, u64), Failure> {
    let invalid = |message: String| Failure::Request(ApiError::new(ErrorCode::Invalid, message));
    if query.samples == 0 || query.samples > 1_000_000_000_000 {
        return Err(invalid(format!("samples must be between 1 and 10^12, got {}", query.samples)));
    }
    if let Some(loss) = query.loss.filter(|loss| !loss.is_finite()) {
        return Err(invalid(format!("loss must be a finite number, got {loss}: leave it out if there is none")));
    }
    let sha256 = query.sha256.as_deref().map(str::parse).transpose().map_err(|e| invalid(format!("sha256: {e}")))?;
    match (sha256, query.offset.unwrap_or(0)) {
        (None, 1..) => Err(invalid("offset needs sha256, which tells the update that is resumed".into())),
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
) -> Result<(), Failure> {
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
                Some(length) if received < length => {
                    Err(Failure::Broken(ApiError::new(ErrorCode::BadRequest, "the body was cut off")))
                }
                _ => Ok(()),
            };
        };
        let mut chunk = chunk.map_err(|e| Failure::Broken(ApiError::from_body(&e)))?;
        received += chunk.len() as u64;
        let skipped = here.min(chunk.len() as u64);
        here -= skipped;
        chunk.advance(skipped as usize); // at most the chunk's length
        if let Err(error) = cap.check(turn.bytes() + chunk.len() as u64) {
            turn.discard();
            return Err(Failure::Request(error));
        }
        run.noted(turn.append(chunk).await)?;
        if heard.elapsed() > HEARTBEAT {
            run.seen(id).await?;
            heard = Instant::now();
        }
    }
}

/// A client that sends is not offline, however long it takes: it is heard of so often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Takes a body onto disk, if it is within the cap.
pub(super) async fn receive(mut spool: Spool, body: Body, cap: Cap) -> ApiResult<Spool> {
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| ApiError::from_body(&e))?;
        cap.check(spool.bytes() + chunk.len() as u64)?;
        spool.append(chunk).await?;
    }
    spool.flush().await?;
    Ok(spool)
}
