//! `fedlearn demo`: a coordinator here, and clients as processes of their own, to look at.

use super::failed;
use super::serve::show_admin_token;
use crate::cli::{self, Exit};
use crate::config::DemoSettings;
use crate::http::Server;
use crate::round::Order;
use crate::store::Store;
use app::api::RunId;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Removed and made anew at each start.
const DATA_DIR: &str = "data/demo";
/// How long clients may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(5);

pub(super) async fn run(settings: &DemoSettings, stop: CancellationToken) -> Exit {
    let (listen, clients) = (settings.listen.to_string(), settings.clients.to_string());
    let serve = ["fedlearn", "serve", "--data-dir", DATA_DIR, "--listen", &listen, "--min-clients", &clients];
    let serve = match cli::parse(serve.map(Into::into), []).map(|cli| cli.command) {
        Ok(cli::Command::Serve(serve)) => serve,
        Ok(_) => return Exit::Failed,
        Err(stop) => return stop.report(),
    };
    let server = match Server::start_with(&serve, Store::remove).await {
        Ok(server) => server,
        Err(error) => return failed(&error, Exit::Failed),
    };
    show_admin_token(&server);
    let mut clients: Vec<Child> = (1..=settings.clients).filter_map(|i| client(settings, &server, i)).collect();
    let run: RunId = "default".parse().expect("it is of the alphabet");
    if let Some(handle) = server.coordinator().run(&run)
        && let Err(error) = handle.order(Order::StartAutorun { rounds: settings.rounds }).await
    {
        tracing::error!(%error, "the rounds cannot start");
    }
    stop.cancelled().await;
    for client in &clients {
        if let Some(pid) = client.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    // The coordinator is still there to hear their good-byes.
    let gone = futures::future::join_all(clients.iter_mut().map(Child::wait));
    if tokio::time::timeout(GOOD_BYE, gone).await.is_err() {
        tracing::warn!("clients still running after {} s are killed", GOOD_BYE.as_secs());
    }
    server.stop().await;
    Exit::Done
}

/// Each has its share of the cores: more threads than cores only slow them all down.
fn client(settings: &DemoSettings, server: &Server, number: u32) -> Option<Child> {
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let threads = (cores / settings.clients).max(1);
    let program = std::env::current_exe().ok()?;
    let started = Command::new(program)
        .args(["join", &format!("http://{}", server.address()), "--name", &format!("client-{number}")])
        .args(["--partition", &format!("{number}/{}", settings.clients), "--threads", &threads.to_string()])
        .args(["--log", "warn"])
        .process_group(0) // Ctrl-C on the terminal reaches this process alone, which then tells them once
        .kill_on_drop(true)
        .spawn();
    started.inspect_err(|error| tracing::error!(%error, "client {number} cannot start")).ok()
}
