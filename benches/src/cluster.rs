//! A coordinator and agents as processes of their own, and what the kernel reports of the coordinator.

use anyhow::{Context, Result, bail, ensure};
use app::api::{Autorun, RoundOutcome, RoundSummary, RunSnapshot};
use procfs::process::{ClearRefs, Process};
use reqwest::{Method, RequestBuilder, Response};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How often the run is polled; no figure depends on it, since the coordinator itself times the rounds.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// The program that is measured.
pub struct Program(PathBuf);

impl Program {
    /// The named one, or the `fedlearn` beside this program.
    pub fn find(named: Option<PathBuf>) -> Result<Self> {
        let path = match named {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("fedlearn"),
        };
        let built = "build it with `cargo build -p fedlearn` (`--release` to measure), or name it with --program";
        ensure!(path.is_file(), "there is no program {}: {built}", path.display());
        Ok(Self(path))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        // The settings of this checkout or shell must not influence the result.
        command.args(args).args(["--config", "/dev/null", "--log", "warn"]).stdin(Stdio::null()).kill_on_drop(true);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FEDLEARN_")) {
            command.env_remove(name);
        }
        command
    }

    /// Starts a coordinator with these flags of `fedlearn serve`.
    pub async fn serve(&self, flags: &[&str]) -> Result<Cluster<'_>> {
        let folder = tempfile::tempdir()?;
        let mut coordinator = self
            .command(&["serve", "--listen", "127.0.0.1:0"])
            .args(flags)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stdout(Stdio::piped())
            .spawn()?;
        let output = coordinator.stdout.take().context("the coordinator has no standard output")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let line = line.context("the coordinator did not start; its log above says why")?;
        let address = line.trim_start_matches("Dashboard:").trim();
        let (origin, token) = address.split_once("/login#").with_context(|| format!("no admin token in '{line}'"))?;
        let (origin, admin_token) = (origin.to_owned(), token.to_owned());
        let http = reqwest::Client::builder().tls_certs_only([]).build()?;
        Ok(Cluster { program: self, origin, http, admin_token, coordinator, agents: Vec::new(), folder })
    }
}

/// Running processes. They end with this value.
pub struct Cluster<'a> {
    program: &'a Program,
    /// `http://127.0.0.1:12345`.
    pub origin: String,
    /// Keeps connections open and shares them.
    pub http: reqwest::Client,
    admin_token: String,
    coordinator: Child,
    agents: Vec<Child>,
    folder: TempDir,
}

impl Cluster<'_> {
    /// Starts an agent with these flags of `fedlearn join`.
    pub fn join(&mut self, name: &str, flags: &[&str]) -> Result<()> {
        let mut agent = self.program.command(&["join", &self.origin, "--name", name]);
        self.agents.push(agent.args(flags).spawn()?);
        Ok(())
    }

    /// A request of the operator to a path below `/api/v1`.
    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.origin)).bearer_auth(&self.admin_token)
    }

    /// The run as it is.
    pub async fn snapshot(&self, run: &str) -> Result<RunSnapshot> {
        Ok(accepted(self.operator(Method::GET, &format!("/runs/{run}"))).await?.json().await?)
    }

    /// Waits until that many clients have registered.
    pub async fn wait_for_clients(&mut self, run: &str, count: usize) -> Result<()> {
        while self.snapshot(run).await?.clients.len() < count {
            self.check_running()?;
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// Lets a run complete that many rounds.
    pub async fn run_rounds(&mut self, run: &str, count: u32) -> Result<Vec<RoundSummary>> {
        let autorun = self.operator(Method::POST, &format!("/runs/{run}/autorun"));
        accepted(autorun.json(&Autorun { rounds: count })).await?;
        loop {
            self.check_running()?;
            // Not the snapshot: with a long roster it costs CPU time of the coordinator, which is measured.
            let rounds = accepted(self.operator(Method::GET, &format!("/runs/{run}/rounds"))).await?;
            let rounds: Vec<RoundSummary> = rounds.json().await?;
            if let Some(void) = rounds.iter().find(|round| round.outcome == RoundOutcome::Void) {
                bail!("round {} is void: {}", void.number, void.reason);
            }
            if rounds.len() >= count as usize {
                return Ok(rounds);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    fn check_running(&mut self) -> Result<()> {
        for child in self.agents.iter_mut().chain([&mut self.coordinator]) {
            if let Some(status) = child.try_wait()? {
                bail!("a process ended early ({status}); its log above says why");
            }
        }
        Ok(())
    }

    fn process(&self) -> Result<Process> {
        let pid = self.coordinator.id().context("the coordinator has ended")?;
        Ok(Process::new(pid.try_into()?)?)
    }

    /// The most memory that the coordinator has held since its start, or since [`Self::reset_peak`]: bytes (VmHWM).
    pub fn peak_bytes(&self) -> Result<u64> {
        Ok(self.process()?.status()?.vmhwm.context("the kernel reports no VmHWM")? << 10)
    }

    /// The memory that it holds now: bytes (VmRSS).
    pub fn resident_bytes(&self) -> Result<u64> {
        Ok(self.process()?.status()?.vmrss.context("the kernel reports no VmRSS")? << 10)
    }

    /// [`Self::peak_bytes`] starts again from the memory held now.
    pub fn reset_peak(&self) -> Result<()> {
        Ok(self.process()?.clear_refs(ClearRefs::PeakRSS)?)
    }

    /// CPU time of the coordinator so far, on all cores together: seconds.
    pub fn cpu_s(&self) -> Result<f64> {
        let stat = self.process()?.stat()?;
        Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }

    /// Ends all processes.
    pub async fn stop(mut self) -> Result<()> {
        for child in self.agents.iter_mut().chain([&mut self.coordinator]) {
            child.kill().await?;
        }
        Ok(self.folder.close()?)
    }
}

/// The response to a request, if its status is 2xx.
pub async fn accepted(request: RequestBuilder) -> Result<Response> {
    checked(request.send().await?).await
}

/// The response, if its status is 2xx.
pub async fn checked(response: Response) -> Result<Response> {
    let (status, url) = (response.status(), response.url().clone());
    if status.is_success() {
        return Ok(response);
    }
    bail!("{url} answered {status}: {}", response.text().await?)
}
