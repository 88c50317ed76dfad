//! What an attack takes of the coordinator's memory: little, and none of it grows with what the attackers send.

use crate::harness::{Guest, NO_DATASET, Served, soon, take};
use app::api::{ReportedState, StatusReport, UploadView};
use futures::future::join_all;
use reqwest::Method;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Clients that send the half of an update, and as many connections of each other kind.
const EACH: usize = 150;
/// What each sends of a head that is said to be of 4 MiB: 150 MiB, all together.
const PART: usize = 1 << 20;
/// How much more memory the coordinator may hold then: of what nobody reads it would be 180 MB, were it not shared.
const MOST_BYTES: u64 = 128 << 20;
/// How large the page may be: it has 200 of the clients; with all of these it would be 900 kB.
const MOST_PAGE_BYTES: usize = 512 << 10;
/// What a client may say of its trouble (`MAX_ERROR_CHARS`): so that all that there is to see of the run is some 400 kB.
const ERROR_CHARS: usize = 500;

/// Registers a client that has much to say.
async fn complain(served: &Served, name: &str) {
    let guest = served.guest(name).await;
    let error = Some("\u{1F4A3}".repeat(ERROR_CHARS));
    let report = StatusReport { state: ReportedState::Error, round: None, progress: None, error };
    take(200, guest.own(Method::PUT, "/status").json(&report)).await;
}

/// A connection over which little is on its way at once. Else the kernel would hold some megabytes of an answer that nobody
/// reads, and the coordinator would hold nothing of it.
async fn narrow(served: &Served) -> TcpStream {
    let to: SocketAddr = served.origin.trim_start_matches("http://").parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.set_tcp_mss(1_000).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

/// Begins an upload that can be gone on with, and sends a part of its head.
async fn half_a_head(served: &Served, guest: &Guest) -> TcpStream {
    let head = format!(
        "PUT /api/v1/runs/default/rounds/1/updates/{}?samples=1&sha256={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/vnd.safetensors\r\nContent-Length: {}\r\n\r\n",
        guest.id,
        "0".repeat(64),
        guest.token,
        4 << 20,
    );
    let mut body = vec![b' '; PART];
    body[..8].copy_from_slice(&(4_u64 << 20).to_le_bytes());
    let mut stream = served.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let path = format!("/rounds/1/updates/{}", guest.id);
    let is_here = async {
        loop {
            let answer = guest.request(Method::GET, &path).send().await.unwrap();
            if answer.status() == 200 && answer.json::<UploadView>().await.unwrap().bytes == Some(PART as u64) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("its bytes", is_here).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_of_hundreds_takes_little_memory() {
    // Given a coordinator whose round is open for many clients, who are all up to no good, as are as many more that say
    // much of their trouble,
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(folder.path(), "127.0.0.1:0", &NO_DATASET).await;
    let mut guests = Vec::new();
    for i in 0..EACH {
        guests.push(served.guest(&format!("guest-{i}")).await);
    }
    for i in 0..EACH {
        complain(&served, &format!("complainer-{i}")).await;
    }
    take(202, served.order("/rounds")).await;
    let page = take(200, served.http.get(&served.origin)).await.bytes().await.unwrap();
    assert!(page.len() < MOST_PAGE_BYTES, "{} bytes", page.len());
    let before = served.program.resident_bytes();
    // when each sends a part of an update's head, half of them hang up, and the others say nothing more;
    let mut uploads = join_all(guests.iter().map(|guest| half_a_head(&served, guest))).await;
    uploads.truncate(EACH / 2);
    // when others send half a request, and still others ask for all that there is to see of the run and read none of it,
    let mut silent = Vec::new();
    for guest in &guests {
        let mut half = served.connect().await;
        half.write_all(format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(8_000)).as_bytes()).await.unwrap();
        guest.trains(1).await; // so that no two are told the same
        let run = "/api/v1/runs/default";
        for path in [run.to_owned(), format!("{run}/clients"), format!("{run}/events")] {
            let mut asks = narrow(&served).await;
            asks.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            soon("the first bytes", asks.readable()).await.unwrap();
            silent.push(asks);
        }
        silent.push(half);
    }
    // then the coordinator is well, and holds little more memory than before.
    take(200, served.http.get(format!("{}/readyz", served.origin))).await;
    let after = served.program.resident_bytes();
    let more = after.saturating_sub(before);
    assert!(more < MOST_BYTES, "{more} bytes more than {before}, with all of it");
}
