//! Chaos: the real program, as a coordinator and as agents that train, in a world that does its worst. The coordinator and
//! the agents are killed on the spot and started again, agents are stopped for a while, and between them lies a link that
//! delays bytes and cuts connections. What the link saw acknowledged is held against what the coordinator has at the end.
//!
//! What is done to whom, and how far into the run, comes from a seed; what it meets there does not: processes run as
//! they like. `CHAOS_SEED=17` does the same again, `CHAOS_ROUNDS`, `CHAOS_AGENTS`, `CHAOS_COORDINATOR_KILLS`,
//! `CHAOS_AGENT_KILLS` and `CHAOS_PAUSES` make it longer, as `make soak` does. `CHAOS_KEEP=1` keeps logs and data, which
//! otherwise stay where the test fails.
#![allow(clippy::unwrap_used)]

mod conversation;
mod images;
mod link;
mod program;
mod script;
mod stage;
mod verdict;

use script::{Script, Size};
use stage::{Ended, Stage};
use std::path::Path;

/// By how much the final test accuracy may differ from that of the undisturbed run. With every update in, it differs by no more
/// than two undisturbed runs do: sums are made by client id, which is drawn anew, and so round differently. A round without
/// an agent moves it more, as when the next one opens right after a restart, with the first few who have come back.
const NOISE: f64 = 0.03;

fn from_env(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_or_cut_nothing_acknowledged_is_lost_and_the_model_is_as_good() {
    let size = Size {
        agents: from_env("CHAOS_AGENTS", 4),
        rounds: from_env("CHAOS_ROUNDS", 8),
        coordinator_kills: from_env("CHAOS_COORDINATOR_KILLS", 4),
        agent_kills: from_env("CHAOS_AGENT_KILLS", 4),
        pauses: from_env("CHAOS_PAUSES", 2),
    };
    let seed = from_env("CHAOS_SEED", 1) as u64;
    eprintln!("CHAOS_SEED={seed}, {size:?}");
    let images = tempfile::tempdir().unwrap();
    images::write(images.path());
    let undisturbed = act(&Script::calm(&size), &size, seed, images.path()).await;
    eprintln!("undisturbed: {undisturbed}");
    let script = Script::of(&size, undisturbed.a_round(), seed);
    let disturbed = act(&script, &size, seed, images.path()).await;
    eprintln!("disturbed:   {disturbed}");
    assert_eq!(disturbed.done, script.total(), "all of it happened before the run was over");
    assert!(disturbed.cuts > 0 && disturbed.delays > 0, "the link was a bad one");
    let (with, without) = (disturbed.accuracy(), undisturbed.accuracy());
    assert!((with - without).abs() <= NOISE, "test accuracy {with} under chaos, {without} without");
}

/// A whole run under that script, judged.
async fn act(script: &Script, size: &Size, seed: u64, images: &Path) -> Ended {
    let mut stage = Stage::set(size, seed, images).await;
    let ended = stage.play(script).await;
    stage.clear().await;
    verdict::check(stage.folder(), &ended, size).await;
    ended
}
