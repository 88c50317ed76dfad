//! What happens in a run, live: server-sent events (HTML Living Standard, 9.2), a snapshot first, then the changes.

use super::AppState;
use super::extract::Run;
use crate::coordinator::Published;
use app::api::{ErrorBody, Event, RunId, RunSnapshot};
use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Event `snapshot` with a `RunSnapshot`, then events `change` with an `Event` each. Who falls behind gets a fresh
/// snapshot.
#[utoipa::path(
    get, path = "/runs/{run}/events", tag = "read", security(()), params(("run" = RunId, Path)),
    responses(
        (status = 200, content_type = "text/event-stream", body = Event), (status = 404, body = ErrorBody),
    ),
)]
pub async fn events(
    State(state): State<AppState>,
    Run(run): Run,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    // Open streams would keep the server from stopping.
    let shutdown = state.coordinator.shutdown().clone();
    let stream = messages(run.published().clone()).take_until(shutdown.cancelled_owned());
    Sse::new(stream).keep_alive(KeepAlive::default())
}

enum Next {
    Snapshot,
    Changes(Receiver<Event>),
}

fn messages(published: Arc<Published>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold((published, Next::Snapshot), async |(published, next)| {
        let mut changes = match next {
            Next::Snapshot => {
                let (snapshot, changes) = published.subscribe();
                return Some((Ok(snapshot_message(&snapshot)), (published, Next::Changes(changes))));
            }
            Next::Changes(changes) => changes,
        };
        match changes.recv().await {
            Ok(event) => Some((Ok(change_message(&event)), (published, Next::Changes(changes)))),
            Err(RecvError::Lagged(_)) => {
                let (snapshot, changes) = published.subscribe();
                Some((Ok(snapshot_message(&snapshot)), (published, Next::Changes(changes))))
            }
            Err(RecvError::Closed) => None,
        }
    })
}

fn snapshot_message(snapshot: &RunSnapshot) -> sse::Event {
    message("snapshot", snapshot.seq, serde_json::to_string(snapshot))
}

fn change_message(event: &Event) -> sse::Event {
    message("change", event.seq, serde_json::to_string(event))
}

fn message(kind: &str, seq: u64, json: serde_json::Result<String>) -> sse::Event {
    // Our own types have string keys and no failing serializers.
    let json = json.expect("types of app::api always serialize");
    sse::Event::default().event(kind).id(seq.to_string()).data(json)
}
