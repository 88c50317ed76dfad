//! The real agent, in this process.

use super::{Coordinator, soon};
use app::api::Encoding;
use fedlearn::agent::{self, AgentError, AgentSettings, IdentityFile, Work};
use fedlearn::model::Images;
use fedlearn::model::dataset::{self, Split, default_path};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Real images: `count` of the training split of Fashion-MNIST, the `part`-th such stretch of it.
pub fn fashion_mnist(part: usize, count: usize) -> Images {
    static TRAINING: OnceLock<Images> = OnceLock::new();
    let all = TRAINING.get_or_init(|| {
        let path =
            default_path(app::api::Dataset::FashionMnist).expect("Fashion-MNIST lies where `make setup` puts it");
        dataset::load(app::api::Dataset::FashionMnist, &path, Split::Train).unwrap()
    });
    all.select(&Vec::from_iter(part * count..(part + 1) * count))
}

/// An agent that takes part.
pub struct Agent {
    leave: DropGuard,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    /// Starts it.
    pub fn start(coordinator: &Coordinator, name: &str, images: Images) -> Self {
        Self::with(coordinator.origin(), name, None, Work::Train { device: tch::Device::Cpu, images }, None, None)
    }

    /// Starts one that adds noise, and sends it in that encoding.
    pub fn noise(origin: String, name: &str, encoding: Encoding) -> Self {
        Self::with(origin, name, Some(encoding), Work::Noise(0.01), None, None)
    }

    /// Starts one that adds noise, and trusts that authority.
    pub fn trusting(origin: String, name: &str, ca_cert: PathBuf) -> Self {
        Self::with(origin, name, None, Work::Noise(0.01), None, Some(ca_cert))
    }

    /// Starts one that is the client of that identity file.
    pub fn resume(coordinator: &Coordinator, identity: &Path, images: Images) -> Self {
        let origin = coordinator.origin();
        let identity = IdentityFile::open(identity, &origin, &"default".parse().unwrap()).unwrap();
        Self::with(origin, "resumed", None, Work::Train { device: tch::Device::Cpu, images }, Some(identity), None)
    }

    fn with(
        coordinator_url: String,
        name: &str,
        encoding: Option<Encoding>,
        work: Work,
        identity: Option<IdentityFile>,
        ca_cert: Option<PathBuf>,
    ) -> Self {
        let settings = AgentSettings {
            coordinator_url,
            run: "default".parse().unwrap(),
            name: name.to_owned(),
            join_secret: None,
            encoding,
            ca_cert,
            work,
            identity,
        };
        let leave = CancellationToken::new();
        Self { task: tokio::spawn(agent::join(settings, leave.clone())), leave: leave.drop_guard() }
    }

    /// Waits until it gives up.
    pub async fn gives_up(self) -> AgentError {
        soon("an agent's end", self.task).await.unwrap().unwrap_err()
    }

    /// Has it say good-bye.
    pub async fn leaves(self) {
        drop(self.leave);
        soon("an agent's good-bye", self.task).await.unwrap().unwrap();
    }
}
