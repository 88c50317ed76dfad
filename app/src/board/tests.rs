#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::{CohortStep, RunConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn client(id: &str, state: ClientState) -> ClientView {
    ClientView::new(id.parse().unwrap(), id.to_owned(), 1, String::new(), state, 0)
}

fn snapshot(clients: Vec<ClientView>) -> RunSnapshot {
    RunSnapshot {
        seq: 7,
        run: "default".parse().unwrap(),
        created_ms: 0,
        archived_ms: None,
        model: None,
        parameters: 0,
        dataset: None,
        config: RunConfig::default(),
        config_version: 1,
        phase: Phase::Idle,
        waiting: String::new(),
        autorun: None,
        version: 0,
        best: None,
        round: None,
        clients,
        rounds: Vec::new(),
    }
}

/// A board inside an owner, which must outlive it.
fn board(clients: Vec<ClientView>) -> (Owner, Board) {
    let owner = Owner::new();
    let page = PageData { admin: true, ..PageData::default() };
    let board = owner.with(|| Board::new(snapshot(clients), &page));
    (owner, board)
}

fn change(seq: u64, client: ClientView) -> Event {
    Event { seq, change: Change::Client { client: Box::new(client) } }
}

fn ids(rows: &[ClientRow]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

#[test]
fn a_client_that_changes_keeps_its_row_and_its_signal() {
    let (_owner, board) = board(vec![client("a", ClientState::Ready)]);
    let row = board.clients.get_untracked().remove(0);
    assert!(board.apply(&change(8, client("a", ClientState::Training))));
    assert_eq!(row.view.with_untracked(|client| client.state), ClientState::Training);
}

#[test]
fn a_new_client_gets_a_row_and_one_that_leaves_loses_it() {
    let (_owner, board) = board(vec![client("a", ClientState::Ready)]);
    assert!(board.apply(&change(8, client("b", ClientState::Join))));
    assert!(board.apply(&Event { seq: 9, change: Change::ClientLeft { id: "a".parse().unwrap() } }));
    assert_eq!(ids(&board.clients.get_untracked()), ["b"]);
}

#[test]
fn an_event_after_a_gap_is_not_taken() {
    let (_owner, board) = board(vec![client("a", ClientState::Ready)]);
    assert!(!board.apply(&change(9, client("a", ClientState::Error))));
    assert_eq!(board.counts(), [(ClientState::Ready, 1)]);
}

#[test]
fn an_event_of_before_the_snapshot_changes_nothing() {
    let (_owner, board) = board(vec![client("a", ClientState::Ready)]);
    assert!(board.apply(&change(7, client("a", ClientState::Error))));
    assert_eq!(board.counts(), [(ClientState::Ready, 1)]);
}

#[test]
fn a_new_snapshot_keeps_the_rows_of_clients_that_stay() {
    let (_owner, board) = board(vec![client("a", ClientState::Ready), client("b", ClientState::Ready)]);
    let row = board.clients.get_untracked().remove(1);
    board.reset(snapshot(vec![client("b", ClientState::Finish), client("c", ClientState::Join)]));
    assert_eq!(ids(&board.clients.get_untracked()), ["b", "c"]);
    assert_eq!(row.view.with_untracked(|client| client.state), ClientState::Finish);
}

#[test]
fn who_awaits_admission_is_listed_first_and_who_was_kicked_last() {
    use ClientState::{Kicked, Pending, Ready};
    let (_owner, board) = board(vec![client("k", Kicked), client("r", Ready), client("p", Pending)]);
    assert_eq!(ids(&board.roster()), ["p", "r", "k"]);
}

#[test]
fn the_clock_is_the_coordinators_even_when_the_page_came_out_of_a_cache() {
    let (_owner, board) = board(Vec::new());
    board.hear_clock(50_000, 10_000);
    board.hear_clock(51_000, 90_000);
    board.tick(52_000);
    assert_eq!(board.now_ms.get_untracked(), 91_000);
}

/// A round that asked `a` to `f` and is closed by five updates.
fn opened(seq: u64) -> Event {
    let round = OpenRound {
        number: 3,
        base_version: 2,
        config_version: 1,
        opened_ms: 1_000,
        deadline_ms: 61_000,
        target: 5,
        cohort: ["a", "b", "c", "d", "e", "f"].map(|id| id.parse().unwrap()).to_vec(),
        updated: Vec::new(),
    };
    Event { seq, change: Change::RoundOpened { round: Box::new(round) } }
}

fn step(seq: u64, client: &str, step: CohortStep) -> Event {
    Event { seq, change: Change::Cohort { client: client.parse().unwrap(), step } }
}

/// Counts how often `read` runs anew because of a signal that it reads.
fn watched<T: PartialEq + Send + Sync + 'static>(read: impl Fn() -> T + Send + Sync + 'static) -> impl Fn() -> usize {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let memo = Memo::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        read()
    });
    move || {
        memo.with_untracked(|_| ());
        runs.load(Ordering::Relaxed)
    }
}

#[test]
fn a_counted_update_redraws_the_progress_and_nothing_else() {
    let (owner, board) = board(vec![client("a", ClientState::Training), client("b", ClientState::Training)]);
    // Where what is watched belongs: memos of nobody would have a store of their own.
    owner.with(|| {
        assert!(board.apply(&opened(8)));
        let row = board.clients.get_untracked().remove(0);
        let progress = watched(move || board.course.with(|course| course.round));
        let roster = watched(move || board.roster());
        let one = watched(move || row.view.with(|client| client.state));
        let history = watched(move || board.history.with(|history| history.rounds.len()));
        let settings = watched(move || board.settings.with(|settings| settings.version));
        let all = [&roster as &dyn Fn() -> usize, &one, &history, &settings];
        assert_eq!((progress(), all.map(|part| part())), (1, [1; 4]));
        assert!(board.apply(&step(9, "a", CohortStep::Counted)));
        assert_eq!((progress(), all.map(|part| part())), (2, [1; 4]));
    });
}

#[test]
fn a_round_is_told_in_counts_that_follow_its_cohort() {
    use CohortStep::{Asked, Counted, Dropped};
    let (_owner, board) = board(Vec::new());
    let now = || board.course.get_untracked().round.map(|round| (round.updated, round.wanted, round.asked));
    assert!(board.apply(&opened(8)));
    assert_eq!(now(), Some((0, 5, 6)));
    for (seq, (client, what)) in (9..).zip([("a", Counted), ("b", Counted), ("g", Asked), ("b", Dropped)]) {
        assert!(board.apply(&step(seq, client, what)));
    }
    assert_eq!(now(), Some((1, 5, 7)));
}

#[test]
fn a_course_moves_the_deadline_and_keeps_the_rest_of_the_round() {
    let (_owner, board) = board(Vec::new());
    assert!(board.apply(&opened(8)));
    let change =
        Change::Course { phase: Phase::Training, waiting: "w".to_owned(), autorun: None, deadline_ms: Some(99_000) };
    assert!(board.apply(&Event { seq: 9, change }));
    let course = board.course.get_untracked();
    assert_eq!((course.phase, course.waiting.as_str()), (Phase::Training, "w"));
    assert_eq!(course.round.map(|round| (round.number, round.deadline_ms, round.asked)), Some((3, 99_000, 6)));
}

#[test]
fn a_changed_configuration_comes_with_its_version() {
    let (_owner, board) = board(Vec::new());
    let config = RunConfig { deadline_s: 30, ..RunConfig::default() };
    let change = Change::Config { config: Box::new(config.clone()), config_version: 2 };
    assert!(board.apply(&Event { seq: 8, change }));
    assert_eq!(board.settings.get_untracked(), Settings { config, version: 2 });
}

#[test]
fn the_roster_stays_in_the_order_of_registration() {
    let at = |id: &str, joined_ms| ClientView { joined_ms, ..client(id, ClientState::Join) };
    let mut run = snapshot(vec![at("b", 10), at("d", 20)]);
    // The clock was behind after a restart; and two of the same moment.
    for (seq, newcomer) in (8..).zip([at("c", 15), at("a", 20), at("e", 5)]) {
        assert!(run.apply(&change(seq, newcomer)));
    }
    for (seq, id) in (11..).zip(["d", "e", "a", "b", "c"]) {
        let known = run.client(&id.parse().unwrap()).unwrap().clone();
        assert!(run.apply(&change(seq, ClientView { state: ClientState::Ready, ..known })));
    }
    let order: Vec<_> = run.clients.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(order, ["e", "b", "c", "d", "a"]);
    assert_eq!(run.count(ClientState::Ready), 5);
}
