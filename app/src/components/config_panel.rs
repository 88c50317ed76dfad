//! The configuration that the next round takes.

use super::config_dialog::{ConfigDialog, Form};
use crate::api::{BelowQuorum, CohortSize, Mode, Optimizer, RunConfig};
use crate::board::Board;
use crate::format;
use leptos::prelude::*;

/// As a list of names and values; for the operator, with the way to change it.
#[component]
pub fn ConfigPanel(board: Board) -> impl IntoView {
    let line = |(name, value): (&'static str, String)| {
        view! { <div><dt>{name}</dt><dd>{value}</dd></div> }
    };
    let version = move || board.settings.with(|settings| format!("version {}", settings.version));
    view! {
        <section class="card" aria-labelledby="config-title">
            <div class="card-head">
                <h2 id="config-title">"Configuration"</h2>
                <span class="small muted of-version" data-testid="config-version">{version}</span>
                {board.is_controlled().then(|| view! { <Edit form=Form::new(board)/> })}
            </div>
            <dl class="pairs">
                {move || board.settings.with(|settings| {
                    lines(&settings.config).map(line).into_iter().collect_view().into_any()
                })}
            </dl>
        </section>
    }
    .into_any()
}

#[component]
fn Edit(form: Form) -> impl IntoView {
    view! {
        <button
            class="button small-button needs-js" type="button" data-testid="config-edit"
            aria-label="Edit the configuration" aria-haspopup="dialog"
            on:click=move |_| form.open()
        >"Edit"</button>
        <ConfigDialog form/>
    }
    .into_any()
}

fn lines(config: &RunConfig) -> [(&'static str, String); 11] {
    let train = &config.train;
    let mut cohort = match config.cohort {
        CohortSize::Fraction(share) if share >= 1.0 => "all clients".to_owned(),
        CohortSize::Fraction(share) => format!("{} of clients", format::percent(share)),
        CohortSize::Size(size) => format!("up to {}", format::plural(size.into(), "client")),
    };
    if config.over_selection > 0.0 && config.mode == Mode::Sync {
        cohort += &format!(" and {} more", format::percent(config.over_selection));
    }
    let mode = match config.mode {
        Mode::Sync => config.mode.to_string(),
        Mode::Async => format!("async, every {}", format::plural(config.buffer_size.into(), "update")),
    };
    let optimizer = match train.optimizer {
        Optimizer::Sgd => format!("sgd, {} (momentum {})", train.learning_rate, train.momentum),
        Optimizer::Adam => format!("adam, {}", train.learning_rate),
    };
    let below = match config.below_quorum {
        BelowQuorum::Void => "else void",
        BelowQuorum::Extend => "else extended",
    };
    let weight = match config.max_weight_share {
        share if share < 1.0 => format!("at most {} of a round each", format::percent(share)),
        _ => "by samples alone".to_owned(),
    };
    [
        ("Admission", config.admission.to_string()),
        ("Cohort", cohort),
        ("Mode", mode),
        ("Quorum", format!("{}, {below}", format::plural(config.min_clients.into(), "client"))),
        ("Deadline", format::duration(u64::from(config.deadline_s) * 1000)),
        ("Weight", weight),
        ("Quarantine", format!("after {}", format::plural(config.max_strikes.into(), "strike"))),
        (
            "Local work",
            format!("{}, batches of {}", format::plural(train.local_epochs.into(), "epoch"), train.batch_size),
        ),
        ("Augmentation", if train.augment { "on" } else { "off" }.to_owned()),
        ("Optimizer", optimizer),
        ("Encoding", config.encoding.to_string()),
    ]
}
