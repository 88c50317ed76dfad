//! The rounds that are over, as a table: all that the charts show, and more, for those who cannot see or point.

use crate::api::{RoundOutcome, RoundSummary};
use crate::board::{self, Board};
use crate::format;
use leptos::prelude::*;

/// So many rounds are listed; the REST API has them all.
const MOST_ROWS: usize = 100;

/// The rounds, once there are any.
#[component]
pub fn History(board: Board) -> impl IntoView {
    let empty = Memo::new(move |_| board.history.with(|history| history.rounds.is_empty()));
    move || if empty.get() { ().into_any() } else { view! { <Table board/> }.into_any() }
}

/// The newest round first.
#[component]
fn Table(board: Board) -> impl IntoView {
    let rows = Memo::new(move |_| board.history.with(lines));
    let total = Memo::new(move |_| board.history.with(|history| history.rounds.len()));
    let best = Memo::new(move |_| board.history.with(|history| history.best.map(|best| best.round)));
    let all = format!("api/v1/runs/{}/rounds", board.run());
    let cut = move || {
        if total.get() <= MOST_ROWS {
            return ().into_any();
        }
        let words = format!("The newest {MOST_ROWS} of {}. ", total.get());
        view! { <p class="small muted">{words} <a href=all.clone() rel="external">"All as JSON"</a></p> }.into_any()
    };
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
                    <For each=move || rows.get() key=|line| line.round.number let:line>
                        <Row line best/>
                    </For>
                </tbody>
            </table>
        </section>
    }
    .into_any()
}

#[derive(Clone, PartialEq)]
struct Line {
    round: RoundSummary,
    /// The configuration is another than that of the round before.
    is_config_new: bool,
}

/// The newest rounds, the newest first.
fn lines(history: &board::History) -> Vec<Line> {
    let rounds = &history.rounds;
    let line = |(i, round): (usize, &RoundSummary)| {
        let before = i.checked_sub(1).and_then(|i| rounds.get(i));
        let is_config_new = before.is_some_and(|before| before.config_version != round.config_version);
        Line { round: round.clone(), is_config_new }
    };
    rounds.iter().enumerate().rev().take(MOST_ROWS).map(line).collect()
}

#[component]
fn Row(line: Line, best: Memo<Option<u64>>) -> impl IntoView {
    let Line { round, is_config_new } = line;
    let number = round.number;
    let outcome = match (round.outcome, round.version) {
        (RoundOutcome::Complete, Some(version)) => format!("v{version}"),
        (outcome, _) => outcome.to_string(),
    };
    let config = is_config_new.then(|| format!("config v{}", round.config_version));
    let rejected = (round.rejected > 0).then(|| format!("{} left out", round.rejected));
    let behind = round.mean_staleness.filter(|behind| *behind > 0.0).map(|behind| format!("{behind:.1} behind"));
    let small =
        |words: String, title: &'static str| view! { <span class="small muted aside" title=title>{words}</span> };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    view! {
        <tr data-outcome=round.outcome.as_str()>
            <th scope="row" class="who"><span class="sr-only">"Round "</span>{number}</th>
            <td class="state-cell">
                <span>{outcome}</span>
                <span class="small muted reason">{round.reason.clone()}</span>
                {config.map(|words| small(words, "From this round on, this version of the configuration"))}
            </td>
            <td class="num" data-label="Accuracy">
                <span class="star" title="The best so far">{move || if best.get() == Some(number) { "★ ".to_owned() } else { String::new() }}</span>
                {or_dash(round.test_accuracy.map(format::percent))}
            </td>
            <td class="num" data-label="Test loss">{or_dash(round.test_loss.map(format::loss))}</td>
            <td class="num" data-label="Updates">
                {format!("{} of {}", round.updates, round.cohort)}
                {rejected.map(|words| small(words, "Out of proportion to the other updates (max_norm_ratio)"))}
                {behind.map(|words| small(words, "Versions behind, on average"))}
            </td>
            <td class="num" data-label="Received">{format::bytes(round.received_bytes)}</td>
            <td class="num" data-label="Duration">
                {format::duration(round.ended_ms.saturating_sub(round.opened_ms))}
            </td>
        </tr>
    }
    .into_any()
}
