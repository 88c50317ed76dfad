//! Accuracy and loss over the rounds, as two charts above one another with one crosshair.
//!
//! Two charts rather than one with two scales: where two scales cross means nothing, and looks as if it did.

mod panel;
mod scale;

use crate::api::{RoundOutcome, RoundSummary};
use crate::board::Board;
use crate::format;
use leptos::ev::{KeyboardEvent, PointerEvent};
use leptos::prelude::*;
use panel::{Panel, Series};
use scale::{Axis, nearest, rounds_end, step};

/// The charts, or what will be there.
#[component]
pub fn Chart(board: Board) -> impl IntoView {
    let empty = Memo::new(move |_| board.history.with(|history| history.rounds.is_empty()));
    view! {
        <section class="card charts" aria-labelledby="charts-title">
            <div class="card-head">
                <h2 id="charts-title">"Progress"</h2>
                {move || (!empty.get()).then(|| view! {
                    <p class="legend">
                        <span class="key key-test">"test split"</span>
                        <span class="key key-train">"clients' training"</span>
                    </p>
                })}
            </div>
            {move || if empty.get() { view! { <Empty/> }.into_any() } else { view! { <Panels board/> }.into_any() }}
        </section>
    }
    .into_any()
}

#[component]
fn Empty() -> impl IntoView {
    view! {
        <div class="empty" data-testid="chart-accuracy" data-points="0">
            <svg class="empty-art" viewBox="0 0 120 48" aria-hidden="true">
                <path d="M2 46H118M2 46V2" class="art-axis"></path>
                <path d="M4 42C24 22 40 14 62 11S100 7 116 6" class="art-line"></path>
            </svg>
            <p>"No round is over yet."</p>
            <p class="muted">
                "After each round the global model is evaluated; its accuracy and loss appear here, point by point."
            </p>
        </div>
    }
    .into_any()
}

#[component]
fn Panels(board: Board) -> impl IntoView {
    let rounds = Memo::new(move |_| board.history.with(|history| history.rounds.clone()));
    let numbers = Memo::new(move |_| rounds.with(|rounds| rounds.iter().map(|r| r.number).collect::<Vec<_>>()));
    let planned =
        Memo::new(move |_| board.course.with(|course| course.autorun.map_or(0, |autorun| u64::from(autorun.rounds))));
    let x = Memo::new(move |_| {
        let last = numbers.with(|numbers| numbers.last().copied().unwrap_or(0));
        Axis::rounds(rounds_end(last, last + planned.get()), 8)
    });
    let accuracy = Memo::new(move |_| {
        let points = rounds.with(|rounds| points(rounds, |round| round.test_accuracy.map(|share| share * 100.0)));
        vec![Series { class: "test", points }]
    });
    let loss = Memo::new(move |_| {
        rounds.with(|rounds| {
            vec![
                Series { class: "train", points: points(rounds, |round| round.train_loss) },
                Series { class: "test", points: points(rounds, |round| round.test_loss) },
            ]
        })
    });
    let voids = Memo::new(move |_| {
        let void = |round: &&RoundSummary| round.outcome == RoundOutcome::Void;
        rounds.with(|rounds| rounds.iter().filter(void).map(|round| round.number).collect::<Vec<_>>())
    });
    let best = Memo::new(move |_| board.history.with(|history| history.best.map(|best| best.round)));
    let no_best = Memo::new(|_| None);

    let selected = RwSignal::new(None::<u64>);
    // The round that the figures beside the titles are of: the pointed one, else the last.
    let shown = Memo::new(move |_| {
        let wanted = selected.get();
        rounds.with(|rounds| {
            let pointed = wanted.and_then(|number| rounds.iter().find(|round| round.number == number));
            pointed.or(rounds.last()).cloned()
        })
    });
    let of_shown = move |text: fn(&RoundSummary) -> String| {
        Signal::derive(move || shown.with(|round| round.as_ref().map(text).unwrap_or_default()))
    };
    let point = Callback::new(move |share: f64| {
        selected.set(numbers.with(|numbers| nearest(numbers, x.with(|x| x.value(share)))));
    });
    let press = move |event: KeyboardEvent| {
        let key = event.key();
        if key == "Escape" {
            selected.set(None);
        } else if let Some(round) = numbers.with(|numbers| step(numbers, selected.get_untracked(), &key)) {
            event.prevent_default();
            selected.set(Some(round));
        }
    };
    let ends = move |pick: fn(&[u64]) -> Option<&u64>| numbers.with(|numbers| pick(numbers).copied().unwrap_or(0));

    view! {
        <div
            class="panels"
            role="slider"
            tabindex="0"
            aria-label="Round shown in the charts"
            aria-valuemin=move || ends(<[u64]>::first)
            aria-valuemax=move || ends(<[u64]>::last)
            aria-valuenow=move || shown.with(|round| round.as_ref().map_or(0, |round| round.number))
            aria-valuetext=of_shown(in_words)
            data-testid="chart-readout"
            on:keydown=press
            on:blur=move |_| selected.set(None)
        >
            <div data-testid="chart-accuracy" data-points=move || accuracy.with(|all| all.first().map_or(0, Series::len))>
                <Panel
                    title="Accuracy"
                    unit="%"
                    bounds=(0.0, 100.0)
                    readout=of_shown(accuracy_readout)
                    series=accuracy x voids best selected point
                />
            </div>
            <Panel
                title="Loss"
                unit=""
                bounds=(f64::NEG_INFINITY, f64::INFINITY)
                readout=of_shown(loss_readout)
                series=loss x voids best=no_best selected point
            />
        </div>
        {move || (voids.with(|voids| !voids.is_empty())).then(|| view! {
            <p class="muted small">"A cross on the axis is a void round: it made no new version."</p>
        })}
    }
    .into_any()
}

fn points(rounds: &[RoundSummary], value: impl Fn(&RoundSummary) -> Option<f64>) -> Vec<(u64, f64)> {
    rounds.iter().filter_map(|round| Some((round.number, value(round)?))).filter(|(_, v)| v.is_finite()).collect()
}

fn accuracy_readout(round: &RoundSummary) -> String {
    let value = match round.outcome {
        RoundOutcome::Void => "void".to_owned(),
        RoundOutcome::Complete => round.test_accuracy.map_or("not evaluated".to_owned(), format::percent),
    };
    format!("round {} · {value}", round.number)
}

fn loss_readout(round: &RoundSummary) -> String {
    let one = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {}", format::loss(value)));
    let parts: Vec<_> =
        [one("test", round.test_loss), one("training", round.train_loss)].into_iter().flatten().collect();
    parts.join(" · ")
}

fn in_words(round: &RoundSummary) -> String {
    match round.outcome {
        RoundOutcome::Void => format!("Round {}, void: {}", round.number, round.reason),
        RoundOutcome::Complete => {
            let accuracy = round.test_accuracy.map_or("unknown".to_owned(), format::percent);
            format!("Round {}: accuracy {accuracy}, loss {}", round.number, loss_readout(round))
        }
    }
}

/// Where the pointer is, as a share of the width of what it points at.
fn share_across(event: &PointerEvent) -> Option<f64> {
    let width = f64::from(event_target::<leptos::web_sys::Element>(event).client_width());
    (width > 0.0).then(|| f64::from(event.offset_x()) / width)
}
