//! What prevents a run from working as it should.

/// Each cause is set and cleared by the part of the program that knows of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Health {
    /// The run's actor has panicked.
    pub failed: Option<String>,
    /// A decision cannot be stored, or no new model can be made.
    pub blocked: Option<String>,
    /// The last write of each kind that failed, until one succeeds. The run continues; clients try again.
    unstored: [Option<String>; 2],
    /// Updates may be larger than the coordinator accepts.
    pub too_large: Option<String>,
}

/// Where something is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::coordinator) enum Storage {
    /// In the database.
    Ledger,
    /// In a file, as the bodies of updates are.
    Files,
}

impl Storage {
    /// What is stored there.
    pub const fn contents(self) -> &'static str {
        match self {
            Self::Ledger => "what clients send",
            Self::Files => "updates",
        }
    }
}

impl Health {
    /// Why the last write to that storage failed; `None` if it succeeded.
    pub fn unstored(&mut self, storage: Storage) -> &mut Option<String> {
        &mut self.unstored[storage as usize]
    }

    /// Why the run cannot continue; `None` if it can.
    pub fn blocked(&self) -> Option<&String> {
        self.failed.as_ref().or(self.blocked.as_ref())
    }

    /// Why requests to the run may fail; `None` if they will not.
    pub fn not_ready(&self) -> Option<&String> {
        self.blocked().or(self.unstored.iter().flatten().next())
    }

    /// What the run waits for, where the round machine says `waiting`.
    pub fn waiting(&self, waiting: &str) -> String {
        match (self.blocked(), self.not_ready(), &self.too_large) {
            (Some(reason), ..) => reason.clone(),
            (None, Some(reason), _) => format!("{reason} {waiting}"),
            (None, None, Some(reason)) => format!("Updates may be rejected: {reason}. {waiting}"),
            (None, None, None) => waiting.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_severe_cause_is_shown_until_it_is_cleared() {
        let cause = |why: &str| Some(why.to_owned());
        let mut health = Health {
            failed: cause("failed"),
            blocked: cause("blocked"),
            unstored: [cause("Ledger."), cause("Files.")],
            too_large: cause("why"),
        };
        let shown = |health: &Health| (health.blocked().cloned(), health.waiting("Round 1."));
        assert_eq!(shown(&health), (cause("failed"), "failed".into()));
        health.failed = None;
        assert_eq!(shown(&health), (cause("blocked"), "blocked".into()));
        health.blocked = None;
        assert_eq!(shown(&health), (None, "Ledger. Round 1.".into()));
        *health.unstored(Storage::Ledger) = None;
        assert_eq!(shown(&health), (None, "Files. Round 1.".into()));
        assert_eq!(health.not_ready(), cause("Files.").as_ref());
        *health.unstored(Storage::Files) = None;
        assert_eq!(shown(&health), (None, "Updates may be rejected: why. Round 1.".into()));
        health.too_large = None;
        assert_eq!((shown(&health), health.not_ready()), ((None, "Round 1.".into()), None));
    }
}
