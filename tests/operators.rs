//! What the host tells people, and what they tell it: the real binary, as somebody uses it who has just read the README.

mod asked_by;
mod check;
mod detached;
mod metrics;
mod orders;
mod rails;
mod redeploy;
mod settings;
mod signals;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Done, Http, Setup, binary, bundle, eventually};

/// A host that was started in the background; it is told to end with the test.
struct Detached {
    pid: u32,
    folder: TempDir,
    http: Http,
}

/// Nothing moves by itself.
fn still() -> Setup {
    Setup::default()
        .with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }, min_requests = 1000000"))
}

fn cutover(arguments: &[&str], environment: &[(&str, &str)]) -> Done {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("CUTOVER_ADMIN").envs(environment.iter().copied());
    Done::of(command.output().unwrap())
}

impl Detached {
    /// Starts a host with this configuration, whose ports are free ones.
    fn start(setup: &Setup, change: impl Fn(String) -> String, arguments: &[&str]) -> Self {
        let (folder, ports) = (TempDir::new().unwrap(), crate::kill::free_ports());
        fs::write(folder.path().join("cutover.toml"), change(setup.text(folder.path(), ports))).unwrap();
        let file = folder.path().join("cutover.toml").display().to_string();
        let words = ["serve", "--config", &file, "--detach", "--json"];
        let started = cutover(&[&words, arguments].concat(), &[]).json();
        let pid = started["process"].as_u64().unwrap().try_into().unwrap();
        let http = Http::new(format!("127.0.0.1:{}", ports.0), format!("127.0.0.1:{}", ports.1));
        Self { pid, folder, http }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("test.log")).unwrap()
    }

    async fn until_logged(&self, words: &str) -> String {
        eventually(words, async || {
            let log = self.log();
            log.contains(words).then_some(log)
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Runs a verb against it; it may block, like whoever types it.
    fn verb(&self, arguments: &[&str]) -> Done {
        cutover(arguments, &[("CUTOVER_ADMIN", &self.http.admin)])
    }

    /// A verb's answer.
    fn json(&self, arguments: &[&str]) -> Value {
        self.verb(&[arguments, &["--json"]].concat()).json()
    }

    /// An order with a reason.
    fn order(&self, arguments: &[&str]) -> Value {
        self.json(&[arguments, &["--reason", "test"]].concat())
    }

    fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    }

    async fn until_ended(&self) {
        eventually("the end of the host", async || self.has_ended().then_some(())).await;
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(Signal::KILL);
        }
    }
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}
