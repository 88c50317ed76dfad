//! What must hold of every schedule, at every step and at its end.

use super::database::UpdateRow;
use super::schedule::Schedule;
use app::api::{ClientId, ClientState, ClientView, OpenRound, Phase, RoundOutcome};
use fedlearn::run::Aggregation;
use std::collections::BTreeMap;

impl Schedule {
    /// Against the rules that an aggregation must obey.
    pub(super) fn check(&mut self, work: &Aggregation) {
        let shared = self.environment.lock();
        let row = &shared.database.rounds[&work.round];
        let config = &shared.database.configs[&row.round.config_version];
        let is_ordered = self.ordered.contains(&work.round);
        assert!(!work.parts.is_empty());
        let received = row.contributions.values().filter(|c| c.update.is_some()).count();
        assert!(is_ordered || received >= config.min_clients as usize, "round {} below quorum", work.round);
        for part in &work.parts {
            if let Some(client) = shared.database.clients.get(&part.client) {
                let state = client.view.state;
                let is_out = matches!(state, ClientState::Kicked | ClientState::Pending | ClientState::Quarantine);
                assert!(!is_out, "an update of {}, which is {state}", part.client);
            }
            let staleness = work.base_version - part.version;
            assert!(staleness <= u64::from(config.max_staleness));
            let most = config.max_weight_share.max(1.0 / work.parts.len() as f64);
            assert!(
                work.parts.len() < 3 || part.share <= most + 1e-9,
                "a share of {} where {most} is the most",
                part.share
            );
            self.tally.stale += u64::from(staleness > 0);
        }
        // In a round of at least three updates trained alike, an attacker in the minority is left out, and nobody else.
        let newest = shared.database.configs.last_key_value().unwrap().1;
        let is_alike = row.contributions.values().all(|c| c.update.is_none() || c.asked.round == row.round.number);
        let outlier = |row: &UpdateRow| self.outliers.contains(&row.sha256);
        let received = row.contributions.iter().filter_map(|(id, c)| Some((id, outlier(c.update.as_ref()?))));
        let received: Vec<_> = received.collect();
        let outliers = received.iter().filter(|(_, is_outlier)| *is_outlier).count();
        if newest.max_norm_ratio.is_some() && is_alike && received.len() >= 3 && 2 * outliers < received.len() {
            for (id, is_outlier) in &received {
                let is_combined = work.parts.iter().any(|part| part.client == **id);
                assert_eq!(is_combined, !is_outlier, "the gate misjudges {id}");
            }
            self.tally.defended += u64::from(outliers > 0);
        }
    }

    /// After every step: what is shown is what is stored.
    pub(super) fn judge(&mut self) {
        let shared = self.environment.lock();
        let (shown, database) = (&shared.shown, &shared.database);
        assert_eq!(shown.version, database.version());
        assert_eq!(shown.config_version, *database.configs.last_key_value().unwrap().0);
        assert_eq!(shown.autorun.map_or(0, |autorun| autorun.rounds), database.autorun);
        assert_eq!(shown.clients.len(), database.clients.len());
        assert!(!shared.is_blocked, "blocked without a reason");
        for client in &shown.clients {
            let stored = &database.clients[&client.id].view;
            let standing = |state| match state {
                ClientState::Pending | ClientState::Kicked | ClientState::Quarantine => Some(state),
                _ => None,
            };
            assert_eq!(standing(client.state), standing(stored.state), "{} is stored as another", client.id);
            let account = |client: &ClientView| (client.strikes, client.rounds, client.samples);
            assert_eq!(account(client), account(stored));
            assert_eq!(client.rejected, stored.rejected, "the verdict on {} is shown otherwise than stored", client.id);
            let is_liar = self.clients.iter().any(|c| c.name == client.name && c.was_liar);
            assert!(is_liar || client.state != ClientState::Quarantine, "{} is honest and in quarantine", client.name);
        }
        let ended = database.rounds.values().filter_map(|row| row.ended.as_ref());
        assert!(ended.eq(shown.rounds.iter()));
        let open = database.open();
        assert_eq!(shown.round.as_ref().map(|round| round.number), open.map(|row| row.round.number));
        if let (Some(round), Some(row)) = (&shown.round, open) {
            assert!(row.contributions.keys().eq(&round.cohort));
            let updated = row.contributions.iter().filter(|(_, row)| row.update.is_some()).map(|(id, _)| id);
            assert!(updated.eq(&round.updated), "round {} shows other updates than are stored", round.number);
        }
        assert!(!shown.waiting.is_empty());
        // Who trains in silence is awaited until the deadline that it was given.
        let round = shown.round.as_ref().filter(|_| shown.phase == Phase::Training);
        let state = |id: &ClientId| shown.clients.iter().find(|client| client.id == *id).map(|client| client.state);
        self.silent.retain(|id, deadline_ms| {
            let is_awaited = |round: &OpenRound| {
                round.deadline_ms == *deadline_ms && round.cohort.contains(id) && !round.updated.contains(id)
            };
            round.is_some_and(is_awaited)
                && matches!(state(id), Some(ClientState::Training | ClientState::Offline | ClientState::Ready))
        });
        for id in self.silent.keys() {
            assert_eq!(state(id), Some(ClientState::Training), "{id} is silent, and its deadline has not passed");
        }
        self.tally.silent += u64::from(!self.silent.is_empty());
    }

    /// Every acknowledged update is aggregated exactly once, or its round is on record as void, or the record says that
    /// its client was put out and it was taken out with it.
    pub(super) fn settle_accounts(&mut self) {
        let shared = self.environment.lock();
        let database = &shared.database;
        let mut counts = BTreeMap::new();
        for model in database.versions.values() {
            for part in &model.made_of {
                *counts.entry(part.clone()).or_insert(0) += 1;
            }
        }
        assert!(counts.values().all(|n| *n == 1), "an update is in two versions");
        for ((client, round), sha256) in &self.acknowledged {
            let counted = counts.contains_key(&(client.clone(), *round, *sha256));
            let row = database.rounds.values().find(|row| {
                row.contributions.get(client).is_some_and(|c| {
                    c.asked.round == *round && c.update.as_ref().is_some_and(|update| update.sha256 == *sha256)
                })
            });
            let is_void =
                row.is_some_and(|row| row.ended.as_ref().is_none_or(|ended| ended.outcome == RoundOutcome::Void));
            let is_dropped = database.dropped.contains(&(client.clone(), *round, *sha256));
            assert!(!(counted && is_void), "the update of {client} for round {round} counts in a void one");
            let is_rejected =
                row.is_some_and(|row| row.closed.as_ref().is_some_and(|c| c.rejected.contains_key(client)));
            assert!(
                counted || is_void || is_dropped || is_rejected,
                "the update of {client} for round {round} is lost"
            );
        }
        let mut version = 0;
        for row in database.rounds.values() {
            assert_eq!(row.round.base_version, version, "round {} follows another version", row.round.number);
            if let Some(made) = row.ended.as_ref().and_then(|ended| ended.version) {
                version += 1;
                assert_eq!(made, version);
            }
            self.tally.rejected += row.ended.as_ref().map_or(0, |ended| u64::from(ended.rejected));
            match row.ended.as_ref().map(|ended| ended.outcome) {
                Some(RoundOutcome::Complete) => {
                    self.tally.complete += 1;
                    self.tally.survived += u64::from(self.crashed.contains(&row.round.number));
                }
                Some(RoundOutcome::Void) => self.tally.void += 1,
                None => {}
            }
        }
    }
}
