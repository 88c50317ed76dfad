//! The program: reads its settings and runs the subcommand.

use fedlearn::cli::Exit;
use fedlearn::{cli, commands};
use std::process::ExitCode;
use std::time::Duration;

#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads for work that waits: for the disk, or for the cores while updates are checked. More would not be faster, and each
/// keeps memory; tokio's own 512 took 100 MB with 32 clients.
const BLOCKING_THREADS: usize = 16;

/// How long work on other threads may take to end once the program is done.
const LAST_MOMENT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.report().into(),
    };
    cli::init_logging(cli.command.common());
    tracing::debug!(settings = ?cli.command, "settings");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    match runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build() {
        Ok(runtime) => {
            let exit = runtime.block_on(commands::run(cli.command));
            // Whatever still computes is of no use to anybody: all that counts is on disk.
            runtime.shutdown_timeout(LAST_MOMENT);
            exit.into()
        }
        Err(error) => {
            tracing::error!("cannot start: {error}");
            Exit::Failed.into()
        }
    }
}
