//! What keeps a run from going on as it should, and what is said of it.
//!
//! Decides which of several troubles is told. Refuses to know how they come and go.

use std::any::Any;

/// By cause: each is set and cleared by who knows of it, and clears no other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The run's task has ended before its time.
    pub broken_down: Option<String>,
    /// What is decided cannot be stored.
    pub decided: Option<String>,
    /// There is no new model yet, although there could be.
    pub combining: Option<String>,
    /// What is said cannot be stored. The run goes on, and whoever sends is told to try again.
    pub words: Option<String>,
    /// No body of an update can be stored. The same goes for that.
    pub bodies: Option<String>,
    /// Updates can be larger than the coordinator accepts.
    pub too_large: Option<String>,
}

/// What is sent to a run, by where it is stored: the database, and a folder of files.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sent {
    Words,
    Bodies,
}

impl Sent {
    /// How it is said that none of it can be stored.
    pub fn none(self) -> &'static str {
        match self {
            Self::Words => "nothing that is sent",
            Self::Bodies => "no update that is sent",
        }
    }
}

impl Trouble {
    /// Why the run cannot go on; none: it can.
    pub fn stuck(&self) -> Option<&String> {
        self.broken_down.as_ref().or(self.decided.as_ref()).or(self.combining.as_ref())
    }

    /// Why what is sent to the run may come to nothing; none: it will not.
    pub fn unready(&self) -> Option<&String> {
        self.stuck().or(self.words.as_ref()).or(self.bodies.as_ref())
    }

    /// Why what is sent of that kind cannot be stored.
    pub fn unstored(&mut self, sent: Sent) -> &mut Option<String> {
        match sent {
            Sent::Words => &mut self.words,
            Sent::Bodies => &mut self.bodies,
        }
    }

    /// The sentence, where that of the round machine is `waiting`.
    pub fn sentence(&self, waiting: &str) -> String {
        match (self.stuck(), self.unready()) {
            (Some(why), _) => why.clone(),
            (None, Some(why)) => format!("{why} {waiting}"),
            (None, None) => match &self.too_large {
                Some(why) => format!("Updates may be rejected: {why}. {waiting}"),
                None => waiting.to_owned(),
            },
        }
    }
}

/// The words of a panic.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_until_it_is_gone_and_then_the_one_behind_it() {
        let cause = |why: &str| Some(why.to_owned());
        let mut trouble = Trouble {
            broken_down: cause("broken down"),
            decided: cause("decided"),
            combining: cause("combining"),
            words: cause("Words."),
            bodies: cause("Bodies."),
            too_large: cause("why"),
        };
        let told = |trouble: &Trouble| (trouble.stuck().cloned(), trouble.sentence("Round 1."));
        assert_eq!(told(&trouble), (cause("broken down"), "broken down".into()));
        trouble.broken_down = None;
        assert_eq!(told(&trouble), (cause("decided"), "decided".into()));
        trouble.decided = None;
        assert_eq!(told(&trouble), (cause("combining"), "combining".into()));
        trouble.combining = None;
        assert_eq!(told(&trouble), (None, "Words. Round 1.".into()), "that stops nothing");
        *trouble.unstored(Sent::Words) = None;
        assert_eq!(told(&trouble), (None, "Bodies. Round 1.".into()), "nor that");
        assert_eq!(trouble.unready(), cause("Bodies.").as_ref(), "but who monitors is told");
        *trouble.unstored(Sent::Bodies) = None;
        assert_eq!(told(&trouble), (None, "Updates may be rejected: why. Round 1.".into()));
        trouble.too_large = None;
        assert_eq!((told(&trouble), trouble.unready()), ((None, "Round 1.".into()), None));
    }
}
