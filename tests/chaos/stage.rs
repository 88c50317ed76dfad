//! Where it happens: a coordinator, agents, and the link between them.

use crate::conversation::Acknowledged;
use crate::link::Link;
use crate::program::Program;
use crate::script::{Cue, DEADLINE_S, Harm, Script, Size, Tally};
use app::api::{ClientId, RoundOutcome, RoundSummary, RunSnapshot};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fmt, fs};
use tempfile::TempDir;
use tokio::sync::watch;

/// How long to wait for what must come, where nothing else comes: a restart in the middle of a round may cost it a
/// minute, for clients that do not come back.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// What there is at the end of a run.
pub struct Ended {
    /// The run, idle again.
    pub run: RunSnapshot,
    /// What was done.
    pub done: Tally,
    /// What was acknowledged.
    pub acknowledged: BTreeSet<Acknowledged>,
    /// Connections cut by the link.
    pub cuts: u64,
    /// Pieces delayed by it.
    pub delays: u64,
    took: Duration,
}

impl Ended {
    /// The test accuracy of the last version.
    pub fn accuracy(&self) -> f64 {
        self.complete().last().unwrap().test_accuracy.unwrap()
    }

    /// How long a round takes.
    pub fn a_round(&self) -> Duration {
        self.took / u32::try_from(self.run.rounds.len()).unwrap()
    }

    /// Its complete rounds.
    pub fn complete(&self) -> impl Iterator<Item = &RoundSummary> {
        self.run.rounds.iter().filter(|round| round.outcome == RoundOutcome::Complete)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let complete = self.complete().count();
        let updates: u32 = self.complete().map(|round| round.updates).sum();
        write!(
            f,
            "{complete} rounds complete, {} void, in {:.1} s; ",
            self.run.rounds.len() - complete,
            self.took.as_secs_f64()
        )?;
        write!(f, "{updates} updates counted, {} acknowledged; {:?}, ", self.acknowledged.len(), self.done)?;
        write!(
            f,
            "{} connections cut, {} pieces delayed; test accuracy {:.4}",
            self.cuts,
            self.delays,
            self.accuracy()
        )?;
        let agents = self.run.clients.len();
        for round in self.run.rounds.iter().filter(|round| (round.updates as usize) < agents) {
            let seconds = (round.ended_ms - round.opened_ms) as f64 / 1e3;
            write!(
                f,
                "\n  round {}, of {} clients, after {seconds:.1} s: {}",
                round.number, round.cohort, round.reason
            )?;
        }
        Ok(())
    }
}

/// The stage. Where the test fails on it, or `CHAOS_KEEP` is set, its folder stays, with all logs.
pub struct Stage {
    coordinator: Program,
    agents: Vec<Program>,
    link: Link,
    origin: String,
    admin: String,
    http: reqwest::Client,
    rounds: usize,
    folder: TempDir,
}

impl Stage {
    /// Starts everybody, and waits until all agents are there: one that was killed before it had noted who it is would come
    /// back as another.
    pub async fn set(size: &Size, seed: u64, images: &Path) -> Self {
        let mut folder = tempfile::tempdir().unwrap();
        folder.disable_cleanup(true);
        let images = images.to_str().unwrap();
        let dataset_path = format!("fashion-mnist={images}");
        let quorum = size.agents.div_ceil(2).to_string();
        let deadline = DEADLINE_S.to_string();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data", "--dataset-path", &dataset_path];
        let run =
            ["--min-clients", &quorum, "--deadline-s", &deadline, "--encoding", "bf16", "--set", "train.batch_size=16"];
        let mut coordinator = Program::start(folder.path(), "coordinator", &[&serve[..], &run].concat());
        let dashboard = coordinator.line().await.trim_start_matches("Dashboard:").trim().to_owned();
        let (origin, admin) = dashboard.split_once("/login#").map(|(o, a)| (o.to_owned(), a.to_owned())).unwrap();
        let address = origin.trim_start_matches("http://");
        coordinator.set("--listen", address);
        let link = Link::to(address.parse().unwrap(), seed).await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        let agents = (1..=size.agents).map(|part| {
            let (name, partition) = (format!("agent-{part}"), format!("{part}/{}", size.agents));
            let who = ["join", &link.origin, "--name", &name, "--identity", &identity(part), "--threads", "1"];
            let data = ["--data", images, "--partition", &partition, "--limit", "400"];
            Program::start(folder.path(), &name, &[&who[..], &data].concat())
        });
        let agents = agents.collect();
        let stage = Self { coordinator, agents, link, origin, admin, http, rounds: size.rounds, folder };
        // Noted is who it is, not that it is there: the file is made before.
        let is_noted = |part| fs::metadata(stage.folder().join(identity(part))).is_ok_and(|file| file.len() > 0);
        let all_noted = async {
            while !(1..=size.agents).all(is_noted) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        soon("all agents", all_noted).await;
        stage
    }

    /// The run as it is shown; none while the coordinator is away.
    async fn look(&self) -> Option<RunSnapshot> {
        look(&self.http, &self.origin).await
    }

    /// Where it all lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs all rounds under that script.
    pub async fn play(&mut self, script: &Script) -> Ended {
        let before = clients(&self.look().await.unwrap());
        let began = Instant::now();
        let order = self.http.post(format!("{}/api/v1/runs/default/autorun", self.origin)).bearer_auth(&self.admin);
        let answer = order.json(&json!({"rounds": self.rounds})).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        self.link.is_bad(script.link_is_bad);
        let (over, progress) = watch::channel(0);
        let act = Act { progress, rounds: self.rounds, done: Mutex::default() };
        let agents = self.agents.iter_mut().zip(&script.agents).map(|(agent, cues)| act.harm_agent(agent, cues));
        let (run, (), _) = tokio::join!(
            watch_to_the_end(&self.http, &self.origin, self.rounds, over),
            act.harm_coordinator(&mut self.coordinator, &script.coordinator),
            futures::future::join_all(agents),
        );
        let took = began.elapsed();
        self.link.is_bad(false);
        assert_eq!(clients(&run), before, "who is killed comes back as the client that it was");
        let notes = &self.link.notes;
        let (cuts, delays) = (notes.cuts.load(Ordering::SeqCst), notes.delays.load(Ordering::SeqCst));
        let done = *act.done.lock().unwrap();
        Ended { run, done, acknowledged: self.link.acknowledged(), cuts, delays, took }
    }

    /// Has everybody end in good order.
    pub async fn clear(&mut self) {
        for program in self.agents.iter_mut().chain([&mut self.coordinator]) {
            program.ends().await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("CHAOS_KEEP").is_some() {
            eprintln!("logs and data are in {}", self.folder().display());
        } else {
            self.folder.disable_cleanup(false);
        }
    }
}

/// A script as it is played.
struct Act {
    /// Rounds that are complete.
    progress: watch::Receiver<usize>,
    /// Rounds in all.
    rounds: usize,
    /// What was done before the last one was over.
    done: Mutex<Tally>,
}

impl Act {
    async fn comes(&self, cue: &Cue) {
        let mut progress = self.progress.clone();
        // Its sender is gone when the run is over: then what is late is done all the same, and does not count.
        if progress.wait_for(|over| *over >= cue.rounds).await.is_ok_and(|over| *over == cue.rounds) {
            tokio::time::sleep(cue.then).await;
        }
    }

    fn note(&self, note: impl FnOnce(&mut Tally)) {
        if *self.progress.borrow() < self.rounds {
            note(&mut self.done.lock().unwrap());
        }
    }

    async fn harm_coordinator(&self, coordinator: &mut Program, cues: &[Cue]) {
        for cue in cues {
            self.comes(cue).await;
            let Harm::Kill(away) = cue.harm else { panic!("it is not paused") };
            coordinator.is_killed().await;
            self.note(|done| done.coordinator_kills += 1);
            tokio::time::sleep(away).await;
            coordinator.starts_again();
            let line = coordinator.line().await;
            assert!(line.starts_with("Dashboard:") && !line.contains("login"), "it is the one that it was: {line}");
        }
    }

    async fn harm_agent(&self, agent: &mut Program, cues: &[Cue]) {
        for cue in cues {
            self.comes(cue).await;
            match cue.harm {
                Harm::Kill(away) => {
                    agent.is_killed().await;
                    self.note(|done| done.agent_kills += 1);
                    tokio::time::sleep(away).await;
                    agent.starts_again();
                }
                Harm::Pause(length) => {
                    agent.is_alive();
                    agent.signal(Signal::STOP);
                    self.note(|done| done.pauses += 1);
                    tokio::time::sleep(length).await;
                    agent.signal(Signal::CONT);
                }
            }
        }
    }
}

fn identity(part: usize) -> String {
    format!("agent-{part}.identity")
}

async fn look(http: &reqwest::Client, origin: &str) -> Option<RunSnapshot> {
    let answer = http.get(format!("{origin}/api/v1/runs/default")).send().await.ok()?;
    if answer.status() == 200 { answer.json().await.ok() } else { None }
}

fn clients(run: &RunSnapshot) -> BTreeSet<ClientId> {
    run.clients.iter().map(|client| client.id.clone()).collect()
}

/// Looks at the run until it is idle, and says how many rounds are complete. What was shown once stays, through every crash.
async fn watch_to_the_end(
    http: &reqwest::Client,
    origin: &str,
    rounds: usize,
    over: watch::Sender<usize>,
) -> RunSnapshot {
    let mut last: Option<RunSnapshot> = None;
    let mut patience = Instant::now() + PATIENCE;
    loop {
        if let Some(run) = look(http, origin).await {
            let known = last.as_ref().map_or(&[][..], |last| &last.rounds);
            assert!(run.rounds.starts_with(known), "shown: {known:#?}, later: {:#?}", run.rounds);
            if run.rounds.len() > known.len() {
                patience = Instant::now() + PATIENCE;
            }
            let complete = run.rounds.iter().filter(|round| round.outcome == RoundOutcome::Complete).count();
            over.send_replace(complete);
            if complete >= rounds && run.autorun.is_none() && run.round.is_none() {
                return run;
            }
            last = Some(run);
        }
        assert!(Instant::now() < patience, "waited in vain for a round; the run was last {last:#?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
