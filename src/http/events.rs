//! The feed of a run as server-sent events (HTML Living Standard, 9.2): first a snapshot, then the changes.

use super::AppState;
use super::extract::Run;
use super::runs::json;
use crate::coordinator::{Feed, View};
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

/// Idle streams send a comment that often, or a proxy might close them.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// With `no`, nginx sends each event at once instead of filling a buffer first.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An event `snapshot` with a `RunSnapshot`, then events `change` with an `Event` each. A stream that falls behind receives a
/// new snapshot.
#[utoipa::path(
    get, path = "/runs/{run}/events", tag = "read", security(()), params(("run" = RunId, Path)),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event,
            headers(("X-Accel-Buffering" = String, description = "`no`, so that proxies send each event at once"))),
        (status = 429)),
)]
pub async fn events(State(state): State<AppState>, Run(run): Run) -> impl IntoResponse {
    // An open stream would delay the stop of the coordinator.
    let shutdown = state.coordinator.shutdown().clone();
    let stream = messages(run.feed().clone()).take_until(shutdown.cancelled_owned());
    let stream = stream.take_until(run.feed().over());
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // A proxy that compresses the stream would buffer it.
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (BUFFERING, "no"),
    ];
    (head, Body::from_stream(stream.flat_map(stream::iter)))
}

/// A message in its parts: a snapshot is shared with other streams.
type Message = [Result<Bytes, Infallible>; 3];

/// The last event that a stream has sent, and the changes that follow; the first of them may be older than that event.
type At = (u64, Receiver<Event>);

fn messages(feed: Arc<Feed>) -> impl Stream<Item = Message> {
    stream::unfold((feed, None::<At>), async |(feed, mut at)| {
        loop {
            let Some((sent, mut changes)) = at.take() else {
                let (snapshot, changes) = feed.follow(View::Snapshot, json).await;
                let message = message("snapshot", snapshot.seq, snapshot.bytes);
                return Some((message, (feed, Some((snapshot.seq, changes)))));
            };
            let (message, sent) = match tokio::time::timeout(KEEP_ALIVE, changes.recv()).await {
                Ok(Ok(event)) if event.seq > sent + 1 => continue, // it has fallen behind: a new snapshot follows
                Ok(Ok(event)) if event.seq > sent => (message("change", event.seq, json(&event).into()), event.seq),
                // Part of the snapshot; or events are lost, which the next one shows.
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {
                    at = Some((sent, changes));
                    continue;
                }
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => ([":", "\n", "\n"].map(|part| Ok(Bytes::from_static(part.as_bytes()))), sent),
            };
            return Some((message, (feed, Some((sent, changes)))));
        }
    })
}

/// A message whose data is JSON, which has no line breaks.
fn message(kind: &str, seq: u64, json: Bytes) -> Message {
    [format!("event: {kind}\nid: {seq}\ndata: ").into(), json, Bytes::from_static(b"\n\n")].map(Ok)
}
