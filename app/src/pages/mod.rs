//! What there is at each address.

mod dashboard;
mod login;
#[cfg(all(test, feature = "ssr"))]
mod tests;

pub use dashboard::Dashboard;
pub use login::Login;

use crate::components::Header;
use crate::page_data::say_not_found;
use leptos::prelude::*;
use leptos_meta::Title;

/// For an address that names nothing. `what` is missing: a page, a run.
#[component]
pub fn NotFound(what: String) -> impl IntoView {
    say_not_found();
    view! {
        <Title text="Not found · fedlearn"/>
        <Header facts=None/>
        <main class="wrap narrow">
            <section class="card">
                <h1>{format!("There is no such {what}")}</h1>
                <p class="muted">"It may have been removed, or the address is mistyped."</p>
                <a class="button" href="./" rel="external">"To the dashboard"</a>
            </section>
        </main>
    }
    .into_any()
}
