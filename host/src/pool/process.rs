//! One worker process and the protocol with it.
//!
//! A frame is a 4-byte big-endian length and that many bytes of JSON. A request is `{id, command, args}`, its reply
//! `{id, success, result}` or `{id, success, error}`, where `error` is `{type, message}` or a string. There is one
//! request at a time; after any breach of protocol or a missed deadline the worker cannot be trusted and is killed.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::{timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::spawner::Spawner;
use crate::{
    clock::Mono,
    request::{Answer, Failure, FailureKind},
};

/// The largest frame in either direction. A worker that announces more is killed before a byte of it is read.
pub const MAX_FRAME: usize = 16 << 20;

/// Error types that are the caller's fault; any other is the worker's.
const CALLERS_FAULT: [&str; 3] = ["invalid_request", "not_found", "conflict"];

/// How long a worker may take to end by itself after its input is closed.
const GRACE: Duration = Duration::from_secs(2);

/// How to start a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// How long it may take until its first health check is answered.
    pub start_timeout: Duration,
}

/// A worker that answered its first health check. Killed when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    buffer: Vec<u8>,
    sequence: u64,
}

#[derive(Serialize)]
struct Frame<'a> {
    id: u64,
    #[serde(rename = "command")]
    name: &'a str,
    args: Arguments<'a>,
}

#[derive(Serialize)]
struct Arguments<'a> {
    #[serde(flatten)]
    own: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct ReplyFrame<'a> {
    id: u64,
    success: bool,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorDetail<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

impl Worker {
    /// Starts a process and waits for its first health check.
    ///
    /// # Errors
    /// `Initialization`, with what went wrong.
    pub async fn start(
        spawner: &Spawner,
        spec: &WorkerCommand,
        label: &str,
        tasks: &TaskTracker,
    ) -> Result<Self, Failure> {
        let failed = |what: String| Failure::unsent(FailureKind::Initialization, format!("worker {label}: {what}"));
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
        let mut child = spawner.spawn(command).await.map_err(|e| failed(format!("cannot start: {e}")))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("started without pipes".into()));
        };
        tasks.spawn(log_lines(stderr, label.to_owned()));
        let stdout = BufReader::with_capacity(64 << 10, stdout);
        let mut worker = Self { child, stdin, stdout, buffer: Vec::new(), sequence: 0 };
        let asked = timeout(spec.start_timeout, worker.exchange("health_check", &Map::new(), None)).await;
        match asked {
            Ok(Ok(Answer::Success(_))) => Ok(worker),
            Ok(Ok(Answer::Refused(error))) => Err(failed(format!("refuses its first health check: {error}"))),
            Ok(Err(failure)) => Err(failed(worker.why_dead(failure).await)),
            Err(_elapsed) => {
                Err(failed(format!("did not answer its first health check within {:?}", spec.start_timeout)))
            }
        }
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Makes one call. After a failure other than `Worker` the process must be dropped.
    ///
    /// # Errors
    /// `Worker` if its program raised an error; otherwise what broke.
    pub async fn call(
        &mut self,
        command: &str,
        arguments: &Map<String, Value>,
        session: Option<&str>,
        deadline: Mono,
    ) -> Result<Answer, Failure> {
        match timeout_at(deadline.timer(), self.exchange(command, arguments, session)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Failure::sent(FailureKind::Timeout, "the worker did not answer in time")),
        }
    }

    /// Closes the worker's input, and kills it if it does not end by itself.
    pub async fn stop(self) {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        if timeout(GRACE, child.wait()).await.is_err() {
            tracing::warn!(pid = child.id(), "worker did not end by itself; killing it");
            if let Err(error) = child.kill().await {
                tracing::error!(%error, "cannot kill worker");
            }
        }
    }

    async fn exchange(
        &mut self,
        command: &str,
        arguments: &Map<String, Value>,
        session: Option<&str>,
    ) -> Result<Answer, Failure> {
        self.sequence += 1;
        let args = Arguments { own: arguments, session_id: session };
        self.write(&Frame { id: self.sequence, name: command, args }).await?;
        self.read().await?;
        self.understand()
    }

    async fn write(&mut self, frame: &Frame<'_>) -> Result<(), Failure> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        serde_json::to_writer(&mut self.buffer, frame)
            .map_err(|e| Failure::unsent(FailureKind::System, format!("the call cannot be written: {e}")))?;
        let length = self.buffer.len() - 4;
        if length > MAX_FRAME {
            let message = format!("the call has {length} bytes, more than the {MAX_FRAME} of a frame");
            return Err(Failure::unsent(FailureKind::System, message));
        }
        if let Some(header) = self.buffer.first_chunk_mut::<4>() {
            *header = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        }
        let written = self.stdin.write_all(&self.buffer).await;
        written.map_err(|e| Failure::sent(FailureKind::Connection, format!("the worker went away: {e}")))
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let gone = |e| Failure::sent(FailureKind::Connection, format!("the worker went away: {e}"));
        let length = self.stdout.read_u32().await.map_err(gone)? as usize;
        if length > MAX_FRAME {
            let message = format!("the worker announces a frame of {length} bytes, more than {MAX_FRAME}");
            return Err(Failure::sent(FailureKind::Communication, message));
        }
        self.buffer.resize(length, 0);
        self.stdout.read_exact(&mut self.buffer).await.map_err(gone)?;
        Ok(())
    }

    fn understand(&self) -> Result<Answer, Failure> {
        let broken = |what: String| Failure::sent(FailureKind::Communication, what);
        let reply: ReplyFrame<'_> =
            serde_json::from_slice(&self.buffer).map_err(|e| broken(format!("the worker's reply is not one: {e}")))?;
        if reply.id != self.sequence {
            return Err(broken(format!("the worker answered call {} instead of {}", reply.id, self.sequence)));
        }
        match (reply.success, reply.result, reply.error) {
            (true, result, None) => Ok(Answer::Success(result.unwrap_or(RawValue::NULL).to_owned())),
            (false, None, Some(error)) => {
                let callers = serde_json::from_str::<ErrorDetail<'_>>(error.get())
                    .is_ok_and(|detail| CALLERS_FAULT.contains(&&*detail.kind));
                if callers {
                    Ok(Answer::Refused(error.to_owned()))
                } else {
                    Err(Failure::sent(FailureKind::Worker, error.get()))
                }
            }
            _ => Err(broken("the worker's reply has neither a result nor an error of its own".into())),
        }
    }

    /// Says how a process ended, if it did: that explains more than the pipe that broke.
    async fn why_dead(&mut self, failure: Failure) -> String {
        match timeout(Duration::from_millis(200), self.child.wait()).await {
            Ok(Ok(status)) => format!("ended at its start ({status})"),
            Ok(Err(_)) | Err(_) => failure.message,
        }
    }
}

/// Passes a worker's standard error on to the log, line by line, so that it never blocks.
async fn log_lines(stderr: ChildStderr, label: String) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        tracing::warn!(worker = label, "{}", line.get(..line.floor_char_boundary(1_000)).unwrap_or_default());
    }
}
