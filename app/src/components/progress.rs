//! What the run does now, what it waits for, and how far the open round is.

use super::erased::{part, text};
use crate::api::OpenRound;
use crate::board::Board;
use crate::format;
use leptos::prelude::*;

/// Phase, sentence, deadline, cohort.
#[component]
pub fn Progress(board: Board) -> impl IntoView {
    let phase = Memo::new(move |_| board.course.with(|course| course.phase));
    let waiting = move || board.course.with(|course| course.waiting.clone());
    let round = Memo::new(move |_| board.course.with(|course| course.round.clone()));
    view! {
        <section class="card now" aria-label="What the run does now">
            <div class="now-line">
                <span class="pill" data-testid="phase" data-phase=text(move || phase.get().to_string())>
                    {text(move || phase.get().to_string())}
                </span>
                <p class="waiting" data-testid="waiting" aria-live="polite">{text(waiting)}</p>
            </div>
            {part(move || match round.get() {
                Some(round) => view! { <Cohort board round/> }.into_any(),
                None => ().into_any(),
            })}
        </section>
    }
    .into_any()
}

#[component]
fn Cohort(board: Board, round: OpenRound) -> impl IntoView {
    let (updated, cohort, deadline_ms) = (round.updated.len(), round.cohort.len(), round.deadline_ms);
    let left = move || match deadline_ms.saturating_sub(board.now_ms.get()) {
        0 => "deadline reached".to_owned(),
        ms => format!("closes in {} at the latest", format::duration(ms)),
    };
    view! {
        <div class="cohort">
            <progress
                max=cohort.max(1).to_string()
                value=updated.to_string()
                aria-label="Updates of this round's cohort"
                data-testid="cohort"
            ></progress>
            <p class="cohort-text small">
                <span>
                    <strong>{format!("{updated} of {cohort}")}</strong>
                    {if cohort == 1 { " update is in" } else { " updates are in" }}
                </span>
                <span class="muted" data-testid="deadline">{text(left)}</span>
            </p>
        </div>
    }
    .into_any()
}
