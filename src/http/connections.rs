//! Connections: as many as there is room for, and what becomes of the rest.
//!
//! Who is connected and says nothing holds a seat that somebody else could use. So a newcomer for whom there is none takes
//! that of the connection which has been idle longest, first among those that have never shown a right token; only when
//! all are busy is it told to come back. Thousands of idle connections keep nobody out, then, whoever's they are.

use super::error::ApiError;
use super::proxies::Peer;
use super::room::MAX_UPLOADS;
use crate::coordinator::MAX_PARKED;
use app::api::ErrorCode;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{Extensions, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::add_extension::AddExtension;

/// How long running requests may take to end once the coordinator is told to stop: uploads are told to come back after 5 s.
const DRAIN: Duration = Duration::from_secs(6);
/// What a connection may hold of a request that is not dealt with yet: its head at the least, which browsers and proxies
/// keep far below that. Many clients upload at once.
const BUFFER_BYTES: usize = 128 << 10;
/// The same, of a connection beyond the first [`MANY`]: so that 10,000 half heads come to 300 MB and not to 1,300.
const SMALL_BUFFER_BYTES: usize = 16 << 10;
/// See [`SMALL_BUFFER_BYTES`].
const MANY: usize = 1_024;
/// Connections that are being told at the same time that there is no room; more are just closed.
const REFUSALS: usize = 64;
/// How long who is told so may take to ask.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Files that are neither a connection nor an upload: database, blobs, the page's, logs.
const OTHER_FILES: u64 = 256;

/// How many connections, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most at once.
    pub connections: usize,
    /// How long a head may take to come, a connection be idle, and what is sent be left unread.
    pub patience: Duration,
}

/// How many connections the limit of open files leaves, with the uploads that they bring and leave behind, which are files
/// as well.
pub fn room_in_files(files: Option<u64>) -> usize {
    let Some(files) = files else { return usize::MAX };
    let uploads = (MAX_UPLOADS + MAX_PARKED as u64).min(files / 3);
    usize::try_from(files.saturating_sub(OTHER_FILES + uploads).max(1)).unwrap_or(usize::MAX)
}

/// Serves connections until told to stop, then gives those that are busy time to end. Instead of `axum::serve`, which
/// waits forever for a request's head, and for as many connections as come.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let (http, small) = (http(BUFFER_BYTES, limits.patience), http(SMALL_BUFFER_BYTES, limits.patience));
    let router = router.layer(middleware::from_fn(stay_busy));
    let (seats, connections) = (Arc::new(Seats::new(limits.connections)), GracefulShutdown::new());
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: that passes as others hang up.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(seat) = Seats::take(&seats) else {
            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(permit);
                });
            }
            continue;
        };
        // A slower connection is still a connection.
        let _ = stream.set_nodelay(true);
        let _ = set_tcp_user_timeout(&stream, u32::try_from(limits.patience.as_millis()).unwrap_or(u32::MAX));
        let http = if seats.taken() > MANY { &small } else { &http };
        let service = AddExtension::new(AddExtension::new(router.clone(), Peer(address.ip())), seat.clone());
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error, "a connection broke");
                },
                () = seat.left.cancelled() => tracing::debug!("an idle connection made room"),
            }
        });
    }
    drop(listener);
    seats.clear_idle(); // one that has never asked anything would be waited for
    if tokio::time::timeout(DRAIN, connections.shutdown()).await.is_err() {
        tracing::warn!("requests still running after {} s are cut off", DRAIN.as_secs());
    }
}

fn http(buffer_bytes: usize, patience: Duration) -> auto::Builder<TokioExecutor> {
    // Told which version it is, it does not wait without a limit for the first bytes to find that out.
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(buffer_bytes);
    http
}

/// Tells a connection that there is no room.
async fn refuse(stream: TcpStream) {
    let refusal = || async {
        let refusal = ApiError::new(
            ErrorCode::Unavailable,
            "all connections are busy: try again, or raise --max-connections of the coordinator and its limit of open files",
        );
        ([(header::CONNECTION, HeaderValue::from_static("close"))], refusal)
    };
    let service = TowerToHyperService::new(Router::new().fallback(refusal));
    let http = http(SMALL_BUFFER_BYTES, REFUSAL_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(2 * REFUSAL_TIMEOUT, connection).await;
}

/// Keeps a connection busy from a request's head to the last byte of its answer.
async fn stay_busy(request: Request, next: Next) -> Response {
    let busy = request.extensions().get::<Arc<Seat>>().map(Busy::on);
    keeping(busy, next.run(request).await)
}

/// Takes as many requests at once as there are permits, each from its head to the last byte of its answer. One more is told
/// that there are too many.
pub async fn at_most(
    permits: Arc<Semaphore>,
    too_many: impl FnOnce() -> String,
    request: Request,
    next: Next,
) -> Response {
    match permits.try_acquire_owned() {
        Ok(permit) => keeping(permit, next.run(request).await),
        Err(_) => ApiError::new(ErrorCode::TooMany, too_many()).into_response(),
    }
}

/// The connection that this came by has shown a right token.
pub fn is_known(extensions: &Extensions) {
    if let Some(seat) = extensions.get::<Arc<Seat>>() {
        seat.is_known.store(true, Ordering::Relaxed);
    }
}

/// An answer that keeps something until it is sent, or given up.
fn keeping(what: impl Send + Unpin + 'static, response: Response) -> Response {
    response.map(|body| Body::new(Keeping { body, _what: what }))
}

struct Keeping<T> {
    body: Body,
    _what: T,
}

impl<T: Unpin> HttpBody for Keeping<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// All seats.
#[derive(Debug)]
struct Seats {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    /// Counts up.
    turn: u64,
    idle: BTreeMap<Turn, CancellationToken>,
}

/// Whose turn it is to make room: those of whom nothing is known come first, then who is idle longest.
type Turn = (bool, u64);

impl Table {
    fn sit_idle(&mut self, is_known: bool, left: &CancellationToken) -> Turn {
        self.turn += 1;
        self.idle.insert((is_known, self.turn), left.clone());
        (is_known, self.turn)
    }

    /// Has the connection leave that has been idle longest. Its seat is free at once.
    fn make_room(&mut self) -> bool {
        let Some((_, left)) = self.idle.pop_first() else { return false };
        left.cancel();
        self.taken -= 1;
        true
    }
}

/// A connection's place.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
    /// Cancelled: it is somebody else's now.
    left: CancellationToken,
    /// It has shown a right token.
    is_known: AtomicBool,
    /// Its turn while it is idle. Locked under the table's lock only.
    turn: Mutex<Option<Turn>>,
}

impl Seats {
    fn new(most: usize) -> Self {
        Self { most, table: Mutex::default() }
    }

    fn take(this: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut table = this.lock();
        if table.taken >= this.most && !table.make_room() {
            return None;
        }
        table.taken += 1;
        let left = CancellationToken::new();
        let turn = Mutex::new(Some(table.sit_idle(false, &left)));
        Some(Arc::new(Seat { seats: this.clone(), left, is_known: AtomicBool::new(false), turn }))
    }

    fn taken(&self) -> usize {
        self.lock().taken
    }

    fn clear_idle(&self) {
        let mut table = self.lock();
        while table.make_room() {}
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.lock();
        if !self.left.is_cancelled() {
            self.turn().take().map(|turn| table.idle.remove(&turn));
            table.taken -= 1;
        }
    }
}

/// A seat that is not idle as long as this lives. HTTP/1.1: a connection has one request at a time.
struct Busy(Arc<Seat>);

impl Busy {
    fn on(seat: &Arc<Seat>) -> Self {
        let mut table = seat.seats.lock();
        seat.turn().take().map(|turn| table.idle.remove(&turn));
        Self(seat.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut table = self.0.seats.lock();
        if !self.0.left.is_cancelled() {
            *self.0.turn() = Some(table.sit_idle(self.0.is_known.load(Ordering::Relaxed), &self.0.left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(seats: &Arc<Seats>) -> Arc<Seat> {
        Seats::take(seats).expect("there is room")
    }

    #[test]
    fn the_one_that_is_idle_longest_makes_room() {
        let seats = Arc::new(Seats::new(3));
        let [first, second, third] = [take(&seats), take(&seats), take(&seats)];
        // Given that the first one was idle longest, but has asked something since,
        drop(Busy::on(&first));
        let fourth = take(&seats);
        assert!(second.left.is_cancelled() && !first.left.is_cancelled() && !third.left.is_cancelled());
        drop(take(&seats));
        assert!(third.left.is_cancelled() && !fourth.left.is_cancelled());
        assert_eq!(seats.taken(), 2, "who made room has no seat left to give back");
    }

    #[test]
    fn who_has_shown_a_right_token_makes_room_last() {
        let seats = Arc::new(Seats::new(2));
        let [known, unknown] = [take(&seats), take(&seats)];
        let busy = Busy::on(&known);
        known.is_known.store(true, Ordering::Relaxed);
        drop(busy);
        let another = take(&seats);
        assert!(unknown.left.is_cancelled());
        let _busy = Busy::on(&another);
        let _last = take(&seats);
        assert!(known.left.is_cancelled());
    }

    #[test]
    fn where_all_are_busy_there_is_no_room_until_one_is_done() {
        let seats = Arc::new(Seats::new(2));
        let (one, other) = (take(&seats), take(&seats));
        let busy = [Busy::on(&one), Busy::on(&other)];
        assert!(Seats::take(&seats).is_none());
        drop(busy);
        assert!(Seats::take(&seats).is_some());
        assert!(one.left.is_cancelled());
        drop((one, other));
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn connections_are_no_more_than_the_files_leave() {
        assert_eq!(room_in_files(Some(20_000)), 18_720);
        assert_eq!(room_in_files(Some(1_024)), 427);
        assert_eq!(room_in_files(Some(0)), 1);
        assert_eq!(room_in_files(None), usize::MAX);
    }
}
