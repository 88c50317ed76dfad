//! What coordinator, agents and browser share.
//!
//! - [`api`]: every type that crosses HTTP as JSON. With no feature, that is all there is.
//! - The dashboard (feature `ui`): [`shell`] and [`App`], rendered by the coordinator (`ssr`) and taken over by the
//!   browser (`hydrate`). It refuses to know axum: what a page shows comes in through [`ServerContext`].
pub mod api;

#[cfg(feature = "ui")]
mod action;
#[cfg(feature = "ui")]
#[cfg_attr(not(feature = "hydrate"), allow(dead_code, reason = "the server draws the board; only a browser moves it"))]
mod board;
#[cfg(feature = "ui")]
mod components;
#[cfg(feature = "ui")]
#[cfg_attr(not(feature = "ssr"), allow(dead_code, reason = "the server draws the form; a browser only reads it"))]
mod config_form;
#[cfg(feature = "ui")]
mod format;
#[cfg(feature = "hydrate")]
mod live;
#[cfg(feature = "ui")]
mod page;
#[cfg(feature = "ui")]
mod page_data;
#[cfg(feature = "ui")]
mod pages;
#[cfg(feature = "ui")]
mod rest;

#[cfg(feature = "ui")]
pub use page::{App, shell};
#[cfg(feature = "ui")]
pub use page_data::{FindRun, ServerContext};

/// What the browser calls once the WASM is loaded: takes over the page that the coordinator rendered.
#[cfg(feature = "hydrate")]
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn hydrate() {
    console_error_panic_hook::set_once();
    leptos::mount::hydrate_body(App);
}
