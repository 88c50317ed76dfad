//! What the operator can do to the run as a whole: archive, rename and delete it.

use crate::action::Action;
use crate::board::{Board, Notice};
use crate::rest::{in_words, send};
use leptos::ev::SubmitEvent;
use leptos::html;
use leptos::prelude::*;

/// Does it, and then loads that address: the page is of another run, or of the same one in another state.
fn change(board: Board, action: &Action, address: String) {
    send(action.request(&board.run()), move |result| match result {
        Ok(()) => {
            let _ = window().location().set_href(&address);
        }
        Err(refusal) => board.notice.set(Some(Notice { refused: true, text: in_words(refusal) })),
    });
}

/// The address of a run's page.
fn page_of(run: impl std::fmt::Display) -> String {
    format!("runs/{run}")
}

/// Closed, so that nothing here is clicked by accident.
#[component]
pub fn RunMenu(board: Board) -> impl IntoView {
    let force = RwSignal::new(false);
    let name = RwSignal::new(board.run().to_string());
    let dialog = NodeRef::<html::Dialog>::new();
    let (archive_word, archive_hint) = match board.archived {
        false => (
            "Archive",
            "An archived run can be read. It takes no clients, opens no rounds, and leaves its place to another run.",
        ),
        true => ("Unarchive", "The run resumes where it was, with its clients."),
    };
    let archive = move |_| {
        let action = if board.archived { Action::Unarchive } else { Action::Archive { force: force.get_untracked() } };
        change(board, &action, page_of(board.run()));
    };
    let rename = move |event: SubmitEvent| {
        event.prevent_default();
        match name.get_untracked().trim().parse() {
            Ok(to) => {
                let address = page_of(&to);
                change(board, &Action::Rename { to, force: force.get_untracked() }, address);
            }
            Err(problem) => board.notice.set(Some(Notice { refused: true, text: format!("{problem}.") })),
        }
    };
    let ask = move |_| {
        if let Some(dialog) = dialog.get_untracked() {
            let _ = dialog.show_modal(); // it fails only where the dialog is open already
        }
    };
    let close = move || {
        if let Some(dialog) = dialog.get_untracked() {
            dialog.close();
        }
    };
    let delete = move |_| {
        close();
        change(board, &Action::Delete { force: force.get_untracked() }, "./".to_owned());
    };
    let unchanged = move || name.with(|name| name.trim() == board.run().as_str());
    view! {
        <details class="card run-menu needs-js" data-testid="run-menu">
            <summary>"Manage this run"</summary>
            <div class="stack">
                <div>
                    <button class="button" type="button" data-testid="archive" on:click=archive>{archive_word}</button>
                    <p class="muted small">{archive_hint}</p>
                </div>
                <form on:submit=rename novalidate=true>
                    <label for="run-name">"Name"</label>
                    <div class="field-row">
                        <input
                            id="run-name" data-testid="run-name" type="text" maxlength="64" spellcheck="false" autocomplete="off"
                            prop:value=name value=board.run().to_string()
                            on:input=move |event| name.set(event_target_value(&event))
                        />
                        <button class="button" type="submit" data-testid="rename" disabled=unchanged>"Rename"</button>
                    </div>
                    <p class="muted small">"Clients must join again under the new name."</p>
                </form>
                <label class="check">
                    <input
                        type="checkbox" data-testid="force"
                        prop:checked=force
                        on:change=move |event| force.set(event_target_checked(&event))
                    />
                    <span>"Also while clients are at work on a round"</span>
                </label>
                <button class="button danger" type="button" data-testid="delete" aria-haspopup="dialog" on:click=ask>
                    "Delete…"
                </button>
            </div>
        </details>
        <dialog class="dialog" aria-labelledby="delete-title" aria-describedby="delete-text" node_ref=dialog>
            <h2 id="delete-title">{format!("Delete run {}?", board.run())}</h2>
            <p id="delete-text">
                "Its clients, rounds and models are deleted with their files. This cannot be undone. \
                 To keep the results, archive it instead."
            </p>
            <div class="dialog-end">
                <button class="button" type="button" autofocus=true on:click=move |_| close()>"Cancel"</button>
                <button class="button danger" type="button" data-testid="confirm-delete" on:click=delete>"Delete"</button>
            </div>
        </dialog>
    }
    .into_any()
}
