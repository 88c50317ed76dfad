//! Closures of one type for what changes on the page.
//!
//! Every closure is a type of its own, and Leptos compiles its machinery for an effect anew for each type it meets.
//! Boxed, they share one copy: a good part of the WASM.

use leptos::prelude::*;

/// Text that changes, as content or as an attribute.
pub type Text = Box<dyn FnMut() -> String + Send>;

/// See [`Text`].
pub fn text(text: impl FnMut() -> String + Send + 'static) -> Text {
    Box::new(text)
}

/// An attribute that is there or not.
pub fn flag(flag: impl FnMut() -> bool + Send + 'static) -> Box<dyn FnMut() -> bool + Send> {
    Box::new(flag)
}

/// A part of the page that changes; `().into_any()` for nothing.
pub fn part(part: impl FnMut() -> AnyView + Send + 'static) -> Box<dyn FnMut() -> AnyView + Send> {
    Box::new(part)
}
