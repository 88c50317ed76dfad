//! One round in words, for those who point at it and for those who hear it.

use crate::api::{RoundOutcome, RoundSummary};
use crate::format;

/// `round 7 · 85.6%`
pub fn accuracy(round: &RoundSummary) -> String {
    let value = match round.outcome {
        RoundOutcome::Void => "void".to_owned(),
        RoundOutcome::Complete => round.test_accuracy.map_or("not evaluated".to_owned(), format::percent),
    };
    format!("round {} · {value}", round.number)
}

/// `test 0.444 · training 0.394`
pub fn loss(round: &RoundSummary) -> String {
    let one = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {}", format::loss(value)));
    let parts: Vec<_> =
        [one("test", round.test_loss), one("training", round.train_loss)].into_iter().flatten().collect();
    parts.join(" · ")
}

/// A sentence for screen readers.
pub fn in_words(round: &RoundSummary) -> String {
    match round.outcome {
        RoundOutcome::Void => format!("Round {}, void: {}", round.number, round.reason),
        RoundOutcome::Complete => {
            let accuracy = round.test_accuracy.map_or("unknown".to_owned(), format::percent);
            format!("Round {}: accuracy {accuracy}, loss {}", round.number, loss(round))
        }
    }
}
