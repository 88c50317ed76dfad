//! The figures that one looks for first.

use crate::api::ClientState;
use crate::board::{Board, History};
use crate::format;
use leptos::prelude::*;

/// Round, accuracy, version, clients.
#[component]
pub fn Figures(board: Board) -> impl IntoView {
    let round = Memo::new(move |_| {
        let open = board.course.with(|course| course.round.as_ref().map(|round| round.number));
        open.or_else(|| board.history.with(|history| history.rounds.last().map(|round| round.number)))
    });
    let planned = move || {
        board.course.with(|course| match course.autorun {
            Some(autorun) => format!("{} to go", format::plural(autorun.rounds.into(), "round")),
            None => "no auto-run".to_owned(),
        })
    };
    let accuracy = move || board.history.with(|history| latest(history).map_or("–".to_owned(), format::percent));
    let version = move || board.history.with(|history| format!("v{}", history.version));
    let counts = Memo::new(move |_| board.counts());
    let clients = move || counts.with(|counts| counts.iter().map(|(_, n)| n).sum::<usize>().to_string());

    view! {
        <dl class="figures">
            <div class="card figure">
                <dt>"Round"</dt>
                <dd class="value" data-testid="round">{move || round.get().map_or("–".to_owned(), |n| n.to_string())}</dd>
                <dd class="sub">{planned}</dd>
            </div>
            <div class="card figure">
                <dt>"Test accuracy"</dt>
                <dd class="value" data-testid="accuracy">{accuracy}</dd>
                <dd class="sub">{move || board.history.with(best_line)}</dd>
            </div>
            <div class="card figure">
                <dt>"Global version"</dt>
                <dd class="value" data-testid="version">{version}</dd>
                <dd class="sub">{move || board.history.with(origin_line)}</dd>
                {board.admin.then(|| view! { <Downloads board/> })}
            </div>
            <div class="card figure">
                <dt>"Clients"</dt>
                <dd class="value">{clients}</dd>
                <dd class="sub tally">
                    {move || counts.with(|counts| match counts.as_slice() {
                        [] => view! { <span>"none has joined yet"</span> }.into_any(),
                        counts => counts.iter().map(tally).collect_view().into_any(),
                    })}
                </dd>
            </div>
        </dl>
    }
    .into_any()
}

/// The models to download, for those who may: the latest one, and the best one once there is one.
#[component]
fn Downloads(board: Board) -> impl IntoView {
    let run = board.run();
    let link = move |word: &'static str, text: &'static str| {
        let (address, file) = (format!("api/v1/runs/{run}/models/{word}"), format!("{run}-{word}.safetensors"));
        view! { <a href=address download=file rel="external" data-testid=format!("download-{word}")>{text}</a> }
    };
    let has_best = Memo::new(move |_| board.history.with(|history| history.best.is_some()));
    let best = link.clone();
    view! {
        <dd class="sub downloads">
            <span>"Download "</span>
            {link("latest", "latest")}
            {move || match has_best.get() {
                true => view! { <span>{best("best", "best")}</span> }.into_any(),
                false => ().into_any(),
            }}
        </dd>
    }
    .into_any()
}

fn tally((state, n): &(ClientState, usize)) -> impl IntoView + use<> {
    view! { <span class="tone" data-state=state.as_str()>{format!("{n} {state}")}</span> }
}

fn latest(history: &History) -> Option<f64> {
    history.rounds.iter().rev().find_map(|round| round.test_accuracy)
}

fn best_line(history: &History) -> String {
    match history.best {
        None => "nothing evaluated yet".to_owned(),
        Some(best) if best.version == history.version => "★ the best so far".to_owned(),
        Some(best) => format!("★ best {} in round {}", format::percent(best.test_accuracy), best.round),
    }
}

fn origin_line(history: &History) -> String {
    match history.rounds.iter().rev().find(|round| round.version.is_some()) {
        None => "the initial model".to_owned(),
        Some(round) => format!("from {}", format::plural(round.updates.into(), "update")),
    }
}
