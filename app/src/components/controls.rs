//! What the operator can make the run do.

use crate::action::{Action, perform};
use crate::api::{Autorun, Phase};
use crate::board::{Board, Notice};
use crate::format;
use leptos::ev::SubmitEvent;
use leptos::prelude::*;

/// The buttons, or for those who may not press them the way to log in.
#[component]
pub fn Controls(board: Board) -> impl IntoView {
    view! {
        <section class="card controls" aria-labelledby="controls-title">
            <h2 id="controls-title">"Control"</h2>
            {if board.archived {
                view! {
                    <p class="muted">"This run is archived: it can be read, takes no clients and opens no rounds."</p>
                }.into_any()
            } else if board.admin {
                view! { <Buttons board/> }.into_any()
            } else {
                view! {
                    <p class="muted">"Anyone can view this run. Log in to control it."</p>
                    <a class="button primary" href="login" rel="external">"Log in to control this run"</a>
                }.into_any()
            }}
        </section>
    }
    .into_any()
}

#[component]
fn Buttons(board: Board) -> impl IntoView {
    let rounds = RwSignal::new("10".to_owned());
    let phase = Memo::new(move |_| board.course.with(|course| course.phase));
    let planned = Memo::new(move |_| board.course.with(|course| course.autorun));
    let start = move |event: SubmitEvent| {
        event.prevent_default();
        match rounds.get_untracked().trim().parse() {
            Ok(n) if (1..=Autorun::MAX_ROUNDS).contains(&n) => {
                let done = format!("Auto-run: {}.", format::plural(n.into(), "round"));
                perform(board, &Action::StartAutorun { rounds: n }, done);
            }
            _ => {
                let text = format!("Auto-run takes 1 to {} rounds.", format::count(Autorun::MAX_ROUNDS.into()));
                board.notice.set(Some(Notice { refused: true, text }));
            }
        }
    };
    let stop = move |_| perform(board, &Action::StopAutorun, "Auto-run stops after the current round.".to_owned());
    let cancel = move |_| perform(board, &Action::CancelRound, "The round is cancelled; no other follows.".to_owned());
    let one = move |_| perform(board, &Action::RunRound, "One round is asked for.".to_owned());
    let now = move |_| perform(board, &Action::AggregateNow, "The round is closed now.".to_owned());
    view! {
        <noscript><p class="muted">"The buttons need JavaScript. The REST API does the same."</p></noscript>
        <div class="needs-js stack">
            <form class="autorun" on:submit=start novalidate=true>
                <label for="autorun-rounds">"Auto-run"</label>
                <div class="field-row">
                    <input
                        id="autorun-rounds" data-testid="autorun-rounds"
                        type="number" inputmode="numeric" min="1" max=Autorun::MAX_ROUNDS.to_string()
                        prop:value=rounds value="10"
                        on:input=move |event| rounds.set(event_target_value(&event))
                    />
                    <span>"rounds"</span>
                    <button class="button primary" type="submit" data-testid="autorun-start">"Start"</button>
                    <button
                        class="button" type="button" data-testid="autorun-stop"
                        disabled=move || planned.get().is_none()
                        on:click=stop
                    >"Stop"</button>
                </div>
                <p class="muted small">
                    {move || match planned.get() {
                        Some(Autorun { rounds }) => format!("{} to go.", format::plural(rounds.into(), "round")),
                        None => "Not running.".to_owned(),
                    }}
                </p>
            </form>
            <div class="pair">
                <button
                    class="button" type="button" data-testid="run-round"
                    disabled=move || phase.get() != Phase::Idle
                    on:click=one
                >"Run one round"</button>
                <button
                    class="button" type="button" data-testid="aggregate-now"
                    disabled=move || phase.get() != Phase::Training
                    on:click=now
                >"Aggregate now"</button>
                <button
                    class="button" type="button" data-testid="cancel-round"
                    disabled=move || phase.get() != Phase::Training
                    on:click=cancel
                >"Cancel round"</button>
            </div>
        </div>
    }
    .into_any()
}
