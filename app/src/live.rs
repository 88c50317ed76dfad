//! Keeps the board up to date over server-sent events: a snapshot first, then each change.
//!
//! Where an event is missing or the connection breaks, it connects anew and starts from a new snapshot.

use crate::api::{Change, Event, RunSnapshot};
use crate::board::{Board, Link};
use futures::StreamExt;
use futures::stream::{PollNext, select_with_strategy};
use gloo_net::eventsource::futures::EventSource;
use gloo_timers::future::TimeoutFuture;
use leptos::prelude::*;
use leptos::web_sys::js_sys::{Date, Math};
use std::time::Duration;

const FIRST_PAUSE_MS: u32 = 500;
const LONGEST_PAUSE_MS: u32 = 15_000;

/// Follows the run for as long as the page is open. `page_ms` is the coordinator's time in the page.
pub fn start(board: Board, page_ms: u64) {
    board.hear_clock(browser_ms(), page_ms);
    set_interval(move || board.tick(browser_ms()), Duration::from_secs(1));
    leptos::task::spawn_local(async move {
        let mut pause_ms = FIRST_PAUSE_MS;
        loop {
            if follow(board).await {
                pause_ms = FIRST_PAUSE_MS;
            }
            board.link.set(Link::Reconnecting);
            // Jitter, so that many open pages do not come back in the same instant.
            TimeoutFuture::new((f64::from(pause_ms) * (0.5 + Math::random())) as u32).await;
            pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
        }
    });
}

/// One connection, until it breaks or an event is missing. Says whether it ever gave a snapshot.
async fn follow(board: Board) -> bool {
    let mut connected = false;
    let Ok(mut source) = EventSource::new(&format!("/api/v1/runs/{}/events", board.run())) else { return connected };
    let (Ok(snapshots), Ok(changes)) = (source.subscribe("snapshot"), source.subscribe("change")) else {
        return connected;
    };
    // A snapshot that has arrived goes first. Changes that it holds already are then passed over by number, whereas
    // changes after it, taken before it, would look like a gap.
    let mut messages = select_with_strategy(snapshots, changes, |(): &mut ()| PollNext::Left);
    while let Some(Ok((kind, message))) = messages.next().await {
        let Some(json) = message.data().as_string() else { break };
        if kind == "snapshot" {
            let Ok(snapshot) = serde_json::from_str::<RunSnapshot>(&json) else { break };
            board.reset(snapshot);
            board.link.set(Link::Live);
            connected = true;
        } else {
            let Ok(event) = serde_json::from_str::<Event>(&json) else { break };
            hear_clock(board, &event);
            if !board.apply(&event) {
                break;
            }
        }
    }
    connected
}

fn hear_clock(board: Board, event: &Event) {
    match &event.change {
        Change::Client { client } => board.hear_clock(browser_ms(), client.seen_ms),
        Change::RoundEnded { summary, .. } => board.hear_clock(browser_ms(), summary.ended_ms),
        _ => {}
    }
}

fn browser_ms() -> u64 {
    Date::now() as u64
}
