#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::CohortSize;
use serde_json::json;

fn index_of(path: &str) -> usize {
    RunConfig::settings().iter().position(|setting| setting.path == path).unwrap()
}

/// The form filled from `config`, with these fields edited.
fn typed(config: &RunConfig, edits: &[(&str, &str)]) -> Vec<String> {
    let mut typed = texts(config);
    for (path, text) in edits {
        edit(&mut typed, index_of(path), (*text).to_owned());
    }
    typed
}

fn patch_of(config: &RunConfig, edits: &[(&str, &str)]) -> Option<Value> {
    patch(config, &typed(config, edits))
}

/// What the coordinator answers to the patch of these edits.
fn problems_of(edits: &[(&str, &str)]) -> Vec<String> {
    let config = RunConfig::default();
    config.patched(&patch_of(&config, edits).unwrap()).unwrap_err()
}

fn sized(cohort: CohortSize) -> RunConfig {
    RunConfig { cohort, ..RunConfig::default() }
}

#[test]
fn a_form_that_is_left_alone_changes_nothing() {
    for config in [RunConfig::default(), sized(CohortSize::Size(3)), sized(CohortSize::Fraction(0.25))] {
        assert_eq!(patch_of(&config, &[]), None);
    }
}

#[test]
fn a_patch_holds_only_what_was_changed() {
    let patch =
        patch_of(&RunConfig::default(), &[("deadline_s", " 30 "), ("train.augment", "true"), ("encoding", "q8")]);
    assert_eq!(patch, Some(json!({"deadline_s": 30, "train": {"augment": true}, "encoding": "q8"})));
}

#[test]
fn a_share_of_clients_and_a_number_replace_each_other() {
    let share = typed(&sized(CohortSize::Size(3)), &[("cohort.fraction", "0.5")]);
    assert_eq!((share[index_of("cohort.size")].as_str(), share[index_of("cohort.fraction")].as_str()), ("", "0.5"));
    assert_eq!(patch(&sized(CohortSize::Size(3)), &share), Some(json!({"cohort": {"fraction": 0.5}})));
    let number = patch_of(&RunConfig::default(), &[("cohort.size", "5")]);
    assert_eq!(number, Some(json!({"cohort": {"size": 5}})));
    assert_eq!(problems_of(&[("cohort.fraction", "")]), [r#"cohort.fraction must be a number, got """#]);
}

#[test]
fn a_setting_that_does_not_matter_is_not_sent() {
    let sync = RunConfig::default();
    assert_eq!(patch_of(&sync, &[("buffer_size", "x"), ("max_staleness", "")]), None);
    let edits = [("mode", "async"), ("over_selection", "x"), ("buffer_size", "3")];
    assert_eq!(patch_of(&sync, &edits), Some(json!({"mode": "async", "buffer_size": 3})));
}

#[test]
fn an_empty_limit_is_none() {
    let config = RunConfig::default();
    let patch = patch_of(&config, &[("max_update_norm", ""), ("max_norm_ratio", " ")]).unwrap();
    let patched = config.patched(&patch).unwrap();
    assert_eq!((patched.max_update_norm, patched.max_norm_ratio), (None, None));
}

#[test]
fn each_problem_belongs_to_one_field() {
    let edits = [
        ("min_clients", "two"),
        ("deadline_s", ""),
        ("cohort.fraction", "2"),
        ("max_norm_ratio", "1e999"),
        ("train.learning_rate", "0,05"),
    ];
    let problems = problems_of(&edits);
    assert_eq!(problems.len(), edits.len(), "{problems:?}");
    for (path, _) in edits {
        let owned = problems.iter().filter(|problem| has(&RunConfig::settings()[index_of(path)], problem));
        assert_eq!(owned.count(), 1, "{path}: {problems:?}");
    }
}

#[test]
fn a_field_that_was_left_alone_follows_the_configuration_and_an_edited_one_does_not() {
    let (before, now) = (RunConfig::default(), RunConfig { deadline_s: 90, min_clients: 4, ..RunConfig::default() });
    let typed = follow(typed(&before, &[("min_clients", "2")]), &before, &now);
    assert_eq!((typed[index_of("deadline_s")].as_str(), typed[index_of("min_clients")].as_str()), ("90", "2"));
}
