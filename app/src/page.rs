//! The document around every page, and its addresses.

use crate::page_data::{ServerContext, coordinator_address};
use crate::pages::{Dashboard, Login, NotFound};
use leptos::prelude::*;
use leptos_meta::{MetaTags, provide_meta_context};
use leptos_router::components::{Route, Router, Routes};
use leptos_router::path;

/// The HTML document around [`App`].
pub fn shell(options: LeptosOptions) -> impl IntoView {
    let stylesheet = format!("{}/{}.css", options.site_pkg_dir, options.output_name);
    let root = use_context::<ServerContext>().map(|server| server.root);
    view! {
        <!DOCTYPE html>
        <html lang="en">
            <head>
                <meta charset="utf-8"/>
                <base href=root/>
                <meta name="viewport" content="width=device-width, initial-scale=1"/>
                <meta name="color-scheme" content="light dark"/>
                <link rel="icon" type="image/svg+xml" href="favicon.svg"/>
                <link id="leptos" rel="stylesheet" href=stylesheet/>
                <AutoReload options=options.clone()/>
                <HydrationScripts options root="."/>
                <MetaTags/>
            </head>
            <body>
                <App/>
            </body>
        </html>
    }
}

/// The path in it, as in `/fl`, which the browser's router is to leave out. The server gets addresses without it.
fn prefix() -> String {
    let address = coordinator_address().unwrap_or_default();
    address.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default()
}

/// The dashboard: `/` (the run `default`, or the first one), `/runs/{run}`, `/login`.
#[component]
pub fn App() -> impl IntoView {
    provide_meta_context();
    // Effects run only in the browser, and only once the page is taken over.
    Effect::new(|_| {
        if let Some(html) = document().document_element() {
            let _ = html.set_attribute("data-hydrated", "true");
        }
    });
    view! {
        <Router base=prefix()>
            <Routes fallback=|| view! { <NotFound what="page".to_owned()/> }>
                <Route path=path!("/") view=Dashboard/>
                <Route path=path!("/runs/:run") view=Dashboard/>
                <Route path=path!("/login") view=Login/>
            </Routes>
        </Router>
    }
}
