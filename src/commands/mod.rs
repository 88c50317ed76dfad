//! What each subcommand does, from its settings to its exit code.

#[cfg(feature = "server")]
mod demo;
mod join;
mod runs;
#[cfg(feature = "server")]
mod serve;

use crate::causes::chain;
use crate::cli::{Command, Exit};
use std::io::{self, Write};
use tokio_util::sync::CancellationToken;

/// Runs a subcommand to its end.
pub async fn run(command: Command) -> Exit {
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error, Exit::Failed),
    };
    #[cfg(unix)]
    raise_file_limit();
    match command {
        Command::Join(settings) => join::run(*settings, stop).await,
        #[cfg(feature = "server")]
        Command::Serve(settings) => serve::run(&settings, stop).await,
        #[cfg(feature = "server")]
        Command::Demo(settings) => demo::run(&settings, stop).await,
        Command::Runs(settings) => runs::run(&settings, stop).await,
        #[cfg(feature = "server")]
        Command::Token(settings) => serve::renew_token(&settings).await,
    }
}

/// Each connection and each upload holds a file; the soft limit of most systems is for programs that use `select`.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Cancelled by the first signal to stop; the second ends the program at once.
fn stop_signal() -> io::Result<CancellationToken> {
    let mut signals = StopSignals::new()?;
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        loop {
            signals.next().await;
            if first.is_cancelled() {
                tracing::warn!("second signal to stop: stopping at once");
                std::process::exit(Exit::Interrupted as i32);
            }
            tracing::info!("stopping; send the signal again to stop at once");
            first.cancel();
        }
    });
    Ok(stop)
}

/// SIGINT (Ctrl-C) and SIGTERM.
#[cfg(unix)]
struct StopSignals([tokio::signal::unix::Signal; 2]);

#[cfg(unix)]
impl StopSignals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// Ctrl-C, and the events by which Windows closes a console or shuts down.
#[cfg(windows)]
struct StopSignals(
    tokio::signal::windows::CtrlC,
    tokio::signal::windows::CtrlClose,
    tokio::signal::windows::CtrlShutdown,
);

#[cfg(windows)]
impl StopSignals {
    fn new() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self(ctrl_c()?, ctrl_close()?, ctrl_shutdown()?))
    }

    async fn next(&mut self) {
        let Self(ctrl_c, close, shutdown) = self;
        tokio::select! {
            _ = ctrl_c.recv() => {}
            _ = close.recv() => {}
            _ = shutdown.recv() => {}
        }
    }
}

/// The end of a subcommand that could not do its work.
fn failed(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    tracing::error!("{}", chain(error));
    exit
}

/// Prints what the operator asked for, which is not a log. If nobody reads it any more, that stops nothing.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
