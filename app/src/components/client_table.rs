//! The roster: who takes part, how it goes for each, and admission.

use crate::action::{Action, perform};
use crate::api::{ClientState, ClientView};
use crate::board::{Board, ClientRow};
use crate::format;
use crate::page_data::coordinator_address;
use leptos::prelude::*;

/// A row a client; on a narrow screen, a card a client.
#[component]
pub fn ClientTable(board: Board, origin: String) -> impl IntoView {
    let rows = Memo::new(move |_| board.roster());
    let empty = Memo::new(move |_| rows.with(Vec::is_empty));
    let origin = RwSignal::new(origin);
    // The browser knows the address that leads here, whatever proxies are in between.
    Effect::new(move |_| coordinator_address().map(|address| origin.set(address)));
    let command = move || match (origin.get(), board.run().as_str()) {
        (origin, "default") => format!("fedlearn join {origin}"),
        (origin, run) => format!("fedlearn join {origin} --run {run}"),
    };
    view! {
        <section class="card" aria-labelledby="clients-title">
            <div class="card-head">
                <h2 id="clients-title">"Clients"</h2>
                {move || if empty.get() || board.archived { ().into_any() } else {
                    view! { <p class="small">"Add one: " <code>{command}</code></p> }.into_any()
                }}
            </div>
            {move || if empty.get() && board.archived {
                view! { <p class="muted">"No client had joined this run when it was archived."</p> }.into_any()
            } else if empty.get() {
                view! {
                    <div class="empty">
                        <p>"Nobody has joined yet. On any machine that reaches this one, run"</p>
                        <p class="command"><code>{command}</code></p>
                        <p class="muted">"Clients appear here as they register."</p>
                    </div>
                }.into_any()
            } else {
                view! {
                    <table class="cards clients">
                        <thead>
                            <tr>
                                <th scope="col">"Name"</th>
                                <th scope="col">"State"</th>
                                <th scope="col" class="num">"Samples"</th>
                                <th scope="col">"Device"</th>
                                <th scope="col">"Local progress"</th>
                                <th scope="col" class="num">"Last loss"</th>
                                <th scope="col" class="num">"Sent"</th>
                                <th scope="col" class="num">"Last seen"</th>
                                {board.is_controlled().then(|| view! { <th scope="col"><span class="sr-only">"Actions"</span></th> })}
                            </tr>
                        </thead>
                        <tbody>
                            <For each=move || rows.get() key=|row| row.id.clone() let:row>
                                <Row board row/>
                            </For>
                        </tbody>
                    </table>
                }.into_any()
            }}
        </section>
    }
    .into_any()
}

#[component]
fn Row(board: Board, row: ClientRow) -> impl IntoView {
    let view = RwSignal::from(row.view.clone());
    let id = row.id.to_string();
    let short: String = id.chars().take(8).collect();
    let state = Memo::new(move |_| view.with(|client| client.state));
    let word = move || move || state.get().to_string();
    let seen = move || view.with(|client| format::ago(client.seen_ms, board.now_ms.get()));
    view! {
        <tr data-testid="client-row" data-client=id.clone() data-state=word()>
            <th scope="row" class="who">
                <span class="name">{move || view.with(|client| client.name.clone())}</span>
                <span class="id muted" title=id.clone()>{short}</span>
            </th>
            <td class="state-cell">
                <span class="state" data-state=word()>{word()}</span>
                <span class="error-text small" data-testid="trouble">{move || view.with(trouble)}</span>
                <span class="aside muted small">{move || view.with(aside)}</span>
            </td>
            <td class="num" data-label="Samples">{move || view.with(|client| format::count(client.samples))}</td>
            <td data-label="Device">{move || view.with(device)}</td>
            <td class="local" data-label="Local progress"><LocalProgress view/></td>
            <td class="num" data-label="Last loss">
                {move || view.with(|client| client.last_loss.map_or("–".to_owned(), format::loss))}
            </td>
            <td class="num" data-label="Sent">{move || view.with(|client| format::bytes(client.sent_bytes))}</td>
            <td class="num" data-label="Last seen">{seen}</td>
            {board.is_controlled().then(|| view! { <td class="acts"><Acts board row state/></td> })}
        </tr>
    }
    .into_any()
}

/// Whether the reason shown is that of the strikes: a client that cannot go on has told another.
fn is_struck(client: &ClientView) -> bool {
    client.strikes > 0 && client.state != ClientState::Error
}

/// What is wrong with it: `2 strikes: not finite`.
fn trouble(client: &ClientView) -> String {
    match &client.error {
        Some(reason) if is_struck(client) => format!("{}: {reason}", format::plural(client.strikes.into(), "strike")),
        Some(reason) => reason.clone(),
        None => client.rejected.as_ref().map_or(String::new(), |rejection| {
            format!("update of round {} left out: {}", rejection.round, rejection.reason)
        }),
    }
}

/// What has been wrong with it: strikes without a reason of today, and updates that came too late.
fn aside(client: &ClientView) -> String {
    let told = is_struck(client) && client.error.is_some();
    let strikes = (client.strikes > 0 && !told).then(|| format::plural(client.strikes.into(), "strike"));
    let late = (client.late_updates > 0).then(|| format::plural(client.late_updates, "late update"));
    strikes.into_iter().chain(late).collect::<Vec<_>>().join(" · ")
}

fn device(client: &ClientView) -> String {
    if client.device.is_empty() { "–".to_owned() } else { client.device.clone() }
}

/// The bar stays in place while it moves: only its value and text change.
#[component]
fn LocalProgress(view: RwSignal<ClientView>) -> impl IntoView {
    let progress = Memo::new(move |_| view.with(|client| client.progress));
    let there = Memo::new(move |_| progress.get().is_some());
    let percent = move || progress.get().map_or(0.0, |progress| (progress.fraction() * 1000.0).round() / 10.0);
    let epoch = move || {
        let words = progress.get().map(|progress| format!("epoch {}/{}", progress.epoch, progress.epochs));
        words.unwrap_or_default()
    };
    move || {
        if there.get() {
            view! {
                <span class="local-row">
                    <progress max="100" value=move || percent().to_string() aria-label="Local training"></progress>
                    <span class="small muted">{epoch}</span>
                </span>
            }
            .into_any()
        } else {
            view! { <span class="muted">"–"</span> }.into_any()
        }
    }
}

#[component]
fn Acts(board: Board, row: ClientRow, state: Memo<ClientState>) -> impl IntoView {
    let row = StoredValue::new(row);
    let name = move || row.with_value(|row| row.view.with(|client| client.name.clone()));
    let is_release = move || state.get() == ClientState::Quarantine;
    let verb = move || if is_release() { "Release" } else { "Admit" };
    let admit = move |_| {
        let done = if is_release() { "is released from quarantine" } else { "is admitted" };
        let done = format!("{} {done}.", name());
        perform(board, &Action::Admit(row.with_value(|row| row.id.clone())), done);
    };
    let may_admit =
        Memo::new(move |_| matches!(state.get(), ClientState::Pending | ClientState::Quarantine | ClientState::Kicked));
    let may_kick = Memo::new(move |_| state.get() != ClientState::Kicked);
    view! {
        <span class="acts-row needs-js">
            {move || if may_admit.get() {
                view! {
                    <button
                        class=move || admit_class(state.get())
                        type="button" data-testid="admit"
                        aria-label=move || format!("{} {}", verb(), name())
                        on:click=admit
                    >{move || verb().to_owned()}</button>
                }.into_any()
            } else {
                ().into_any()
            }}
            {move || if may_kick.get() {
                view! {
                    <button
                        class="button small-button" type="button" data-testid="kick"
                        aria-label=move || format!("Kick {}", name())
                        on:click=move |_| board.kicking.set(Some(row.get_value()))
                    >"Kick"</button>
                }.into_any()
            } else {
                ().into_any()
            }}
        </span>
    }
    .into_any()
}

/// Who waits to be let in stands out; letting somebody back in is the quieter choice.
fn admit_class(state: ClientState) -> String {
    let look = if state == ClientState::Pending { "primary" } else { "" };
    format!("button small-button {look}")
}
