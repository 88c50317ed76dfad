//! Edits the run's configuration, while it runs.
//!
//! The server draws the form as text, and the browser gets no code for it: as views, twenty inputs cost 30 kB of the WASM,
//! compressed. What is typed is kept where it is typed, in the page, and this reads it from there and writes notes beside it.

use crate::action::{Action, say_done};
use crate::api::{ErrorBody, ErrorCode};
use crate::board::{Board, Settings};
use crate::config_form::{Field, fields, patch};
use crate::rest::send;
use leptos::html;
use leptos::prelude::*;
use leptos::wasm_bindgen::{JsCast, JsValue};
use leptos::web_sys::js_sys::Reflect;
use leptos::web_sys::{Element, HtmlElement};

/// Who changed it is not known: it may be the operator, at another screen.
const OVERTAKEN: &str = "The configuration was changed elsewhere meanwhile. Fields you left alone show what it is now; \
                         what you typed is kept. Save again to lay yours over it.";

#[derive(Clone)]
struct State {
    /// What the form was filled from, or last brought up to date with.
    present: Settings,
    /// Of the save that was refused last.
    problems: Vec<String>,
    /// What a change made elsewhere has changed: a line a field.
    moved: Vec<String>,
    is_saving: bool,
}

/// The form. Copied freely: it holds handles.
#[derive(Clone, Copy)]
pub struct Form {
    board: Board,
    dialog: NodeRef<html::Dialog>,
    state: StoredValue<State>,
}

impl Form {
    /// Closed.
    pub fn new(board: Board) -> Self {
        let present = board.settings.get_untracked();
        let state = StoredValue::new(State { present, problems: Vec::new(), moved: Vec::new(), is_saving: false });
        let form = Self { board, dialog: NodeRef::new(), state };
        Effect::new(move |_| form.follow(board.settings.get()));
        form
    }

    /// Shows it, filled anew.
    pub fn open(self) {
        let Some(dialog) = self.dialog.get_untracked() else { return };
        let present = self.board.settings.get_untracked();
        for field in fields() {
            set_value(field, &(field.text)(&present.config));
        }
        self.state.update_value(|state| state.present = present);
        self.say("", Vec::new());
        // It fails only where the dialog is open already.
        let _ = dialog.show_modal();
    }

    fn close(self) {
        if let Some(dialog) = self.dialog.get_untracked() {
            dialog.close();
        }
    }

    /// The configuration has become another: an open form keeps what was typed into it, and no more than that.
    fn follow(self, now: Settings) {
        let State { present: before, is_saving, .. } = self.state.get_value();
        let is_open = self.dialog.get_untracked().is_some_and(|dialog| dialog.open());
        if !is_open || now.version == before.version {
            return;
        }
        let mut moved = Vec::new();
        for field in fields() {
            set_value(field, &field.follow(value(field), &before.config, &now.config));
            let text = (field.text)(&now.config);
            if text != (field.text)(&before.config) {
                moved.push(format!("{}: now {}", field.label, if text.is_empty() { "none" } else { &text }));
            }
        }
        self.state.update_value(|state| (state.present, state.moved) = (now, moved));
        // While one's own save is on its way this is most likely that, and else the answer will tell.
        if is_saving {
            self.redraw();
        } else {
            self.overtaken();
        }
    }

    fn save(self) {
        let State { present, is_saving, .. } = self.state.get_value();
        if is_saving {
            return;
        }
        match patch(&present.config, &typed()) {
            Err(problems) => self.say("Not saved.", problems),
            Ok(None) => self.close(),
            Ok(Some(patch)) => {
                self.state.update_value(|state| (state.is_saving, state.moved) = (true, Vec::new()));
                let action = Action::Configure { version: present.version, patch };
                send(action.request(&self.board.run()), move |outcome| {
                    self.state.update_value(|state| state.is_saving = false);
                    match outcome {
                        Ok(()) => {
                            self.close();
                            say_done(self.board, "The configuration is saved.".to_owned());
                        }
                        Err(ErrorBody { code: ErrorCode::PreconditionFailed, .. }) => self.overtaken(),
                        Err(refusal) => self.say(&format!("Not saved: {}", refusal.message), refusal.problems),
                    }
                });
            }
        }
    }

    /// With no field named where the change itself has not come yet: then it is said again.
    fn overtaken(self) {
        self.say(OVERTAKEN, self.state.with_value(|state| state.moved.clone()));
    }

    /// Says it beside the buttons, with a line for each problem, and goes to the first field that has one.
    fn say(self, text: &str, problems: Vec<String>) {
        if let Some(alert) = element("config-alert") {
            let lines: Vec<_> = [text].into_iter().chain(problems.iter().map(String::as_str)).collect();
            alert.set_text_content(Some(&lines.join("\n")));
        }
        let first = fields().find(|field| problems.iter().any(|problem| field.has(problem)));
        self.state.update_value(|state| state.problems = problems);
        self.redraw();
        if let Some(input) = first.and_then(|field| element(&id_of(field))) {
            // It fails only where nothing can be focused.
            let _ = input.unchecked_into::<HtmlElement>().focus();
        }
    }

    /// Shows the fields that matter with what is typed, and beside each what is wrong with it, or what is there now.
    fn redraw(self) {
        let State { present, problems, .. } = self.state.get_value();
        let typed = typed();
        set_text("config-present", &format!("version {}", present.version));
        for (field, text) in fields().zip(&typed) {
            let id = id_of(field);
            let problem = problems.iter().find(|problem| field.has(problem));
            let now = (field.text)(&present.config);
            let note = match problem {
                Some(problem) => problem.clone(),
                None if text.trim() != now && !now.is_empty() => format!("Now: {now}"),
                None => String::new(),
            };
            set_text(&format!("{id}-note"), &note);
            set_attribute(&id, "aria-invalid", if problem.is_some() { "true" } else { "false" });
            set_attribute(&format!("{id}-field"), "data-shown", if field.is_shown(&typed) { "true" } else { "false" });
        }
    }
}

fn element(id: &str) -> Option<Element> {
    document().get_element_by_id(id)
}

fn set_text(id: &str, text: &str) {
    // Written anew, the same text would be announced anew.
    if let Some(element) = element(id).filter(|element| element.text_content().as_deref() != Some(text)) {
        element.set_text_content(Some(text));
    }
}

fn set_attribute(id: &str, name: &str, text: &str) {
    if let Some(element) = element(id) {
        // It fails only for a name that is none.
        let _ = element.set_attribute(name, text);
    }
}

/// Of an input and of a select alike.
fn value(field: &Field) -> String {
    let value = element(&id_of(field)).and_then(|input| Reflect::get(&input, &JsValue::from_str("value")).ok());
    value.and_then(|value| value.as_string()).unwrap_or_default()
}

fn set_value(field: &Field, text: &str) {
    if let Some(input) = element(&id_of(field)) {
        let _ = Reflect::set(&input, &JsValue::from_str("value"), &JsValue::from_str(text));
    }
}

fn typed() -> Vec<String> {
    fields().map(value).collect()
}

fn id_of(field: &Field) -> String {
    format!("config-{}", field.path.replace('.', "-"))
}

/// One dialog for the page; [`Form::open`] shows it.
#[component]
pub fn ConfigDialog(form: Form) -> impl IntoView {
    view! {
        <dialog class="dialog wide" aria-labelledby="config-dialog-title" data-testid="config-dialog" node_ref=form.dialog>
            <form
                class="config" novalidate=true inner_html=markup(&format!("/api/v1/runs/{}", form.board.run()))
                on:submit=move |event| {
                    event.prevent_default();
                    form.save();
                }
                on:reset=move |_| form.close()
                on:input=move |_| form.redraw()
            ></form>
        </dialog>
    }
    .into_any()
}

/// What is in the form. All of it is from the program itself: nothing needs escaping.
#[cfg(feature = "ssr")]
fn markup(address: &str) -> String {
    let groups = crate::config_form::GROUPS.iter().map(|group| {
        let inputs: String = group.fields.iter().map(input).collect();
        format!(r#"<fieldset><legend>{}</legend><div class="fields">{inputs}</div></fieldset>"#, group.title)
    });
    format!(
        r#"<div class="dialog-head"><h2 id="config-dialog-title">Configuration</h2>
        <span class="muted small" id="config-present"></span></div>
        <div class="dialog-body"><p class="muted small">A change takes effect at once or with the next round, as it says
        beside each field.</p>{}<p class="muted small">For all the rest, such as weight decay, there is the REST API:
        <code>PATCH {address}</code></p></div>
        <div class="dialog-foot"><p id="config-alert" role="alert" data-testid="config-alert"></p><div class="dialog-end">
        <button class="button" type="reset">Cancel</button>
        <button class="button primary" type="submit" data-testid="config-save">Save</button></div></div>"#,
        groups.collect::<String>()
    )
}

#[cfg(not(feature = "ssr"))]
fn markup(_: &str) -> String {
    String::new()
}

#[cfg(feature = "ssr")]
fn input(field: &Field) -> String {
    use crate::config_form::Kind;
    let id = id_of(field);
    let attributes = format!(r#"id="{id}" aria-describedby="{id}-when {id}-note {id}-hint""#);
    let options = field.kind.words().iter().map(|word| format!("<option>{word}</option>"));
    let control = match field.kind {
        Kind::Word(_) | Kind::Cohort | Kind::Switch => {
            format!("<select {attributes}>{}</select>", options.collect::<String>())
        }
        Kind::Whole => format!(r#"<input {attributes} type="text" inputmode="numeric" autocomplete="off">"#),
        Kind::Number | Kind::Bound => {
            format!(r#"<input {attributes} type="text" inputmode="decimal" autocomplete="off">"#)
        }
    };
    format!(
        r#"<div class="field" id="{id}-field"><label for="{id}">{}</label>
        <span class="when" id="{id}-when">{}</span>
        <span class="entry">{control}<span>{}</span></span>
        <span class="verdict" id="{id}-note"></span><span class="hint" id="{id}-hint">{}</span></div>"#,
        field.label,
        if field.is_at_once { "at once" } else { "next round" },
        field.unit,
        field.hint,
    )
}
