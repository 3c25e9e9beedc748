//! Compiling: in a process of its own, a few at a time, within a time and a memory limit.
//!
//! A compiler that was given hostile input cannot be stopped inside of the process that it runs in: a thread cannot be
//! killed, and memory that runs out takes the host along. So the host runs the hidden verb `cutover policy-compiler`:
//! the component goes in by standard input, the compiled artefact comes out by standard output, and the kernel holds the
//! process to its memory and its processor time. It has no environment, writes no files, and yields to the host
//! (`nice`). Whatever becomes of it costs one refused policy.
//!
//! Command-line tools that end after their work, and tests, compile in their own process: there nobody is to be
//! protected but the one who waits. A panic of the compiler is caught there.

use std::{
    io::{self, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Resource, Rlimit, nice, setrlimit};

use super::{Limits, PolicyError, artefacts::Artefact, guest::said};

/// Compilations that may wait for others; each waits on a thread. More are refused.
const MAX_WAITING: usize = 64;

/// How much lower than the host's a compiler's priority is: enough that requests come first.
const NICER: i32 = 5;

/// The most bytes of an artefact: code and data. It has 1 to 4 for each byte of its component as a rule, but a few bytes of
/// a component can ask for data that lie far apart, and get an image of the memory between them. The largest component that
/// a host can be configured to take, compiled, fits.
const MAX_ARTEFACT: usize = 512 << 20;

/// Bytes that are read of what a compiler says went wrong.
const MAX_MESSAGE: u64 = 16 << 10;

/// The exit code of a compiler that refused a component and said why.
const REFUSED: i32 = 4;

/// Compiles components, a few at a time.
#[derive(Debug)]
pub(super) struct Compiler {
    /// The `cutover` binary; none to compile in this process.
    program: Option<PathBuf>,
    /// How long a compilation may take.
    time: Duration,
    /// How much memory it may take.
    bytes: u64,
    turns: Mutex<Turns>,
    left: Condvar,
}

#[derive(Debug)]
struct Turns {
    free: usize,
    waiting: usize,
}

/// A compilation that is under way.
struct Turn<'a>(&'a Compiler);

impl Compiler {
    pub(super) fn new(program: Option<PathBuf>, limits: &Limits) -> Self {
        let turns = Turns { free: limits.compilations.max(1), waiting: 0 };
        let (time, bytes) = (limits.compile_time, limits.compile_bytes);
        Self { program, time, bytes, turns: Mutex::new(turns), left: Condvar::new() }
    }

    /// Compiles a component, once it is its turn.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn compile(&self, engine: &wasmtime::Engine, component: &[u8]) -> Result<Artefact, PolicyError> {
        let _turn = self.turn()?;
        match &self.program {
            Some(program) => self.in_a_process(program, component),
            None => here(engine, component),
        }
    }

    fn turn(&self) -> Result<Turn<'_>, PolicyError> {
        let mut turns = self.turns.lock();
        if turns.free == 0 {
            if turns.waiting >= MAX_WAITING {
                return Err(PolicyError::CompilerBusy { waiting: turns.waiting });
            }
            turns.waiting += 1;
            while turns.free == 0 {
                self.left.wait(&mut turns);
            }
            turns.waiting -= 1;
        }
        turns.free -= 1;
        Ok(Turn(self))
    }

    fn in_a_process(&self, program: &Path, component: &[u8]) -> Result<Artefact, PolicyError> {
        let failed = |error: io::Error| PolicyError::CompilerDied { how: error.to_string() };
        let seconds = self.time.as_secs() + 1;
        let child = Command::new(program)
            .args(["policy-compiler", &seconds.to_string(), &self.bytes.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.map_err(|error| {
            let how = format!("`{}` cannot be started: {error}", program.display());
            PolicyError::CompilerDied { how }
        })?;
        // One more than there may be tells that there are more.
        let most = u64::try_from(MAX_ARTEFACT).unwrap_or(u64::MAX).saturating_add(1);
        let done = converse(child, component, most, self.time).map_err(failed)?;
        let Done { status, output, message } = done;
        fits(&output)?;
        match status {
            None => {
                Err(PolicyError::CompileDeadline { limit_ms: u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX) })
            }
            Some(status) if status.success() => Ok(Artefact::of_our_compiler(output)),
            Some(status) if status.code() == Some(REFUSED) => {
                Err(PolicyError::Compile { message: crate::error::said(&message) })
            }
            Some(status) => Err(PolicyError::CompilerDied { how: last_words(status, &message) }),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turns.lock().free += 1;
        self.0.left.notify_one();
    }
}

/// What became of a compiler.
struct Done {
    /// None if it was killed because it took too long.
    status: Option<ExitStatus>,
    output: Vec<u8>,
    message: String,
}

/// Gives a compiler its component and takes what it says, for at most `limit`; then it is killed. It is always waited
/// for, so that no process is left.
fn converse(mut child: Child, component: &[u8], most: u64, limit: Duration) -> io::Result<Done> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(io::Error::other("a pipe is missing"));
    };
    thread::scope(|scope| {
        // A compiler that ends early stops reading; how it ended says why.
        scope.spawn(move || drop(stdin.write_all(component)));
        let message = scope.spawn(move || read(stderr, MAX_MESSAGE));
        let (finished, finish) = mpsc::channel();
        let output = scope.spawn(move || {
            let output = read(stdout, most);
            // Whoever waits may have given up.
            finished.send(()).ok();
            output
        });
        let in_time = finish.recv_timeout(limit).is_ok();
        if !in_time {
            child.kill()?;
        }
        let status = child.wait()?;
        let joined = |thread: thread::ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a pipe cannot be read")))
        };
        let (output, message) = (joined(output)?, joined(message)?);
        let message = String::from_utf8_lossy(&message).trim().to_owned();
        // As the command line begins every error.
        let message = message.strip_prefix("cutover: ").map_or(message.clone(), ToOwned::to_owned);
        Ok(Done { status: in_time.then_some(status), output, message })
    })
}

/// Reads to the end, or to the `most` bytes that are believable.
fn read(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A crash's last line says more than its first.
fn last_words(status: ExitStatus, message: &str) -> String {
    match message.lines().last() {
        Some(line) if !line.is_empty() => format!("{status}: {}", crate::error::said(line)),
        _ => status.to_string(),
    }
}

/// One limit, wherever it was compiled: what a tool admits a host admits.
fn fits(artefact: &[u8]) -> Result<(), PolicyError> {
    let limit = MAX_ARTEFACT;
    if artefact.len() <= limit { Ok(()) } else { Err(PolicyError::ImageTooLarge { limit }) }
}

/// Compiles in this process.
fn here(engine: &wasmtime::Engine, component: &[u8]) -> Result<Artefact, PolicyError> {
    match catch_unwind(AssertUnwindSafe(|| engine.precompile_component(component))) {
        Ok(Ok(artefact)) => fits(&artefact).map(|()| Artefact::of_our_compiler(artefact)),
        Ok(Err(error)) => Err(PolicyError::Compile { message: said(&error) }),
        Err(_panic) => Err(PolicyError::Compile { message: "the compiler panicked".into() }),
    }
}

/// The body of the hidden verb `cutover policy-compiler`: limits this process, then turns the component of standard
/// input into an artefact on standard output.
///
/// # Errors
/// The exit code, and what to say on standard error.
pub fn compile_here(seconds: u64, bytes: u64) -> Result<(), (u8, String)> {
    let died = |error: &dyn std::fmt::Display| (1, format!("the compiler process cannot begin: {error}"));
    let limit = |resource, most| {
        let most = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, most).map_err(|e| died(&e))
    };
    // All cores may work for as long as the host waits.
    let cores = u64::try_from(thread::available_parallelism().map_or(1, std::num::NonZero::get)).unwrap_or(1);
    limit(Resource::Cpu, seconds.saturating_mul(cores))?;
    limit(Resource::Data, bytes)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    nice(NICER).map_err(|e| died(&e))?;
    let mut component = Vec::new();
    io::stdin().lock().read_to_end(&mut component).map_err(|e| died(&e))?;
    let engine = wasmtime::Engine::new(&Limits::default().code()).map_err(|e| died(&e))?;
    let refused = u8::try_from(REFUSED).unwrap_or(1);
    let artefact = engine.precompile_component(&component).map_err(|error| (refused, format!("{error:#}")))?;
    io::stdout().lock().write_all(&artefact).map_err(|e| died(&e))
}
