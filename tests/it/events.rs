//! What can be seen of a run from outside: events, history, metrics, the API's own description.

use crate::harness::{Coordinator, Guest, soon, take};
use app::api::{Change, ClientView, Encoding, ErrorCode, Phase, RoundSummary};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn events_lead_from_the_first_snapshot_to_what_is_there_now() {
    // Given somebody who watches from the beginning,
    let mut coordinator = Coordinator::tiny(&[]).await;
    let mut watch = coordinator.watch("tiny").await;
    assert_eq!(watch.run, coordinator.snapshot("tiny").await);
    // when all kinds of things happen,
    let (guest, other) = (Guest::join(&coordinator, "tiny", "a").await, Guest::join(&coordinator, "tiny", "b").await);
    coordinator.order("/runs/tiny/rounds").await;
    guest.trains(1).await;
    guest.sends(1, 1.0).await;
    coordinator.order(&format!("/runs/tiny/clients/{}/kick", other.id)).await;
    coordinator.configure("tiny", json!({"deadline_s": 99})).await;
    coordinator.until("tiny", "the round is over", |run| run.rounds.len() == 1).await;
    guest.leaves().await;
    // then the events tell the same as the run itself,
    let now = coordinator.snapshot("tiny").await;
    watch.until("the last event", |run| run.seq == now.seq).await;
    assert_eq!(watch.run, now);
    // and the stream ends when the coordinator stops, rather than keep it from stopping.
    coordinator.stop().await;
    let end = async { while watch.next().await.is_some() {} };
    soon("the end of the events", end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_seen_while_it_happens() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "a").await;
    coordinator.order("/runs/tiny/rounds").await;
    let mut watch = coordinator.watch("tiny").await;
    let progress = json!({"epoch": 1, "epochs": 2, "batch": 3, "batches": 4, "loss": 0.5});
    let report = json!({"state": "training", "round": 1, "progress": progress});
    take(200, guest.own(Method::PUT, "/status").json(&report)).await;
    let event = soon("the report", watch.next()).await.unwrap();
    let Change::Client { client } = event.change else { panic!("{event:?}") };
    assert_eq!(client.progress.unwrap().fraction(), 3.0 / 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_roster_results_and_metrics_tell_the_same() {
    let coordinator = Coordinator::tiny(&[]).await;
    let guest = Guest::join(&coordinator, "tiny", "a").await;
    coordinator.autorun("tiny", 2).await;
    for round in 1..=2 {
        assert_eq!(guest.asked().await.round, round);
        guest.sends(round, 1.0).await;
    }
    let run = coordinator.until("tiny", "two rounds are over", |run| run.rounds.len() == 2).await;

    let get = |path| take(200, coordinator.anybody(Method::GET, path));
    let rounds: Vec<RoundSummary> = get("/runs/tiny/rounds").await.json().await.unwrap();
    assert_eq!(rounds, run.rounds);
    let clients: Vec<ClientView> = get("/runs/tiny/clients").await.json().await.unwrap();
    assert_eq!((clients[0].id.clone(), clients[0].rounds), (guest.id.clone(), 2));

    let csv = get("/runs/tiny/export.csv").await;
    assert_eq!(csv.headers()["cache-control"], "no-store");
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8");
    let csv = csv.text().await.unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].starts_with("round,outcome,base_version,version,"), "{csv}");
    assert!(lines[1].starts_with("1,complete,0,1,1,1,1,0,10,") && lines[2].starts_with("2,complete,1,2,"), "{csv}");
    assert_eq!(lines.len(), 3);

    let metrics = coordinator.http.get(format!("{}/metrics", coordinator.origin()));
    let metrics = take(200, metrics).await.text().await.unwrap();
    let bytes: u64 = run.rounds.iter().map(|round| round.received_bytes).sum();
    for line in [
        "# TYPE fedlearn_rounds_total counter".to_owned(),
        "fedlearn_rounds_total{run=\"tiny\"} 2".to_owned(),
        "fedlearn_model_version{run=\"tiny\"} 2".to_owned(),
        format!("fedlearn_received_bytes_total{{run=\"tiny\"}} {bytes}"),
        "fedlearn_clients{run=\"default\",state=\"ready\"} 0".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself_and_names_every_address_of_the_protocol() {
    let coordinator = Coordinator::tiny(&[]).await;
    let document = coordinator.http.get(format!("{}/api/openapi.json", coordinator.origin()));
    let document: Value = take(200, document).await.json().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let v1 = [
        ("/runs", "get post"),
        ("/runs/{run}", "get patch delete"),
        ("/runs/{run}/archive", "post"),
        ("/runs/{run}/autorun", "post delete"),
        ("/runs/{run}/clients", "get post"),
        ("/runs/{run}/clients/{id}", "patch delete"),
        ("/runs/{run}/clients/{id}/admit", "post"),
        ("/runs/{run}/clients/{id}/kick", "post"),
        ("/runs/{run}/clients/{id}/status", "put"),
        ("/runs/{run}/clients/{id}/task", "get"),
        ("/runs/{run}/events", "get"),
        ("/runs/{run}/export.csv", "get"),
        ("/runs/{run}/models/{version}", "get"),
        ("/runs/{run}/rename", "post"),
        ("/runs/{run}/rounds", "get post"),
        ("/runs/{run}/rounds/current", "delete"),
        ("/runs/{run}/rounds/current/aggregate", "post"),
        ("/runs/{run}/rounds/{round}/updates/{id}", "put"),
        ("/runs/{run}/unarchive", "post"),
        ("/session", "post delete"),
    ];
    let other = [("/healthz", "get"), ("/readyz", "get"), ("/metrics", "get")];
    let v1 = v1.map(|(path, methods)| (format!("/api/v1{path}"), methods));
    let wanted = v1.into_iter().chain(other.map(|(path, methods)| (path.to_owned(), methods)));
    let named = document["paths"].as_object().unwrap();
    assert_eq!(named.len(), 23, "{:?}", named.keys());
    for (path, methods) in wanted {
        for method in methods.split(' ') {
            let operation = &named.get(&path).unwrap_or_else(|| panic!("{path} is not described"))[method];
            assert!(operation["responses"].is_object(), "{method} {path} is not described");
        }
    }
    // In the words that it speaks.
    let words = |name: &str| document["components"]["schemas"][name]["enum"].clone();
    assert_eq!(words("Phase"), json!(Phase::WORDS));
    assert_eq!(words("Encoding"), json!(Encoding::WORDS));
    assert_eq!(words("ErrorCode"), json!(ErrorCode::WORDS));
    for path in ["/healthz", "/readyz"] {
        take(200, coordinator.http.get(format!("{}{path}", coordinator.origin()))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_page_is_whole_on_whatever_threads_it_is_made() {
    let coordinator = Coordinator::tiny(&[]).await;
    for _ in 0..8 {
        let pages = (0..32).map(|_| {
            let page = coordinator.http.get(coordinator.origin());
            tokio::spawn(async move { take(200, page).await.text().await.unwrap() })
        });
        for page in pages.collect::<Vec<_>>() {
            let page = soon("a page", page).await.unwrap();
            assert!(page.contains(" · fedlearn</title>") && page.contains("</html>"), "{page}");
        }
    }
}
