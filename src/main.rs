//! The program: reads its settings and runs the subcommand.

use fedlearn::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.report().into(),
    };
    cli::init_logging(cli.command.common());
    tracing::debug!(settings = ?cli.command, "settings");
    cli::Exit::Done.into()
}
