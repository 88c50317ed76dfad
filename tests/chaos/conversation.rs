//! What is said on one connection: HTTP/1.1 requests and their answers (RFC 9112), read as they pass.

use app::api::Task;
use std::collections::{BTreeSet, VecDeque};

/// Of a body so much is kept: more than a task has.
const KEPT_BYTES: usize = 4 << 10;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// From an agent to the coordinator.
    Up,
    /// From the coordinator to an agent.
    Down,
}

/// An update that the coordinator has said it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acknowledged {
    /// The round it was asked for in.
    pub round: i64,
    /// Whose.
    pub client: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What a stretch of bytes says.
#[derive(Debug, Default, PartialEq)]
pub struct Heard {
    /// Updates that are acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// Clients that are to train for a round, and had been told that their update for it is in before they asked.
    pub asked_again: Vec<(String, i64)>,
}

/// A request that has no answer yet.
#[derive(Debug)]
struct Request {
    /// Its first line.
    line: String,
    /// Of one that asks what to do: for which rounds this client's updates had been acknowledged by then.
    delivered: BTreeSet<i64>,
}

/// One connection, as far as it has come.
#[derive(Debug, Default)]
pub struct Conversation {
    up: Reader,
    down: Reader,
    /// In their order.
    asked: VecDeque<Request>,
    /// What the answer that is coming is to, if it was granted.
    granted: Option<Request>,
}

impl Conversation {
    /// Takes in what passes; `known` is what has been acknowledged by then, on all connections.
    pub fn hear(&mut self, way: Way, bytes: &[u8], known: &BTreeSet<Acknowledged>) -> Result<Heard, String> {
        let Self { up, down, asked, granted } = self;
        let mut heard = Heard::default();
        match way {
            Way::Up => up.read(bytes, |part| {
                let Part::Head(head) = part else { return Ok(0) };
                let line = head.lines().next().unwrap_or_default().to_owned();
                let client = who_asks(&line);
                let its = known.iter().filter(|update| client == Some(&update.client));
                asked.push_back(Request { delivered: its.map(|update| update.round).collect(), line });
                body_bytes(head)?.map_or(Ok(0), Ok)
            })?,
            Way::Down => down.read(bytes, |part| {
                let head = match part {
                    Part::Head(head) => head,
                    Part::Body(body) => {
                        heard.asked_again.extend(granted.take().and_then(|request| again(&request, body)));
                        return Ok(0);
                    }
                };
                let status = head.split(' ').nth(1).unwrap_or_default();
                if status.starts_with('1') {
                    return Ok(0); // on the way to an answer
                }
                let request = asked.pop_front().ok_or("an answer to nothing")?;
                if matches!(status, "200" | "202") {
                    heard.acknowledged.extend(update(&request.line)?);
                    *granted = Some(request);
                }
                match body_bytes(head)? {
                    None if !matches!(status, "204" | "304") => Err(format!("a body of unknown length: {head}")),
                    length => Ok(length.unwrap_or(0)),
                }
            })?,
        }
        Ok(heard)
    }
}

/// Who asks what to do by `GET /api/v1/runs/default/clients/{id}/task?...`.
fn who_asks(request: &str) -> Option<&str> {
    let (client, rest) = request.strip_prefix("GET /api/v1/runs/default/clients/")?.split_once('/')?;
    rest.starts_with("task").then_some(client)
}

/// Whether the answer to who asks what to do is to train for a round that has its update.
fn again(request: &Request, body: &[u8]) -> Option<(String, i64)> {
    let client = who_asks(&request.line)?;
    let Ok(Task::Train(task)) = serde_json::from_slice(body) else { return None };
    let round = i64::try_from(task.round).ok()?;
    request.delivered.contains(&round).then(|| (client.to_owned(), round))
}

/// How long the body is that follows.
fn body_bytes(head: &str) -> Result<Option<u64>, String> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    if fields.clone().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")) {
        return Err(format!("a body in chunks: {head}"));
    }
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.map(|(_, value)| value.trim().parse().map_err(|e| format!("{e}: {head}"))).transpose()
}

/// What is sent by `PUT /api/v1/runs/default/rounds/{n}/updates/{id}?...&sha256=...`.
fn update(request: &str) -> Result<Option<Acknowledged>, String> {
    let Some(rest) = request.strip_prefix("PUT /api/v1/runs/default/rounds/") else { return Ok(None) };
    let parts = || {
        let (target, _) = rest.split_once(' ')?;
        let (path, query) = target.split_once('?')?;
        let (round, client) = path.split_once("/updates/")?;
        let sha256 = query.split('&').find_map(|pair| pair.strip_prefix("sha256="))?;
        Some(Acknowledged { round: round.parse().ok()?, client: client.to_owned(), sha256: sha256.to_owned() })
    };
    parts().map(Some).ok_or_else(|| format!("an update that does not say which: {request}"))
}

/// What a reader has come to the end of.
enum Part<'a> {
    Head(&'a str),
    /// As far as it is kept.
    Body(&'a [u8]),
}

/// One way of it.
#[derive(Debug)]
enum Reader {
    /// In a head, of which so much has come.
    Head(Vec<u8>),
    /// In a body, of which so much is still to come; and its beginning.
    Body(u64, Vec<u8>),
}

impl Default for Reader {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

impl Reader {
    /// Reads on. Whoever reads a head says how long the body after it is.
    fn read(&mut self, mut bytes: &[u8], mut ends: impl FnMut(Part) -> Result<u64, String>) -> Result<(), String> {
        while let [first, rest @ ..] = bytes {
            match self {
                Self::Head(sofar) => {
                    sofar.push(*first);
                    bytes = rest;
                    if sofar.ends_with(b"\r\n\r\n") {
                        let length = ends(Part::Head(&String::from_utf8_lossy(sofar)))?;
                        *self = Self::Body(length, Vec::new());
                    }
                }
                Self::Body(left, sofar) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    sofar.extend_from_slice(&bytes[..taken.min(KEPT_BYTES.saturating_sub(sofar.len()))]);
                    bytes = &bytes[taken..];
                    *left -= taken as u64;
                }
            }
            if let Self::Body(0, body) = self {
                ends(Part::Body(body))?;
                *self = Self::default();
            }
        }
        Ok(())
    }
}

#[test]
fn acknowledgements_are_heard_in_whatever_pieces_they_come() {
    let sha256 = "ab".repeat(32);
    let up = format!(
        "GET /api/v1/runs/default HTTP/1.1\r\nhost: x\r\n\r\n\
         PUT /api/v1/runs/default/rounds/3/updates/c1?samples=9&sha256={sha256}&offset=2 HTTP/1.1\r\n\
         content-length: 22\r\n\r\nPUT is in a body\r\n\r\n, \
         PUT /api/v1/runs/default/clients/c1/status HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let down = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nrun\
                HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n\
                HTTP/1.1 204 No Content\r\n\r\n";
    for piece in [1, 7, up.len()] {
        let mut conversation = Conversation::default();
        let mut heard = Vec::new();
        for (way, all) in [(Way::Up, up.as_bytes()), (Way::Down, down.as_bytes())] {
            let none = BTreeSet::new();
            let mut hear = |bytes| conversation.hear(way, bytes, &none).unwrap().acknowledged;
            all.chunks(piece).for_each(|bytes| heard.extend(hear(bytes)));
        }
        assert_eq!(heard, [Acknowledged { round: 3, client: "c1".into(), sha256: sha256.clone() }]);
        assert!(conversation.asked.is_empty());
    }
}

#[test]
fn who_is_to_train_again_is_heard() {
    let mut conversation = Conversation::default();
    let known = BTreeSet::from([Acknowledged { round: 3, client: "c1".into(), sha256: String::new() }]);
    let mut answer = |client: &str, known: &BTreeSet<Acknowledged>| {
        let ask = format!("GET /api/v1/runs/default/clients/{client}/task?wait_s=25 HTTP/1.1\r\n\r\n");
        conversation.hear(Way::Up, ask.as_bytes(), known).unwrap();
        let task = serde_json::json!({
            "task": "train", "round": 3, "version": 2, "encoding": "bf16", "topk_fraction": 0.01,
            "train": app::api::TrainConfig::default(), "deadline_ms": 0, "heartbeat_interval_s": 20, "server_ms": 0,
        });
        let body = task.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        conversation.hear(Way::Down, answer.as_bytes(), known).unwrap().asked_again
    };
    assert_eq!(answer("c2", &known), []);
    assert_eq!(answer("c1", &BTreeSet::new()), []);
    assert_eq!(answer("c1", &known), [("c1".to_owned(), 3)]);
}
