//! Keeps the board up to date over server-sent events: a snapshot first, then each change.
//!
//! Where an event is missing or the connection breaks, it connects anew and starts from a new snapshot.

use crate::api::{Change, Event, RunSnapshot};
use crate::board::{Board, Link};
use futures::StreamExt;
use futures::channel::mpsc;
use gloo_timers::future::TimeoutFuture;
use leptos::prelude::*;
use leptos::web_sys::js_sys::{Date, Function, Math};
use std::time::Duration;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use web_sys::{EventSource, MessageEvent};

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

enum Message {
    Snapshot(String),
    Change(String),
    Broken,
}

/// One connection, until it breaks or an event is missing. Says whether it ever gave a snapshot.
///
/// The browser would connect again by itself, without telling the page in a way that gloo-net passes on; so this uses
/// the browser's own object, and gives it up at the first error.
async fn follow(board: Board) -> bool {
    let Ok(source) = EventSource::new(&format!("api/v1/runs/{}/events", board.run())) else { return false };
    let (say, messages) = mpsc::unbounded();
    // One queue for all: the order in which they came is the order in which they count.
    let listener = |message: fn(String) -> Message| {
        let say = say.clone();
        Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let _ = say.unbounded_send(event.data().as_string().map_or(Message::Broken, message));
        })
    };
    let (on_snapshot, on_change) = (listener(Message::Snapshot), listener(Message::Change));
    let on_error = Closure::<dyn FnMut()>::new(move || {
        let _ = say.unbounded_send(Message::Broken);
    });
    let snapshot_fn: &Function = on_snapshot.as_ref().unchecked_ref();
    let change_fn: &Function = on_change.as_ref().unchecked_ref();
    let listening = source.add_event_listener_with_callback("snapshot", snapshot_fn).is_ok()
        && source.add_event_listener_with_callback("change", change_fn).is_ok();
    source.set_onerror(Some(on_error.as_ref().unchecked_ref()));
    let connected = listening && take(board, messages).await;
    // Before the listeners go: a closed source calls none of them.
    source.close();
    connected
}

/// Brings the board up to date until a message cannot be taken.
async fn take(board: Board, mut messages: mpsc::UnboundedReceiver<Message>) -> bool {
    let mut connected = false;
    while let Some(message) = messages.next().await {
        match message {
            Message::Broken => break,
            Message::Snapshot(json) => {
                let Ok(snapshot) = serde_json::from_str::<RunSnapshot>(&json) else { break };
                if snapshot.archived_ms.is_some() != board.archived {
                    let _ = window().location().reload(); // archived or unarchived meanwhile: other controls
                    break;
                }
                board.reset(snapshot);
                board.link.set(Link::Live);
                connected = true;
            }
            Message::Change(json) => {
                let Ok(event) = serde_json::from_str::<Event>(&json) else { break };
                hear_clock(board, &event);
                if !board.apply(&event) {
                    break;
                }
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
