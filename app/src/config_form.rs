//! The form of a run's configuration: what its fields hold, and the patch that it sends.
//!
//! Its fields are [`RunConfig::settings`]. The coordinator checks what is typed; its messages name the field.

use crate::api::{Kind, RunConfig, Setting, format_value, insert, parse_value};
use serde_json::{Map, Value};

/// What the fields hold for that configuration, in the order of [`RunConfig::settings`].
pub fn texts(config: &RunConfig) -> Vec<String> {
    RunConfig::settings().iter().map(|setting| text(setting, config)).collect()
}

/// Empty if there is no value.
fn text(setting: &Setting, config: &RunConfig) -> String {
    config.get(&setting.path).filter(|value| !value.is_null()).map(|value| format_value(&value)).unwrap_or_default()
}

/// Whether the setting matters, given what is typed into all fields.
pub fn is_shown(setting: &Setting, typed: &[String]) -> bool {
    let holds =
        |(path, word)| RunConfig::settings().iter().zip(typed).any(|(other, text)| other.path == path && text == word);
    setting.only_with.is_none_or(holds)
}

/// Whether that problem is this setting's: it begins with the path.
pub fn has(setting: &Setting, problem: &str) -> bool {
    problem.strip_prefix(&setting.path).is_some_and(|rest| rest.starts_with(' '))
}

/// Types a text into the field of that index. An alternative to it becomes empty.
pub fn edit(typed: &mut [String], index: usize, text: String) {
    let settings = RunConfig::settings();
    let is_alternative = settings.get(index).is_some_and(|setting| setting.is_alternative) && !text.is_empty();
    for (i, (setting, typed)) in settings.iter().zip(typed).enumerate() {
        if i == index {
            typed.clone_from(&text);
        } else if is_alternative && setting.is_alternative {
            typed.clear();
        }
    }
}

/// What the fields hold once the configuration has changed: a field that was edited keeps its text.
pub fn follow(typed: Vec<String>, before: &RunConfig, now: &RunConfig) -> Vec<String> {
    let texts = texts(before).into_iter().zip(texts(now));
    typed.into_iter().zip(texts).map(|(typed, (before, now))| if typed == before { now } else { typed }).collect()
}

/// The JSON merge patch that makes what is typed of `present`; `None` if nothing that is shown was changed.
pub fn patch(present: &RunConfig, typed: &[String]) -> Option<Value> {
    let fields = || RunConfig::settings().iter().zip(typed.iter().map(|text| text.trim()));
    let has_alternative = fields().any(|(setting, typed)| setting.is_alternative && !typed.is_empty());
    let mut patch = Value::Object(Map::new());
    let mut is_changed = false;
    for (setting, text) in fields() {
        let is_replaced = setting.is_alternative && text.is_empty() && has_alternative;
        if is_replaced || !is_shown(setting, typed) || text == self::text(setting, present) {
            continue;
        }
        let is_without_limit = text.is_empty() && setting.kind == Kind::Limit;
        insert(&mut patch, &setting.path, if is_without_limit { Value::Null } else { parse_value(text) });
        is_changed = true;
    }
    is_changed.then_some(patch)
}

#[cfg(test)]
mod tests;
