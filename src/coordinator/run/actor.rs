//! The actor that owns a run: does one job after the other, and owns the run's aggregations.

use super::feed::Feed;
use super::mailbox::{Job, LiveRun};
use std::sync::Arc;
use tokio::sync::mpsc;

/// See the module.
pub(in crate::coordinator) struct Actor {
    run: LiveRun,
    inbox: mpsc::Receiver<Job>,
}

impl Actor {
    pub fn new(run: LiveRun, inbox: mpsc::Receiver<Job>) -> Self {
        Self { run, inbox }
    }

    /// Runs until the run is halted.
    pub async fn run(self) {
        let parts = self.run.environment().parts.clone();
        supervise(parts.feed.clone(), self.work()).await;
        parts.uploads.discard_before(u64::MAX);
    }

    async fn work(mut self) {
        let parts = self.run.environment().parts.clone();
        self.run.tick().await;
        loop {
            let timeout = self.run.machine().poll_timeout().map(|at_ms| parts.clock.instant(at_ms));
            let timer = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // a halted run does nothing more
                () = parts.halt.cancelled() => break,
                aggregated = self.run.environment_mut().aggregated() => match aggregated {
                    Ok((round, Some(result))) => self.run.aggregated(round, result).await,
                    Ok((_, None)) => break, // halted
                    Err(panic) => {
                        let round = self.run.machine().open_round().map_or(0, |round| round.number);
                        self.run.aggregated(round, Err(format!("aggregation failed unexpectedly: {panic}"))).await;
                    }
                },
                job = self.inbox.recv() => match job {
                    Some(job) => job(&mut self.run).await,
                    None => break,
                },
                () = timer => self.run.tick().await,
            }
        }
        // The data folder is released only when nothing writes into it any more. The round continues after the restart.
        while self.run.environment_mut().aggregations.join_next().await.is_some() {}
    }
}

/// Runs an actor to its end. If it panics, which is a defect of this program, every request is answered with that from then
/// on: the state in memory is unknown, but what is stored is consistent, so a restart continues from there.
async fn supervise(feed: Arc<Feed>, work: impl Future<Output = ()> + Send + 'static) {
    let Err(error) = tokio::spawn(work).await else { return };
    let run = feed.read(|run| run.run.clone());
    tracing::error!(%run, %error, "a run has failed");
    let reason = format!("The run has failed ({error}). It continues when the coordinator is restarted.");
    feed.health(|health| health.failed = Some(reason));
    feed.notify_tasks();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_that_panics_shows_that_to_everybody() {
        let feed = Arc::new(Feed::idle());
        supervise(feed.clone(), async { panic!("this should not happen") }).await;
        let reason = feed.blocked.borrow().clone().unwrap();
        assert!(reason.contains("this should not happen"), "{reason}");
        assert_eq!(feed.snapshot().waiting, reason);
    }
}
