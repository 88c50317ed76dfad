//! A run as it was stored, as the round machine takes it up again.

use super::StartError;
use super::models::blocking;
use crate::round::{Assignment, Closed, Counted, RecentNorms, Restored, RestoredClient, RestoredRound};
use crate::store::{Store, StoredContribution, StoredRound, StoredRun};
use app::api::{Autorun, ClientId, Mode};
use std::collections::BTreeMap;

/// Checks the updates of the open round: one that is not what was received, or not there, is taken out, so that its client
/// is asked again.
///
/// # Errors
/// One cannot be read now, which says nothing of what is in it; or the database.
pub(super) async fn without_damaged(store: &Store, mut stored: StoredRun) -> Result<StoredRun, StartError> {
    let Some(open) = stored.last.as_mut().filter(|last| last.is_open) else { return Ok(stored) };
    for contribution in &mut open.contributions {
        let Some(update) = contribution.update.clone() else { continue };
        let store_here = store.clone();
        let checked = blocking(move || store_here.check_received(&update.file, &update.sha256)).await;
        if let Err(error) = checked {
            if error.is_passing() {
                return Err(StartError::Unreadable { run: stored.run, source: error });
            }
            tracing::error!(run = %stored.run, client = %contribution.client, %error, "an update is lost");
            store.drop_contribution(&stored.run, open.round.number, &contribution.client, true).await?;
            contribution.update = None;
            open.closed = None;
        }
    }
    Ok(stored)
}

/// What the round machine of a stored run starts from.
pub fn restored(stored: &StoredRun, now_ms: u64) -> Restored {
    let last = stored.last.as_ref();
    Restored {
        config: stored.config.clone(),
        config_version: stored.config_version,
        version: stored.version,
        next_round: last.map_or(1, |last| last.round.number + 1),
        roster: stored
            .clients
            .iter()
            .map(|c| RestoredClient {
                view: c.view.clone(),
                banned: c.banned,
                asked: c.asked,
                sends_heartbeats: c.sends_heartbeats,
            })
            .collect(),
        round: last.filter(|last| last.is_open).map(round),
        carried: last.filter(|last| !last.is_open).map(unfinished).unwrap_or_default(),
        now_ms,
        recent_norms: recent_norms(stored),
        autorun: (stored.autorun_rounds > 0).then_some(Autorun { rounds: stored.autorun_rounds }),
        seed: stored.config.train.seed,
    }
}

fn round(stored: &StoredRound) -> RestoredRound {
    let StoredRound { round, config, contributions, .. } = stored;
    let by_operator = stored.closed_by_operator;
    let closed =
        stored.closed.clone().map(|(at_ms, reason)| Closed { at_ms, reason, by_operator, rejected: BTreeMap::new() });
    let mut restored = RestoredRound {
        open: round.clone(),
        config: config.clone(),
        earlier: Default::default(),
        counted: Default::default(),
        closed,
    };
    for contribution in contributions {
        let client = contribution.client.clone();
        if contribution.asked_round < round.number {
            restored.earlier.insert(client.clone(), assignment(contribution));
        }
        if let Some(update) = &contribution.update {
            let counted = Counted {
                samples: update.samples,
                loss: update.loss,
                bytes: update.bytes,
                norm: update.norm,
                staleness: round.base_version.saturating_sub(contribution.asked_version),
            };
            restored.counted.insert(client, counted);
        }
    }
    restored
}

/// Who may still be at work for a round that is over, and at what: what comes of it is taken by a later one.
fn unfinished(last: &StoredRound) -> BTreeMap<ClientId, Assignment> {
    let is_async = last.config.mode == Mode::Async;
    let left = last.contributions.iter().filter(|contribution| is_async && contribution.update.is_none());
    left.map(|contribution| (contribution.client.clone(), assignment(contribution))).collect()
}

fn assignment(contribution: &StoredContribution) -> Assignment {
    Assignment { round: contribution.asked_round, version: contribution.asked_version }
}

fn recent_norms(stored: &StoredRun) -> RecentNorms {
    let mut recent = RecentNorms::default();
    for (client, norm) in &stored.norms {
        recent.push(client, *norm);
    }
    recent
}
