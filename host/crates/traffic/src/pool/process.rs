//! The protocol with one worker process.
//!
//! A frame is a 4-byte big-endian length and that many bytes of JSON. A request is `{id, command, args}`, its reply
//! `{id, success, result}` or `{id, success, error}`, where `error` is `{type, message}` or a string. There is one
//! request at a time; after any breach of protocol or a missed deadline the worker cannot be trusted and is killed.

mod child;
mod output;
mod pipes;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tokio::{
    io::{AsyncReadExt as _, BufReader},
    time::{timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

pub use self::child::Exit;
use self::{
    child::{Leash, Pipes},
    pipes::{Input, Output},
};
use super::spawner::Spawner;
use cutover_model::{
    clock::Mono,
    request::{Answer, Failure, FailureKind},
};

/// The largest frame in either direction. A worker that announces more is killed before a byte of it is read.
pub const MAX_FRAME: usize = 16 << 20;

/// Error types that are the caller's fault; any other is the worker's.
const CALLERS_FAULT: [&str; 3] = ["invalid_request", "not_found", "conflict"];

/// The memory for frames that a worker keeps between calls; what a larger one needed is given back.
const KEPT_BUFFER: usize = 1 << 20;

/// How long what a worker wrote right before it ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How long the rest of what stands where a frame should is waited for.
const SOON: Duration = Duration::from_millis(50);

/// How much of it is shown, in bytes.
const SHOWN: usize = 120;

/// How to start a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The folder that it runs in.
    pub directory: PathBuf,
    /// Variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// How long it may take until its first health check is answered.
    pub start_timeout: Duration,
}

/// How long a worker that is told to end may take, each time before it is told more plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After its input was closed, until it gets SIGTERM.
    pub close: Duration,
    /// After that, until it is killed.
    pub term: Duration,
}

/// A worker that answered its first health check. Killed when dropped.
#[derive(Debug)]
pub struct Worker {
    leash: Leash,
    stdin: Input,
    stdout: BufReader<Output>,
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
        let started = child::start(spawner, spec, label, tasks).await;
        let (leash, Pipes { stdin, stdout }) = started.map_err(|e| failed(format!("cannot start: {e}")))?;
        let stdout = BufReader::with_capacity(64 << 10, stdout);
        let mut worker = Self { leash, stdin, stdout, buffer: Vec::new(), sequence: 0 };
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

    /// The id of the worker's process.
    pub const fn pid(&self) -> u32 {
        self.leash.pid()
    }

    /// Resolves when the process has ended.
    pub fn exit(&self) -> Exit {
        self.leash.exit()
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
        let mut exit = self.leash.exit();
        let exchange = async {
            let exchange = self.exchange(command, arguments, session);
            tokio::pin!(exchange);
            tokio::select! {
                biased;
                answer = &mut exchange => answer,
                // A process that something else keeps a pipe of open has ended all the same.
                how = exit.wait() => match timeout(LAST_WORDS, exchange).await {
                    Ok(answer) => answer,
                    Err(_silent) => Err(gone(&how)),
                },
            }
        };
        match timeout_at(deadline.timer(), exchange).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Failure::sent(FailureKind::Timeout, "the worker did not answer in time")),
        }
    }

    /// Closes the worker's input, then asks it to end by SIGTERM, then kills it.
    pub async fn stop(self, patience: Patience) {
        let Self { leash, stdin, stdout, .. } = self;
        drop(stdin);
        let mut exit = leash.exit();
        if timeout(patience.close, exit.wait()).await.is_err() {
            leash.terminate();
            if timeout(patience.term, exit.wait()).await.is_err() {
                tracing::warn!(pid = leash.pid(), "worker did not end when it was asked to; killing it");
            }
        }
        drop((leash, stdout));
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
        written.map_err(gone)
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let length = self.stdout.read_u32().await.map_err(gone)? as usize;
        if length > MAX_FRAME {
            return Err(Failure::sent(FailureKind::Communication, self.no_frame(length).await));
        }
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER);
        // Grows with what comes, not with what is announced.
        let came = (&mut self.stdout).take(length as u64).read_to_end(&mut self.buffer).await.map_err(gone)?;
        if came < length {
            let message = format!("the worker went away after {came} of the {length} bytes of a frame");
            return Err(Failure::sent(FailureKind::Connection, message));
        }
        Ok(())
    }

    /// What stands where the length of a frame should be. Most often that is text, which the program or one of its libraries
    /// prints on standard output.
    async fn no_frame(&mut self, length: usize) -> String {
        let header = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        if header.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
            return format!("the worker announces a frame of {length} bytes, more than {MAX_FRAME}");
        }
        let mut rest = [0; SHOWN];
        let read = timeout(SOON, self.stdout.read(&mut rest)).await;
        let rest = rest.get(..read.map_or(0, |read| read.unwrap_or(0))).unwrap_or_default();
        let text = [header.as_slice(), rest].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.trim_start().lines().next().unwrap_or_default();
        format!(
            "the worker prints `{}` on its standard output, where only frames may stand; let it print on standard error",
            line.escape_debug()
        )
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
        match timeout(Duration::from_millis(200), self.leash.exit().wait()).await {
            Ok(how) => format!("ended at its start ({how})"),
            Err(_elapsed) => failure.message,
        }
    }
}

fn gone(why: impl std::fmt::Display) -> Failure {
    Failure::sent(FailureKind::Connection, format!("the worker went away: {why}"))
}
