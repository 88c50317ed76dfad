//! A coordinator that listens: put together from its settings, started, stopped in good order.

use super::{AppState, leptos_options, router};
use crate::config::ServeSettings;
use crate::coordinator::{Coordinator, Origin, StartError};
use crate::digest::Sha256Digest;
use crate::model::ModelError;
use crate::store::{Store, StoreError, Token};
use app::api::{CreateRun, Dataset};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long running requests may take to end once the coordinator is told to stop.
const DRAIN: Duration = Duration::from_secs(8);

/// How long the head of a request may take to come, and how long a connection may be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What a connection may hold of a request that is not dealt with yet: its head at the least, which browsers and proxies
/// keep far below that. Many clients upload at once.
const CONNECTION_BUFFER_BYTES: usize = 128 << 10;

/// Why the coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The device is not there.
    #[error(transparent)]
    Device(#[from] ModelError),
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run.
    #[error(transparent)]
    Run(#[from] StartError),
    /// The first run's settings do not fit together.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
}

/// A coordinator that listens.
pub struct Server {
    address: SocketAddr,
    new_admin_token: Option<Token>,
    coordinator: Arc<Coordinator>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts. When this returns, requests are answered.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(settings: &ServeSettings) -> Result<Self, ServeError> {
        let device = settings.device.find()?;
        let first = settings.first_run.create().map_err(ServeError::Settings)?;
        let listener = TcpListener::bind(settings.listen).await;
        let listen_failed = |source| ServeError::Listen { address: settings.listen, source };
        let listener = listener.map_err(listen_failed)?;
        let address = listener.local_addr().map_err(listen_failed)?;

        let store = Store::open(&settings.data_dir).await?;
        let new_admin_token = store.make_admin_token().await?;
        let paths = Dataset::ALL.iter().filter_map(|d| Some((*d, settings.dataset_path(*d)?))).collect();
        let coordinator = Coordinator::start(store, device, paths, CancellationToken::new()).await?;
        let CreateRun { run, model, dataset, config } = first;
        if coordinator.run(&run).is_none() && !coordinator.broken().contains_key(&run) {
            coordinator.create_run(run, Origin::BuiltIn { model, dataset }, config).await?;
        }
        let join_secret = settings.join_secret.as_ref().map(|secret| Sha256Digest::of(secret.expose()));
        let state = AppState {
            coordinator: coordinator.clone(),
            join_secret,
            leptos: leptos_options(&site_root()),
            max_body_bytes: u64::from(settings.max_upload_mb) << 20,
        };
        let router = router(state, Duration::from_secs(settings.body_timeout_s.into()));
        let serving = tokio::spawn(accept(listener, router, coordinator.shutdown().clone()));
        tracing::info!(%address, device = crate::model::describe(device), "coordinator started");
        Ok(Self { address, new_admin_token, coordinator, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin token, if this is the first start with this data folder: show it, it is not to be had again.
    pub fn new_admin_token(&self) -> Option<&Token> {
        self.new_admin_token.as_ref()
    }

    /// The runs.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// Lets running requests end, then stops.
    pub async fn stop(self) {
        self.coordinator.shutdown().cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the server broke down");
        }
        self.coordinator.stop().await;
        self.coordinator.store().release();
        tracing::info!("coordinator stopped");
    }
}

/// Serves connections until told to stop, then gives those that are busy time to end. Instead of `axum::serve`, which
/// waits forever for a request's head.
async fn accept(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(CONNECTION_BUFFER_BYTES);
    let service = TowerToHyperService::new(router);
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: that passes as others hang up.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true); // a slower connection is still a connection
        let connection = http.serve_connection(TokioIo::new(stream), service.clone()).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection broke");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, connections.shutdown()).await.is_err() {
        tracing::warn!("requests still running after {} s are cut off", DRAIN.as_secs());
    }
}

/// Where cargo-leptos has put the page's files: as it says itself, in this checkout, or beside the program.
fn site_root() -> PathBuf {
    if let Some(told) = std::env::var_os("LEPTOS_SITE_ROOT") {
        return told.into();
    }
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).take(2).map(|folder| folder.join("site"));
    let here = Path::new("target/site").to_owned();
    beside.chain([here.clone()]).find(|path| path.join("pkg").is_dir()).unwrap_or(here)
}
