//! Many clients at once: thousands that only wait, hundreds that send, and large updates side by side.

use super::cluster::Cluster;
use super::member::Member;
use super::{BenchError, median, memory, mib};
use crate::agent::noise;
use crate::commands::say;
use crate::config::BenchSettings;
use crate::wire::{self, ModelFormat, SAFETENSORS};
use app::api::{Encoding, Task};
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, header};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A network that takes no memory worth naming: clients are what is measured.
const SMALL: [&str; 8] = ["--dataset", "none", "--channels", "1", "--classes", "10", "--architecture", "cnn"];

/// Clients that register side by side.
const REGISTER_AT_ONCE: usize = 64;

/// All polls have arrived after this part of a turn.
const SETTLED: u32 = 5;

/// Values of the model that rounds are measured with.
const VALUES: u64 = 100_000;

/// Updates that are told apart; clients take turns with them.
const BODIES: u64 = 16;

pub(super) async fn run(settings: &BenchSettings) -> Result<(), BenchError> {
    let (polling, sending) = match settings.clients[..] {
        [] => (5_000, 500),
        [polling] => (polling, 500),
        [polling, sending, ..] => (polling, sending),
    };
    waiting(polling, Duration::from_secs(settings.turn_s.into())).await?;
    rounds(sending, settings.rounds.unwrap_or(10)).await?;
    uploads(settings).await
}

/// Clients that long-poll, and how soon an order reaches them all.
async fn waiting(clients: u32, turn: Duration) -> Result<(), BenchError> {
    let cluster = Cluster::start(&[&SMALL[..], &["--min-clients", &clients.to_string()]].concat()).await?;
    let before = cluster.resident_bytes()?;
    let began = Instant::now();
    let members = register(&cluster, "default", clients).await?;
    let rate = f64::from(clients) / began.elapsed().as_secs_f64();
    let mut polls = JoinSet::new();
    for member in members {
        polls.spawn(until_asked(member));
    }
    tokio::time::sleep(turn / SETTLED).await;
    let mut resident = vec![cluster.resident_bytes()?];
    let mut cpu_s = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(turn).await;
        resident.push(cluster.resident_bytes()?);
        cpu_s.push(cluster.cpu_s()?);
    }
    // From the end of the first turn to that of the third: registering is over.
    let cpu_a_minute_s = (cpu_s[2] - cpu_s[0]) / (2 * turn).as_secs_f64() * 60.0;
    let each = resident[3].saturating_sub(before) as f64 / f64::from(clients) / 1e3;
    let ordered = Instant::now();
    cluster.operator(Method::POST, "/runs/default/rounds").send().await?.error_for_status()?;
    let order_s = ordered.elapsed().as_secs_f64();
    let (mut last, mut busy) = (ordered, 0);
    while let Some(asked) = polls.join_next().await {
        let (at, member) = asked??;
        last = last.max(at);
        busy += member.busy;
    }
    let last_s = (last - ordered).as_secs_f64();
    cluster.stop().await?;
    let resident: Vec<_> = resident.into_iter().map(|bytes| format!("{:.0}", mib(bytes))).collect();
    say(&format!(
        "Long-polling at once: the coordinator's memory (VmRSS) before, once all poll, and after 1, 2, 3 turns of \
         {} s; its CPU time while nothing happens; and how soon the order to start a round has reached them all\n\n\
         | clients | registrations a second | MiB before | once all poll | after 1 / 2 / 3 turns | kB a client | \
         CPU s a minute | s until the order is taken | s until the last client has it | answers 503 |\n\
         |---|---|---|---|---|---|---|---|---|---|\n\
         | {clients} | {rate:.0} | {:.0} | {} | {} | {each:.1} | {cpu_a_minute_s:.1} | {order_s:.2} | {last_s:.2} | {busy} |\n",
        turn.as_secs(),
        mib(before),
        resident[0],
        resident[1..].join(" / "),
    ));
    Ok(())
}

/// Polls until it is to train. Returns when it was told so.
async fn until_asked(mut member: Member) -> Result<(Instant, Member), BenchError> {
    loop {
        if let Task::Train(_) = member.task().await? {
            return Ok((Instant::now(), member));
        }
    }
}

/// Rounds of many clients with a small model, training left out.
async fn rounds(clients: u32, rounds: u32) -> Result<(), BenchError> {
    let mut cluster = Cluster::start(&SMALL).await?;
    let model = memory::weights(VALUES);
    let bodies = (0..BODIES).map(|seed| wire::encode(&noise::add(&model, 0.01, seed), Encoding::Bf16, None));
    let bodies: Arc<[Vec<u8>]> = bodies.collect::<Result<_, _>>()?;
    let create = cluster.operator(Method::POST, "/runs?run=many").header(header::CONTENT_TYPE, SAFETENSORS);
    let model = ModelFormat::Safetensors { zstd: false }.write(&model, None)?;
    create.body(model).send().await?.error_for_status()?;
    let patch = cluster.operator(Method::PATCH, "/runs/many").header(header::IF_MATCH, "\"1\"");
    patch.json(&json!({"min_clients": clients, "deadline_s": 3600})).send().await?.error_for_status()?;
    let mut members = JoinSet::new();
    for (i, member) in register(&cluster, "many", clients).await?.into_iter().enumerate() {
        members.spawn(take_part(member, bodies.clone(), i % bodies.len(), rounds));
    }
    cluster.forget_peak()?;
    let (began, cpu_before_s) = (Instant::now(), cluster.cpu_s()?);
    let summaries = cluster.rounds("many", rounds).await?;
    let (all_s, cpu_s) = (began.elapsed().as_secs_f64(), (cluster.cpu_s()? - cpu_before_s) / f64::from(rounds));
    let (peak, mut busy) = (cluster.peak_bytes()?, 0);
    while let Some(done) = members.join_next().await {
        busy += done??;
    }
    cluster.stop().await?;
    let seconds = summaries.iter().map(|round| (round.ended_ms - round.opened_ms) as f64 / 1e3).collect::<Vec<_>>();
    let (least, most) = (seconds.iter().copied().fold(f64::MAX, f64::min), seconds.iter().copied().fold(0.0, f64::max));
    let updates: u32 = summaries.iter().map(|round| round.updates).sum();
    say(&format!(
        "Rounds of a model of {VALUES} values, bf16: each client asks for its task, fetches the model, reports, and sends; \
         the coordinator's CPU time and peak memory (VmHWM)\n\n\
         | clients | rounds | updates counted | s a round: median (least, most) | CPU s a round | updates a second | peak MiB | kB an update \
         | answers 503 |\n|---|---|---|---|---|---|---|---|---|\n\
         | {clients} | {rounds} | {updates} | {:.2} ({least:.2}, {most:.2}) | {cpu_s:.2} | {:.0} | {:.0} | {:.0} | {busy} |\n",
        median(seconds),
        f64::from(updates) / all_s,
        mib(peak),
        bodies[0].len() as f64 / 1e3,
    ));
    Ok(())
}

/// Takes part in so many rounds. Returns how often it was told to come back later.
async fn take_part(mut member: Member, bodies: Arc<[Vec<u8>]>, body: usize, rounds: u32) -> Result<u32, BenchError> {
    let mut left = rounds;
    while left > 0 {
        let Task::Train(task) = member.task().await? else { continue };
        member.model(task.version).await?;
        member.trains(task.round).await?;
        member.update(task.round, &bodies[body]).await?;
        left -= 1;
    }
    Ok(member.busy)
}

async fn register(cluster: &Cluster, run: &str, clients: u32) -> Result<Vec<Member>, BenchError> {
    let names = (1..=clients).map(|client| format!("client-{client}"));
    let members = names.map(|name| async move { Member::register(&cluster.origin, run, &name).await });
    stream::iter(members).buffer_unordered(REGISTER_AT_ONCE).try_collect().await
}

/// Updates of a large model that come in at once: memory must not grow with their number.
async fn uploads(settings: &BenchSettings) -> Result<(), BenchError> {
    let (network, first) = (settings.architecture, settings.uploads.first().copied().unwrap_or_default());
    say(&format!(
        "Updates of {network} that come in at once: the coordinator's memory before (VmRSS) and at most (VmHWM)\n\n\
         | at once | MiB before | MiB at most | times that of {first} |\n|---|---|---|---|"
    ));
    let mut of_first = None;
    for &clients in &settings.uploads {
        let taken = memory::at_once(&network.to_string(), clients).await?;
        let ratio = taken.peak as f64 / *of_first.get_or_insert(taken.peak) as f64;
        say(&format!("| {clients} | {:.0} | {:.0} | {ratio:.2} |", mib(taken.resident), mib(taken.peak)));
    }
    Ok(())
}
