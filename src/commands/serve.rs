//! `fedlearn serve`, and `fedlearn token`.

use super::{failed, say};
use crate::cli::Exit;
use crate::config::{FirstRun, ServeSettings, TokenSettings};
use crate::http::Server;
use crate::store::Store;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// So long after it was told to stop, the program is gone, whatever hangs.
const GONE: Duration = Duration::from_millis(9_500);

pub(super) async fn run(settings: &ServeSettings, stop: CancellationToken) -> Exit {
    // Before the start, which takes long where much is to be read: that is to end within this time, too.
    tokio::spawn(gone_in_time(stop.clone()));
    let server = match stop.run_until_cancelled(Server::start(settings)).await {
        Some(Ok(server)) => server,
        Some(Err(error)) => return failed(&error, Exit::Failed),
        None => {
            tracing::info!("stopped before it was started; all goes on at the next start");
            return Exit::Done;
        }
    };
    report_settings_without_effect(&settings.first_run, &server);
    show_admin_token(&server);
    stop.cancelled().await;
    server.stop().await;
    Exit::Done
}

/// Logs the settings that were given for the run `default` but differ from what the data folder has.
fn report_settings_without_effect(settings: &FirstRun, server: &Server) {
    let run = "default".parse().ok().and_then(|run| server.coordinator().run(&run));
    let stored = run.map(|run| run.feed().snapshot());
    let stored = stored.as_ref().map(|run| (run.model.as_ref(), run.dataset, &run.config));
    for line in settings.without_effect(stored) {
        tracing::warn!("{line}");
    }
}

/// Ends the program [`GONE`] after it was told to stop.
async fn gone_in_time(stop: CancellationToken) {
    stop.cancelled().await;
    // Not a task: a disk that does not answer may hold every thread that runs tasks. Says nothing: so may the log.
    let _ = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(GONE);
        std::process::exit(Exit::Failed as i32);
    });
}

/// Puts another admin token in place of the one that was lost.
pub(super) async fn renew_token(settings: &TokenSettings) -> Exit {
    let renewed = async { Store::attach(&settings.data_dir).await?.renew_admin_token().await };
    match renewed.await {
        Ok(token) => {
            say(&format!("New admin token: {}\nThe old one and all log-ins are void.", token.reveal()));
            Exit::Done
        }
        Err(error) => failed(&error, Exit::Failed),
    }
}

/// Shows the dashboard's address; at the very first start with the admin token, which is not kept anywhere. It goes to
/// standard output, never to the log.
pub(super) fn show_admin_token(server: &Server) {
    let dashboard = server.dashboard();
    match server.new_admin_token() {
        Some(token) => say(&format!(
            "Dashboard:   {dashboard}/login#{token}\nAdmin token: {token}   (shown this once; `fedlearn token` makes another)",
            token = token.reveal(),
        )),
        None => say(&format!("Dashboard:   {dashboard}")),
    }
}
