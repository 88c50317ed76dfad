//! What chance does beside the clients: the operator's whims, and what breaks.

use super::schedule::{Died, Schedule, What};
use app::api::{Admission, BelowQuorum, CohortSize, Mode, RunConfig};
use fedlearn::round::{Command, Order};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

impl Schedule {
    pub(super) fn operator(&mut self) {
        let delay = self.rng.random_range(1_000..40_000);
        self.after(delay, What::Operator);
        let ids: Vec<_> = self.environment.lock().shown.clients.iter().map(|client| client.id.clone()).collect();
        let somebody = ids.choose(&mut self.rng).cloned();
        match (self.rng.random_range(0..100), somebody) {
            (0..10, Some(client)) => {
                let ban = self.rng.random_bool(0.2);
                _ = self.order(Order::Kick { client, ban });
            }
            (10..40, Some(client)) => _ = self.order(Order::Admit { client }),
            (40..45, _) => {
                let round = self.environment.lock().shown.round.as_ref().map(|round| round.number);
                // Noted first: what it sets going is judged before it returns.
                let is_new = round.is_some_and(|round| self.ordered.insert(round));
                // One that the coordinator died at may be in force all the same.
                let is_refused = matches!(self.order(Order::Aggregate), Ok(false));
                if is_refused && is_new {
                    self.ordered.remove(&round.unwrap_or_default());
                }
            }
            (45..48, _) => _ = self.order(Order::StartRound),
            (48..50, _) => _ = self.order(Order::Cancel),
            (50..53, _) => _ = self.order(Order::StopAutorun),
            (53..65, _) => {
                let config = random_config(&mut self.rng);
                let patch = serde_json::to_value(config).unwrap();
                self.configure(patch);
            }
            _ => {
                let rounds = self.rng.random_range(1..6);
                _ = self.order(Order::StartAutorun { rounds });
            }
        }
    }

    pub(super) fn order(&mut self, order: Order) -> Result<bool, Died> {
        if self.is_traced {
            eprintln!("    the operator: {order:?}");
        }
        self.act(async move |run| run.command(Command::Order(order)).await.is_ok())
    }

    pub(super) fn configure(&mut self, patch: serde_json::Value) {
        _ = self.act(async move |run| {
            let expected = run.machine().config_version();
            run.configure(expected, &patch).await.map(|_| ())
        });
    }

    pub(super) fn trouble(&mut self) {
        let delay = self.rng.random_range(5_000..60_000);
        self.after(delay, What::Trouble);
        match self.rng.random_range(0..10) {
            0 if self.run.is_some() => self.die(),
            1..4 => {
                let crash_at = (self.rng.random_range(0..12), self.rng.random());
                self.environment.lock().crash_at = Some(crash_at);
            }
            4 => self.environment.lock().failing = 50,
            5..7 => self.environment.lock().failing = 0,
            _ => {
                let client = self.rng.random_range(0..self.clients.len());
                self.clients[client].crash(&mut self.rng);
                let (turn, delay) = (self.clients[client].turn, self.rng.random_range(0..120_000));
                self.after(delay, What::Turn { client, turn });
            }
        }
    }
}

pub fn random_config(rng: &mut ChaCha8Rng) -> RunConfig {
    let min_clients = rng.random_range(1..=3);
    let cohort = match rng.random_range(0..3) {
        0 => CohortSize::Fraction(rng.random_range(0.3..=1.0)),
        1 => CohortSize::Fraction(1.0),
        _ => CohortSize::Size(rng.random_range(min_clients..=5)),
    };
    RunConfig {
        admission: if rng.random_bool(0.9) { Admission::Open } else { Admission::Approval },
        cohort,
        min_clients,
        over_selection: if rng.random_bool(0.3) { rng.random_range(0.0..2.0) } else { 0.0 },
        deadline_s: rng.random_range(10..=200),
        below_quorum: if rng.random() { BelowQuorum::Void } else { BelowQuorum::Extend },
        mode: if rng.random() { Mode::Sync } else { Mode::Async },
        buffer_size: rng.random_range(1..=4),
        max_staleness: rng.random_range(0..=RunConfig::MOST_STALE),
        max_weight_share: rng.random_range(0.01..=1.0),
        max_norm_ratio: rng.random_bool(0.5).then_some(20.0),
        max_strikes: rng.random_range(1..=3),
        ..RunConfig::default()
    }
}
