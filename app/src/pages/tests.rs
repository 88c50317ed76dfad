#![allow(clippy::unwrap_used)]
//! Pages as the server renders them: what is there for those without scripts.

use crate::api::{
    Architecture, ClientState, ClientView, Dataset, ModelSpec, Phase, RoundOutcome, RoundSummary, RunConfig, RunId,
    RunSnapshot,
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
        samples: 20_000,
        received_bytes: 1_000,
        mean_staleness: None,
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

/// The status set and the HTML of `address`, where `default` is the only run.
fn render(address: &str, admin: bool, snapshot: RunSnapshot) -> (u16, String) {
    let status = Arc::new(AtomicU16::new(200));
    let html = Owner::new().with(|| {
        provide_context(RequestUrl::new(address));
        let set = status.clone();
        provide_context(ServerContext {
            snapshot: Arc::new(move |run: &RunId| (*run == snapshot.run).then(|| snapshot.clone())),
            runs: Arc::new(Vec::new),
            set_status: Arc::new(move |status| set.store(status, Ordering::Relaxed)),
            admin,
            now_ms: 12_000,
            origin: "http://host:3000".to_owned(),
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
    assert!(html.contains(r#"method="post" action="/api/v1/session""#), "{html}");
    assert!(html.contains("That token is not the right one."), "{html}");
}
