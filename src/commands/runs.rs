//! `fedlearn runs`.

use super::{failed, say};
use crate::agent::{CallError, Operator};
use crate::cli::Exit;
use crate::config::{RunsAction, RunsSettings};
use app::api::RunLine;
use tokio_util::sync::CancellationToken;

#[derive(Debug, thiserror::Error)]
enum RunsError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the admin token is missing: give it as FEDLEARN_ADMIN_TOKEN or with --admin-token")]
    NoToken,
    #[error("the run is missing: fedlearn runs {0} RUN")]
    NoRun(&'static str),
    #[error("the new name is missing: fedlearn runs rename RUN NEW-NAME")]
    NoName,
}

pub(super) async fn run(settings: &RunsSettings, stop: CancellationToken) -> Exit {
    let done = tokio::select! {
        done = act(settings) => done,
        () = stop.cancelled() => return Exit::Interrupted,
    };
    match done {
        Ok(text) => {
            say(&text);
            Exit::Done
        }
        Err(error) => {
            let exit = match &error {
                RunsError::Call(error) if error.code().is_some() => Exit::Refused,
                RunsError::Call(_) => Exit::Failed,
                _ => Exit::Usage,
            };
            failed(&error, exit)
        }
    }
}

/// Does it, and returns what to print.
async fn act(settings: &RunsSettings) -> Result<String, RunsError> {
    let RunsSettings { action, force, .. } = settings;
    let token = settings.admin_token.as_ref().map(|token| token.expose().to_owned());
    // Anybody may list the runs.
    let token =
        if *action == RunsAction::List { token.unwrap_or_default() } else { token.ok_or(RunsError::NoToken)? };
    let operator = Operator::new(&settings.url, token, settings.ca_cert.as_deref())?;
    let run = || settings.target_run.as_ref().ok_or(RunsError::NoRun(action.as_str()));
    Ok(match action {
        RunsAction::List => {
            let mut runs = operator.runs(false).await?;
            runs.extend(operator.runs(true).await?);
            table(&runs)
        }
        RunsAction::Archive => {
            operator.archive(run()?, *force).await?;
            format!("run '{}' is archived", run()?)
        }
        RunsAction::Unarchive => {
            operator.unarchive(run()?).await?;
            format!("run '{}' is open", run()?)
        }
        RunsAction::Rename => {
            let to = settings.new_name.as_ref().ok_or(RunsError::NoName)?;
            operator.rename(run()?, to, *force).await?;
            format!("run '{}' is now run '{to}'", run()?)
        }
        RunsAction::Delete => {
            operator.delete(run()?, *force).await?;
            format!("run '{}' is deleted", run()?)
        }
    })
}

/// A line for each run, below a heading.
fn table(runs: &[RunLine]) -> String {
    let width = runs.iter().map(|line| line.run.as_str().len()).max().unwrap_or_default().max("run".len());
    let mut lines =
        vec![format!("{:width$}  {:11}  {:>7}  {:>7}  best accuracy", "run", "state", "version", "clients")];
    for line in runs {
        let state = if line.archived_ms.is_some() { "archived" } else { line.phase.as_str() };
        let best = line.best.map_or("-".to_owned(), |best| format!("{:.1}%", best.test_accuracy * 100.0));
        let RunLine { run, version, clients, .. } = line;
        lines.push(format!("{:width$}  {state:11}  {version:>7}  {clients:>7}  {best}", run.as_str()));
    }
    lines.join("\n")
}
