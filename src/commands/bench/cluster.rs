//! A coordinator and agents as processes of their own, and what the kernel says of the coordinator.

use super::BenchError;
use app::api::{RoundOutcome, RoundSummary, RunSnapshot};
use reqwest::{Method, RequestBuilder};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How often the run is looked at; no figure depends on it, since rounds are timed by the coordinator.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Clock ticks in a second, as /proc counts them: fixed on Linux, whatever the kernel's own.
const TICKS_PER_S: f64 = 100.0;

/// Processes that end with this value.
pub struct Cluster {
    /// `http://127.0.0.1:12345`.
    pub origin: String,
    /// Speaks to the coordinator.
    pub http: reqwest::Client,
    token: String,
    coordinator: Child,
    agents: Vec<Child>,
    folder: TempDir,
}

impl Cluster {
    /// Starts a coordinator with these flags of `fedlearn serve`.
    pub async fn start(flags: &[&str]) -> Result<Self, BenchError> {
        let _ = rustls::crypto::ring::default_provider().install_default(); // somebody may have been here before
        let folder = tempfile::tempdir()?;
        let mut coordinator = program(&["serve", "--listen", "127.0.0.1:0", "--log", "warn"])?
            .args(flags)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(coordinator.stdout.take().ok_or(BenchError::NotStarted)?).lines();
        let line = lines.next_line().await?.ok_or(BenchError::NotStarted)?;
        let address = line.trim_start_matches("Dashboard:").trim();
        let (origin, token) = address.split_once("/login#").ok_or(BenchError::NotStarted)?;
        let (origin, token) = (origin.to_owned(), token.to_owned());
        Ok(Self { origin, http: reqwest::Client::new(), token, coordinator, agents: Vec::new(), folder })
    }

    /// Starts an agent with these flags of `fedlearn join`.
    pub fn join(&mut self, name: &str, flags: &[&str]) -> Result<(), BenchError> {
        let mut agent = program(&["join", &self.origin, "--name", name, "--log", "warn"])?;
        self.agents.push(agent.args(flags).spawn()?);
        Ok(())
    }

    /// A request of the operator to a path below `/api/v1`.
    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.origin)).bearer_auth(&self.token)
    }

    /// The run as it is.
    pub async fn snapshot(&self, run: &str) -> Result<RunSnapshot, BenchError> {
        let request = self.operator(Method::GET, &format!("/runs/{run}"));
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Waits until so many clients are there.
    pub async fn clients(&mut self, run: &str, count: usize) -> Result<(), BenchError> {
        while self.snapshot(run).await?.clients.len() < count {
            self.all_run()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Has a run complete so many rounds.
    pub async fn rounds(&mut self, run: &str, count: u32) -> Result<Vec<RoundSummary>, BenchError> {
        let order = self.operator(Method::POST, &format!("/runs/{run}/autorun"));
        order.json(&app::api::Autorun { rounds: count }).send().await?.error_for_status()?;
        loop {
            self.all_run()?;
            // Not the snapshot: that of a long roster is work for the coordinator, which is being measured.
            let rounds = self.operator(Method::GET, &format!("/runs/{run}/rounds")).send().await?;
            let rounds: Vec<RoundSummary> = rounds.error_for_status()?.json().await?;
            if let Some(void) = rounds.iter().find(|round| round.outcome == RoundOutcome::Void) {
                return Err(BenchError::Void(void.number, void.reason.clone()));
            }
            if rounds.len() >= count as usize {
                return Ok(rounds);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whoever has ended will not do what is waited for.
    fn all_run(&mut self) -> Result<(), BenchError> {
        for child in self.agents.iter_mut().chain([&mut self.coordinator]) {
            if let Some(status) = child.try_wait()? {
                return Err(BenchError::Ended(status));
            }
        }
        Ok(())
    }

    /// The most memory that the coordinator has held since its start, or since [`Self::forget_peak`]: bytes (VmHWM).
    pub fn peak_bytes(&self) -> Result<u64, BenchError> {
        self.status("VmHWM:")
    }

    /// The memory that it holds now: bytes (VmRSS).
    pub fn resident_bytes(&self) -> Result<u64, BenchError> {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> Result<u64, BenchError> {
        let status = std::fs::read_to_string(self.proc("status")?)?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        Ok(kib.ok_or(BenchError::NotStarted)? << 10)
    }

    /// From here on, [`Self::peak_bytes`] counts anew.
    pub fn forget_peak(&self) -> Result<(), BenchError> {
        Ok(std::fs::write(self.proc("clear_refs")?, "5")?)
    }

    /// CPU time of the coordinator so far, on all cores together: seconds.
    pub fn cpu_s(&self) -> Result<f64, BenchError> {
        let stat = std::fs::read_to_string(self.proc("stat")?)?;
        // After the name, which may hold anything but ends with the last bracket: fields 14 and 15 of proc(5).
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / TICKS_PER_S)
    }

    fn proc(&self, file: &str) -> Result<String, BenchError> {
        Ok(format!("/proc/{}/{file}", self.coordinator.id().ok_or(BenchError::NotStarted)?))
    }

    /// Ends all processes.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        for child in self.agents.iter_mut().chain([&mut self.coordinator]) {
            child.kill().await?;
        }
        Ok(self.folder.close()?)
    }
}

fn program(args: &[&str]) -> Result<Command, BenchError> {
    let mut command = Command::new(std::env::current_exe()?);
    // What this checkout or shell has set is not to be measured.
    command.args(args).args(["--config", "/dev/null"]).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FEDLEARN_")) {
        command.env_remove(name);
    }
    Ok(command)
}
