//! Asks before a client is removed.

use crate::action::{Action, perform};
use crate::board::Board;
use leptos::html;
use leptos::prelude::*;

/// One dialog for the page; [`Board::kicking`] opens it.
#[component]
pub fn KickDialog(board: Board) -> impl IntoView {
    let dialog = NodeRef::<html::Dialog>::new();
    let ban = RwSignal::new(false);
    let name = Memo::new(move |_| {
        board.kicking.get().map(|row| row.view.with_untracked(|client| client.name.clone())).unwrap_or_default()
    });
    Effect::new(move |_| {
        if board.kicking.with(Option::is_some)
            && let Some(dialog) = dialog.get()
        {
            ban.set(false);
            // It fails only where the dialog is open already.
            let _ = dialog.show_modal();
        }
    });
    let close = move || {
        if let Some(dialog) = dialog.get_untracked() {
            dialog.close();
        }
    };
    let kick = move |_| {
        if let Some(row) = board.kicking.get_untracked() {
            let done = format!("{} is kicked.", name.get_untracked());
            perform(board, &Action::Kick { id: row.id, ban: ban.get_untracked() }, done);
        }
        close();
    };
    view! {
        <dialog
            class="dialog"
            aria-labelledby="kick-title"
            aria-describedby="kick-text"
            node_ref=dialog
            on:close=move |_| board.kicking.set(None)
        >
            <h2 id="kick-title">{move || format!("Kick {}?", name.get())}</h2>
            <p id="kick-text">
                "It is removed from the run at once. The open round goes on without it; updates of earlier rounds stay."
            </p>
            <label class="check">
                <input
                    type="checkbox" data-testid="ban"
                    prop:checked=ban
                    on:change=move |event| ban.set(event_target_checked(&event))
                />
                <span>"Ban this name too: refuse to register it again until it is admitted"</span>
            </label>
            <div class="dialog-end">
                <button class="button" type="button" autofocus=true on:click=move |_| close()>"Cancel"</button>
                <button class="button danger" type="button" data-testid="confirm-kick" on:click=kick>"Kick"</button>
            </div>
        </dialog>
    }
    .into_any()
}
