//! A run, live.

use super::NotFound;
use crate::board::{Board, Notice};
use crate::components::facts;
use crate::components::{
    Chart, ClientTable, ConfigPanel, Controls, Figures, Header, History, KickDialog, Progress, RunMenu, Runs,
};
use crate::format;
use crate::page_data::{PageData, Wanted};
use leptos::prelude::*;
use leptos_meta::Title;
use leptos_router::hooks::use_params_map;

/// The run named in the address, else the one at the root.
#[component]
pub fn Dashboard() -> impl IntoView {
    let name = use_params_map().with_untracked(|params| params.get("run"));
    let page = PageData::load(name.map_or(Wanted::Home, |name| Wanted::Run(name.parse().ok())));
    match page.snapshot.clone() {
        Some(snapshot) => {
            let facts = facts(&snapshot);
            view! { <Run board=Board::new(snapshot, &page) page facts/> }.into_any()
        }
        None => view! { <NotFound what="run".to_owned()/> }.into_any(),
    }
}

#[component]
fn Run(board: Board, page: PageData, facts: String) -> impl IntoView {
    #[cfg(feature = "hydrate")]
    Effect::new(move |_| crate::live::start(board, page.now_ms));
    let title = move || {
        let latest = board.history.with(|h| h.rounds.iter().rev().find_map(|round| round.test_accuracy));
        let accuracy = latest.map(|accuracy| format!("{} · ", format::percent(accuracy))).unwrap_or_default();
        format!("{accuracy}{} · fedlearn", board.run())
    };
    // The server writes the head once the body is begun, on whatever thread: signals may be out of reach there.
    #[cfg(not(feature = "hydrate"))]
    let title = title();
    view! {
        <Title text=title/>
        <Header board=Some(board) facts=Some(facts)/>
        <main class="wrap">
            <Runs runs=page.runs current=board.run()/>
            <noscript>
                <p class="card note">"Without JavaScript this page shows the state at the time of loading. Reload it to see the latest."</p>
            </noscript>
            <NoticeLine notice=board.notice/>
            <Progress board/>
            <Figures board/>
            <div class="columns">
                <Chart board/>
                <div class="side">
                    <Controls board/>
                    <ConfigPanel board/>
                    {board.admin.then(|| view! { <RunMenu board/> })}
                </div>
            </div>
            <ClientTable board origin=page.origin/>
            <History board/>
        </main>
        {board.admin.then(|| view! { <KickDialog board/> })}
    }
    .into_any()
}

/// Says what a click led to. Always in the page, so that screen readers announce what appears in it.
#[component]
fn NoticeLine(notice: RwSignal<Option<Notice>>) -> impl IntoView {
    let refused = move || notice.with(|notice| notice.as_ref().is_some_and(|notice| notice.refused));
    view! {
        <div class="notice-region" role="status" aria-live="polite" data-testid="notice">
            {move || notice.get().map(|said| view! {
                <p class="notice" class:refused=refused>
                    <span>{said.text}</span>
                    <button class="button quiet small-button" type="button" on:click=move |_| notice.set(None)>"Dismiss"</button>
                </p>
            })}
        </div>
    }
    .into_any()
}
