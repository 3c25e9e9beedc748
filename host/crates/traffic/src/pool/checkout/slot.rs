//! A place for a worker, whichever process fills it, driven by the worker's [`Lifecycle`].

use std::{borrow::Cow, collections::VecDeque, time::Duration};

use super::{Health, Waiter};
use crate::pool::{
    lifecycle::{Lifecycle, WorkerState},
    restarts::Death,
};
use cutover_model::clock::Mono;

/// A worker that ran this long was well, even without a call: its successor starts at once.
const PROVEN: Duration = Duration::from_secs(10);

/// A place for a worker. `W` is a worker.
#[derive(Debug)]
pub(super) struct Slot<W> {
    /// The life of the worker that is here or was here last.
    pub(super) life: Option<Lifecycle>,
    /// That worker's number; 0 before the first.
    pub(super) number: u64,
    place: Hold<W>,
    /// Calls that wait for this worker alone.
    pub(super) queue: VecDeque<Waiter<W>>,
    /// Counts up with each use, so that the worker used last is known.
    pub(super) used: u64,
    /// Health checks failed in a row.
    pub(super) unhealthy: u32,
    /// The version of the state without a session that the worker has.
    pub(super) shared_version: u64,
    /// Whether a worker is about to be started for it.
    pub(super) claimed: bool,
    /// Calls that the worker answered.
    answered: u64,
    fate: Fate,
    /// Workers that failed here, one after the other, without having proven themselves.
    failed: u32,
}

/// How the worker that was here last came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// There was none, or it was told to end.
    #[default]
    Told,
    /// It failed: its process ended, it failed its health checks, or it did not start.
    Failed,
    /// It was killed because a call of its missed its deadline.
    Overdue,
}

/// Where the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In its slot, where it waits for a call.
    Here,
    /// Out to be asked how it is; its state is what it was.
    Examined,
    /// Lent, not started yet, or ended.
    Away,
}

#[derive(Debug)]
enum Hold<W> {
    Here(W),
    Out(Place),
}

/// What the end of a process means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It ended by itself: the host did not tell it to.
    ByItself,
    /// It was known to end.
    Known,
}

/// What a slot shows of itself.
#[derive(Debug)]
pub struct SlotView<'a> {
    /// Its place in the pool, counted from 0; the overflow comes last.
    pub slot: usize,
    /// The number of its worker.
    pub number: u64,
    /// What that worker does, and what it did before.
    pub life: &'a Lifecycle,
    /// Health checks that it failed in a row.
    pub unhealthy: u32,
    /// Whether it is there only for calls that waited.
    pub overflow: bool,
    /// Sessions that are at home with it.
    pub sessions: usize,
}

impl<W> Default for Slot<W> {
    fn default() -> Self {
        Self {
            life: None,
            number: 0,
            place: Hold::Out(Place::Away),
            queue: VecDeque::new(),
            used: 0,
            unhealthy: 0,
            shared_version: 0,
            claimed: false,
            answered: 0,
            fate: Fate::Told,
            failed: 0,
        }
    }
}

impl<W> Slot<W> {
    pub(super) fn stage(&self) -> WorkerState {
        self.life.as_ref().map_or(WorkerState::Terminated, Lifecycle::stage)
    }

    pub(super) fn since(&self) -> Mono {
        self.life.as_ref().map_or(Mono::default(), Lifecycle::since)
    }

    /// Whether a worker could be started for it.
    pub(super) fn is_empty(&self) -> bool {
        self.stage() == WorkerState::Terminated && !self.claimed
    }

    /// Whether a worker is on its way.
    pub(super) fn is_coming(&self) -> bool {
        self.stage() == WorkerState::Initializing || self.claimed
    }

    /// How the worker before died, unless it was told to end.
    pub(super) fn death(&self) -> Option<Death> {
        let overdue = self.fate == Fate::Overdue;
        (self.fate != Fate::Told).then_some(Death { failed: self.failed, overdue })
    }

    pub(super) const fn place(&self) -> Place {
        match self.place {
            Hold::Here(_) => Place::Here,
            Hold::Out(place) => place,
        }
    }

    /// Whether its worker can be lent.
    pub(super) fn is_free(&self) -> bool {
        self.place() == Place::Here && self.stage().is_up()
    }

    pub(super) fn take_out(&mut self, place: Place) -> Option<W> {
        match std::mem::replace(&mut self.place, Hold::Out(place)) {
            Hold::Here(worker) => Some(worker),
            Hold::Out(before) => {
                self.place = Hold::Out(before);
                None
            }
        }
    }

    /// A worker is being started. Returns the life of the one before it.
    pub(super) fn begin(&mut self, number: u64, now: Mono) -> Option<Lifecycle> {
        let before = self.life.take();
        let why = match (&before, self.fate) {
            (None, _) | (_, Fate::Told) => "the pool needs it",
            (Some(_), Fate::Failed | Fate::Overdue) => "replaces the worker before it",
        };
        let queue = std::mem::take(&mut self.queue);
        *self = Self { life: Some(Lifecycle::begin(now, why)), number, queue, failed: self.failed, ..Self::default() };
        before
    }

    pub(super) fn started(&mut self, worker: W, used: u64, now: Mono) {
        self.go(WorkerState::Ready, "answered its first health check and its warm-up", now);
        self.used = used;
        self.place = Hold::Here(worker);
    }

    pub(super) fn not_started(&mut self, why: impl Into<Cow<'static, str>>, fate: Fate, now: Mono) {
        self.meet(fate, now);
        self.go(WorkerState::Terminated, why, now);
    }

    /// Lends the worker that is here. One that is degraded is needed after all, so it is ready first.
    pub(super) fn lend(&mut self, now: Mono) -> Option<W> {
        let worker = self.take_out(Place::Away)?;
        if self.stage() == WorkerState::Degraded {
            self.go(WorkerState::Ready, "no other worker is free", now);
        }
        self.go(WorkerState::Busy, "a call", now);
        Some(worker)
    }

    /// Takes the worker back after a call.
    pub(super) fn rest(&mut self, worker: W, used: u64, now: Mono) {
        if self.unhealthy == 0 {
            self.go(WorkerState::Ready, "answered", now);
        } else {
            self.go(WorkerState::Degraded, "answered, but failed its last health check", now);
        }
        self.used = used;
        self.answered += 1;
        self.place = Hold::Here(worker);
    }

    /// Takes a worker back whose call was given up before it began.
    pub(super) fn not_taken(&mut self, worker: W, now: Mono) {
        self.rest(worker, self.used, now);
        self.answered -= 1;
    }

    /// Takes the worker back after it was asked how it is.
    pub(super) fn put_back(&mut self, worker: W, health: Health, why: String, now: Mono) {
        match (health, self.stage()) {
            (Health::Good, stage) => {
                self.unhealthy = 0;
                if stage == WorkerState::Degraded {
                    self.go(WorkerState::Ready, "is well again", now);
                }
            }
            (Health::Bad, stage) => {
                self.unhealthy = self.unhealthy.saturating_add(1);
                if stage == WorkerState::Ready {
                    self.go(WorkerState::Degraded, why, now);
                }
            }
            (Health::Unchanged, _) => {}
        }
        self.place = Hold::Here(worker);
    }

    /// The worker is not used any more; its process is still to end.
    pub(super) fn end(&mut self, why: impl Into<Cow<'static, str>>, fate: Fate, now: Mono) {
        self.meet(fate, now);
        self.go(WorkerState::Terminating, why, now);
        self.place = Hold::Out(Place::Away);
    }

    /// The worker's process is gone.
    pub(super) fn gone(&mut self, why: &str, now: Mono) -> Ended {
        let by_itself = self.stage().is_up();
        if by_itself {
            self.end("its process ended", Fate::Failed, now);
        }
        if self.stage() == WorkerState::Terminating {
            self.go(WorkerState::Terminated, why.to_owned(), now);
        }
        if by_itself { Ended::ByItself } else { Ended::Known }
    }

    fn meet(&mut self, fate: Fate, now: Mono) {
        let age = self.life.as_ref().map_or(Duration::ZERO, |life| now.since(life.born()));
        let proven = self.stage().is_up() && (self.answered > 0 || age >= PROVEN);
        self.fate = fate;
        self.failed = if proven || fate == Fate::Told { 0 } else { self.failed.saturating_add(1) };
    }

    fn go(&mut self, to: WorkerState, why: impl Into<Cow<'static, str>>, now: Mono) {
        let Some(life) = &mut self.life else { return };
        // Callers have looked at the state; should one be wrong, the state stays as it is and says so.
        if let Err(illegal) = life.go(to, now, why) {
            debug_assert!(false, "{illegal}");
            tracing::error!(%illegal, "a defect of the pool");
        }
    }
}
