//! From the admin token to a session.
//!
//! Three ways, one endpoint: the form as a script sends it, the same form without a script, and an address
//! `/login#TOKEN`, whose fragment no server log ever sees and which is taken out of the address at once.

use crate::components::Header;
use crate::page_data::{PageData, Wanted};
use crate::rest::{Request, in_words, send};
use leptos::ev::{self, SubmitEvent};
use leptos::html;
use leptos::prelude::*;
use leptos_meta::Title;
use leptos_router::hooks::use_query_map;

/// The form. `?refused` says that the last token was wrong: where the server sends a browser without scripts.
#[component]
pub fn Login() -> impl IntoView {
    let page = PageData::load(Wanted::None);
    let refused = use_query_map().with_untracked(|query| query.get("refused").is_some());
    let problem = RwSignal::new(refused.then(|| "That token is not the right one.".to_owned()));
    let field = NodeRef::<html::Input>::new();
    let enter = move |token: String| {
        send(Request::login(token), move |result| match result {
            Ok(()) => {
                let _ = window().location().set_href("./");
            }
            Err(refusal) => problem.set(Some(in_words(refusal))),
        });
    };
    let submit = move |event: SubmitEvent| {
        event.prevent_default();
        // Read from the field itself: what was typed before the script ran counts too.
        if let Some(field) = field.get_untracked() {
            enter(field.value().trim().to_owned());
        }
    };
    let enter_by_address = move || {
        if let Some(token) = take_fragment() {
            enter(token);
        }
    };
    // When the page is loaded, and when the address is pasted where the page is open already.
    Effect::new(move |_| {
        enter_by_address();
        let listening = window_event_listener(ev::hashchange, move |_| enter_by_address());
        on_cleanup(move || listening.remove());
    });
    view! {
        <Title text="Log in · fedlearn"/>
        <Header facts=None/>
        <main class="wrap narrow">
            <section class="card login">
                <h1>"Log in"</h1>
                <p class="muted">"The coordinator printed the admin token at its first start."</p>
                {page.admin.then(|| view! {
                    <p>"You are logged in already. " <a href="./" rel="external">"To the dashboard"</a></p>
                })}
                <form method="post" action="api/v1/session" on:submit=submit>
                    <label for="token">"Admin token"</label>
                    <input
                        id="token" name="token" type="password" required=true autocomplete="current-password"
                        spellcheck="false" data-testid="token" node_ref=field
                    />
                    <button class="button primary" type="submit" data-testid="login">"Log in"</button>
                </form>
                <div role="status" aria-live="polite" data-testid="notice">
                    {move || problem.get().map(|text| view! { <p class="notice refused">{text}</p> })}
                </div>
            </section>
        </main>
    }
    .into_any()
}

/// The token in `/login#TOKEN`, taken out of the address and of the history.
fn take_fragment() -> Option<String> {
    let hash = window().location().hash().ok()?;
    let token = hash.strip_prefix('#').filter(|token| !token.is_empty())?.to_owned();
    let history = window().history().ok()?;
    history.replace_state_with_url(&leptos::wasm_bindgen::JsValue::NULL, "", Some("login")).ok()?;
    Some(token)
}
