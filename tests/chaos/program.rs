//! A process of the real program. It is killed with whoever holds it: none outlives the test, however that ends.

use crate::stage::soon;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A running `fedlearn`, whose log goes on in one file over all its lives.
pub struct Program {
    args: Vec<String>,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Program {
    /// Starts it in that folder.
    pub fn start(folder: &Path, name: &str, args: &[&str]) -> Self {
        let common = ["--device", "cpu", "--config", "/dev/null"];
        let args = Vec::from_iter(args.iter().chain(&common).map(|arg| (*arg).to_owned()));
        let log = folder.join(format!("{name}.log"));
        let (child, lines) = spawn(folder, &log, &args);
        Self { args, child, lines, log }
    }

    /// Its next line of output.
    pub async fn line(&mut self) -> String {
        let line = soon("a line of output", self.lines.next_line()).await.unwrap();
        line.unwrap_or_else(|| panic!("it ended:\n{}", self.logged()))
    }

    /// All that it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// It never ends by itself.
    pub fn is_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended by itself, {}:\n{}", ended.unwrap(), self.logged());
    }

    /// Kills it on the spot: SIGKILL, which it cannot even notice.
    pub async fn is_killed(&mut self) {
        self.is_alive();
        self.child.kill().await.unwrap();
    }

    /// Starts it again, after it was killed.
    pub fn starts_again(&mut self) {
        let folder = self.log.parent().unwrap();
        (self.child, self.lines) = spawn(folder, &self.log, &self.args);
    }

    /// Gives a flag another value, for its next life.
    pub fn set(&mut self, flag: &str, value: &str) {
        let at = self.args.iter().position(|arg| arg == flag).unwrap() + 1;
        value.clone_into(&mut self.args[at]);
    }

    /// Sends it a signal. It is our child and was not waited for, so that its id is nobody else's.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        kill_process(Pid::from_raw(id as i32).unwrap(), signal).unwrap();
    }

    /// Tells it to end, which it does in good order.
    pub async fn ends(&mut self) {
        self.is_alive();
        self.signal(Signal::TERM);
        let status = soon("the end of a process", self.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.logged());
        assert!(!self.logged().contains("panicked at"), "{}", self.logged());
    }
}

fn spawn(folder: &Path, log: &Path, args: &[String]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}
