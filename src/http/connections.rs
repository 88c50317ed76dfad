//! Connections: how many there may be, of all addresses and of one, and how long they may be idle.
//!
//! hyper closes a connection whose next request does not come in time. One address has three quarters of the connections at
//! most, so that it cannot keep all others out.

use super::error::ApiError;
use super::proxies::Peer;
use crate::config::Network;
use crate::coordinator::{MAX_INTERRUPTED, MAX_UPLOADS};
use crate::shares::{Exhausted, Shares};
use app::api::ErrorCode;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long running requests may take to end once the coordinator stops: uploads are answered with 503 after 5 s.
const DRAIN: Duration = Duration::from_secs(6);
/// What a connection may hold of a request that is not dealt with yet: its head at the least, which browsers and proxies
/// keep far below that. Many clients upload at once.
const BUFFER_BYTES: usize = 128 << 10;
/// The same, of a connection beyond the first [`MANY`]: so that 10,000 half heads come to 300 MB and not to 1,300.
const SMALL_BUFFER_BYTES: usize = 16 << 10;
/// See [`SMALL_BUFFER_BYTES`].
const MANY: usize = 1_024;
/// Connections that are being rejected with an answer at the same time; more are closed without one.
const REJECTIONS: usize = 64;
const REJECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Files that are neither a connection nor an upload: database, blobs, the page's, logs.
const OTHER_FILES: u64 = 256;

/// How many connections, and for how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most at once.
    pub connections: usize,
    /// How long a head may take to come, a connection be idle, and what is sent be left unread.
    pub patience: Duration,
    /// They may have all connections: many clients come by each of them.
    pub trusted_proxies: Vec<Network>,
}

impl Limits {
    /// The most connections of one address.
    fn of_one_address(&self) -> usize {
        self.connections - self.connections / 4
    }

    /// The address whose connections are limited.
    fn holder(&self, peer: Peer) -> Option<IpAddr> {
        let is_proxy = self.trusted_proxies.iter().any(|network| network.contains(peer.0));
        (!is_proxy).then(|| peer.network())
    }

    fn rejection(&self, exhausted: Exhausted) -> ApiError {
        match exhausted {
            Exhausted::All => ApiError::new(
                ErrorCode::Unavailable,
                "all connections are in use: try again, or raise --max-connections of the coordinator and its limit of open files",
            ),
            Exhausted::OfHolder => {
                let most = self.of_one_address();
                let message = format!(
                    "this address has {most} connections, the most of one address: close some, raise --max-connections of the \
                     coordinator, or name the address with --trusted-proxy if it is a proxy"
                );
                ApiError::new(ErrorCode::TooMany, message)
            }
        }
    }
}

/// How many connections the limit of open files leaves, with the uploads that they bring and leave behind, which are files
/// as well.
pub fn room_in_files(files: Option<u64>) -> usize {
    let Some(files) = files else { return usize::MAX };
    let uploads = ((MAX_UPLOADS + MAX_INTERRUPTED) as u64).min(files / 3);
    usize::try_from(files.saturating_sub(OTHER_FILES + uploads).max(1)).unwrap_or(usize::MAX)
}

/// Serves connections until `shutdown`, then lets running requests end. Instead of `axum::serve`, which limits neither the
/// number of connections nor the time that a request's head may take.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let (shares, tasks) = (Shares::new(limits.connections, limits.of_one_address()), TaskTracker::new());
    let rejections = Arc::new(Semaphore::new(REJECTIONS));
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely, which passes when other connections are closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let peer = Peer(address.ip());
        let share = match shares.take(limits.holder(peer)) {
            Ok(share) => share,
            Err(exhausted) => {
                if let Ok(permit) = rejections.clone().try_acquire_owned() {
                    let limits = limits.clone();
                    tokio::spawn(async move {
                        reject(stream, limits, exhausted).await;
                        drop(permit);
                    });
                }
                continue;
            }
        };
        // A connection without these options is slower, or is kept longer, and works.
        let _ = stream.set_nodelay(true);
        let _ = set_tcp_user_timeout(&stream, u32::try_from(limits.patience.as_millis()).unwrap_or(u32::MAX));
        let is_one_of_many = limits.connections - shares.left() > MANY;
        let http = http(if is_one_of_many { SMALL_BUFFER_BYTES } else { BUFFER_BYTES }, limits.patience);
        let (router, shutdown) = (router.clone(), shutdown.clone());
        tasks.spawn(async move {
            converse(http, stream, peer, router, shutdown).await;
            drop(share);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("requests still running after {} s are cut off", DRAIN.as_secs());
    }
}

fn http(buffer_bytes: usize, patience: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(buffer_bytes);
    http
}

/// Answers the requests of a connection. Once the coordinator stops, the one that is running is the last.
async fn converse(
    http: http1::Builder,
    stream: TcpStream,
    peer: Peer,
    router: TowerToHyperService<Router>,
    shutdown: CancellationToken,
) {
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            if !has_asked.load(Ordering::Relaxed) {
                return; // hyper would wait for its first request
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Answers the first request of a connection with the reason, and closes it.
async fn reject(stream: TcpStream, limits: Limits, exhausted: Exhausted) {
    let service = service_fn(|_: hyper::Request<Incoming>| async {
        let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
        Ok::<_, Infallible>((close, limits.rejection(exhausted)).into_response())
    });
    let connection = http(SMALL_BUFFER_BYTES, REJECTION_TIMEOUT).serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(2 * REJECTION_TIMEOUT, connection).await;
}

/// Answers as many requests at once as there are permits, each until the last byte of its answer. One more gets 429.
pub async fn at_most(
    permits: Arc<Semaphore>,
    too_many: impl FnOnce() -> String,
    request: Request,
    next: Next,
) -> Response {
    let Ok(permit) = permits.try_acquire_owned() else {
        return ApiError::new(ErrorCode::TooMany, too_many()).into_response();
    };
    let response = next.run(request).await;
    response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _held = &permit;
        }))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_no_more_than_the_files_leave() {
        assert_eq!(room_in_files(Some(20_000)), 18_720);
        assert_eq!(room_in_files(Some(1_024)), 427);
        assert_eq!(room_in_files(Some(0)), 1);
        assert_eq!(room_in_files(None), usize::MAX);
    }

    #[test]
    fn one_address_has_three_quarters_of_the_connections_and_a_trusted_proxy_all() {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let limits = Limits { connections: 10_000, patience: Duration::ZERO, trusted_proxies };
        let holder = |address: &str| limits.holder(Peer(address.parse().unwrap())).map(|holder| holder.to_string());
        assert_eq!(limits.of_one_address(), 7_500);
        assert_eq!(holder("192.0.2.1"), Some("192.0.2.1".to_owned()));
        assert_eq!(holder("2001:db8::1"), Some("2001:db8::".to_owned()), "a network is one holder");
        assert_eq!(holder("10.1.2.3"), None);
        let least = Limits { connections: 1, ..limits };
        assert_eq!(least.of_one_address(), 1);
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_connections_that_have_asked_nothing() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // Given a connection with a half head, and one that is idle after its first request,
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let limits = Limits { connections: 4, patience: Duration::from_secs(60), trusted_proxies: Vec::new() };
        let serving = tokio::spawn(serve(listener, Router::new(), limits, stop.clone()));
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nHost").await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        idle.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        // when the coordinator stops, then both are closed at once.
        stop.cancel();
        tokio::time::timeout(DRAIN, serving).await.expect("it waits for nothing").unwrap();
        assert!(half.read_u8().await.is_err());
    }
}
