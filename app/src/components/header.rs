//! The top of every page: where one is, whether it is live, and the way in or out.

use crate::api::{RunId, RunLine, RunSnapshot};
use crate::board::{Board, Link, Notice};
use crate::format;
use crate::rest::{Request, in_words, send};
use leptos::prelude::*;

/// Name, run and model; badge; log in or out. Without a board, only the name.
#[component]
pub fn Header(#[prop(optional_no_strip)] board: Option<Board>, facts: Option<String>) -> impl IntoView {
    view! {
        <header class="top">
            <div class="wrap top-row">
                <a class="brand" href="./" rel="external">
                    <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
                        <path class="brand-lines" d="M16 16L6 7M16 16L26 7M16 16V28"></path>
                        <circle class="brand-hub" cx="16" cy="16" r="5.5"></circle>
                        <circle class="brand-node" cx="6" cy="7" r="3.4"></circle>
                        <circle class="brand-node" cx="26" cy="7" r="3.4"></circle>
                        <circle class="brand-node" cx="16" cy="27.5" r="3.4"></circle>
                    </svg>
                    <span>"fedlearn"</span>
                </a>
                {board.map(|board| view! {
                    <div class="run-title">
                        <h1>{board.run().to_string()}</h1>
                        <p class="muted small">{facts}</p>
                    </div>
                    <div class="top-end">
                        <Badge link=board.link/>
                        <Session board/>
                    </div>
                })}
            </div>
        </header>
    }
    .into_any()
}

/// Model, size and dataset in one line.
pub fn facts(snapshot: &RunSnapshot) -> String {
    let model = snapshot.model.as_ref().map_or("own network".to_owned(), ToString::to_string);
    let dataset = snapshot.dataset.map_or("no evaluation".to_owned(), |dataset| format!("tested on {dataset}"));
    format!("{model} · {} parameters · {dataset}", format::quantity(snapshot.parameters))
}

#[component]
fn Badge(link: RwSignal<Link>) -> impl IntoView {
    let word = move || {
        move || match link.get() {
            Link::Static => "static".to_owned(),
            Link::Live => "live".to_owned(),
            Link::Reconnecting => "reconnecting".to_owned(),
        }
    };
    view! {
        <span class="badge" role="status" data-testid="badge" data-link=word()>
            <span class="badge-dot" aria-hidden="true"></span>
            {word()}
        </span>
    }
    .into_any()
}

#[component]
fn Session(board: Board) -> impl IntoView {
    let leave = move |_| {
        send(Request::logout(), move |result| match result {
            Ok(()) => {
                let _ = window().location().reload();
            }
            Err(refusal) => board.notice.set(Some(Notice { refused: true, text: in_words(refusal) })),
        });
    };
    if board.admin {
        view! { <button class="button quiet needs-js" type="button" on:click=leave>"Log out"</button> }.into_any()
    } else {
        view! { <a class="button quiet" href="login" rel="external">"Log in"</a> }.into_any()
    }
}

/// The way to other runs, where there are any; to the archived ones behind one more click.
#[component]
pub fn Runs(runs: Vec<RunLine>, current: RunId) -> impl IntoView {
    let link = |line: RunLine| {
        let here = (line.run == current).then_some("page");
        let best = line.best.map(|best| format::percent(best.test_accuracy));
        view! {
            <li>
                <a href=format!("runs/{}", line.run) rel="external" aria-current=here>
                    <span>{line.run.to_string()}</span>
                    <span class="muted small">{if line.archived_ms.is_some() { "archived" } else { line.phase.as_str() }} {best.map(|best| format!(" · {best}"))}</span>
                </a>
            </li>
        }
    };
    if runs.len() < 2 {
        return ().into_any();
    }
    let (archived, open): (Vec<_>, Vec<_>) = runs.into_iter().partition(|line| line.archived_ms.is_some());
    let count = archived.len();
    let is_here = archived.iter().any(|line| line.run == current);
    view! {
        <nav class="runs" aria-label="Runs">
            <ul>{open.into_iter().map(link).collect_view()}</ul>
            {(count > 0).then(|| view! {
                <details class="archived" open=is_here>
                    <summary class="small">{format!("Archived ({count})")}</summary>
                    <ul>{archived.into_iter().map(link).collect_view()}</ul>
                </details>
            })}
        </nav>
    }
    .into_any()
}
