//! What the operator can do from the page: each action as the request that does it.
//!
//! Method, address and body; `rest` sends the request.

use crate::api::{Autorun, ClientId, KickRequest, RenameRequest, RunId};
use crate::board::{Board, Notice};
use crate::rest::{Request, in_words, send};
use leptos::prelude::*;
use std::time::Duration;

/// What can be done to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Admit(ClientId),
    Kick {
        id: ClientId,
        ban: bool,
    },
    StartAutorun {
        rounds: u32,
    },
    StopAutorun,
    RunRound,
    AggregateNow,
    CancelRound,
    /// `force`: also while clients are at work on a round.
    Archive {
        force: bool,
    },
    Unarchive,
    Rename {
        to: RunId,
        force: bool,
    },
    Delete {
        force: bool,
    },
    /// A JSON merge patch over that version of the configuration.
    Configure {
        version: u64,
        patch: String,
    },
}

impl Action {
    /// The request that does it.
    pub fn request(&self, run: &RunId) -> Request {
        let none = None::<&()>;
        let at = |path: &str| format!("api/v1/runs/{run}/{path}");
        let forced = |path: String, force: bool| if force { path + "?force=true" } else { path };
        match self {
            Self::Admit(id) => Request::new("POST", at(&format!("clients/{id}/admit")), none),
            Self::Kick { id, ban } => {
                Request::new("POST", at(&format!("clients/{id}/kick")), Some(&KickRequest { ban: *ban }))
            }
            Self::StartAutorun { rounds } => Request::new("POST", at("autorun"), Some(&Autorun { rounds: *rounds })),
            Self::StopAutorun => Request::new("DELETE", at("autorun"), none),
            Self::RunRound => Request::new("POST", at("rounds"), none),
            Self::AggregateNow => Request::new("POST", at("rounds/current/aggregate"), none),
            Self::CancelRound => Request::new("DELETE", at("rounds/current"), none),
            Self::Archive { force } => Request::new("POST", forced(at("archive"), *force), none),
            Self::Unarchive => Request::new("POST", at("unarchive"), none),
            Self::Rename { to, force } => {
                Request::new("POST", forced(at("rename"), *force), Some(&RenameRequest { run: to.clone() }))
            }
            Self::Delete { force } => Request::new("DELETE", forced(format!("api/v1/runs/{run}"), *force), none),
            Self::Configure { version, patch } => {
                let request = Request::new("PATCH", format!("api/v1/runs/{run}"), none);
                Request { body: Some(patch.clone()), if_match: Some(*version), ..request }
            }
        }
    }
}

/// How long the notice of something done stays; a refusal stays until it is dismissed.
const DONE_SHOWN: Duration = Duration::from_secs(8);

/// Does it, and says in the notice line that it is done, or why it was refused.
pub fn perform(board: Board, action: &Action, done: String) {
    send(action.request(&board.run()), move |result| match result {
        Ok(()) => say_done(board, done),
        Err(refusal) => board.notice.set(Some(Notice { refused: true, text: in_words(refusal) })),
    });
}

/// Says in the notice line that something is done.
pub fn say_done(board: Board, text: String) {
    let said = Some(Notice { refused: false, text });
    board.notice.set(said.clone());
    let clear = move || {
        // Not a later one.
        if board.notice.with_untracked(|notice| *notice == said) {
            board.notice.set(None);
        }
    };
    set_timeout(clear, DONE_SHOWN);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_names_run_and_client_and_says_whether_it_bans() {
        let kick = Action::Kick { id: "c1".parse().unwrap(), ban: true };
        assert_eq!(
            kick.request(&"default".parse().unwrap()),
            Request {
                method: "POST",
                path: "api/v1/runs/default/clients/c1/kick".to_owned(),
                body: Some(r#"{"ban":true}"#.to_owned()),
                if_match: None,
            }
        );
    }

    #[test]
    fn a_patch_names_the_version_that_it_is_for() {
        let patch = r#"{"deadline_s":30}"#.to_owned();
        assert_eq!(
            Action::Configure { version: 4, patch }.request(&"default".parse().unwrap()),
            Request {
                method: "PATCH",
                path: "api/v1/runs/default".to_owned(),
                body: Some(r#"{"deadline_s":30}"#.to_owned()),
                if_match: Some(4),
            }
        );
    }

    #[test]
    fn what_ends_the_work_of_a_run_is_forced_only_where_that_is_wanted() {
        let run = "default".parse().unwrap();
        let request = |action: Action| {
            let Request { method, path, body, .. } = action.request(&run);
            format!("{method} {path} {}", body.unwrap_or_default())
        };
        let rename = Action::Rename { to: "other".parse().unwrap(), force: true };
        assert_eq!(request(rename), r#"POST api/v1/runs/default/rename?force=true {"run":"other"}"#);
        assert_eq!(request(Action::Delete { force: false }), "DELETE api/v1/runs/default ");
        assert_eq!(request(Action::Archive { force: true }), "POST api/v1/runs/default/archive?force=true ");
    }

    #[test]
    fn an_action_without_details_has_no_body() {
        let request = Action::AggregateNow.request(&"default".parse().unwrap());
        assert_eq!(request.path, "api/v1/runs/default/rounds/current/aggregate");
        assert_eq!(request.body, None);
    }
}
