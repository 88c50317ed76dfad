//! What is said on one connection: HTTP/1.1 requests and their answers (RFC 9112), read as they pass.

use std::collections::VecDeque;

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

/// One connection, as far as it has come.
#[derive(Debug, Default)]
pub struct Conversation {
    up: Reader,
    down: Reader,
    /// First lines of requests that have no answer yet.
    asked: VecDeque<String>,
}

impl Conversation {
    /// Takes in what passes, and returns which updates are acknowledged in it.
    pub fn hear(&mut self, way: Way, bytes: &[u8]) -> Result<Vec<Acknowledged>, String> {
        let mut acknowledged = Vec::new();
        let asked = &mut self.asked;
        match way {
            Way::Up => self.up.read(bytes, |head| {
                asked.push_back(head.lines().next().unwrap_or_default().to_owned());
                body_bytes(head)?.map_or(Ok(0), Ok)
            })?,
            Way::Down => self.down.read(bytes, |head| {
                let status = head.split(' ').nth(1).unwrap_or_default();
                if status.starts_with('1') {
                    return Ok(0); // on the way to an answer
                }
                let request = asked.pop_front().ok_or("an answer to nothing")?;
                if matches!(status, "200" | "202") {
                    acknowledged.extend(update(&request)?);
                }
                match body_bytes(head)? {
                    None if !matches!(status, "204" | "304") => Err(format!("a body of unknown length: {head}")),
                    length => Ok(length.unwrap_or(0)),
                }
            })?,
        }
        Ok(acknowledged)
    }
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

/// One way of it.
#[derive(Debug)]
enum Reader {
    /// In a head, of which so much has come.
    Head(Vec<u8>),
    /// In a body, of which so much is still to come.
    Body(u64),
}

impl Default for Reader {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

impl Reader {
    /// Reads on. Whoever reads a head says how long the body after it is.
    fn read(&mut self, mut bytes: &[u8], mut head: impl FnMut(&str) -> Result<u64, String>) -> Result<(), String> {
        while let [first, rest @ ..] = bytes {
            match self {
                Self::Head(sofar) => {
                    sofar.push(*first);
                    bytes = rest;
                    if sofar.ends_with(b"\r\n\r\n") {
                        *self = Self::after(head(&String::from_utf8_lossy(sofar))?);
                    }
                }
                Self::Body(left) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    bytes = &bytes[taken..];
                    *self = Self::after(*left - taken as u64);
                }
            }
        }
        Ok(())
    }

    fn after(left: u64) -> Self {
        if left == 0 { Self::default() } else { Self::Body(left) }
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
            all.chunks(piece).for_each(|bytes| heard.extend(conversation.hear(way, bytes).unwrap()));
        }
        assert_eq!(heard, [Acknowledged { round: 3, client: "c1".into(), sha256: sha256.clone() }]);
        assert!(conversation.asked.is_empty());
    }
}
