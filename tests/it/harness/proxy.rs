//! A bad link: passes bytes on between a client and the coordinator, and breaks once.

use super::Coordinator;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// From the client to the coordinator.
    Up,
    /// From the coordinator to the client.
    Down,
}

/// A link that breaks after so many bytes one way, and is sound from then on.
pub struct BadLink {
    /// What a client takes for the coordinator.
    pub origin: String,
    /// Bytes that went up.
    pub up: Arc<AtomicU64>,
    /// Bytes that went down.
    pub down: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl BadLink {
    /// Opens it.
    pub async fn to(coordinator: &Coordinator, way: Way, breaks_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let authority = coordinator.authority();
        let (up, down) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let left = Arc::new(AtomicU64::new(breaks_after));
        let counters = (up.clone(), down.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&authority).await.unwrap();
                tokio::spawn(pass(client, server, way, left.clone(), counters.clone()));
            }
        });
        Self { origin, up, down, accepting }
    }
}

impl Drop for BadLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes one connection on. Where it breaks, all that went up has been dealt with before the client notices: so that
/// what a test sees does not depend on who is faster.
async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    way: Way,
    left: Arc<AtomicU64>,
    (up, down): (Arc<AtomicU64>, Arc<AtomicU64>),
) {
    let (mut from_client, mut from_server) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let (read, going) = tokio::select! {
            read = client.read(&mut from_client) => (read, Way::Up),
            read = server.read(&mut from_server) => (read, Way::Down),
        };
        let Some(read) = read.ok().filter(|read| *read > 0) else { return };
        let (bytes, to, count) = match going {
            Way::Up => (&from_client[..read], &mut server, &up),
            Way::Down => (&from_server[..read], &mut client, &down),
        };
        let room = if going == way { left.load(Ordering::SeqCst) } else { u64::MAX };
        let passed = read.min(usize::try_from(room).unwrap_or(usize::MAX));
        count.fetch_add(passed as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..passed]).await.is_err() {
            return;
        }
        if going == way && room != u64::MAX {
            // Broken once, it is as good as unlimited.
            left.store(if passed as u64 == room { u64::MAX } else { room - passed as u64 }, Ordering::SeqCst);
            if passed as u64 == room {
                let _ = server.shutdown().await;
                let _ = server.read_to_end(&mut Vec::new()).await;
                return;
            }
        }
    }
}
