#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn problems(patch: Value) -> Vec<String> {
    RunConfig::default().patched(&patch).unwrap_err()
}

/// Any value that the setting accepts.
fn value_of(setting: &'static Setting) -> BoxedStrategy<Value> {
    let low = setting.bounds.minimum.or(setting.bounds.exclusive_minimum).unwrap_or(-1e9);
    let high = setting.bounds.maximum.unwrap_or(1e9);
    // Above an exclusive minimum.
    let number = (low + (high - low) * 1e-6..=high).prop_map(|number| json!(number)).boxed();
    match setting.kind {
        Kind::Switch => any::<bool>().prop_map(|on| json!(on)).boxed(),
        Kind::Word(words) => proptest::sample::select(words).prop_map(|word| json!(word)).boxed(),
        Kind::Whole => (low as u64..=high as u64).prop_map(|number| json!(number)).boxed(),
        Kind::Number => number,
        Kind::Limit => prop_oneof![Just(Value::Null), number].boxed(),
    }
}

/// Any valid configuration: new settings are covered by their description.
fn any_config() -> impl Strategy<Value = RunConfig> {
    let values: Vec<_> = RunConfig::settings().iter().map(|setting| proptest::option::of(value_of(setting))).collect();
    values.prop_filter_map("cohort below quorum", |values| {
        let mut config = RunConfig::default();
        for (setting, value) in RunConfig::settings().iter().zip(values) {
            if let Some(value) = value {
                config.set(&setting.path, &value).unwrap();
            }
        }
        config.check().is_empty().then_some(config)
    })
}

proptest! {
    #[test]
    fn a_config_patched_with_the_difference_to_another_becomes_the_other(a in any_config(), b in any_config()) {
        prop_assert_eq!(a.patched(&a.difference(&b)), Ok(b.clone()));
        prop_assert_eq!(a.difference(&a), json!({}));
    }
}

#[test]
fn a_value_is_written_short_and_reads_back_as_the_same() {
    let values = [
        json!(0.0),
        json!(0.05),
        json!(20.0),
        json!(1e6),
        json!(1e-5),
        json!(7),
        json!(true),
        json!("q8"),
        Value::Null,
    ];
    let texts = ["0", "0.05", "20", "1000000", "0.00001", "7", "true", "q8", "none"];
    for (value, text) in values.iter().zip(texts) {
        assert_eq!(format_value(value), text);
        assert!(parse_value(text) == *value || parse_value(text).as_f64() == value.as_f64(), "{text}");
    }
}

#[test]
fn the_default_is_within_bounds() {
    assert_eq!(RunConfig::default().check(), []);
}

#[test]
fn every_field_is_described_once() {
    // Given every field of the configuration as JSON, down to single values,
    fn leaves(path: &str, value: &Value, all: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| leaves(&format!("{path}.{name}"), value, all))
            }
            _ => all.push(path[1..].to_owned()),
        }
    }
    let mut fields = Vec::new();
    for cohort in [CohortSize::Fraction(0.5), CohortSize::Size(2)] {
        leaves("", &RunConfig { cohort, ..RunConfig::default() }.to_json(), &mut fields);
    }
    fields.sort();
    fields.dedup();
    // when they are compared with the descriptions,
    let mut described: Vec<_> = RunConfig::settings().iter().map(|setting| setting.path.clone()).collect();
    described.sort();
    // then both name the same, and each has a label and a meaning.
    assert_eq!(fields, described);
    for setting in RunConfig::settings() {
        assert!(!setting.label.is_empty() && !setting.meaning.is_empty(), "{setting:?}");
    }
}

#[test]
fn as_many_versions_are_kept_as_an_update_may_be_behind() {
    let bounds = RunConfig::setting("max_staleness").unwrap().bounds;
    assert_eq!(bounds.maximum, Some(RunConfig::MOST_STALE.into()));
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let patched = RunConfig::default().patched(&json!({"train": {"local_epochs": 3}, "cohort": {"size": 2}}));
    let mut want = RunConfig { cohort: CohortSize::Size(2), ..RunConfig::default() };
    want.train.local_epochs = 3;
    assert_eq!(patched, Ok(want));
}

#[test]
fn null_removes_a_limit_and_resets_any_other_setting() {
    let changed = RunConfig { deadline_s: 5, cohort: CohortSize::Size(3), ..RunConfig::default() };
    let patch = json!({"max_update_norm": null, "max_norm_ratio": null, "deadline_s": null, "cohort": null});
    let want = RunConfig { max_update_norm: None, max_norm_ratio: None, ..RunConfig::default() };
    assert_eq!(changed.patched(&patch), Ok(want));
}

#[test]
fn null_resets_a_group_of_settings() {
    let train = TrainConfig { local_epochs: 7, augment: true, ..TrainConfig::default() };
    let changed = RunConfig { train, ..RunConfig::default() };
    assert_eq!(changed.patched(&json!({"train": null})), Ok(RunConfig::default()));
}

#[test]
fn an_unknown_setting_is_rejected_by_its_path() {
    let patch = json!({"train": {"epoch": 3}, "max_update_nrm": null, "deadline": {"s": 3}});
    let mut found = problems(patch);
    found.sort();
    assert_eq!(
        found,
        ["deadline", "max_update_nrm", "train.epoch"].map(|path| format!("{path} is not a setting of a run"))
    );
}

#[test]
fn all_values_of_a_wrong_type_are_reported_at_once_by_path() {
    let patch = json!({"min_clients": "2", "mode": "fast", "max_strikes": 1.5, "train": 5, "max_update_norm": true});
    let mut found = problems(patch);
    found.sort();
    assert_eq!(
        found,
        [
            "max_strikes must be a whole number, got 1.5",
            "max_update_norm must be a number or null, got true",
            r#"min_clients must be a whole number, got "2""#,
            r#"mode must be one of sync, async, got "fast""#,
            "train must be an object, got 5",
        ]
    );
}

#[test]
fn all_values_out_of_bounds_are_reported_at_once_with_their_bounds() {
    let train = json!({"learning_rate": 2000, "momentum": 1, "seed": -1});
    let patch = json!({"min_clients": 0, "max_update_norm": 0, "max_norm_ratio": 0.5, "train": train});
    let mut found = problems(patch);
    found.sort();
    assert_eq!(
        found,
        [
            "max_norm_ratio must be at least 1, got 0.5",
            "max_update_norm must be above 0, got 0",
            "min_clients must be between 1 and 1000000, got 0",
            "train.learning_rate must be above 0 and at most 1000, got 2000",
            "train.momentum must be between 0 and 0.999999, got 1",
            "train.seed must be at least 0, got -1",
        ]
    );
}

#[test]
fn a_value_that_no_json_gives_is_found_too() {
    let config = RunConfig { over_selection: f64::NAN, deadline_s: 0, ..RunConfig::default() };
    let found = config.problems();
    assert_eq!(found, ["over_selection must be a number, got null", "deadline_s must be between 1 and 604800, got 0"]);
}

#[test]
fn a_cohort_is_a_share_or_a_number() {
    assert_eq!(
        problems(json!({"cohort": {"size": 2, "fraction": 0.5}})),
        [r#"cohort must have exactly one of cohort.fraction, cohort.size, got {"fraction":0.5,"size":2}"#]
    );
    assert_eq!(problems(json!({"cohort": {"size": null}})), ["cohort.size must be a whole number, got null"]);
    assert_eq!(
        problems(json!({"cohort": {"size": 2}, "min_clients": 3})),
        ["cohort.size must be at least min_clients, which is 3, got 2"]
    );
}

#[test]
fn a_cohort_is_rounded_up_and_never_above_the_eligible() {
    assert_eq!(CohortSize::Fraction(0.5).of(3), 2);
    assert_eq!(CohortSize::Fraction(1.0).of(3), 3);
    assert_eq!(CohortSize::Size(5).of(3), 3);
}
