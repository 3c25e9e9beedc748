//! The life of one worker: six states, the moves between them that are legal, and what happened.
//!
//! Pure: the caller of a move gives its time and its reason. A move that is not legal is an error and changes nothing,
//! so that a worker is never in a state that it cannot be in.

use std::{borrow::Cow, collections::VecDeque, fmt};

use serde::Serialize;

use cutover_model::clock::Mono;

/// Changes that are kept of each worker. Its first stays for ever; of the others, the last.
const KEPT: usize = 32;

/// The state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// Started; has not answered its first health check and its warm-up calls yet.
    Initializing,
    /// Waits for a call.
    Ready,
    /// Serves a call, and takes no other.
    Busy,
    /// Failed its last health check; gets a call only if no other worker is free.
    Degraded,
    /// Is ending, by itself or because it was told to.
    Terminating,
    /// Its process is gone.
    Terminated,
}

/// A worker's state and how it got there.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    born: Mono,
    history: VecDeque<Change>,
    left_out: u64,
}

/// A state that a worker came into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The state that it came into.
    pub stage: WorkerState,
    /// When it came into that state.
    pub since: Mono,
    /// What made it change.
    pub why: Cow<'static, str>,
    /// How many times in a row: calls, one after the other, are one change from ready to busy and one back.
    pub times: u64,
}

/// A move that no worker makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker that is {from} does not become {to}")]
pub struct Illegal {
    /// The state that it is in.
    pub from: WorkerState,
    /// The state that it was to come into.
    pub to: WorkerState,
}

impl WorkerState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Initializing, Self::Ready, Self::Busy, Self::Degraded, Self::Terminating, Self::Terminated];

    /// As it is written in metrics and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Degraded => "degraded",
            Self::Terminating => "terminating",
            Self::Terminated => "terminated",
        }
    }

    /// Whether a worker in this state can have or take a call.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Ready | Self::Busy | Self::Degraded)
    }

    /// Whether a worker may go from this state to `to`.
    pub const fn leads_to(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Initializing, Self::Ready | Self::Terminated)
                | (Self::Ready, Self::Busy | Self::Degraded | Self::Terminating)
                | (Self::Busy, Self::Ready | Self::Degraded | Self::Terminating)
                | (Self::Degraded, Self::Ready | Self::Terminating)
                | (Self::Terminating, Self::Terminated)
        )
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Lifecycle {
    /// A worker that is being started.
    pub fn begin(now: Mono, why: impl Into<Cow<'static, str>>) -> Self {
        let first = Change { stage: WorkerState::Initializing, since: now, why: why.into(), times: 1 };
        Self { born: now, history: VecDeque::from([first]), left_out: 0 }
    }

    /// The state that it is in.
    pub fn stage(&self) -> WorkerState {
        self.history.back().map_or(WorkerState::Terminated, |change| change.stage)
    }

    /// When it came into that state.
    pub fn since(&self) -> Mono {
        self.history.back().map_or(self.born, |change| change.since)
    }

    /// When it was started.
    pub const fn born(&self) -> Mono {
        self.born
    }

    /// What happened, oldest first. Changes in the middle may be left out: [`Lifecycle::left_out`].
    pub fn history(&self) -> impl Iterator<Item = &Change> {
        self.history.iter()
    }

    /// Changes that are not kept any more.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Goes to another state.
    ///
    /// # Errors
    /// The move is not legal; nothing has changed.
    pub fn go(&mut self, to: WorkerState, now: Mono, why: impl Into<Cow<'static, str>>) -> Result<(), Illegal> {
        let from = self.stage();
        if !from.leads_to(to) {
            return Err(Illegal { from, to });
        }
        let mut times = 1;
        // Ready, busy, ready, busy: a worker has millions of calls, and they are not news.
        if let Some((at, before)) = self.repeated(to) {
            times = before + 1;
            self.history.remove(at);
        }
        self.history.push_back(Change { stage: to, since: now, why: why.into(), times });
        if self.history.len() > KEPT {
            self.history.remove(1);
            self.left_out += 1;
        }
        Ok(())
    }

    /// Where the same change is that was made right before the last one, if both belong to the same run of calls.
    fn repeated(&self, to: WorkerState) -> Option<(usize, u64)> {
        let at = self.history.len().checked_sub(2)?;
        let (before, last) = (self.history.get(at)?, self.history.back()?);
        let calls =
            |a, b| matches!((a, b), (WorkerState::Ready, WorkerState::Busy) | (WorkerState::Busy, WorkerState::Ready));
        // The change to ready before the first call is not a part of the run.
        let earlier = at.checked_sub(1).and_then(|at| self.history.get(at));
        let in_run = before.times > 1 || last.times > 1 || earlier.is_some_and(|e| calls(e.stage, before.stage));
        (before.stage == to && calls(before.stage, last.stage) && in_run).then_some((at, before.times))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(life: &Lifecycle) -> String {
        let change = |c: &Change| format!("{} {}x {}", c.stage, c.times, c.why);
        life.history().map(change).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_life_is_told_with_its_calls_counted() {
        let mut life = Lifecycle::begin(Mono::default(), "start");
        let mut go = |to, why| life.go(to, Mono::default(), why).unwrap();
        go(WorkerState::Ready, "warm");
        for _ in 0..1_000 {
            go(WorkerState::Busy, "call");
            go(WorkerState::Ready, "answered");
        }
        go(WorkerState::Degraded, "no answer");
        go(WorkerState::Ready, "well");
        go(WorkerState::Busy, "call");
        go(WorkerState::Terminating, "crash");
        go(WorkerState::Terminated, "exit 70");
        insta::assert_snapshot!(shown(&life), @r"
        initializing 1x start
        ready 1x warm
        busy 1000x call
        ready 1000x answered
        degraded 1x no answer
        ready 1x well
        busy 1x call
        terminating 1x crash
        terminated 1x exit 70
        ");
    }

    #[test]
    fn an_illegal_move_changes_nothing_and_is_named() {
        let mut life = Lifecycle::begin(Mono::default(), "start");
        let error = life.go(WorkerState::Busy, Mono::default(), "").unwrap_err();
        assert_eq!(error.to_string(), "a worker that is initializing does not become busy");
        assert_eq!((life.stage(), life.history().count()), (WorkerState::Initializing, 1));
    }

    #[test]
    fn the_legal_moves_are_these_eleven_and_no_others() {
        let from = |from: WorkerState| {
            let to: Vec<_> =
                WorkerState::ALL.into_iter().filter(|to| from.leads_to(*to)).map(WorkerState::name).collect();
            format!("{from} -> {}", to.join(" | "))
        };
        insta::assert_snapshot!(WorkerState::ALL.map(from).join("\n"), @r"
        initializing -> ready | terminated
        ready -> busy | degraded | terminating
        busy -> ready | degraded | terminating
        degraded -> ready | terminating
        terminating -> terminated
        terminated -> 
        ");
    }

    proptest! {
        /// Whatever is asked of it, a worker is only ever where legal moves lead, and what is kept is bounded.
        #[test]
        fn no_sequence_of_requests_leads_anywhere_illegal(asked in prop::collection::vec(0_usize..6, 0..300)) {
            let mut life = Lifecycle::begin(Mono::default(), "start");
            for (n, to) in asked.into_iter().enumerate() {
                let (to, from) = (WorkerState::ALL[to], life.stage());
                let went = life.go(to, Mono::from_nanos(n as u64), "asked");
                prop_assert_eq!(went.is_ok(), from.leads_to(to));
                prop_assert_eq!(life.stage(), if went.is_ok() { to } else { from });
                prop_assert!(life.history().count() <= KEPT);
                let first = life.history().next().map(|c| c.stage);
                prop_assert_eq!(first, Some(WorkerState::Initializing));
                let since: Vec<_> = life.history().map(|c| c.since).collect();
                prop_assert!(since.is_sorted());
            }
        }
    }
}
