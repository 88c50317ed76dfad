//! What happens in a run, live: server-sent events (HTML Living Standard, 9.2), a snapshot first, then the changes.

use super::AppState;
use super::extract::Run;
use super::runs::json;
use crate::coordinator::{Published, View};
use app::api::{Event, RunId};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// A stream on which nothing happens says so from time to time, or a proxy might take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// nginx collects a response until its buffer is full, unless the response forbids it: by this header, with `no`.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Event `snapshot` with a `RunSnapshot`, then events `change` with an `Event` each. Who falls behind gets a fresh
/// snapshot.
#[utoipa::path(
    get, path = "/runs/{run}/events", tag = "read", security(()), params(("run" = RunId, Path)),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event,
            headers(("X-Accel-Buffering" = String, description = "`no`, so that proxies send each event at once"))),
        (status = 429)),
)]
pub async fn events(State(state): State<AppState>, Run(run): Run) -> impl IntoResponse {
    // Open streams would keep the server from stopping.
    let shutdown = state.coordinator.shutdown().clone();
    let stream = messages(run.published().clone()).take_until(shutdown.cancelled_owned());
    let stream = stream.take_until(run.published().over());
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // A proxy that compressed the stream would collect it as well.
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (BUFFERING, "no"),
    ];
    (head, Body::from_stream(stream.flat_map(stream::iter)))
}

/// In the parts that a message is put together from: the snapshot is one that others are sent as well.
type Message = [Result<Bytes, Infallible>; 3];

/// What a stream is at: the last event that it was told, and the changes, of which some may be from before that.
type At = (u64, Receiver<Event>);

fn messages(published: Arc<Published>) -> impl Stream<Item = Message> {
    stream::unfold((published, None::<At>), async |(published, mut at)| {
        loop {
            let Some((told, mut changes)) = at.take() else {
                let (snapshot, changes) = published.follow(View::Snapshot, json).await;
                let message = message("snapshot", snapshot.seq, snapshot.bytes);
                return Some((message, (published, Some((snapshot.seq, changes)))));
            };
            let (message, told) = match tokio::time::timeout(KEEP_ALIVE, changes.recv()).await {
                Ok(Ok(event)) if event.seq > told + 1 => continue, // it has fallen behind: a fresh snapshot tells the rest
                Ok(Ok(event)) if event.seq > told => (message("change", event.seq, json(&event).into()), event.seq),
                // Told by the snapshot already; or lost, and whether that was told, the next one shows.
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {
                    at = Some((told, changes));
                    continue;
                }
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => ([":", "\n", "\n"].map(|part| Ok(Bytes::from_static(part.as_bytes()))), told),
            };
            return Some((message, (published, Some((told, changes)))));
        }
    })
}

/// A message whose data is JSON, which has no line breaks.
fn message(kind: &str, seq: u64, json: Bytes) -> Message {
    [format!("event: {kind}\nid: {seq}\ndata: ").into(), json, Bytes::from_static(b"\n\n")].map(Ok)
}
