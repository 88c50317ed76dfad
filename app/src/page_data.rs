//! What the coordinator hands in to have a page rendered, and what the browser takes over.

use crate::api::{RunId, RunLine, RunSnapshot};
use leptos::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Looks a run up.
pub type FindRun = Arc<dyn Fn(&RunId) -> Option<RunSnapshot> + Send + Sync>;

/// What the coordinator provides, as Leptos context, for each request that renders a page.
#[derive(Clone)]
pub struct ServerContext {
    /// The run of that name, if there is one.
    pub snapshot: FindRun,
    /// Every run, in the order to list them.
    pub runs: Arc<dyn Fn() -> Vec<RunLine> + Send + Sync>,
    /// Sets the HTTP status of the response: 404 for a run that does not exist.
    pub set_status: Arc<dyn Fn(u16) + Send + Sync>,
    /// Whether the request carries a valid admin session.
    pub admin: bool,
    /// Now, by the coordinator's clock.
    pub now_ms: u64,
    /// How this coordinator was addressed, for the join command: `http://host:port`.
    pub origin: String,
    /// The way from the page's address to the coordinator's root: `./` or `../`.
    ///
    /// It is the base of every address on a page. So a page works under any path by which a proxy serves the coordinator,
    /// and nobody has to name that path.
    pub root: String,
}

/// The run whose page is at the root, if there is one of that name.
const HOME: &str = "default";

/// Which run a page shows.
pub enum Wanted {
    /// None.
    None,
    /// That one; `None`: what the address names cannot be the name of a run.
    Run(Option<RunId>),
    /// `default`, else the first open one, else the first.
    Home,
}

/// What a page is rendered from. The server sends it along, so that the browser starts from the same state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PageData {
    pub snapshot: Option<RunSnapshot>,
    pub runs: Vec<RunLine>,
    pub admin: bool,
    pub now_ms: u64,
    pub origin: String,
}

impl PageData {
    /// For the page of one of these: the first that there is. In the browser this reads what the server sent; all links load
    /// a page anew, so the browser never has to make one up.
    pub fn load(wanted: Wanted) -> Self {
        // As text, and written by the server alone: so the browser gets no code to write JSON with.
        let json = SharedValue::new_str(move || Self::of_request(&wanted).to_json()).into_inner();
        serde_json::from_str(&json).unwrap_or_default()
    }

    fn of_request(wanted: &Wanted) -> Self {
        match use_context::<ServerContext>() {
            Some(server) => {
                let runs = (server.runs)();
                let run = match wanted {
                    Wanted::None => None,
                    Wanted::Run(run) => run.clone(),
                    Wanted::Home => {
                        let first = runs.iter().find(|line| line.run.as_str() == HOME);
                        let open = || runs.iter().find(|line| line.archived_ms.is_none());
                        first.or_else(open).or(runs.first()).map(|line| line.run.clone())
                    }
                };
                Self {
                    snapshot: run.as_ref().and_then(|run| (server.snapshot)(run)),
                    runs,
                    admin: server.admin,
                    now_ms: server.now_ms,
                    origin: server.origin,
                }
            }
            None => Self::default(),
        }
    }

    #[cfg(feature = "ssr")]
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data always serializes")
    }

    #[cfg(not(feature = "ssr"))]
    fn to_json(&self) -> String {
        String::new()
    }
}

/// Makes the response a 404; in the browser, nothing.
pub fn say_not_found() {
    if let Some(server) = use_context::<ServerContext>() {
        (server.set_status)(404);
    }
}

/// In the browser, the address of the coordinator as it was reached, without a slash at its end: the page's base.
pub fn coordinator_address() -> Option<String> {
    #[cfg(feature = "hydrate")]
    return Some(document().base_uri().ok()??.trim_end_matches('/').to_owned());
    #[cfg(not(feature = "hydrate"))]
    None
}
