//! Accuracy and loss over the rounds, as two charts above one another with one crosshair.
//!
//! Two charts rather than one with two scales: where two scales cross means nothing, and looks as if it did.

mod draw;
mod readout;
mod scale;

use crate::api::{BestVersion, RoundOutcome, RoundSummary};
use crate::board::Board;
use draw::{Plot, Series};
use leptos::ev::{KeyboardEvent, PointerEvent};
use leptos::prelude::*;
use scale::{Axis, nearest, rounds_end, step};

/// The charts, or what will be there.
#[component]
pub fn Chart(board: Board) -> impl IntoView {
    let empty = Memo::new(move |_| board.history.with(|history| history.rounds.is_empty()));
    let content =
        move || if empty.get() { view! { <Empty/> }.into_any() } else { view! { <Panels board/> }.into_any() };
    view! {
        <section class="card charts" aria-labelledby="charts-title">
            <div class="card-head">
                <h2 id="charts-title">"Progress"</h2>
                <p class="legend">
                    <span class="key key-test">"test split"</span>
                    <span class="key key-train">"clients' training"</span>
                </p>
            </div>
            {content}
        </section>
    }
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
}

/// What both charts show.
#[derive(Debug, Clone, PartialEq)]
struct Charts {
    /// Every round, by number.
    rounds: Vec<u64>,
    voids: Vec<u64>,
    x: Axis,
    /// Rounds with an accuracy.
    evaluated: usize,
    accuracy: Plot,
    loss: Plot,
}

impl Charts {
    /// `planned` rounds are still to come.
    fn new(rounds: &[RoundSummary], planned: u64, best: Option<BestVersion>) -> Self {
        let numbers: Vec<u64> = rounds.iter().map(|round| round.number).collect();
        let last = numbers.last().copied().unwrap_or(0);
        let series = |class, value: fn(&RoundSummary) -> Option<f64>| {
            let points = rounds.iter().filter_map(|round| Some((round.number, value(round)?)));
            Series { class, points: points.filter(|(_, value)| value.is_finite()).collect() }
        };
        let accuracy = series("test", |round| round.test_accuracy.map(|share| share * 100.0));
        let loss = vec![series("train", |round| round.train_loss), series("test", |round| round.test_loss)];
        let void = rounds.iter().filter(|round| round.outcome == RoundOutcome::Void);
        Self {
            voids: void.map(|round| round.number).collect(),
            x: Axis::rounds(rounds_end(last, last + planned), 8),
            evaluated: accuracy.points.len(),
            accuracy: Plot::new(vec![accuracy], "%", (0.0, 100.0), best.map(|best| best.round)),
            loss: Plot::new(loss, "", (f64::NEG_INFINITY, f64::INFINITY), None),
            rounds: numbers,
        }
    }
}

#[component]
fn Panels(board: Board) -> impl IntoView {
    let charts = Memo::new(move |_| {
        let planned = board.course.with(|course| course.autorun.map_or(0, |autorun| u64::from(autorun.rounds)));
        board.history.with(|history| Charts::new(&history.rounds, planned, history.best))
    });
    let selected = RwSignal::new(None::<u64>);
    // The round that the figures beside the titles are of: the pointed one, else the last.
    let of_shown = move |words: fn(&RoundSummary) -> String| {
        Signal::derive(move || {
            let wanted = selected.get();
            board.history.with(|history| {
                let pointed = wanted.and_then(|number| history.rounds.iter().find(|round| round.number == number));
                pointed.or(history.rounds.last()).map(words).unwrap_or_default()
            })
        })
    };
    let drawing = move |plot: fn(&Charts) -> &Plot| {
        Signal::derive(move || charts.with(|charts| plot(charts).svg(&charts.x, &charts.voids)))
    };
    let crosshair = move |plot: fn(&Charts) -> &Plot| {
        Signal::derive(move || {
            let round = selected.get();
            charts.with(|charts| round.map(|round| plot(charts).crosshair(&charts.x, round)).unwrap_or_default())
        })
    };
    let press = move |event: KeyboardEvent| {
        let key = event.key();
        if key == "Escape" {
            selected.set(None);
        } else if let Some(round) = charts.with(|charts| step(&charts.rounds, selected.get_untracked(), &key)) {
            event.prevent_default();
            selected.set(Some(round));
        }
    };
    let point = Callback::new(move |share: Option<f64>| {
        selected.set(charts.with(|charts| nearest(&charts.rounds, charts.x.value(share?))));
    });
    let end = move |pick: fn(&[u64]) -> Option<&u64>| {
        Signal::derive(move || charts.with(|charts| pick(&charts.rounds).copied().unwrap_or(0).to_string()))
    };
    let note = move || charts.with(|charts| !charts.voids.is_empty());
    view! {
        <div
            class="panels"
            role="slider"
            tabindex="0"
            aria-label="Round shown in the charts"
            aria-valuemin=end(<[u64]>::first)
            aria-valuemax=end(<[u64]>::last)
            aria-valuenow=of_shown(|round| round.number.to_string())
            aria-valuetext=of_shown(readout::in_words)
            data-testid="chart-readout"
            on:keydown=press
            on:blur=move |_| selected.set(None)
        >
            <div data-testid="chart-accuracy" data-points=move || charts.with(|charts| charts.evaluated.to_string())>
                <Panel
                    title="Accuracy" readout=of_shown(readout::accuracy)
                    drawing=drawing(|charts| &charts.accuracy) crosshair=crosshair(|charts| &charts.accuracy) point
                />
            </div>
            <div>
                <Panel
                    title="Loss" readout=of_shown(readout::loss)
                    drawing=drawing(|charts| &charts.loss) crosshair=crosshair(|charts| &charts.loss) point
                />
            </div>
        </div>
        {move || if note() {
            view! { <p class="muted small">"A cross on the axis is a void round: it made no new version."</p> }.into_any()
        } else {
            ().into_any()
        }}
    }
    .into_any()
}

#[component]
fn Panel(
    title: &'static str,
    readout: Signal<String>,
    /// SVG, drawn anew with each round.
    drawing: Signal<String>,
    /// SVG, drawn anew as one points.
    crosshair: Signal<String>,
    /// Called with the share of the width that is pointed at, or none when the pointer leaves.
    point: Callback<Option<f64>>,
) -> impl IntoView {
    let pointed = move |event: PointerEvent| point.run(share_across(&event));
    view! {
        <figure class="panel">
            <figcaption>
                <span class="panel-title">{title}</span>
                <span class="readout">{readout}</span>
            </figcaption>
            <div class="plot" on:pointermove=pointed on:pointerdown=pointed on:pointerleave=move |_| point.run(None)>
                <svg aria-hidden="true">
                    <g inner_html=move || drawing.get()></g>
                    <g inner_html=move || crosshair.get()></g>
                </svg>
            </div>
        </figure>
    }
    .into_any()
}

/// Where the pointer is, as a share of the width of what it points at.
fn share_across(event: &PointerEvent) -> Option<f64> {
    let width = f64::from(event_target::<leptos::web_sys::Element>(event).client_width());
    (width > 0.0).then(|| f64::from(event.offset_x()) / width)
}
