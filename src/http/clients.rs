//! The client plane without models and updates: register, ask for a task, report, leave.

use super::AppState;
use super::auth::{Client, is_admin};
use super::error::{ApiError, ApiResult};
use super::extract::{ApiJson, ApiPath, ApiQuery, Run};
use super::proxies::Peer;
use crate::digest::Sha256Digest;
use crate::round::Order;
use crate::store::Token;
use app::api::{
    ClientId, ClientPatch, ErrorCode, RegisterReply, RegisterRequest, RunId, StatusReply, StatusReport, Task,
};
use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use std::time::Duration;

/// The longest wait of a long-poll. A request is a sign of life, and a client must not be `offline` while it waits.
const MAX_WAIT_S: u32 = 30;
/// Longer reports of an error are cut.
const MAX_ERROR_CHARS: usize = 500;

/// Register: the answer has an id and a token, which is never shown again.
#[utoipa::path(
    post, path = "/runs/{run}/clients", tag = "client", security(()), params(("run" = RunId, Path)),
    request_body = RegisterRequest,
    responses(
        (status = 201, body = RegisterReply), (status = 403), (status = 429)),
)]
pub async fn register(
    State(state): State<AppState>,
    Run(run): Run,
    peer: Peer,
    ApiJson(request): ApiJson<RegisterRequest>,
) -> ApiResult<(StatusCode, Json<RegisterReply>)> {
    if let Some(wanted) = &state.join_secret {
        state.auth_limiter.count_try(peer)?;
        let given = Sha256Digest::of(request.join_secret.as_deref().unwrap_or_default());
        if given != *wanted {
            return Err(ApiError::new(
                ErrorCode::WrongSecret,
                "the join secret is missing or wrong: ask the operator for it, and give it as join_secret (`fedlearn join`: \
             FEDLEARN_JOIN_SECRET or --join-secret)",
            ));
        }
    }
    let problems = request.problems();
    if !problems.is_empty() {
        return Err(ApiError::with_problems(ErrorCode::Invalid, "the registration was rejected", problems));
    }
    let token = Token::generate();
    let id = format!("c{:016x}", rand::random::<u64>());
    let client_id: ClientId = id.parse().map_err(|e| ApiError::new(ErrorCode::Internal, format!("{e}")))?;
    let standing = run.register(client_id.clone(), token.digest(), request).await?;
    let model = run.feed().read(|snapshot| snapshot.model.clone());
    let reply = RegisterReply { client_id, token: token.reveal().to_owned(), state: standing, model };
    Ok((StatusCode::CREATED, Json(reply)))
}

/// Query of the long-poll.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    /// How long to wait for something to do, in seconds; more than 30 means 30.
    #[serde(default)]
    wait_s: u32,
    /// The round that the client works for. The answer comes as soon as an update for that round would no longer be accepted.
    round: Option<u64>,
}

/// What to do now. Waits until there is something, up to `wait_s`.
///
/// A client that has a task need not send anything before its update: the coordinator waits for it until the task's
/// `deadline_ms`. Heartbeats are optional: once a client sends them, the coordinator waits no longer after three missing ones. A
/// heartbeat is this request with `round`, or `PUT .../status`, every `heartbeat_interval_s` of the task.
///
/// With `wait`, `Retry-After` is the pause in seconds for clients that do not long-poll: one for every 200 clients of the run, at
/// most 30, so that all of them together ask about 200 times a second.
#[utoipa::path(
    get, path = "/runs/{run}/clients/{id}/task", tag = "client",
    params(("run" = RunId, Path), ("id" = ClientId, Path), TaskQuery),
    responses(
        (status = 200, body = Task, headers(("Retry-After" = u32, description = "seconds, with `wait` only"))),
        (status = 403)),
)]
pub async fn task(
    State(state): State<AppState>,
    Client { run, id }: Client,
    ApiQuery(query): ApiQuery<TaskQuery>,
) -> ApiResult<(HeaderMap, Json<Task>)> {
    let patience = Duration::from_secs(query.wait_s.min(MAX_WAIT_S).into());
    let stopping = ApiError::new(ErrorCode::Unavailable, "the coordinator is stopping");
    let task = tokio::select! {
        task = run.task(&id, patience, query.round) => task?,
        () = state.coordinator.shutdown().cancelled() => return Err(stopping),
    };
    let mut headers = HeaderMap::new();
    if matches!(task, Task::Wait { .. }) {
        let clients = run.feed().read(|snapshot| snapshot.clients.len());
        headers.insert(header::RETRY_AFTER, HeaderValue::from(ask_again_s(clients)));
    }
    Ok((headers, Json(task)))
}

/// The pause of each client, so that all together ask 200 times a second.
fn ask_again_s(clients: usize) -> u64 {
    clients.div_ceil(200).clamp(1, 30) as u64
}

/// Report state and progress; also a heartbeat. The reply says whether to stop training.
#[utoipa::path(
    put, path = "/runs/{run}/clients/{id}/status", tag = "client",
    params(("run" = RunId, Path), ("id" = ClientId, Path)), request_body = StatusReport,
    responses((status = 200, body = StatusReply), (status = 403)),
)]
pub async fn status(
    Client { run, id }: Client,
    ApiJson(mut report): ApiJson<StatusReport>,
) -> ApiResult<Json<StatusReply>> {
    report.error = report.error.map(|e| e.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect());
    Ok(Json(run.status(id, report).await?))
}

/// Change the number of training images that the client holds, for later updates. Only the client itself can: the operator limits
/// these numbers by `max_samples` and `max_weight_share`.
#[utoipa::path(
    patch, path = "/runs/{run}/clients/{id}", tag = "client",
    params(("run" = RunId, Path), ("id" = ClientId, Path)), request_body = ClientPatch,
    responses(
        (status = 204, description = "the number is stored"), (status = 403)),
)]
pub async fn change(Client { run, id }: Client, ApiJson(patch): ApiJson<ClientPatch>) -> ApiResult<StatusCode> {
    let problems = patch.problems();
    if !problems.is_empty() {
        return Err(ApiError::with_problems(ErrorCode::Invalid, "the change was rejected", problems));
    }
    run.change_samples(id, patch.samples).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leave the run (with the client's token), or remove the client (with the operator's).
#[utoipa::path(
    delete, path = "/runs/{run}/clients/{id}", tag = "client", params(("run" = RunId, Path), ("id" = ClientId, Path)),
    security(("client" = []), ("admin" = []), ("session" = [])),
    responses((status = 204, description = "it is gone"), (status = 403)),
)]
pub async fn leave(
    State(state): State<AppState>,
    Run(run): Run,
    ApiPath((_, id)): ApiPath<(RunId, ClientId)>,
    request: Request,
) -> ApiResult<StatusCode> {
    let (mut parts, _) = request.into_parts();
    if is_admin(&parts, &state).await? {
        run.order(Order::Kick { client: id, ban: false }).await?;
    } else {
        let Client { id, .. } = Client::from_request_parts(&mut parts, &state).await?;
        run.leave(id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::ask_again_s;

    #[test]
    fn clients_together_ask_about_200_times_a_second() {
        let asked = [0, 1, 200, 201, 5_000, 6_000, 100_000].map(ask_again_s);
        assert_eq!(asked, [1, 1, 1, 2, 25, 30, 30]);
    }
}
