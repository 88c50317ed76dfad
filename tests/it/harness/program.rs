//! The program itself, as a process of its own.

use super::{Guest, Watch, soon, take};
use app::api::RunSnapshot;
use reqwest::RequestBuilder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

/// A running `fedlearn`, whose log goes to a file.
pub struct Program {
    /// The process.
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Program {
    /// Starts it in that folder, with a log of that name.
    pub fn start(folder: &Path, name: &str, args: &[&str]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
        command.args(args).args(["--device", "cpu", "--log", "debug", "--log-format", "json"]).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, log }
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        let line = soon("a line of output", self.lines.next_line()).await.unwrap();
        line.unwrap_or_else(|| panic!("it ended:\n{}", self.logged()))
    }

    /// All that it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The memory that it holds now: bytes (VmRSS of proc(5)).
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Tells it to end, and waits for its exit code.
    pub async fn ends(&mut self) -> Option<i32> {
        self.terminate();
        soon("the end of a process", self.child.wait()).await.unwrap().code()
    }
}

/// A coordinator as a process.
pub struct Served {
    /// The process.
    pub program: Program,
    /// `http://127.0.0.1:12345`.
    pub origin: String,
    /// The admin token, at the first start.
    pub token: Option<String>,
    /// Speaks to it.
    pub http: reqwest::Client,
}

impl Served {
    /// Starts it with these flags of `fedlearn serve`, its data in that folder.
    pub async fn start(folder: &Path, listen: &str, flags: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = format!("serve-{}", listen.replace(':', "-"));
        let args = ["serve", "--listen", listen, "--data-dir", "data"];
        let mut program = Program::start(folder, &name, &[&args, flags].concat());
        let dashboard = program.line().await.trim_start_matches("Dashboard:").trim().to_owned();
        let (origin, token) = match dashboard.split_once("/login#") {
            Some((origin, token)) => (origin.to_owned(), Some(token.to_owned())),
            None => (dashboard, None),
        };
        Self { program, origin, token, http: reqwest::Client::new() }
    }

    /// Waits until the run `default` is as wanted, by its events.
    pub async fn until(&self, what: &str, is_so: impl Fn(&RunSnapshot) -> bool) -> RunSnapshot {
        let events = self.http.get(format!("{}/api/v1/runs/default/events", self.origin));
        Watch::open(events).await.until(what, is_so).await
    }

    /// The operator's wish for so many rounds of it.
    pub async fn autorun(&self, token: &str, rounds: u32) {
        let request = self.http.post(format!("{}/api/v1/runs/default/autorun", self.origin));
        take(202, request.bearer_auth(token).json(&json!({"rounds": rounds}))).await;
    }

    /// A client of it.
    pub async fn guest(&self, name: &str) -> Guest {
        Guest::register(self.http.clone(), self.origin.clone(), "default", name, 10).await
    }

    /// The operator's `POST` to a path below it.
    pub fn order(&self, path: &str) -> RequestBuilder {
        let admin = self.token.as_ref().expect("the first start shows the admin token");
        self.http.post(format!("{}/api/v1/runs/default{path}", self.origin)).bearer_auth(admin)
    }

    /// A connection to it.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.origin.trim_start_matches("http://")).await.unwrap()
    }
}
