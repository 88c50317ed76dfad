//! What the run does now, what it waits for, and how far the open round is.

use crate::api::Phase;
use crate::board::{Board, RoundNow};
use crate::format;
use leptos::prelude::*;

/// Phase, sentence, deadline, cohort.
#[component]
pub fn Progress(board: Board) -> impl IntoView {
    let phase = Memo::new(move |_| board.course.with(|course| course.phase));
    let waiting = move || board.course.with(|course| course.waiting.clone());
    let round = Memo::new(move |_| board.course.with(|course| course.round));
    let open = Memo::new(move |_| round.get().is_some());
    view! {
        <section class="card now" aria-label="What the run does now">
            <div class="now-line">
                <span class="pill" data-testid="phase" data-phase=move || phase.get().to_string()>
                    {move || phase.get().to_string()}
                </span>
                <p class="waiting" data-testid="waiting" aria-live="polite">{waiting}</p>
            </div>
            {move || if open.get() { view! { <Cohort board phase round/> }.into_any() } else { ().into_any() }}
        </section>
    }
    .into_any()
}

/// Stays in place while updates come in: only its numbers change.
#[component]
fn Cohort(board: Board, phase: Memo<Phase>, round: Memo<Option<RoundNow>>) -> impl IntoView {
    let of = move |what: fn(&RoundNow) -> String| move || round.get().as_ref().map(what).unwrap_or_default();
    let deadline_ms = Memo::new(move |_| round.get().map_or(0, |round| round.deadline_ms));
    let left = move || match deadline_ms.get().saturating_sub(board.now_ms.get()) {
        _ if phase.get() == Phase::Aggregating => String::new(), // it has closed already
        0 => "deadline reached".to_owned(),
        ms => format!("closes in {} at the latest", format::duration(ms)),
    };
    view! {
        <div class="cohort">
            <progress
                max=of(|round| round.wanted.max(1).to_string())
                value=of(|round| round.updated.to_string())
                aria-label="Updates of this round's cohort"
                data-testid="cohort"
            ></progress>
            <p class="cohort-text small">
                <span data-testid="cohort-text">
                    <strong>{of(|round| format!("{} of {}", round.updated, round.wanted))}</strong>
                    {of(are_in)}
                </span>
                <span class="muted" data-testid="deadline">{left}</span>
            </p>
        </div>
    }
    .into_any()
}

/// What follows `3 of 5`.
fn are_in(round: &RoundNow) -> String {
    let verb = if round.wanted == 1 { "update is" } else { "updates are" };
    let asked = if round.wanted < round.asked { format!(" ({} asked)", round.asked) } else { String::new() };
    format!(" {verb} in{asked}")
}
