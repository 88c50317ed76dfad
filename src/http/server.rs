//! A coordinator that listens: put together from its settings, started, stopped in good order.

use super::connections::{self, Limits, room_in_files};
use super::{AppState, leptos_options, proxies, router};
use crate::config::{BasePath, ServeSettings};
use crate::coordinator::{Coordinator, Origin, SizeLimit, StartError};
use crate::digest::Sha256Digest;
use crate::model::ModelError;
use crate::store::{Store, StoreError, Token};
use app::api::{CreateRun, Dataset};
use rustix::process::{Resource, getrlimit};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why the coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; {}", remedy(.source))]
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

/// What to do where an address cannot be listened on.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port with --listen",
        std::io::ErrorKind::PermissionDenied => "choose a port from 1024 on with --listen",
        _ => "choose an address of this machine with --listen, such as 0.0.0.0:3000 for all of them",
    }
}

/// How long a coordinator may take to stop: for its connections to end, and its runs to get to where they can be left.
const STOP: Duration = Duration::from_secs(8);

/// A coordinator that listens.
pub struct Server {
    address: SocketAddr,
    base_path: BasePath,
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
        Self::start_with(settings, |_| Ok(())).await
    }

    /// The same, after `prepare` has prepared the data folder. It runs once the address is taken, so that a coordinator that
    /// cannot listen changes no data.
    pub(crate) async fn start_with(
        settings: &ServeSettings,
        prepare: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Self, ServeError> {
        let device = settings.device.find()?;
        let first = settings.first_run.create().map_err(ServeError::Settings)?;
        let listener = TcpListener::bind(settings.listen).await;
        let listen_failed = |source| ServeError::Listen { address: settings.listen, source };
        let listener = listener.map_err(listen_failed)?;
        let address = listener.local_addr().map_err(listen_failed)?;

        prepare(&settings.data_dir)?;
        let store = Store::open(&settings.data_dir).await?;
        let paths = Dataset::ALL.iter().filter_map(|d| Some((*d, settings.dataset_path(*d)?))).collect();
        let max_runs = settings.max_runs as usize;
        let coordinator =
            Coordinator::start(store, device, paths, settings.max_upload_mb, max_runs, CancellationToken::new())
                .await?;
        let CreateRun { run, model, dataset, config } = first;
        // Once: a run that the operator has renamed or deleted does not come back.
        let is_first_start = !coordinator.store().has_admin_token().await?;
        if is_first_start && coordinator.hosted(&run).is_none() {
            coordinator.create_run(run, Origin::BuiltIn { model, dataset }, config).await?;
        }
        // Last: a start that fails shows no token, and the next one would not make another.
        let new_admin_token = coordinator.store().make_admin_token().await?;
        let join_secret = settings.join_secret.as_ref().map(|secret| Sha256Digest::of(secret.expose()));
        let state = AppState {
            coordinator: coordinator.clone(),
            join_secret,
            base_path: settings.base_path.clone(),
            leptos: leptos_options(&site_root()),
            size_limit: SizeLimit::new(settings.max_upload_mb),
            auth_limiter: Arc::default(),
        };
        let connections = connections(settings);
        let router = router(state, Duration::from_secs(settings.body_timeout_s.into()), connections / 4);
        let router = proxies::behind(router, settings.base_path.clone(), settings.trusted_proxies.clone());
        let patience = Duration::from_secs(settings.head_timeout_s.into());
        let limits = Limits { connections, patience, trusted_proxies: settings.trusted_proxies.clone() };
        let serving = tokio::spawn(connections::serve(listener, router, limits, coordinator.shutdown().clone()));
        tracing::info!(%address, device = crate::model::describe(device), "coordinator started");
        let base_path = settings.base_path.clone();
        Ok(Self { address, base_path, new_admin_token, coordinator, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its dashboard is: `http://address`, with the base path where there is one.
    pub fn dashboard(&self) -> String {
        format!("http://{}{}", self.address, self.base_path.as_str())
    }

    /// The admin token, if this is the first start with this data folder: show it, it is not to be had again.
    pub fn new_admin_token(&self) -> Option<&Token> {
        self.new_admin_token.as_ref()
    }

    /// The runs.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// Lets running requests end, then stops. What has not ended after 8 s is left: all that was acknowledged is on disk.
    pub async fn stop(self) {
        self.coordinator.shutdown().cancel();
        let stopped = async {
            if let Err(error) = self.serving.await {
                tracing::error!(%error, "the server broke down");
            }
            self.coordinator.stop().await;
            self.coordinator.store().release();
        };
        match tokio::time::timeout(STOP, stopped).await {
            Ok(()) => tracing::info!("coordinator stopped"),
            Err(_) => tracing::warn!("what a run is still doing after {} s is cut off", STOP.as_secs()),
        }
    }
}

/// How many connections to take: as set, or as many as the limit of open files leaves.
fn connections(settings: &ServeSettings) -> usize {
    let (wanted, room) = (settings.max_connections as usize, room_in_files(getrlimit(Resource::Nofile).current));
    if room < wanted {
        tracing::info!("max-connections is {wanted}, but the limit of open files leaves room for {room}: ulimit -n");
    }
    wanted.min(room)
}

/// The folder with the page's files: `LEPTOS_SITE_ROOT` (set by cargo-leptos), else the first that exists of those beside the
/// program (`target`, or as `make install` lays them out) and of the one in this checkout.
fn site_root() -> PathBuf {
    if let Some(folder) = std::env::var_os("LEPTOS_SITE_ROOT") {
        return folder.into();
    }
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new(""));
    let beside = ["site", "../site", "../share/fedlearn/site"].map(|path| folder.join(path));
    let here = PathBuf::from("target/site");
    beside.into_iter().chain([here.clone()]).find(|path| path.join("pkg").is_dir()).unwrap_or(here)
}
