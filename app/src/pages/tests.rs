#![allow(clippy::unwrap_used)]
//! Pages as the server renders them: what is there for those without scripts.

use crate::api::{
    Architecture, BestVersion, ClientState, ClientView, Dataset, ModelSpec, OpenRound, Phase, RoundOutcome,
    RoundSummary, RunConfig, RunId, RunLine, RunSnapshot,
};
use crate::{App, ServerContext};
use leptos::prelude::*;
use leptos_router::location::RequestUrl;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

fn client(name: &str, state: ClientState) -> ClientView {
    ClientView::new("c1".parse().unwrap(), name.to_owned(), 20_000, "cpu".to_owned(), state, 0)
}

fn round(number: u64, test_accuracy: f64) -> RoundSummary {
    RoundSummary {
        number,
        outcome: RoundOutcome::Complete,
        reason: "all updates are in".to_owned(),
        base_version: number - 1,
        version: Some(number),
        config_version: 1,
        cohort: 1,
        updates: 1,
        rejected: 0,
        samples: 20_000,
        received_bytes: 1_000,
        mean_staleness: None,
        lowered_weights: None,
        train_loss: Some(0.5),
        test_loss: Some(0.4),
        test_accuracy: Some(test_accuracy),
        opened_ms: 0,
        ended_ms: 1_000,
    }
}

fn snapshot(clients: Vec<ClientView>, rounds: Vec<RoundSummary>) -> RunSnapshot {
    RunSnapshot {
        seq: 1,
        run: "default".parse().unwrap(),
        created_ms: 0,
        archived_ms: None,
        model: Some(ModelSpec::for_dataset(Architecture::Cnn, Dataset::FashionMnist)),
        parameters: 421_642,
        dataset: Some(Dataset::FashionMnist),
        config: RunConfig::default(),
        config_version: 1,
        phase: Phase::Idle,
        waiting: "Nothing is planned.".to_owned(),
        autorun: None,
        version: 0,
        best: None,
        round: None,
        clients,
        rounds,
    }
}

fn line(run: &str, archived_ms: Option<u64>) -> RunLine {
    let (run, phase) = (run.parse().unwrap(), Phase::Idle);
    RunLine { run, model: None, phase, archived_ms, version: 0, best: None, clients: 0 }
}

/// The status set and the HTML of `address`, where that is the only run.
fn render(address: &str, admin: bool, snapshot: RunSnapshot) -> (u16, String) {
    let runs = vec![line(snapshot.run.as_str(), snapshot.archived_ms)];
    render_among(address, admin, snapshot, runs)
}

/// The same, where these runs are listed.
fn render_among(address: &str, admin: bool, snapshot: RunSnapshot, runs: Vec<RunLine>) -> (u16, String) {
    let status = Arc::new(AtomicU16::new(200));
    let html = Owner::new().with(|| {
        provide_context(RequestUrl::new(address));
        let set = status.clone();
        provide_context(ServerContext {
            snapshot: Arc::new(move |run: &RunId| (*run == snapshot.run).then(|| snapshot.clone())),
            runs: Arc::new(move || runs.clone()),
            set_status: Arc::new(move |status| set.store(status, Ordering::Relaxed)),
            admin,
            now_ms: 12_000,
            origin: "http://host:3000".to_owned(),
            root: "./".to_owned(),
        });
        view! { <App/> }.to_html()
    });
    (status.load(Ordering::Relaxed), html)
}

#[test]
fn the_roster_is_in_the_page_and_names_are_only_text() {
    let clients = vec![client("<b>north</b>", ClientState::Training)];
    let (status, html) = render("/", false, snapshot(clients, Vec::new()));
    assert_eq!(status, 200);
    assert!(html.contains("&lt;b&gt;north&lt;/b&gt;"), "{html}");
    assert!(html.contains(r#"data-state="training""#), "{html}");
    assert!(html.contains("12 s ago"), "{html}");
}

#[test]
fn the_chart_has_a_point_for_each_round() {
    let (_, html) = render("/runs/default", false, snapshot(Vec::new(), vec![round(1, 0.7), round(2, 0.8)]));
    assert!(html.contains(r#"data-points="2""#), "{html}");
    assert!(html.contains("80.0%"), "{html}");
}

#[test]
fn an_empty_run_says_how_to_join() {
    let (_, html) = render("/", false, snapshot(Vec::new(), Vec::new()));
    assert!(html.contains("fedlearn join http://host:3000"), "{html}");
    assert!(html.contains(r#"data-points="0""#), "{html}");
}

#[test]
fn only_an_admin_gets_controls() {
    let page = |admin| render("/", admin, snapshot(vec![client("north", ClientState::Pending)], Vec::new())).1;
    for control in ["admit", "kick", "autorun-start", "run-round"] {
        let hook = format!(r#"data-testid="{control}""#);
        assert!(page(true).contains(&hook), "{control}");
        assert!(!page(false).contains(&hook), "{control}");
    }
    assert!(page(false).contains("Log in to control this run"));
}

#[test]
fn a_run_or_page_that_does_not_exist_is_a_404() {
    for address in ["/runs/other", "/runs/No%20Name", "/nowhere"] {
        assert_eq!(render(address, false, snapshot(Vec::new(), Vec::new())).0, 404, "{address}");
    }
}

#[test]
fn the_login_form_works_without_a_script() {
    let (_, html) = render("/login?refused", false, snapshot(Vec::new(), Vec::new()));
    assert!(html.contains(r#"method="post" action="api/v1/session""#), "{html}");
    assert!(html.contains("That token is not the right one."), "{html}");
}

#[test]
fn a_quarantined_client_tells_why_and_can_be_released() {
    let mut struck = client("north", ClientState::Quarantine);
    (struck.strikes, struck.late_updates, struck.error) = (2, 1, Some("block 3 holds a NaN".to_owned()));
    let (_, html) = render("/", true, snapshot(vec![struck], Vec::new()));
    assert!(html.contains("2 strikes: block 3 holds a NaN"), "{html}");
    assert!(html.contains("1 late update"), "{html}");
    assert!(html.contains(r#"aria-label="Release north""#), "{html}");
    assert!(html.contains(r#"data-testid="kick""#), "{html}");
}

#[test]
fn strikes_are_not_taken_for_the_reason_of_another_error() {
    let mut ill = client("north", ClientState::Error);
    (ill.strikes, ill.error) = (1, Some("the device is full".to_owned()));
    let (_, html) = render("/", false, snapshot(vec![ill], Vec::new()));
    assert!(html.contains(">the device is full<"), "{html}");
    assert!(html.contains(">1 strike<"), "{html}");
}

/// The first round, which nobody has been asked in.
fn open_round() -> OpenRound {
    OpenRound {
        number: 1,
        base_version: 0,
        config_version: 1,
        opened_ms: 0,
        deadline_ms: 60_000,
        target: 1,
        updated: Vec::new(),
        cohort: Vec::new(),
    }
}

#[test]
fn the_progress_of_a_round_is_measured_by_what_closes_it() {
    let ids = ["a", "b", "c", "d", "e", "f"].map(|id| id.parse().unwrap()).to_vec();
    let round = OpenRound { target: 5, updated: ids[..3].to_vec(), cohort: ids, ..open_round() };
    let html = |target| {
        let round = OpenRound { target, ..round.clone() };
        render("/", false, RunSnapshot { round: Some(round), ..snapshot(Vec::new(), Vec::new()) }).1
    };
    let fewer = html(5);
    assert!(fewer.contains("3 of 5") && fewer.contains(" updates are in (6 asked)"), "{fewer}");
    assert!(fewer.contains(r#"<progress max="5" value="3""#), "{fewer}");
    let all = html(6);
    assert!(all.contains("3 of 6") && !all.contains("asked)"), "{all}");
}

#[test]
fn a_round_that_has_closed_shows_no_deadline() {
    let html = |phase| {
        let snapshot = RunSnapshot { phase, round: Some(open_round()), ..snapshot(Vec::new(), Vec::new()) };
        render("/", false, snapshot).1
    };
    assert!(html(Phase::Training).contains("closes in 48 s at the latest"), "{}", html(Phase::Training));
    assert!(!html(Phase::Aggregating).contains("at the latest"), "{}", html(Phase::Aggregating));
}

#[test]
fn the_history_marks_where_the_configuration_changed_and_how_stale_updates_were() {
    let with =
        |number, config_version, mean_staleness| RoundSummary { config_version, mean_staleness, ..round(number, 0.5) };
    let rounds = vec![with(1, 1, Some(0.0)), with(2, 3, Some(1.25)), with(3, 3, None)];
    let (_, html) = render("/", false, snapshot(Vec::new(), rounds));
    assert_eq!(html.matches("config v").count(), 1, "{html}");
    assert!(html.contains("config v3"), "{html}");
    assert_eq!(html.matches(" behind<").count(), 1, "{html}");
    assert!(html.contains("1.3 behind") || html.contains("1.2 behind"), "{html}");
}

#[test]
fn the_history_shows_whose_weight_was_lowered_and_the_configuration_by_what() {
    let reason =
        "all updates in (3); the weight of north was lowered from 100.0% to 50.0% of the round (max_weight_share)";
    let lowered = RoundSummary { reason: reason.to_owned(), ..round(1, 0.5) };
    let (_, html) = render("/", false, snapshot(Vec::new(), vec![lowered]));
    assert!(html.contains(reason), "{html}");
    assert!(html.contains("at most 50.0% of a round each"), "{html}");
}

#[test]
fn every_input_of_the_configuration_has_its_label_and_its_notes() {
    let page = |admin| render("/", admin, snapshot(Vec::new(), Vec::new())).1;
    assert!(!page(false).contains("config-dialog"), "only the operator edits");
    assert!(page(false).contains("version 1"));
    let html = page(true);
    for setting in RunConfig::settings() {
        let id = format!("config-{}", setting.path.replace('.', "-"));
        for part in
            [format!(r#"<label for="{id}">"#), format!(r#" id="{id}" "#), format!(r#"aria-describedby="{id}-when "#)]
        {
            assert_eq!(html.matches(&part).count(), 1, "{part}");
        }
    }
}

#[test]
fn the_operator_manages_a_run_and_downloads_its_models() {
    let best = Some(BestVersion { version: 2, round: 2, test_accuracy: 0.8 });
    let shown = |best| RunSnapshot { version: 3, best, ..snapshot(Vec::new(), vec![round(1, 0.7), round(2, 0.8)]) };
    let (_, html) = render("/", true, shown(best));
    for control in ["archive", "rename", "delete", "confirm-delete", "download-latest", "download-best"] {
        assert_eq!(html.matches(&format!(r#"data-testid="{control}""#)).count(), 1, "{control}: {html}");
    }
    assert!(html.contains(r#"href="api/v1/runs/default/models/best""#), "{html}");
    let (_, visitors) = render("/", false, shown(best));
    assert!(!visitors.contains("run-menu") && !visitors.contains("download-"), "{visitors}");
    let (_, without) = render("/", true, shown(None));
    assert!(without.contains("download-latest") && !without.contains("download-best"), "{without}");
}

#[test]
fn an_archived_run_can_be_read_and_unarchived_and_nothing_else() {
    let mut archived = snapshot(vec![client("north", ClientState::Pending)], vec![round(1, 0.7)]);
    archived.archived_ms = Some(1);
    let (status, html) = render("/", true, archived);
    assert_eq!(status, 200);
    assert!(html.contains("This run is archived") && html.contains(">Unarchive<"), "{html}");
    assert!(!html.contains("fedlearn join"), "{html}");
    for control in ["autorun-start", "config-edit", "admit", "kick"] {
        assert!(!html.contains(&format!(r#"data-testid="{control}""#)), "{control}");
    }
}

#[test]
fn archived_runs_are_listed_apart() {
    let runs = vec![line("default", None), line("old", Some(1)), line("older", Some(1))];
    let (_, html) = render_among("/", false, snapshot(Vec::new(), Vec::new()), runs);
    let (open, archived) = html.split_once("Archived (2)").unwrap();
    assert!(open.contains("runs/default") && !open.contains("runs/old"), "{open}");
    assert!(archived.contains("runs/old") && archived.contains("runs/older"), "{archived}");
}

#[test]
fn where_there_is_no_default_the_root_shows_the_first_open_run() {
    let other = RunSnapshot { run: "other".parse().unwrap(), ..snapshot(Vec::new(), Vec::new()) };
    let runs = vec![line("archived", Some(1)), line("other", None)];
    let (status, html) = render_among("/", false, other, runs);
    assert_eq!(status, 200);
    assert!(html.contains("<h1>other</h1>"), "{html}");
}
