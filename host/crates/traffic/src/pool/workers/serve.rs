//! A caller's call: through the circuit breaker of its operation, and again where the table of errors says so.
//!
//! Mirrored calls do not come this way: what happens to them must not change what callers get.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{Call, Inner, WorkerPool};
use crate::pool::{
    breaker::{Backing, Breaker, Came, Pass, Position, Refused, Settings},
    recovery::{Attempt, Next, Severity},
};
use cutover_model::{
    clock::{self, Mono},
    request::{Answer, Class, Failure, FailureKind},
};

/// Operations that have a breaker; the configuration has fewer.
const MAX_BREAKERS: usize = 10_000;

/// What came of a call, retries included.
#[derive(Debug)]
pub struct Tried {
    /// The answer or the failure.
    pub result: Result<Answer, Failure>,
    /// Why an attempt failed first, also if a later one was answered: retries help the caller, and hide nothing from
    /// the policy that judges the pool.
    pub failed: Option<FailureKind>,
}

/// The breakers of a pool, by operation, and what went wrong in it, by category.
#[derive(Debug)]
pub(super) struct Trouble {
    settings: Option<Settings>,
    /// Whether operators want breakers.
    on: AtomicBool,
    breakers: Mutex<HashMap<Arc<str>, Breaker>>,
    failures: [AtomicU64; FailureKind::ALL.len()],
    retries: AtomicU64,
    /// The second in which a category was logged last.
    logged: [AtomicU64; FailureKind::ALL.len()],
}

/// A breaker as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct BreakerView {
    /// The operation whose calls it lets through or refuses.
    pub operation: Arc<str>,
    /// Whether it lets calls through.
    pub state: Position,
    /// How often it opened.
    pub opened: u64,
    /// Calls that it refused.
    pub refused: u64,
}

/// Lets a call through; tells the breaker what came of it, also if the caller goes away.
struct Gate<'a> {
    trouble: &'a Trouble,
    pass: Option<(&'a str, Pass)>,
}

/// What a caller is told of several attempts that failed. What went wrong first says more than that there was no time or
/// worker left for another one; but a call that any worker may have seen was seen.
fn telling(first: &mut Option<Failure>, next: Failure) -> &Failure {
    let sent = next.sent;
    let telling = first.get_or_insert(next);
    telling.sent |= sent;
    telling
}

impl WorkerPool {
    /// Makes a call as [`WorkerPool::call`] does, and again as the table of errors says: only if it is safe to repeat, or
    /// no worker saw it, and within its deadline. An operation that keeps failing is refused at once and unsent for a
    /// while.
    pub async fn serve(&self, call: Call<'_>, class: Class) -> Tried {
        let (pool, mut first) = (&self.0, None::<Failure>);
        let mut number = 0;
        let result = loop {
            number += 1;
            let failure = match pool.attempt(call).await {
                Ok(answer) => break Ok(answer),
                Err(Stopped::Refused(refused)) => break Err(first.clone().unwrap_or(refused)),
                Err(Stopped::Failed(failure)) => failure,
            };
            pool.trouble.count(failure.kind);
            let attempt = Attempt {
                kind: failure.kind,
                number,
                class,
                sent: failure.sent,
                left: call.deadline.since(clock::mono()),
                elsewhere: pool.backing() == Backing::Other && (class == Class::Read || !failure.sent),
            };
            let telling = telling(&mut first, failure);
            match pool.spec.recovery.next(attempt) {
                Next::Retry { after } => {
                    pool.trouble.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(after).await;
                }
                Next::FailOver | Next::GiveUp => break Err(telling.clone()),
            }
        };
        if let Err(failure) = &result {
            pool.log(call.operation, failure);
        }
        Tried { failed: first.map(|failure| failure.kind).or_else(|| result.as_ref().err().map(|f| f.kind)), result }
    }

    /// Switches the circuit breakers on or off. Off, they are forgotten.
    pub fn switch_breakers(&self, on: bool) {
        self.0.trouble.on.store(on, Ordering::Relaxed);
        if !on {
            self.0.trouble.breakers.lock().clear();
        }
    }

    /// The breakers of operations that have been called, by operation.
    pub fn breakers(&self) -> Vec<BreakerView> {
        let now = clock::mono();
        let breakers = self.0.trouble.breakers.lock();
        let view = |(operation, breaker): (&Arc<str>, &Breaker)| BreakerView {
            operation: Arc::clone(operation),
            state: breaker.position(now),
            opened: breaker.opened(),
            refused: breaker.refused(),
        };
        let mut all: Vec<_> = breakers.iter().map(view).collect();
        all.sort_unstable_by(|a, b| a.operation.cmp(&b.operation));
        all
    }

    /// Attempts that failed, by category, with its severity.
    pub fn failed_attempts(&self) -> Vec<(FailureKind, Severity, u64)> {
        let count = |kind: FailureKind| {
            let count = self.0.trouble.failures.get(kind.index()).map_or(0, |n| n.load(Ordering::Relaxed));
            (kind, self.0.spec.recovery.rule(kind).severity, count)
        };
        FailureKind::ALL.map(count).to_vec()
    }

    /// Attempts beyond the first of their calls.
    pub fn retries(&self) -> u64 {
        self.0.trouble.retries.load(Ordering::Relaxed)
    }
}

/// Why an attempt was not answered.
enum Stopped {
    /// The breaker is open.
    Refused(Failure),
    /// The pool failed to answer.
    Failed(Failure),
}

impl Inner {
    async fn attempt(self: &Arc<Self>, call: Call<'_>) -> Result<Answer, Stopped> {
        let (label, asked) = (&self.spec.label, clock::mono());
        let gate = self.trouble.ask(call.operation, self.backing(), asked).map_err(|refused| {
            let message = format!(
                "`{}` of {label} has failed too often in a row; try again in {:.0?}",
                call.operation, refused.for_another
            );
            Stopped::Refused(Failure::unsent(FailureKind::Resource, message))
        })?;
        let mut waited = Duration::ZERO;
        let result = self.make(call, &mut waited).await;
        let came = match &result {
            Ok(_) => Came::Answer,
            // Others took the worker's time: that says nothing about this operation.
            Err(failure) if failure.kind == FailureKind::Timeout && waited * 2 > call.deadline.since(asked) => {
                Came::Nothing
            }
            Err(failure) if self.spec.recovery.counts(failure) => Came::Failure,
            Err(_) => Came::Nothing,
        };
        if gate.settle(came) {
            tracing::error!(pool = label, operation = call.operation, "the circuit breaker opens");
        }
        result.map_err(Stopped::Failed)
    }

    /// Says what callers get told, at most once a second for each category.
    fn log(&self, operation: &str, failure: &Failure) {
        let second = clock::mono().nanos() / 1_000_000_000 + 1;
        let logged = self.trouble.logged.get(failure.kind.index());
        if logged.is_none_or(|last| last.swap(second, Ordering::Relaxed) == second) {
            return;
        }
        let pool = &self.spec.label;
        match self.spec.recovery.rule(failure.kind).severity {
            Severity::Critical => tracing::error!(pool, operation, "{failure}"),
            Severity::Major => tracing::warn!(pool, operation, "{failure}"),
            Severity::Minor => tracing::debug!(pool, operation, "{failure}"),
        }
    }
}

impl Trouble {
    pub(super) fn new(settings: Option<Settings>) -> Self {
        Self {
            settings,
            on: AtomicBool::new(true),
            breakers: Mutex::default(),
            failures: Default::default(),
            retries: AtomicU64::new(0),
            logged: Default::default(),
        }
    }

    fn ask<'a>(&'a self, operation: &'a str, backing: Backing, now: Mono) -> Result<Gate<'a>, Refused> {
        let Some(settings) = self.settings.filter(|_| self.on.load(Ordering::Relaxed)) else {
            return Ok(Gate { trouble: self, pass: None });
        };
        let mut breakers = self.breakers.lock();
        let full = breakers.len() >= MAX_BREAKERS;
        let pass = match breakers.get_mut(operation) {
            Some(breaker) => Some(breaker.ask(backing, now)?),
            None if full => None,
            None => {
                let mut breaker = Breaker::new(settings);
                let pass = breaker.ask(backing, now)?;
                breakers.insert(operation.into(), breaker);
                Some(pass)
            }
        };
        Ok(Gate { trouble: self, pass: pass.map(|pass| (operation, pass)) })
    }

    fn count(&self, kind: FailureKind) {
        if let Some(count) = self.failures.get(kind.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Gate<'_> {
    /// Whether the breaker opened because of that.
    fn settle(mut self, came: Came) -> bool {
        self.tell(came)
    }

    fn tell(&mut self, came: Came) -> bool {
        let Some((operation, pass)) = self.pass.take() else { return false };
        let mut breakers = self.trouble.breakers.lock();
        let Some(breaker) = breakers.get_mut(operation) else { return false };
        let before = breaker.opened();
        breaker.settle(pass, came, clock::mono());
        breaker.opened() > before
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.tell(Came::Nothing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_a_worker_may_have_seen_in_any_attempt_was_seen() {
        let mut first = None;
        assert!(!telling(&mut first, Failure::unsent(FailureKind::Connection, "gone")).sent);
        let told = telling(&mut first, Failure::sent(FailureKind::Timeout, "silent"));
        assert_eq!((told.kind, told.sent), (FailureKind::Connection, true), "another pool must not get it as well");
        assert!(telling(&mut first, Failure::unsent(FailureKind::Resource, "full")).sent);
    }
}
