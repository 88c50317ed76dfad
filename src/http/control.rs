//! The operator's controls: rounds and clients.

use super::auth::Admin;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiJson, ApiPath, Run};
use crate::round::Order;
use app::api::{Autorun, ClientId, ErrorCode, KickRequest, RunId};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;

/// Run that many rounds, one after the other.
#[utoipa::path(
    post, path = "/runs/{run}/autorun", tag = "admin", params(("run" = RunId, Path)), request_body = Autorun,
    responses((status = 202, description = "they follow")),
)]
pub async fn start_autorun(_: Admin, Run(run): Run, ApiJson(wish): ApiJson<Autorun>) -> ApiResult<StatusCode> {
    if !(1..=Autorun::MAX_ROUNDS).contains(&wish.rounds) {
        let message = format!("rounds must be between 1 and {}, got {}", Autorun::MAX_ROUNDS, wish.rounds);
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    run.order(Order::StartAutorun { rounds: wish.rounds }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Stop after the current round.
#[utoipa::path(
    delete, path = "/runs/{run}/autorun", tag = "admin", params(("run" = RunId, Path)),
    responses((status = 202, description = "the current round is the last")),
)]
pub async fn stop_autorun(_: Admin, Run(run): Run) -> ApiResult<StatusCode> {
    run.order(Order::StopAutorun).await?;
    Ok(StatusCode::ACCEPTED)
}

/// One round, now.
#[utoipa::path(
    post, path = "/runs/{run}/rounds", tag = "admin", params(("run" = RunId, Path)),
    responses((status = 202, description = "it is open"), (status = 409)),
)]
pub async fn start_round(_: Admin, Run(run): Run) -> ApiResult<StatusCode> {
    run.order(Order::StartRound).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Close the open round with the updates received so far.
#[utoipa::path(
    post, path = "/runs/{run}/rounds/current/aggregate", tag = "admin", params(("run" = RunId, Path)),
    responses((status = 202, description = "it is closed"), (status = 409)),
)]
pub async fn aggregate_now(_: Admin, Run(run): Run) -> ApiResult<StatusCode> {
    run.order(Order::Aggregate).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Stop now: the open round is void, its clients stop training, and no other round follows.
#[utoipa::path(
    delete, path = "/runs/{run}/rounds/current", tag = "admin", params(("run" = RunId, Path)),
    responses((status = 202, description = "it is void"), (status = 409)),
)]
pub async fn cancel_round(_: Admin, Run(run): Run) -> ApiResult<StatusCode> {
    run.order(Order::Cancel).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Admit a pending or kicked client.
#[utoipa::path(
    post, path = "/runs/{run}/clients/{id}/admit", tag = "admin", params(("run" = RunId, Path), ("id" = ClientId, Path)),
    responses((status = 202, description = "it is admitted")),
)]
pub async fn admit(_: Admin, Run(run): Run, ApiPath((_, client)): ApiPath<(RunId, ClientId)>) -> ApiResult<StatusCode> {
    run.order(Order::Admit { client }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Remove a client; with `ban`, reject its name from now on. An empty body is no ban.
#[utoipa::path(
    post, path = "/runs/{run}/clients/{id}/kick", tag = "admin", params(("run" = RunId, Path), ("id" = ClientId, Path)),
    request_body = Option<KickRequest>,
    responses((status = 202, description = "it is removed")),
)]
pub async fn kick(
    _: Admin,
    Run(run): Run,
    ApiPath((_, client)): ApiPath<(RunId, ClientId)>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<StatusCode> {
    let body = body?;
    let KickRequest { ban } = if body.is_empty() {
        KickRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|e| ApiError::new(ErrorCode::Invalid, e.to_string()))?
    };
    run.order(Order::Kick { client, ban }).await?;
    Ok(StatusCode::ACCEPTED)
}
