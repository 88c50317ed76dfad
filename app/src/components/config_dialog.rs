//! The dialog that edits the run's configuration, while it runs.

use crate::action::{Action, say_done};
use crate::api::{ErrorBody, ErrorCode, Kind, RunConfig, Setting};
use crate::board::{Board, Settings};
use crate::config_form::{edit, follow, has, is_shown, patch, texts};
use crate::rest::send;
use leptos::html;
use leptos::prelude::*;
use leptos::wasm_bindgen::JsCast;
use leptos::web_sys::HtmlElement;

/// The other change may come from the operator, at another screen.
const OVERTAKEN: &str = "The configuration was changed elsewhere. Fields that you did not edit show the new values; your \
                         edits are kept. Save again to apply them.";

/// The form. Copied freely: it holds handles.
#[derive(Clone, Copy)]
pub struct Form {
    board: Board,
    dialog: NodeRef<html::Dialog>,
    /// What the form was filled from, or last brought up to date with.
    present: RwSignal<Settings>,
    /// What the fields hold, in the order of [`RunConfig::settings`].
    typed: RwSignal<Vec<String>>,
    /// The text beside the buttons.
    alert: RwSignal<String>,
    /// Of the save that was rejected last.
    problems: RwSignal<Vec<String>>,
    /// What a change made elsewhere has changed: a line a field.
    moved: StoredValue<Vec<String>>,
    is_saving: StoredValue<bool>,
}

impl Form {
    /// Closed.
    pub fn new(board: Board) -> Self {
        let present = board.settings.get_untracked();
        let form = Self {
            board,
            dialog: NodeRef::new(),
            typed: RwSignal::new(texts(&present.config)),
            present: RwSignal::new(present),
            alert: RwSignal::default(),
            problems: RwSignal::default(),
            moved: StoredValue::default(),
            is_saving: StoredValue::default(),
        };
        Effect::new(move |_| form.follow(board.settings.get()));
        form
    }

    /// Shows it, filled anew.
    pub fn open(self) {
        let Some(dialog) = self.dialog.get_untracked() else { return };
        let present = self.board.settings.get_untracked();
        self.typed.set(texts(&present.config));
        self.present.set(present);
        self.show("", Vec::new());
        // It fails only if the dialog is open already.
        let _ = dialog.show_modal();
    }

    fn close(self) {
        if let Some(dialog) = self.dialog.get_untracked() {
            dialog.close();
        }
    }

    /// The configuration has changed: an open form keeps what was edited, and nothing else.
    fn follow(self, now: Settings) {
        let before = self.present.get_untracked();
        let is_open = self.dialog.get_untracked().is_some_and(|dialog| dialog.open());
        if !is_open || now.version == before.version {
            return;
        }
        let changes = RunConfig::settings().iter().zip(texts(&before.config)).zip(texts(&now.config));
        let line = |((setting, before), now): ((&Setting, String), String)| {
            let value = if now.is_empty() { "none" } else { &now };
            (before != now).then(|| format!("{}: now {value}", setting.label))
        };
        self.moved.set_value(changes.filter_map(line).collect());
        self.typed.update(|typed| *typed = follow(std::mem::take(typed), &before.config, &now.config));
        self.present.set(now);
        // During a save, the change most likely is that save; if not, its response says so.
        if !self.is_saving.get_value() {
            self.overtaken();
        }
    }

    fn save(self) {
        if self.is_saving.get_value() {
            return;
        }
        let Settings { config, version } = self.present.get_untracked();
        let Some(patch) = self.typed.with_untracked(|typed| patch(&config, typed)) else { return self.close() };
        self.is_saving.set_value(true);
        self.moved.set_value(Vec::new());
        let action = Action::Configure { version, patch: patch.to_string() };
        send(action.request(&self.board.run()), move |outcome| {
            self.is_saving.set_value(false);
            match outcome {
                Ok(()) => {
                    self.close();
                    say_done(self.board, "The configuration is saved.".to_owned());
                }
                Err(ErrorBody { code: ErrorCode::PreconditionFailed, .. }) => self.overtaken(),
                Err(rejection) => self.show(&format!("Not saved: {}", rejection.message), rejection.problems),
            }
        });
    }

    /// Names no field if the change itself has not arrived yet: its arrival shows this again.
    fn overtaken(self) {
        self.show(OVERTAKEN, self.moved.get_value());
    }

    /// Shows the text with a line for each problem, and moves the focus to the first field that has one.
    fn show(self, text: &str, problems: Vec<String>) {
        let lines: Vec<_> = [text].into_iter().chain(problems.iter().map(String::as_str)).collect();
        self.alert.set(lines.join("\n"));
        let is_wrong = |setting: &&Setting| problems.iter().any(|problem| has(setting, problem));
        let input =
            RunConfig::settings().iter().find(is_wrong).and_then(|first| document().get_element_by_id(&id_of(first)));
        self.problems.set(problems);
        if let Some(input) = input {
            // It fails only if nothing can be focused.
            let _ = input.unchecked_into::<HtmlElement>().focus();
        }
    }

    fn text(self, index: usize) -> String {
        self.typed.with(|typed| typed.get(index).cloned().unwrap_or_default())
    }

    fn problem(self, setting: &Setting) -> Option<String> {
        self.problems.with(|problems| problems.iter().find(|problem| has(setting, problem)).cloned())
    }

    /// What is wrong with the field, or the present value if it was edited.
    fn note(self, index: usize, setting: &Setting) -> String {
        let present = self.present.with(|present| texts(&present.config).swap_remove(index));
        let is_edited = self.text(index).trim() != present && !present.is_empty();
        self.problem(setting).or_else(|| is_edited.then(|| format!("Now: {present}"))).unwrap_or_default()
    }
}

fn id_of(setting: &Setting) -> String {
    format!("config-{}", setting.path.replace('.', "-"))
}

/// One dialog for the page; [`Form::open`] shows it.
#[component]
pub fn ConfigDialog(form: Form) -> impl IntoView {
    let fields: Vec<_> = RunConfig::settings().iter().enumerate().collect();
    let group = |fields: &[(usize, &'static Setting)]| {
        let title = fields.first().map(|(_, setting)| setting.group);
        let fields: Vec<_> =
            fields.iter().map(|(index, setting)| view! { <Field form index=*index setting/> }).collect();
        view! { <fieldset><legend>{title}</legend><div class="fields">{fields}</div></fieldset> }
    };
    let groups: Vec<_> = fields.chunk_by(|(_, a), (_, b)| a.group == b.group).map(group).collect();
    view! {
        <dialog class="dialog wide" aria-labelledby="config-dialog-title" data-testid="config-dialog" node_ref=form.dialog>
            <form
                class="config" novalidate=true
                on:submit=move |event| {
                    event.prevent_default();
                    form.save();
                }
            >
                <div class="dialog-head">
                    <h2 id="config-dialog-title">"Configuration"</h2>
                    <span class="muted small">{move || form.present.with(|present| format!("version {}", present.version))}</span>
                </div>
                <div class="dialog-body">
                    <p class="muted small">"A change applies at once or from the next round on, as stated beside each field."</p>
                    {groups}
                </div>
                <div class="dialog-foot">
                    <p role="alert" data-testid="config-alert" hidden=move || form.alert.with(String::is_empty)>{form.alert}</p>
                    <div class="dialog-end">
                        <button class="button" type="button" on:click=move |_| form.close()>"Cancel"</button>
                        <button class="button primary" type="submit" data-testid="config-save">"Save"</button>
                    </div>
                </div>
            </form>
        </dialog>
    }
    .into_any()
}

#[component]
fn Field(form: Form, index: usize, setting: &'static Setting) -> impl IntoView {
    let id = id_of(setting);
    let described_by = format!("{id}-when {id}-note {id}-meaning");
    let is_invalid = move || form.problem(setting).is_some().to_string();
    let edit = move |text: String| form.typed.update(|typed| edit(typed, index, text));
    let control = if setting.words().is_empty() {
        let mode = if setting.kind == Kind::Whole { "numeric" } else { "decimal" };
        view! {
            <input
                id=id.clone() type="text" inputmode=mode autocomplete="off"
                aria-describedby=described_by aria-invalid=is_invalid
                prop:value=move || form.text(index)
                on:input=move |event| edit(event_target_value(&event))
            />
        }
        .into_any()
    } else {
        let option = |word: &'static str| {
            view! { <option value=word prop:selected=move || form.text(index) == word>{word}</option> }
        };
        let options: Vec<_> = setting.words().iter().copied().map(option).collect();
        view! {
            <select
                id=id.clone() aria-describedby=described_by aria-invalid=is_invalid
                on:input=move |event| edit(event_target_value(&event))
            >{options}</select>
        }
        .into_any()
    };
    let note = move || form.note(index, setting);
    view! {
        <div class="field" data-shown=move || form.typed.with(|typed| is_shown(setting, typed)).to_string()>
            <label for=id.clone()>{setting.label}</label>
            <span class="when" id=format!("{id}-when")>{if setting.is_at_once { "at once" } else { "next round" }}</span>
            <span class="entry">{control}<span>{setting.unit}</span></span>
            <span class="verdict" id=format!("{id}-note") hidden=move || note().is_empty()>{note}</span>
            <span class="hint" id=format!("{id}-meaning")>{setting.meaning.replace('`', "")}</span>
        </div>
    }
    .into_any()
}
