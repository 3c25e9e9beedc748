//! A worker's process: starts it, waits for its end from its first moment on, and ends it.
//!
//! One task owns the process. The worker holds the leash: when that is dropped, for whatever reason, the process is
//! killed. All tasks that want to hear of its end at once, also when no call is under way.

use std::{io, process::Stdio, sync::Arc};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Child, sync::watch};
use tokio_util::task::TaskTracker;

use super::{
    WorkerCommand,
    output::log_lines,
    pipes::{Input, Output},
};
use crate::pool::spawner::Spawner;

/// Holds a process; dropping it kills the process.
#[derive(Debug)]
pub(super) struct Leash {
    pid: u32,
    orders: watch::Sender<Wish>,
    ended: watch::Receiver<Option<Arc<str>>>,
}

/// The pipes to and from a process.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: Input,
    pub(super) stdout: Output,
}

/// The end of a process, in the future.
#[derive(Debug, Clone)]
pub struct Exit(watch::Receiver<Option<Arc<str>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Terminate,
}

/// Starts a process; its standard error goes to the log. `tasks` gets the task that owns it.
///
/// # Errors
/// The system's error, if the process cannot be started.
pub(super) async fn start(
    spawner: &Spawner,
    spec: &WorkerCommand,
    label: &str,
    tasks: &TaskTracker,
) -> io::Result<(Leash, Pipes)> {
    let mut command = spawner.command();
    command
        .args(&spec.command)
        .current_dir(&spec.directory)
        .envs(spec.environment.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A terminal's Ctrl-C goes to the host alone, which then drains and stops its workers.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = spawner.spawn(command).await?;
    let (Some(stdin), Some(stdout), Some(stderr), Some(pid)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take(), child.id())
    else {
        return Err(io::Error::other("started without pipes"));
    };
    let pipes = Pipes { stdin: Input::of(stdin)?, stdout: Output::of(stdout)? };
    let (orders, ordered) = watch::channel(Wish::Run);
    let (tell, ended) = watch::channel(None);
    tasks.spawn(log_lines(stderr, label.to_owned(), ended.clone()));
    tasks.spawn(own(child, pid, ordered, tell));
    Ok((Leash { pid, orders, ended }, pipes))
}

/// Does what the leash says until the process has ended.
async fn own(mut child: Child, pid: u32, mut orders: watch::Receiver<Wish>, ended: watch::Sender<Option<Arc<str>>>) {
    let how = loop {
        tokio::select! {
            biased;
            status = child.wait() => break said(status),
            order = orders.changed() => {
                if order.is_err() {
                    break match child.kill().await {
                        Ok(()) => said(child.wait().await),
                        Err(error) => format!("cannot be killed: {error}"),
                    };
                }
                if *orders.borrow_and_update() == Wish::Terminate {
                    terminate(pid);
                }
            }
        }
    };
    ended.send_replace(Some(how.into()));
}

fn said(status: io::Result<std::process::ExitStatus>) -> String {
    status.map_or_else(|error| format!("its end is unknown: {error}"), |status| status.to_string())
}

/// Only the task that waits for a process may signal it by its number: until then no other process gets that number.
fn terminate(pid: u32) {
    let signalled = i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, Signal::TERM));
    if let Some(Err(error)) = signalled {
        tracing::warn!(pid, %error, "a worker cannot be asked to end");
    }
}

impl Leash {
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn exit(&self) -> Exit {
        Exit(self.ended.clone())
    }

    /// Asks the process to end, by SIGTERM.
    pub(super) fn terminate(&self) {
        self.orders.send_replace(Wish::Terminate);
    }
}

impl Exit {
    /// Waits for the end of the process; says how it ended.
    pub async fn wait(&mut self) -> Arc<str> {
        match self.0.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            // The task that owned it is gone, and with it the process.
            Err(_closed) => "killed".into(),
        }
    }
}
