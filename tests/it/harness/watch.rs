//! Waiting without sleeping: on events, and never for ever.

use app::api::{Event, RunSnapshot};
use reqwest::{RequestBuilder, Response};
use std::time::Duration;

/// Far beyond what anything here takes: who waits longer waits in vain.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// What the page does: a snapshot, then events applied to it.
pub struct Watch {
    response: Response,
    buffer: String,
    /// The run as the events tell.
    pub run: RunSnapshot,
}

impl Watch {
    /// Opens the stream, whose first event must be the snapshot.
    pub async fn open(request: RequestBuilder) -> Self {
        let mut response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        // By these a proxy passes each event on at once.
        if !response.headers().contains_key("server") {
            // nginx obeys it and does not pass it on.
            assert_eq!(response.headers()["x-accel-buffering"], "no");
        }
        assert_eq!(response.headers()["cache-control"], "no-store, no-transform");
        let mut buffer = String::new();
        let (kind, data) = soon("the snapshot", message(&mut response, &mut buffer)).await.unwrap();
        assert_eq!(kind, "snapshot");
        Self { response, buffer, run: serde_json::from_str(&data).unwrap() }
    }

    /// The next change, applied; none when the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        let (kind, data) = message(&mut self.response, &mut self.buffer).await?;
        assert_eq!(kind, "change", "nobody here is slow enough for another snapshot");
        let event: Event = serde_json::from_str(&data).unwrap();
        assert_eq!(event.seq, self.run.seq + 1, "no event is missing");
        assert!(self.run.apply(&event));
        Some(event)
    }

    /// Waits until the run is as wanted.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&RunSnapshot) -> bool) -> RunSnapshot {
        let so = async {
            while !is_so(&self.run) {
                self.next().await.unwrap_or_else(|| panic!("the events ended before: {what}"));
            }
        };
        if tokio::time::timeout(PATIENCE, so).await.is_err() {
            panic!("waited in vain: {what}; the run is {:#?}", self.run);
        }
        self.run.clone()
    }
}

/// One server-sent event (HTML Living Standard, 9.2.6): its name and data.
async fn message(response: &mut Response, buffer: &mut String) -> Option<(String, String)> {
    loop {
        if let Some((message, rest)) = buffer.split_once("\n\n") {
            let field = |name| message.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
            let found = field("event:").zip(field("data:"));
            *buffer = rest.to_owned();
            match found {
                Some(found) => return Some(found),
                None => continue, // a comment that keeps the connection alive
            }
        }
        let chunk = response.chunk().await.ok()??;
        buffer.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

/// Everything that a raw connection still brings; empty if it was reset.
pub async fn read_to_end(stream: &mut tokio::net::TcpStream) -> String {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    let _ = soon("the end of a connection", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
