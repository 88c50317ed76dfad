//! Many clients at once: thousands that only wait, hundreds that send, and large updates side by side.

use crate::cluster::{Program, accepted};
use crate::member::{Member, register};
use crate::report::Report;
use crate::{median, memory, mib, synthetic};
use anyhow::Result;
use app::api::{Architecture, Task};
use bytes::Bytes;
use clap::{Args, value_parser};
use reqwest::Method;
use serde::Serialize;
use std::time::{Duration, Instant};
use tabled::Tabled;
use tokio::task::JoinSet;

/// A small network, so that memory and CPU time are those of the clients.
const SMALL: [&str; 8] = ["--dataset", "none", "--channels", "1", "--classes", "10", "--architecture", "cnn"];

/// All polls have arrived after this part of a turn.
const SETTLED: u32 = 5;

/// Values of the model that rounds are measured with.
const VALUES: u64 = 100_000;

/// Distinct updates; clients take turns with them.
const BODIES: u64 = 16;

#[derive(Args)]
pub struct Settings {
    /// Numbers of clients: those that wait, those that send
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "5000,500",
        value_parser = value_parser!(u32).range(1..=20_000)
    )]
    clients: Vec<u32>,
    /// Numbers of large updates that come in at once
    #[arg(long, value_delimiter = ',', default_value = "8,64,128", value_parser = value_parser!(u32).range(1..=512))]
    uploads: Vec<u32>,
    /// Length of each of the three turns in which clients wait
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = value_parser!(u32).range(1..=3_600))]
    turn_s: u32,
    /// Network of the large updates
    #[arg(long, alias = "arch", default_value = "resnet18")]
    architecture: Architecture,
    /// Rounds of those that send
    #[arg(long, default_value = "10", value_parser = value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

pub async fn run(program: &Program, settings: &Settings, report: &mut Report) -> Result<()> {
    let waiting = settings.clients.first().copied().unwrap_or(5_000);
    let sending = settings.clients.get(1).copied().unwrap_or(500);
    let row = wait(program, waiting, Duration::from_secs(settings.turn_s.into())).await?;
    let caption = format!(
        "Long-polling at once: the coordinator's memory (VmRSS) before, once all poll, and after 1, 2, 3 turns of {} s; \
         its CPU time meanwhile; and the time until an order to start a round has reached all clients",
        settings.turn_s
    );
    report.add("waiting", &caption, &[row])?;
    let row = send(program, sending, settings.rounds).await?;
    let caption = format!(
        "Rounds of a model of {VALUES} values, bf16: each client asks for its task, fetches the model, reports, and sends; \
         the coordinator's CPU time and peak memory (VmHWM)"
    );
    report.add("rounds", &caption, &[row])?;
    let mut rows = Vec::new();
    for &at_once in &settings.uploads {
        rows.push(memory::at_once(program, settings.architecture, at_once).await?);
    }
    report.add("uploads", "Large updates at once: the coordinator's memory before, and its peak", &rows)
}

#[derive(Serialize, Tabled)]
struct Waiting {
    clients: u32,
    #[tabled(rename = "registrations a second", format = "{:.0}")]
    registrations_per_s: f64,
    #[tabled(rename = "MiB before", format("{:.0}", mib(self.before_bytes)))]
    before_bytes: u64,
    #[tabled(rename = "once all poll", format("{:.0}", mib(self.polling_bytes)))]
    polling_bytes: u64,
    #[tabled(rename = "after 1 / 2 / 3 turns", format("{}", self.turn_bytes.map(|b| format!("{:.0}", mib(b))).join(" / ")))]
    turn_bytes: [u64; 3],
    #[tabled(rename = "kB a client", format("{:.1}", self.client_bytes / 1e3))]
    client_bytes: f64,
    #[tabled(rename = "CPU s a minute", format = "{:.1}")]
    cpu_s_per_minute: f64,
    #[tabled(rename = "s until the order is accepted", format = "{:.2}")]
    order_s: f64,
    #[tabled(rename = "s until the last client has it", format = "{:.2}")]
    last_client_s: f64,
    #[tabled(rename = "answers 503")]
    busy: u32,
}

/// Clients that long-poll, and the time until an order reaches them all.
async fn wait(program: &Program, clients: u32, turn: Duration) -> Result<Waiting> {
    let cluster = program.serve(&[&SMALL[..], &["--min-clients", &clients.to_string()]].concat()).await?;
    let before_bytes = cluster.resident_bytes()?;
    let began = Instant::now();
    let members = register(&cluster, "default", clients).await?;
    let registrations_per_s = f64::from(clients) / began.elapsed().as_secs_f64();
    let mut polls = JoinSet::new();
    for member in members {
        polls.spawn(poll_until_ordered(member));
    }
    tokio::time::sleep(turn / SETTLED).await;
    let polling_bytes = cluster.resident_bytes()?;
    let (mut turn_bytes, mut cpu_s) = ([0; 3], [0.0; 3]);
    for (bytes, cpu_s) in turn_bytes.iter_mut().zip(&mut cpu_s) {
        tokio::time::sleep(turn).await;
        (*bytes, *cpu_s) = (cluster.resident_bytes()?, cluster.cpu_s()?);
    }
    let ordered = Instant::now();
    accepted(cluster.operator(Method::POST, "/runs/default/rounds")).await?;
    let order_s = ordered.elapsed().as_secs_f64();
    let (mut last_client, mut busy) = (ordered, 0);
    while let Some(reached) = polls.join_next().await {
        let (at, member) = reached??;
        last_client = last_client.max(at);
        busy += member.busy;
    }
    cluster.stop().await?;
    Ok(Waiting {
        clients,
        registrations_per_s,
        before_bytes,
        polling_bytes,
        turn_bytes,
        client_bytes: turn_bytes[2].saturating_sub(before_bytes) as f64 / f64::from(clients),
        // From the end of the first turn to that of the third: registering is over.
        cpu_s_per_minute: (cpu_s[2] - cpu_s[0]) / (2 * turn).as_secs_f64() * 60.0,
        order_s,
        last_client_s: (last_client - ordered).as_secs_f64(),
        busy,
    })
}

/// Polls until the task is to train. Returns when that was.
async fn poll_until_ordered(mut member: Member) -> Result<(Instant, Member)> {
    loop {
        if let Task::Train(_) = member.task().await? {
            return Ok((Instant::now(), member));
        }
    }
}

#[derive(Serialize, Tabled)]
struct Rounds {
    clients: u32,
    rounds: u32,
    #[tabled(rename = "updates counted")]
    updates: u32,
    #[tabled(rename = "s a round: median", format = "{:.2}")]
    median_s: f64,
    #[tabled(rename = "least", format = "{:.2}")]
    least_s: f64,
    #[tabled(rename = "most", format = "{:.2}")]
    most_s: f64,
    #[tabled(rename = "CPU s a round", format = "{:.2}")]
    cpu_s: f64,
    #[tabled(rename = "updates a second", format = "{:.0}")]
    updates_per_s: f64,
    #[tabled(rename = "peak MiB", format("{:.0}", mib(self.peak_bytes)))]
    peak_bytes: u64,
    #[tabled(rename = "kB an update", format("{:.0}", self.update_bytes as f64 / 1e3))]
    update_bytes: usize,
    #[tabled(rename = "answers 503")]
    busy: u32,
}

/// Rounds of many clients with a small model, without training.
async fn send(program: &Program, clients: u32, rounds: u32) -> Result<Rounds> {
    let mut cluster = program.serve(&SMALL).await?;
    let model = synthetic::weights(VALUES);
    let bodies = (0..BODIES).map(|seed| synthetic::update(&model, None, seed)).collect::<Result<Vec<_>>>()?;
    synthetic::create_run(&cluster, "many", model, clients).await?;
    let mut members = JoinSet::new();
    for (member, body) in register(&cluster, "many", clients).await?.into_iter().zip(bodies.iter().cycle()) {
        members.spawn(take_part(member, body.clone(), rounds));
    }
    cluster.reset_peak()?;
    let (began, cpu_before_s) = (Instant::now(), cluster.cpu_s()?);
    let summaries = cluster.run_rounds("many", rounds).await?;
    let (all_s, cpu_s) = (began.elapsed().as_secs_f64(), (cluster.cpu_s()? - cpu_before_s) / f64::from(rounds));
    let (peak_bytes, mut busy) = (cluster.peak_bytes()?, 0);
    while let Some(done) = members.join_next().await {
        busy += done??;
    }
    cluster.stop().await?;
    let seconds = Vec::from_iter(summaries.iter().map(|round| (round.ended_ms - round.opened_ms) as f64 / 1e3));
    let updates = summaries.iter().map(|round| round.updates).sum();
    Ok(Rounds {
        clients,
        rounds,
        updates,
        least_s: seconds.iter().copied().fold(f64::MAX, f64::min),
        most_s: seconds.iter().copied().fold(0.0, f64::max),
        median_s: median(seconds),
        cpu_s,
        updates_per_s: f64::from(updates) / all_s,
        peak_bytes,
        update_bytes: bodies[0].len(),
        busy,
    })
}

/// Takes part in that many rounds. Returns how often it had to repeat a request.
async fn take_part(mut member: Member, body: Bytes, rounds: u32) -> Result<u32> {
    let mut left = rounds;
    while left > 0 {
        let Task::Train(task) = member.task().await? else { continue };
        member.model(task.version).await?;
        member.report_training(task.round).await?;
        member.update(task.round, body.clone()).await?;
        left -= 1;
    }
    Ok(member.busy)
}
