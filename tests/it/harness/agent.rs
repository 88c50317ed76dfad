//! The real agent, in this process.

use super::{Coordinator, soon};
use fedlearn::agent::{self, AgentError, AgentSettings, Work};
use fedlearn::model::Images;
use fedlearn::model::dataset::{self, Split, default_path};
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
        let settings = AgentSettings {
            coordinator_url: coordinator.origin(),
            run: "default".parse().unwrap(),
            name: name.to_owned(),
            join_secret: None,
            encoding: None,
            work: Work::Train { device: tch::Device::Cpu, images },
            identity: None,
        };
        let leave = CancellationToken::new();
        Self { task: tokio::spawn(agent::join(settings, leave.clone())), leave: leave.drop_guard() }
    }

    /// Has it say good-bye.
    pub async fn leaves(self) {
        drop(self.leave);
        soon("an agent's good-bye", self.task).await.unwrap().unwrap();
    }
}
