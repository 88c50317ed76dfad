//! Clients that take next to nothing, so that thousands fit beside the coordinator: a connection each, kept open, and as
//! much of HTTP/1.1 (RFC 9112) as the coordinator's answers need.

use super::BenchError;
use crate::wire::CONTAINER;
use app::api::{RegisterReply, Task};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Enough for the head of an answer; bodies go by it.
const BUFFER_BYTES: usize = 1 << 10;

/// How long a client that is told to come back waits before it does.
const COME_BACK: Duration = Duration::from_secs(1);

/// A client of a run, registered.
pub struct Member {
    connection: BufReader<TcpStream>,
    /// `/api/v1/runs/default`.
    run: String,
    me: RegisterReply,
    /// Answers 503, after which it came back.
    pub busy: u32,
}

impl Member {
    /// Registers over a connection of its own, which stays open.
    pub async fn register(origin: &str, run: &str, name: &str) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(origin.trim_start_matches("http://")).await?;
        stream.set_nodelay(true)?;
        let mut connection = BufReader::with_capacity(BUFFER_BYTES, stream);
        let run = format!("/api/v1/runs/{run}");
        let body = json!({"name": name, "samples": 1}).to_string();
        let head = format!("POST {run}/clients HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n");
        let (status, answer) = exchange(&mut connection, head, body.as_bytes()).await?;
        if status != 201 {
            return Err(BenchError::Refused(status, String::from_utf8_lossy(&answer).into_owned()));
        }
        Ok(Self { connection, run, me: serde_json::from_slice(&answer)?, busy: 0 })
    }

    /// Asks what to do, and waits up to 25 s for it as agents do.
    pub async fn task(&mut self) -> Result<Task, BenchError> {
        let path = format!("/clients/{}/task?wait_s=25", self.me.client_id);
        Ok(serde_json::from_slice(&self.ask("GET", &path, "", &[]).await?)?)
    }

    /// Fetches a global version.
    pub async fn model(&mut self, version: u64) -> Result<Vec<u8>, BenchError> {
        self.ask("GET", &format!("/models/{version}"), &format!("accept: {CONTAINER}\r\n"), &[]).await
    }

    /// Says that it trains.
    pub async fn trains(&mut self, round: u64) -> Result<(), BenchError> {
        let path = format!("/clients/{}/status", self.me.client_id);
        let report = json!({"state": "training", "round": round}).to_string();
        self.ask("PUT", &path, "content-type: application/json\r\n", report.as_bytes()).await.map(|_| ())
    }

    /// Sends its update.
    pub async fn update(&mut self, round: u64, body: &[u8]) -> Result<(), BenchError> {
        let path = format!("/rounds/{round}/updates/{}?samples=1", self.me.client_id);
        self.ask("PUT", &path, &format!("content-type: {CONTAINER}\r\n"), body).await.map(|_| ())
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Vec<u8>, BenchError> {
        loop {
            let (run, token) = (&self.run, &self.me.token);
            let head =
                format!("{method} {run}{path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n{headers}");
            match exchange(&mut self.connection, head, body).await? {
                (200..300, answer) => return Ok(answer),
                (503, _) => {
                    self.busy += 1;
                    tokio::time::sleep(COME_BACK).await;
                }
                (status, answer) => {
                    return Err(BenchError::Refused(status, String::from_utf8_lossy(&answer).into_owned()));
                }
            }
        }
    }
}

/// Sends a request and reads its answer: the status and the body. The coordinator names the length of all that is asked
/// for here.
async fn exchange(
    connection: &mut BufReader<TcpStream>,
    mut head: String,
    body: &[u8],
) -> Result<(u16, Vec<u8>), BenchError> {
    head += &format!("content-length: {}\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body).await?;
    let (mut line, mut status, mut length) = (String::new(), 0, 0);
    loop {
        line.clear();
        if connection.read_line(&mut line).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        } else if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut answer = vec![0; length];
    connection.read_exact(&mut answer).await?;
    Ok((status, answer))
}
