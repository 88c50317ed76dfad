//! Progress for the participant: a bar on a terminal, otherwise a log line an epoch.

use app::api::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Shows the progress of one round's training.
#[derive(Debug)]
pub struct Display {
    round: u64,
    bar: Option<ProgressBar>,
    last: Option<Progress>,
}

impl Display {
    pub fn new(round: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} batches, {msg}, {eta} left");
            bar.set_style(style.expect("the template above is well-formed"));
            bar.set_prefix(format!("round {round}"));
            bar
        });
        Self { round, bar, last: None }
    }

    pub fn show(&mut self, now: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(u64::from(now.epochs) * u64::from(now.batches));
            bar.set_position(u64::from(now.epoch.saturating_sub(1)) * u64::from(now.batches) + u64::from(now.batch));
            bar.set_message(format!("epoch {}/{}, loss {:.4}", now.epoch, now.epochs, now.loss));
        } else if let Some(last) = self.last
            && last.epoch < now.epoch
        {
            self.line(last);
        }
        self.last = Some(now);
    }

    pub fn end(self) {
        match (&self.bar, self.last) {
            (Some(bar), _) => bar.finish_and_clear(),
            (None, Some(last)) => self.line(last),
            (None, None) => {}
        }
    }

    fn line(&self, p: Progress) {
        tracing::info!("round {}: epoch {}/{} loss {:.4}", self.round, p.epoch, p.epochs, p.loss);
    }
}
