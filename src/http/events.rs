//! What happens in a run, live: server-sent events (HTML Living Standard, 9.2), a snapshot first, then the changes.

use super::AppState;
use super::extract::Run;
use super::runs::json;
use crate::coordinator::{Published, View};
use app::api::{ErrorBody, Event, RunId};
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// A stream on which nothing happens says so from time to time, or a proxy might take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How soon who cannot be given the newest snapshot asks again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Event `snapshot` with a `RunSnapshot`, then events `change` with an `Event` each. Who falls behind gets a fresh
/// snapshot.
#[utoipa::path(
    get, path = "/runs/{run}/events", tag = "read", security(()), params(("run" = RunId, Path)),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event), (status = 404, body = ErrorBody),
    ),
)]
pub async fn events(State(state): State<AppState>, Run(run): Run) -> impl IntoResponse {
    // Open streams would keep the server from stopping.
    let shutdown = state.coordinator.shutdown().clone();
    let stream = messages(run.published().clone()).take_until(shutdown.cancelled_owned());
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (head, Body::from_stream(stream.flat_map(stream::iter)))
}

enum Next {
    Snapshot,
    Changes(Receiver<Event>),
}

/// In the parts that a message is put together from: the snapshot is one that others are sent as well.
type Message = [Result<Bytes, Infallible>; 3];

fn messages(published: Arc<Published>) -> impl Stream<Item = Message> {
    stream::unfold((published, Next::Snapshot), async |(published, mut next)| {
        loop {
            let mut changes = match next {
                Next::Snapshot => match published.subscribe(View::Snapshot, json) {
                    Some((told, changes)) => {
                        let message = message("snapshot", told.seq, told.bytes);
                        return Some((message, (published, Next::Changes(changes))));
                    }
                    None => {
                        tokio::time::sleep(ASK_AGAIN).await;
                        continue;
                    }
                },
                Next::Changes(changes) => changes,
            };
            let message = match tokio::time::timeout(KEEP_ALIVE, changes.recv()).await {
                Ok(Ok(event)) => message("change", event.seq, json(&event).into()),
                Ok(Err(RecvError::Lagged(_))) => {
                    next = Next::Snapshot;
                    continue;
                }
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => [":", "\n", "\n"].map(|part| Ok(Bytes::from_static(part.as_bytes()))),
            };
            return Some((message, (published, Next::Changes(changes))));
        }
    })
}

/// A message whose data is JSON, which has no line breaks.
fn message(kind: &str, seq: u64, json: Bytes) -> Message {
    [format!("event: {kind}\nid: {seq}\ndata: ").into(), json, Bytes::from_static(b"\n\n")].map(Ok)
}
