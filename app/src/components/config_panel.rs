//! The configuration that the next round takes.

use super::erased::part;
use crate::api::{CohortSize, Optimizer, RunConfig};
use crate::board::Board;
use crate::format;
use leptos::prelude::*;

/// As a list of names and values.
#[component]
pub fn ConfigPanel(board: Board) -> impl IntoView {
    let line = |(name, value): (&'static str, String)| {
        view! { <div><dt>{name}</dt><dd>{value}</dd></div> }
    };
    view! {
        <section class="card" aria-labelledby="config-title">
            <h2 id="config-title">"Configuration"</h2>
            <dl class="pairs">{part(move || board.config.with(|config| lines(config).map(line).into_iter().collect_view().into_any()))}</dl>
        </section>
    }
    .into_any()
}

fn lines(config: &RunConfig) -> [(&'static str, String); 7] {
    let train = &config.train;
    let cohort = match config.cohort {
        CohortSize::Fraction(share) if share >= 1.0 => "all clients".to_owned(),
        CohortSize::Fraction(share) => format!("{} of clients", format::percent(share)),
        CohortSize::Size(size) => format!("up to {}", format::plural(size.into(), "client")),
    };
    let optimizer = match train.optimizer {
        Optimizer::Sgd => format!("sgd, {} (momentum {})", train.learning_rate, train.momentum),
        Optimizer::Adam => format!("adam, {}", train.learning_rate),
    };
    [
        ("Admission", config.admission.to_string()),
        ("Cohort", cohort),
        ("Quorum", format::plural(config.min_clients.into(), "client")),
        ("Deadline", format::duration(u64::from(config.deadline_s) * 1000)),
        (
            "Local work",
            format!("{}, batches of {}", format::plural(train.local_epochs.into(), "epoch"), train.batch_size),
        ),
        ("Optimizer", optimizer),
        ("Encoding", config.encoding.to_string()),
    ]
}
