//! The link between agents and coordinator: a TCP proxy on loopback that delays bytes and cuts connections, and notes every
//! update that the coordinator acknowledges, whether or not the agent gets to see it.

use crate::conversation::{Acknowledged, Conversation, Way};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The share of connections that are cut, each way: in the head of a request, in a body of 280 kB, or much later.
const CUT: f64 = 0.25;
/// After how many bytes, as a power of two: as many within the first 100 bytes as within the first MB.
const CUT_AFTER_LOG2: std::ops::Range<f64> = 5.0..21.0;
/// The share of pieces, of 16 KiB at most, that come late, and by how many milliseconds at most.
const DELAYED: (f64, u64) = (0.1, 60);
/// The same of those that come very late.
const STALLED: (f64, u64) = (0.01, 1_500);

/// What all connections know.
#[derive(Debug, Default)]
pub struct Notes {
    /// Whether it does its worst.
    is_bad: AtomicBool,
    /// Connections that it cut.
    pub cuts: AtomicU64,
    /// Pieces that it delayed.
    pub delays: AtomicU64,
    /// What was acknowledged.
    acknowledged: Mutex<BTreeSet<Acknowledged>>,
    /// Who was to train for a round after its update for it had been acknowledged.
    asked_again: Mutex<Vec<(String, i64)>>,
    /// What it did not understand.
    puzzled: Mutex<Vec<String>>,
}

impl Notes {
    fn hear(&self, conversation: &Mutex<Conversation>, way: Way, bytes: &[u8]) {
        let known = self.acknowledged.lock().unwrap().clone();
        let heard = conversation.lock().unwrap().hear(way, bytes, &known);
        match heard {
            Ok(heard) => {
                self.acknowledged.lock().unwrap().extend(heard.acknowledged);
                self.asked_again.lock().unwrap().extend(heard.asked_again);
            }
            Err(puzzle) => self.puzzled.lock().unwrap().push(puzzle),
        }
    }
}

/// The link. Dropped, it is gone with all connections.
pub struct Link {
    /// What agents take for the coordinator.
    pub origin: String,
    /// What it knows.
    pub notes: Arc<Notes>,
    accepting: AbortHandle,
}

impl Link {
    /// Opens it, well-behaved, to a coordinator that may be away at times.
    pub async fn to(coordinator: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let notes = Arc::<Notes>::default();
        let shared = notes.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(pass(client, coordinator, shared.clone(), seed.wrapping_add(number << 32)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { origin, notes, accepting: accepting.abort_handle() }
    }

    /// Has it do its worst from now on, or behave.
    pub fn is_bad(&self, is_bad: bool) {
        self.notes.is_bad.store(is_bad, Ordering::SeqCst);
    }

    /// All updates that the coordinator has acknowledged; nobody was asked for one of them again. What was said must have
    /// been understood to the last byte.
    pub fn acknowledged(&self) -> BTreeSet<Acknowledged> {
        assert_eq!(*self.notes.puzzled.lock().unwrap(), [""; 0], "the link understands what passes");
        assert_eq!(*self.notes.asked_again.lock().unwrap(), [], "nobody trains twice for a round (client, round)");
        self.notes.acknowledged.lock().unwrap().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes one connection on, until either side is gone or it is cut: then so is the whole of it.
async fn pass(client: TcpStream, coordinator: SocketAddr, notes: Arc<Notes>, seed: u64) {
    let Ok(server) = TcpStream::connect(coordinator).await else { return };
    let (client_says, client_hears) = client.into_split();
    let (mut server_says, server_hears) = server.into_split();
    let conversation = Mutex::default();
    let carry_up = carry(Way::Up, client_says, server_hears, &conversation, &notes, seed);
    let carry_down = carry(Way::Down, &mut server_says, client_hears, &conversation, &notes, seed + 1);
    // Whichever ends first takes the other with it, and the agent's end of both.
    tokio::select! {
        () = carry_up => {}
        () = carry_down => {}
    }
    // What the coordinator says now was said, although no agent hears it.
    let mut rest = Vec::new();
    let _ = server_says.read_to_end(&mut rest).await;
    notes.hear(&conversation, Way::Down, &rest);
}

async fn carry(
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    conversation: &Mutex<Conversation>,
    notes: &Notes,
    seed: u64,
) {
    let mut luck = ChaCha8Rng::seed_from_u64(seed);
    let is_cut = luck.random_bool(CUT);
    let cut_after = luck.random_range(CUT_AFTER_LOG2).exp2() as usize;
    let mut left = if is_cut { cut_after } else { usize::MAX };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Some(read) = from.read(&mut buffer).await.ok().filter(|read| *read > 0) else { return };
        // Before it is passed on: a request is known before its answer comes, and an answer that is cut was given.
        notes.hear(conversation, way, &buffer[..read]);
        let mut passed = read;
        if notes.is_bad.load(Ordering::SeqCst) {
            let late = [DELAYED, STALLED].map(|(share, most_ms)| {
                let ms = luck.random_range(0..most_ms);
                if luck.random_bool(share) { ms } else { 0 }
            });
            let late = late.iter().sum();
            if late > 0 {
                notes.delays.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(late)).await;
            }
            passed = read.min(left);
            left -= passed;
        }
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        if passed < read {
            notes.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}
