//! What each subcommand does, from its settings to its exit code.

mod bench;
mod demo;
mod join;
mod serve;

use crate::causes::chain;
use crate::cli::{Command, Exit};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs a subcommand to its end.
pub async fn run(command: Command) -> Exit {
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error, Exit::Failed),
    };
    raise_file_limit();
    match command {
        Command::Serve(settings) => serve::run(&settings, stop).await,
        Command::Join(settings) => join::run(*settings, stop).await,
        Command::Demo(settings) => demo::run(&settings, stop).await,
        Command::Bench(settings) => bench::run(&settings, stop).await,
        Command::Token(settings) => serve::renew_token(&settings).await,
    }
}

/// Each connection and each upload holds a file; the soft limit of most systems is for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Cancelled by the first Ctrl-C or SIGTERM; the second ends the program at once.
fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if told.is_cancelled() {
                tracing::warn!("told to stop twice: stopping at once");
                std::process::exit(Exit::Interrupted as i32);
            }
            tracing::info!("stopping; once more to stop at once");
            told.cancel();
        }
    });
    Ok(stop)
}

/// The end of a subcommand that could not do its work.
fn failed(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    tracing::error!("{}", chain(error));
    exit
}
