#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json};

/// The form as it is filled from `config`, with these fields typed over.
fn typed(config: &RunConfig, over: &[(&str, &str)]) -> Vec<String> {
    for (path, _) in over {
        assert!(fields().any(|field| field.path == *path), "there is no field {path}");
    }
    let text = |field: &Field| match over.iter().find(|(path, _)| *path == field.path) {
        Some((_, text)) => (*text).to_owned(),
        None => (field.text)(config),
    };
    fields().map(text).collect()
}

fn patch_of(config: &RunConfig, over: &[(&str, &str)]) -> Result<Value, Vec<String>> {
    Ok(patch(config, &typed(config, over))?.map_or(Value::Null, |json| serde_json::from_str(&json).unwrap()))
}

fn sized(cohort: CohortSize) -> RunConfig {
    RunConfig { cohort, ..RunConfig::default() }
}

#[test]
fn a_form_that_is_left_alone_changes_nothing() {
    for config in [RunConfig::default(), sized(CohortSize::Size(3)), sized(CohortSize::Fraction(0.25))] {
        assert_eq!(patch_of(&config, &[]), Ok(Value::Null));
    }
}

#[test]
fn a_patch_holds_only_what_was_changed() {
    let patch = patch_of(&RunConfig::default(), &[("deadline_s", " 30 "), ("train.local_epochs", "2")]);
    assert_eq!(patch, Ok(json!({"deadline_s": 30, "train": {"local_epochs": 2}})));
}

#[test]
fn members_stand_in_the_object_that_their_path_names() {
    let over =
        [("deadline_s", "30"), ("cohort", "all"), ("train.augment", "on"), ("train.momentum", "0"), ("encoding", "q8")];
    let patch = patch_of(&sized(CohortSize::Size(3)), &over);
    let train = json!({"augment": true, "momentum": 0});
    assert_eq!(patch, Ok(json!({"cohort": {"fraction": 1.0}, "deadline_s": 30, "train": train, "encoding": "q8"})));
}

#[test]
fn every_field_is_one_of_the_configuration_and_holds_what_it_shows() {
    // Neither value of any field is that of the default.
    let other = [
        ("admission", "approval"),
        ("min_clients", "2"),
        ("cohort", "number"),
        ("cohort.size", "4"),
        ("over_selection", "0.5"),
        ("deadline_s", "30"),
        ("below_quorum", "extend"),
        ("max_weight_share", "0.4"),
        ("max_update_norm", "1e12"),
        ("max_norm_ratio", "2.5"),
        ("max_strikes", "5"),
        ("train.local_epochs", "3"),
        ("train.batch_size", "32"),
        ("train.learning_rate", "0.00001"),
        ("train.momentum", "0"),
        ("train.augment", "on"),
        ("encoding", "q8"),
    ];
    let config = RunConfig::default();
    let patched = config.patched(&patch_of(&config, &other).unwrap()).unwrap();
    for (field, (path, text)) in
        other.iter().map(|other| (fields().find(|field| field.path == other.0).unwrap(), other))
    {
        let shown = (field.text)(&patched);
        assert!(shown == *text || shown.parse::<f64>() == text.parse::<f64>(), "{path} shows {shown}");
    }
    let dependent = [("mode", "async"), ("buffer_size", "7"), ("max_staleness", "2"), ("train.optimizer", "adam")];
    let patched = config.patched(&patch_of(&config, &dependent).unwrap()).unwrap();
    assert_eq!((patched.mode, patched.buffer_size, patched.max_staleness), (Mode::Async, 7, 2));
    assert_eq!(patched.train.optimizer, Optimizer::Adam);
    assert_eq!(other.len() + dependent.len() + 1, fields().count(), "cohort.fraction has a test of its own");
}

#[test]
fn a_cohort_is_told_in_one_of_three_ways() {
    let share = patch_of(&sized(CohortSize::Size(3)), &[("cohort", "share"), ("cohort.fraction", "0.5")]);
    assert_eq!(share, Ok(json!({"cohort": {"fraction": 0.5}})));
    let number = patch_of(&RunConfig::default(), &[("cohort", "number"), ("cohort.size", "5")]);
    assert_eq!(number, Ok(json!({"cohort": {"size": 5}})));
    assert_eq!(patch_of(&sized(CohortSize::Size(3)), &[("cohort", "all")]), Ok(json!({"cohort": {"fraction": 1.0}})));
}

#[test]
fn a_cohort_told_in_another_way_needs_its_size() {
    let problems = patch_of(&RunConfig::default(), &[("cohort", "number")]).unwrap_err();
    assert_eq!(problems, ["cohort.size is empty, wanted is a whole number"]);
}

#[test]
fn what_is_not_shown_is_not_sent_and_not_refused() {
    let sync = RunConfig::default();
    assert_eq!(patch_of(&sync, &[("buffer_size", "x"), ("max_staleness", "")]), Ok(Value::Null));
    let leaves = patch_of(&sync, &[("mode", "async"), ("over_selection", "x"), ("buffer_size", "3")]);
    assert_eq!(leaves, Ok(json!({"mode": "async", "buffer_size": 3})));
}

#[test]
fn an_empty_bound_is_none() {
    let config = RunConfig::default();
    let patch = patch_of(&config, &[("max_update_norm", ""), ("max_norm_ratio", " ")]).unwrap();
    let patched = config.patched(&patch).unwrap();
    assert_eq!((patched.max_update_norm, patched.max_norm_ratio), (None, None));
}

#[test]
fn all_that_cannot_be_read_is_said_at_once_and_belongs_to_its_field() {
    let over =
        [("min_clients", "two"), ("train.learning_rate", "0,05"), ("max_norm_ratio", "1e999"), ("deadline_s", "")];
    let problems = patch_of(&RunConfig::default(), &over).unwrap_err();
    assert_eq!(
        problems,
        [
            "min_clients is 'two', wanted is a whole number",
            "deadline_s is empty, wanted is a whole number",
            "max_norm_ratio is '1e999', wanted is a number, such as 0.05",
            "train.learning_rate is '0,05', wanted is a number, such as 0.05",
        ]
    );
    for problem in problems {
        assert_eq!(fields().filter(|field| field.has(&problem)).count(), 1, "{problem}");
    }
}

#[test]
fn a_problem_in_the_servers_words_belongs_to_its_field() {
    let config = RunConfig { min_clients: 0, deadline_s: 0, cohort: CohortSize::Fraction(2.0), ..RunConfig::default() };
    let with = |problem: &String| fields().filter(|field| field.has(problem)).map(|field| field.path).collect();
    let owners: Vec<Vec<_>> = config.problems().iter().map(with).collect();
    assert_eq!(owners, [["cohort.fraction"], ["min_clients"], ["deadline_s"]]);
}

#[test]
fn a_field_that_was_left_alone_follows_the_configuration_and_one_that_was_not_stays() {
    let (before, now) = (RunConfig::default(), RunConfig { deadline_s: 90, ..RunConfig::default() });
    let field = fields().find(|field| field.path == "deadline_s").unwrap();
    assert_eq!(field.follow("600".to_owned(), &before, &now), "90");
    assert_eq!(field.follow("30".to_owned(), &before, &now), "30");
}

#[test]
fn a_number_is_written_short_and_reads_back_as_the_same() {
    assert_eq!(
        [0.0, 0.05, 20.0, 1e6, 1e-5, f64::MAX].map(number),
        ["0", "0.05", "20", "1000000", "1e-5", "1.7976931348623157e308"]
    );
}
