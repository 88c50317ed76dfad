#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::RunConfig;

fn client(id: &str, state: ClientState) -> ClientView {
    ClientView::new(id.parse().unwrap(), id.to_owned(), 1, String::new(), state, 0)
}

fn snapshot(clients: Vec<ClientView>) -> RunSnapshot {
    RunSnapshot {
        seq: 7,
        run: "default".parse().unwrap(),
        created_ms: 0,
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
