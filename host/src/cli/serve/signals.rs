//! What signals say to a host.
//!
//! Whatever would end the process ends it drained, but for those that say that it is broken (SIGSEGV and its like) and
//! those that nobody can catch. SIGPIPE and SIGXFSZ are heard and end nothing: they are about one write, which fails.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use crate::cli::Failed;

/// Signals that end a program that does not listen for them, by their names. Those for real time have none.
const ENDING: [(i32, &str); 8] = [
    (3, "SIGQUIT"),
    (14, "SIGALRM"),
    (16, "SIGSTKFLT"),
    (24, "SIGXCPU"),
    (26, "SIGVTALRM"),
    (27, "SIGPROF"),
    (29, "SIGIO"),
    (30, "SIGPWR"),
];

/// SIGXFSZ: a file would become larger than it may.
const FILE_TOO_LARGE: i32 = 25;

/// The first and the last of those for real time that programs may use.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Drain and end.
    Stop,
    /// Start a successor.
    Successor,
    /// The store that could not be had can be.
    Store,
    /// Read the configuration again.
    Reload,
    /// Open the log again.
    Reopen,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
    successor: Signal,
    reload: Signal,
    reopen: Signal,
    others: mpsc::Receiver<String>,
    _listeners: JoinSet<()>,
}

impl Signals {
    /// Listens from now on.
    pub(super) fn hook() -> Result<Self, Failed> {
        let hook = |kind| signal(kind).map_err(|e| Failed::new(format!("cannot listen for signals: {e}")));
        let mut listeners = JoinSet::new();
        let (said, others) = mpsc::channel(1);
        let named = ENDING.map(|(number, name)| (number, name.to_owned()));
        let numbered = REAL_TIME.map(|number| (number, format!("signal {number}")));
        for (number, name) in named.into_iter().chain(numbered) {
            let mut heard = hook(SignalKind::from_raw(number))?;
            let said = said.clone();
            listeners.spawn(async move {
                while heard.recv().await.is_some() {
                    // One that waits says all there is to say.
                    drop(said.try_send(name.clone()));
                }
            });
        }
        let mut too_large = hook(SignalKind::from_raw(FILE_TOO_LARGE))?;
        listeners.spawn(async move {
            while too_large.recv().await.is_some() {
                tracing::error!("a file would become larger than this process may write (SIGXFSZ); raise its limit");
            }
        });
        Ok(Self {
            term: hook(SignalKind::terminate())?,
            interrupt: hook(SignalKind::interrupt())?,
            successor: hook(SignalKind::user_defined2())?,
            reload: hook(SignalKind::hangup())?,
            reopen: hook(SignalKind::user_defined1())?,
            others,
            _listeners: listeners,
        })
    }

    /// What is said next.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.successor.recv() => Told::Successor,
            _ = self.reload.recv() => Told::Reload,
            _ = self.reopen.recv() => Told::Reopen,
            Some(name) = self.others.recv() => {
                tracing::warn!("told to end by {name}; draining, as at SIGTERM");
                Told::Stop
            }
        }
    }

    /// Resolves when the host is to stop.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
            Some(_) = self.others.recv() => {}
        }
    }

    /// Resolves when somebody does not want to wait.
    pub(super) async fn interrupted(&mut self) {
        // It ends with the process.
        self.interrupt.recv().await.unwrap_or_default();
    }
}
