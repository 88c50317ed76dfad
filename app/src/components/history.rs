//! The rounds that are over, as a table: all that the charts show, and more, for those who cannot see or point.

use super::erased::{part, text};
use crate::api::{RoundOutcome, RoundSummary};
use crate::board::Board;
use crate::format;
use leptos::prelude::*;

/// So many rounds are listed; the REST API has them all.
const MOST_ROWS: usize = 100;

/// The rounds, once there are any.
#[component]
pub fn History(board: Board) -> impl IntoView {
    let empty = Memo::new(move |_| board.history.with(|history| history.rounds.is_empty()));
    part(move || if empty.get() { ().into_any() } else { view! { <Table board/> }.into_any() })
}

/// The newest round first.
#[component]
fn Table(board: Board) -> impl IntoView {
    let rows = Memo::new(move |_| {
        board.history.with(|history| history.rounds.iter().rev().take(MOST_ROWS).cloned().collect::<Vec<_>>())
    });
    let total = Memo::new(move |_| board.history.with(|history| history.rounds.len()));
    let best = Memo::new(move |_| board.history.with(|history| history.best.map(|best| best.round)));
    let all = format!("/api/v1/runs/{}/rounds", board.run());
    let cut = part(move || {
        if total.get() <= MOST_ROWS {
            return ().into_any();
        }
        let words = format!("The newest {MOST_ROWS} of {}. ", total.get());
        view! { <p class="small muted">{words} <a href=all.clone() rel="external">"All as JSON"</a></p> }.into_any()
    });
    view! {
        <section class="card" aria-labelledby="history-title">
            <div class="card-head">
                <h2 id="history-title">"Rounds"</h2>
                {cut}
            </div>
            <table class="cards rounds">
                <thead>
                    <tr>
                        <th scope="col">"Round"</th>
                        <th scope="col">"Outcome"</th>
                        <th scope="col" class="num">"Accuracy"</th>
                        <th scope="col" class="num">"Test loss"</th>
                        <th scope="col" class="num">"Updates"</th>
                        <th scope="col" class="num">"Received"</th>
                        <th scope="col" class="num">"Duration"</th>
                    </tr>
                </thead>
                <tbody>
                    <For each=move || rows.get() key=|round| round.number let:round>
                        <Row round best/>
                    </For>
                </tbody>
            </table>
        </section>
    }
    .into_any()
}

#[component]
fn Row(round: RoundSummary, best: Memo<Option<u64>>) -> impl IntoView {
    let number = round.number;
    let outcome = match (round.outcome, round.version) {
        (RoundOutcome::Complete, Some(version)) => format!("v{version}"),
        (outcome, _) => outcome.to_string(),
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    view! {
        <tr data-outcome=round.outcome.as_str()>
            <th scope="row" class="who"><span class="sr-only">"Round "</span>{number}</th>
            <td class="state-cell">
                <span>{outcome}</span>
                <span class="small muted reason">{round.reason.clone()}</span>
            </td>
            <td class="num" data-label="Accuracy">
                <span class="star" title="The best so far">{text(move || if best.get() == Some(number) { "★ ".to_owned() } else { String::new() })}</span>
                {or_dash(round.test_accuracy.map(format::percent))}
            </td>
            <td class="num" data-label="Test loss">{or_dash(round.test_loss.map(format::loss))}</td>
            <td class="num" data-label="Updates">{format!("{} of {}", round.updates, round.cohort)}</td>
            <td class="num" data-label="Received">{format::bytes(round.received_bytes)}</td>
            <td class="num" data-label="Duration">
                {format::duration(round.ended_ms.saturating_sub(round.opened_ms))}
            </td>
        </tr>
    }
    .into_any()
}
