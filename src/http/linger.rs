//! Bodies of requests that are rejected early: the rest is read and dropped for a while. If the connection closed at once, a client
//! that is still sending would see a broken connection instead of the answer, and would repeat the request.

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest time to read the rest.
const MOST: Duration = Duration::from_secs(30);
/// The longest pause in the rest.
const SILENCE: Duration = Duration::from_secs(5);

/// The same body. If it is dropped before its end, the rest is read and dropped.
pub fn linger(body: Body) -> Body {
    if body.is_end_stream() { body } else { Body::from_stream(Lingering(Some(body.into_data_stream()))) }
}

struct Lingering(Option<BodyDataStream>);

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let next = body.poll_next_unpin(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        next
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (Some(body), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else { return };
        drop(runtime.spawn(tokio::time::timeout(MOST, drain(body))));
    }
}

async fn drain(mut body: BodyDataStream) {
    while let Ok(Some(Ok(_))) = tokio::time::timeout(SILENCE, body.next()).await {}
}
