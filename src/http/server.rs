//! The server: made from its settings, started and stopped.

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
    /// The address is in use, or is not one of this machine.
    #[error("cannot listen on {address}: {source}; {}", remedy(.source))]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The device is missing.
    #[error(transparent)]
    Device(#[from] ModelError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run cannot be started.
    #[error(transparent)]
    Run(#[from] StartError),
    /// The first run's settings do not fit together.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
}

/// What to do if an address cannot be listened on.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port with --listen",
        std::io::ErrorKind::PermissionDenied => "choose a port of 1024 or more with --listen",
        _ => "choose an address of this machine with --listen, such as 0.0.0.0:3000 for all of them",
    }
}

/// The longest stop: connections end, and runs reach a point at which they can be left.
const STOP: Duration = Duration::from_secs(8);

/// A coordinator and its listener.
pub struct Server {
    address: SocketAddr,
    base_path: BasePath,
    new_admin_token: Option<Token>,
    coordinator: Arc<Coordinator>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts. Requests are answered when this returns.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(settings: &ServeSettings) -> Result<Self, ServeError> {
        Self::start_with(settings, |_| Ok(())).await
    }

    /// Like [`Self::start`]; `prepare` prepares the data folder. It runs once the listener exists, so that a coordinator that cannot
    /// listen changes no data.
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
        // Only once: a run that the operator has renamed or deleted is not made again.
        let is_first_start = !coordinator.store().has_admin_token().await?;
        if is_first_start && coordinator.hosted(&run).is_none() {
            coordinator.create_run(run, Origin::BuiltIn { model, dataset }, config).await?;
        }
        // Last: if the start failed later, the token would never be shown, and the next start would not make another.
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

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Address of its dashboard: `http://address`, with the base path if there is one.
    pub fn dashboard(&self) -> String {
        format!("http://{}{}", self.address, self.base_path.as_str())
    }

    /// The admin token, if this is the first start with this data folder. It must be shown now: only its hash is stored.
    pub fn new_admin_token(&self) -> Option<&Token> {
        self.new_admin_token.as_ref()
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// Lets running requests end, then stops, after 8 s in any case. Everything that was acknowledged is on disk.
    pub async fn stop(self) {
        self.coordinator.shutdown().cancel();
        let stopped = async {
            if let Err(error) = self.serving.await {
                tracing::error!(%error, "the server panicked");
            }
            self.coordinator.stop().await;
            self.coordinator.store().release();
        };
        match tokio::time::timeout(STOP, stopped).await {
            Ok(()) => tracing::info!("coordinator stopped"),
            Err(_) => tracing::warn!("runs still busy after {} s are cut off", STOP.as_secs()),
        }
    }
}

/// The most connections: as set, or as many as the limit of open files allows.
fn connections(settings: &ServeSettings) -> usize {
    let (wanted, room) = (settings.max_connections as usize, room_in_files(getrlimit(Resource::Nofile).current));
    if room < wanted {
        tracing::info!(
            "max-connections is {wanted}, but the limit of open files allows {room}: raise it with ulimit -n"
        );
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
