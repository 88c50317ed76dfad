//! What is done to whom, and when: drawn from a seed before the run begins.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// Seconds after which a round goes on without who is missing.
pub const DEADLINE_S: u64 = 15;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Agents.
    pub agents: usize,
    /// Rounds to complete.
    pub rounds: usize,
    /// How often the coordinator is killed.
    pub coordinator_kills: usize,
    /// How often any of the agents is killed.
    pub agent_kills: usize,
    /// How often any of them is stopped for a while.
    pub pauses: usize,
}

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Harm {
    /// Killed on the spot, and started again after so long.
    Kill(Duration),
    /// Stopped (SIGSTOP) for so long, which it does not notice.
    Pause(Duration),
}

/// A harm and its time.
#[derive(Debug, Clone, Copy)]
pub struct Cue {
    /// So many rounds must be complete,
    pub rounds: usize,
    /// and so much time have passed since.
    pub then: Duration,
    /// What is done.
    pub harm: Harm,
}

/// How often each was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Kills of the coordinator.
    pub coordinator_kills: usize,
    /// Kills of agents.
    pub agent_kills: usize,
    /// Pauses of agents.
    pub pauses: usize,
}

/// The whole of it, each part in the order of its times.
#[derive(Debug, Default)]
pub struct Script {
    /// Whether the link does its worst.
    pub link_is_bad: bool,
    /// For the coordinator.
    pub coordinator: Vec<Cue>,
    /// For each of the agents.
    pub agents: Vec<Vec<Cue>>,
}

impl Script {
    /// Nothing happens.
    pub fn calm(size: &Size) -> Self {
        Self { agents: vec![Vec::new(); size.agents], ..Self::default() }
    }

    /// Harm of that size, spread over all rounds but the last: what is a little late still meets the last one.
    pub fn of(size: &Size, a_round: Duration, seed: u64) -> Self {
        let mut luck = ChaCha8Rng::seed_from_u64(seed);
        let ms = |luck: &mut ChaCha8Rng, range| Duration::from_millis(luck.random_range(range));
        let mut script = Self { link_is_bad: true, ..Self::calm(size) };
        for at in spread(size.coordinator_kills, size, &mut luck) {
            script.coordinator.push(cue(at, a_round, Harm::Kill(ms(&mut luck, 0..800))));
        }
        for at in spread(size.agent_kills, size, &mut luck) {
            let agent = luck.random_range(0..size.agents);
            script.agents[agent].push(cue(at, a_round, Harm::Kill(ms(&mut luck, 0..1_500))));
        }
        for (number, at) in spread(size.pauses, size, &mut luck).into_iter().enumerate() {
            let agent = luck.random_range(0..size.agents);
            // One in four is longer than a round waits, unless the coordinator starts again in the middle of it.
            let beyond = 1_000 * DEADLINE_S;
            let range = if number % 4 == 3 { beyond + 1_000..beyond + 4_000 } else { 200..3_000 };
            script.agents[agent].push(cue(at, a_round, Harm::Pause(ms(&mut luck, range))));
        }
        for agent in &mut script.agents {
            agent.sort_by_key(|cue| (cue.rounds, cue.then));
        }
        script
    }

    /// How much of each is in it.
    pub fn total(&self) -> Tally {
        let agents = self.agents.iter().flatten();
        let agent_kills = agents.clone().filter(|cue| matches!(cue.harm, Harm::Kill(_))).count();
        Tally { coordinator_kills: self.coordinator.len(), agent_kills, pauses: agents.count() - agent_kills }
    }
}

/// So many times, in rounds: one in each of as many equal parts of the run.
fn spread(count: usize, size: &Size, luck: &mut ChaCha8Rng) -> Vec<f64> {
    let part = (size.rounds - 1) as f64 / count as f64;
    (0..count).map(|number| (number as f64 + luck.random::<f64>()) * part).collect()
}

fn cue(at: f64, a_round: Duration, harm: Harm) -> Cue {
    Cue { rounds: at as usize, then: a_round.mul_f64(at.fract()), harm }
}
