//! What a machine starts from.

use super::command::{Assignment, Closed, Received};
use super::recent_norms::RecentNorms;
use app::api::{Autorun, ClientId, ClientView, OpenRound, RunConfig};
use std::collections::BTreeMap;

/// What a machine starts from: a run as it was stored, or a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The newest configuration.
    pub config: RunConfig,
    /// Its version.
    pub config_version: u64,
    /// The current global version; 0 is the initial one.
    pub version: u64,
    /// The number of the next round: above all that ever opened, also one that a crash cut short.
    pub next_round: u64,
    /// The roster.
    pub roster: Vec<RestoredClient>,
    /// The round that was open, if one was: it goes on.
    pub round: Option<RestoredRound>,
    /// Where none was open, and the last one was asynchronous: those whose updates it went without, and at what they work.
    pub carried: BTreeMap<ClientId, Assignment>,
    /// Norms of earlier rounds under the newest configuration.
    pub recent_norms: RecentNorms,
    /// Rounds still to complete.
    pub autorun: Option<Autorun>,
}

/// A client that was on the roster.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredClient {
    /// As stored. One in `pending`, `quarantine` or `kicked` is taken as it is, any other is `offline` until heard of.
    pub view: ClientView,
    /// Its name may not register.
    pub banned: bool,
    /// The round it was last asked in; 0: in none.
    pub asked: u64,
    /// It has sent a heartbeat while it worked for some round. One that has not, and whose update is missing, trains in
    /// silence for all that is known.
    pub sends_heartbeats: bool,
}

/// A round that was open.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredRound {
    /// As stored; `updated` is filled from `received`.
    pub open: OpenRound,
    /// The configuration of its version.
    pub config: RunConfig,
    /// Those of its cohort who began in an earlier round, and at what they work.
    pub earlier: BTreeMap<ClientId, Assignment>,
    /// Its updates. Those of clients that are `kicked` or in `quarantine` by now are not counted again.
    pub received: BTreeMap<ClientId, Received>,
    /// None if it took updates. Holds as long as a quorum of `received` is counted again, or the operator wanted it.
    pub closed: Option<Closed>,
}

impl Restored {
    /// A new run: version 0, round 1 next, nobody there.
    pub fn fresh(config: RunConfig) -> Self {
        Self {
            config,
            config_version: 1,
            version: 0,
            next_round: 1,
            roster: Vec::new(),
            round: None,
            carried: BTreeMap::new(),
            recent_norms: RecentNorms::default(),
            autorun: None,
        }
    }
}
