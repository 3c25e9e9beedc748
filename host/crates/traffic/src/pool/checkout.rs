//! Who gets which worker next, and which workers there are to be: a pure queue, without processes; `now` is passed in.
//!
//! A call either takes any worker or the one where its session is at home. Among the calls that a free worker could
//! serve, the one that has waited longest goes first (or, if the pool says so, the one that came last); among free
//! workers, one that is well before one that is degraded, a regular one before one of the overflow, then the one that
//! was used last, so that the others may stay cold. A session moves when its worker is gone, or is busy while another
//! worker with fewer sessions is free. A serialized pool is the same with one lane. Waiting is bounded.
//!
//! **Invariant**: a worker is lent once, nobody waits for a worker that is free, and every slot's [`Lifecycle`] goes
//! through legal moves alone.

mod dispatch;
mod slot;
mod types;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::oneshot;

pub use self::slot::{Ended, SlotView};
use self::slot::{Fate, Place, Slot};
use super::{
    lifecycle::{Lifecycle, WorkerState},
    load::{Meter, Span},
};
use crate::pool::affinity::Affinity;
pub use crate::pool::checkout::types::{
    Broken, Health, Left, Lent, Pending, QueueOrder, Refusal, Shape, Turn, Vacancy,
};
use cutover_model::clock::Mono;

/// Workers whose life is kept after others took their places.
const KEPT_LIVES: usize = 16;

/// The queue of one pool. `W` is a worker.
#[derive(Debug)]
pub struct Checkout<W> {
    shape: Shape,
    slots: Vec<Slot<W>>,
    shared: VecDeque<Waiter<W>>,
    homes: Affinity,
    tickets: u64,
    workers: u64,
    open: bool,
    /// Workers that were replaced: slot, number, life.
    before: VecDeque<(usize, u64, Lifecycle)>,
    meter: Meter,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    since: Mono,
    session: Option<Arc<str>>,
    hand_over: oneshot::Sender<Lent<W>>,
}

impl<W> Checkout<W> {
    /// A closed pool of empty slots.
    pub fn new(shape: Shape) -> Self {
        let slots = shape.regular + shape.max_overflow;
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            shared: VecDeque::new(),
            homes: Affinity::new(slots, shape.max_sessions),
            tickets: 0,
            workers: 0,
            open: false,
            before: VecDeque::new(),
            meter: Meter::default(),
            shape,
        }
    }

    /// Lets calls in, until it is closed.
    pub const fn open(&mut self) {
        self.open = true;
    }

    /// Lets no call in any more and turns away those that wait.
    pub fn close(&mut self) {
        self.open = false;
        self.shared.clear();
        self.slots.iter_mut().for_each(|slot| slot.queue.clear());
    }

    /// Whether calls are let in.
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Asks for a worker: the one where the session is at home, or any.
    ///
    /// # Errors
    /// Why the call does not even wait.
    pub fn acquire(&mut self, session: Option<&Arc<str>>, now: Mono) -> Result<Turn<W>, Refusal> {
        if !self.open {
            return Err(Refusal::Closed);
        }
        self.pass(now);
        let home = session.and_then(|session| self.home(session));
        if self.busy() < self.shape.lanes {
            let free = match home {
                Some(at) => Some(at).filter(|at| self.slots.get(*at).is_some_and(Slot::is_free)),
                None => self.best_free(),
            };
            // A call that waits, waits for another worker or for a lane.
            if let Some(lent) = free.and_then(|at| self.lend(at, now)) {
                let lent = self.moved_in(session, lent);
                self.meter.served(Duration::ZERO);
                // A session that came or went may make another move worth its while.
                self.dispatch(now);
                return Ok(Turn::Now(lent));
            }
        }
        if self.waiting() >= self.shape.max_waiting {
            self.dispatch(now);
            return Err(Refusal::Full);
        }
        self.tickets += 1;
        let (ticket, (hand_over, worker)) = (self.tickets, oneshot::channel());
        let waiter = Waiter { ticket, since: now, session: session.cloned(), hand_over };
        match home.and_then(|at| self.slots.get_mut(at)) {
            Some(slot) => slot.queue.push_back(waiter),
            None => self.shared.push_back(waiter),
        }
        // Its worker may be busy while another could take the session over.
        self.dispatch(now);
        Ok(Turn::Later(Pending { ticket, worker }))
    }

    /// Takes a call out of the queue, because it waits no more.
    pub fn give_up(&mut self, ticket: u64) {
        self.shared.retain(|w| w.ticket != ticket);
        for slot in &mut self.slots {
            slot.queue.retain(|w| w.ticket != ticket);
        }
    }

    /// Takes a worker back after a call. Returns it if it is not wanted any more and has to be ended.
    pub fn hand_in(&mut self, slot: usize, number: u64, worker: W, now: Mono) -> Option<W> {
        self.pass(now);
        let surplus = !self.open || !self.is_wanted(slot);
        let tickets = self.next_ticket();
        let own = self.slots.get_mut(slot).filter(|s| s.number == number && s.stage() == WorkerState::Busy);
        // Its process ended meanwhile: the slot has or will have another.
        let Some(own) = own else { return Some(worker) };
        let left = if surplus {
            own.end("not wanted any more", Fate::Told, now);
            self.evict(slot);
            Some(worker)
        } else {
            own.rest(worker, tickets, now);
            None
        };
        self.dispatch(now);
        left
    }

    /// Takes note that a worker is not to be used any more; true if that was not known. Its process is still to end.
    pub fn give_up_worker(&mut self, slot: usize, number: u64, why: Broken, now: Mono) -> bool {
        self.pass(now);
        let Some(own) = self.slots.get_mut(slot).filter(|s| s.number == number && s.stage().is_up()) else {
            return false;
        };
        match why {
            Broken::Overdue(why) => own.end(why, Fate::Overdue, now),
            Broken::Failed(why) => own.end(why, Fate::Failed, now),
        }
        self.evict(slot);
        self.dispatch(now);
        true
    }

    /// Takes note that a worker's process is gone.
    pub fn gone(&mut self, slot: usize, number: u64, why: &str, now: Mono) -> Ended {
        if self.slots.get(slot).is_none_or(|s| s.number != number) {
            return Ended::Known;
        }
        self.pass(now);
        self.meter.ended();
        let Some(own) = self.slots.get_mut(slot) else { return Ended::Known };
        let ended = own.gone(why, now);
        if ended == Ended::ByItself {
            self.evict(slot);
            self.dispatch(now);
        }
        ended
    }

    /// Takes a free worker out to ask it how it is.
    pub fn examine(&mut self, slot: usize) -> Option<Lent<W>> {
        let own = self.slots.get_mut(slot).filter(|s| s.is_free())?;
        let number = own.number;
        Some(Lent { slot, number, worker: own.take_out(Place::Examined)? })
    }

    /// Takes a worker back that was asked how it is. With its `limit`th failure in a row it has to go.
    pub fn examined(&mut self, lent: Lent<W>, health: Health, why: String, limit: u32, now: Mono) -> Left<W> {
        self.pass(now);
        let Lent { slot, number, worker } = lent;
        let surplus = !self.open || !self.is_wanted(slot);
        let own = self.slots.get_mut(slot).filter(|s| s.number == number && s.place() == Place::Examined);
        let Some(own) = own.filter(|s| s.stage().is_up()) else { return Left::Surplus(worker) };
        let goes = if surplus {
            own.end("not wanted any more", Fate::Told, now);
            Left::Surplus(worker)
        } else if health == Health::Bad && own.unhealthy + 1 >= limit {
            own.end(format!("failed {limit} health checks in a row: {why}"), Fate::Failed, now);
            Left::Sick(worker)
        } else {
            own.put_back(worker, health, why, now);
            Left::Nothing
        };
        // Calls that wait for a sick worker may have another one.
        if health == Health::Bad || !matches!(goes, Left::Nothing) {
            self.evict(slot);
        }
        self.dispatch(now);
        goes
    }

    /// Slots for which a worker has to be started. The caller must [`begin`](Self::begin) or [`leave`](Self::leave)
    /// each of them.
    pub fn vacancies(&mut self) -> Vec<Vacancy> {
        if !self.open {
            return Vec::new();
        }
        let empty = |at: &usize| self.slots.get(*at).is_some_and(Slot::is_empty);
        let mut vacant: Vec<_> = (0..self.shape.wanted).filter(empty).collect();
        if vacant.is_empty() && self.wants_overflow() {
            vacant.extend(self.overflow().find(empty));
        }
        let claim = |slot: usize| {
            let own = self.slots.get_mut(slot)?;
            own.claimed = true;
            Some(Vacancy { slot, death: own.death() })
        };
        vacant.into_iter().filter_map(claim).collect()
    }

    /// A worker is started for a vacancy. Returns its number, or nothing if it is not wanted any more.
    pub fn begin(&mut self, slot: usize, now: Mono) -> Option<u64> {
        let wanted = self.open && self.is_wanted(slot);
        let own = self.slots.get_mut(slot).filter(|s| s.claimed)?;
        own.claimed = false;
        if !wanted {
            return None;
        }
        self.workers += 1;
        let number = own.number;
        if let Some(life) = own.begin(self.workers, now) {
            self.before.push_back((slot, number, life));
            if self.before.len() > KEPT_LIVES {
                self.before.pop_front();
            }
        }
        Some(self.workers)
    }

    /// No worker is started for a vacancy.
    pub fn leave(&mut self, slot: usize) {
        if let Some(own) = self.slots.get_mut(slot) {
            own.claimed = false;
        }
    }

    /// Whether there is a worker to start.
    pub fn needs_start(&self) -> bool {
        let regular = self.slots.iter().take(self.shape.wanted);
        self.open && (regular.into_iter().any(Slot::is_empty) || self.wants_overflow())
    }

    /// Fills a slot with the worker that was started for it. Returns it if it is not wanted any more.
    pub fn started(&mut self, slot: usize, number: u64, worker: W, now: Mono) -> Option<W> {
        self.pass(now);
        let wanted = self.open && self.is_wanted(slot);
        let tickets = self.next_ticket();
        let own = self.slots.get_mut(slot).filter(|s| s.number == number && s.stage() == WorkerState::Initializing);
        let Some(own) = own else { return Some(worker) };
        if !wanted {
            own.not_started("not wanted any more", Fate::Told, now);
            return Some(worker);
        }
        own.started(worker, tickets, now);
        self.meter.created();
        self.dispatch(now);
        None
    }

    /// The worker for a slot did not start, because it failed or because it is not wanted any more.
    pub fn not_started(&mut self, slot: usize, number: u64, why: &str, now: Mono) {
        let fate = if self.open && self.is_wanted(slot) { Fate::Failed } else { Fate::Told };
        let own = self.slots.get_mut(slot).filter(|s| s.number == number && s.stage() == WorkerState::Initializing);
        if let Some(own) = own {
            own.not_started(why.to_owned(), fate, now);
        }
    }

    /// Changes how many workers there are to be. Returns those that are free and have to be ended; of the others, each
    /// is returned when it is handed in.
    pub fn resize(&mut self, wanted: usize, overflow: usize, now: Mono) -> Vec<W> {
        self.shape.wanted = wanted.clamp(1, self.shape.regular);
        self.shape.overflow = overflow.min(self.shape.max_overflow);
        let surplus: Vec<_> = (0..self.slots.len()).filter(|at| !self.is_wanted(*at)).collect();
        let ended = surplus.into_iter().filter_map(|at| self.retire(at, "the pool is smaller now", now)).collect();
        self.dispatch(now);
        ended
    }

    /// Takes out workers of the overflow that no call has needed since `before`, to be ended.
    pub fn end_overflow(&mut self, before: Mono, now: Mono) -> Vec<W> {
        let idle = |slot: &Slot<W>| slot.is_free() && slot.since() <= before;
        let overflow = self.slots.iter().enumerate().skip(self.shape.regular);
        let ended: Vec<_> = overflow.filter(|(_, slot)| idle(slot)).map(|(at, _)| at).collect();
        ended.into_iter().filter_map(|at| self.retire(at, "calls wait no more", now)).collect()
    }

    /// Takes all free workers out, to be ended.
    pub fn end_free(&mut self, now: Mono) -> Vec<W> {
        (0..self.slots.len()).filter_map(|at| self.retire(at, "the pool was stopped", now)).collect()
    }

    /// Forgets where sessions are at home.
    pub fn forget_homes(&mut self) {
        self.homes.clear();
    }

    /// The version of a session's state, or of the state without a session, that a worker has.
    pub fn known(&mut self, session: Option<&Arc<str>>, slot: usize, number: u64) -> u64 {
        match session {
            Some(session) => {
                self.homes.get(session).filter(|h| (h.slot, h.worker) == (slot, number)).map_or(0, |h| h.version)
            }
            None => self.slots.get(slot).filter(|s| s.number == number).map_or(0, |s| s.shared_version),
        }
    }

    /// Takes note of what a worker has.
    pub fn learned(&mut self, session: Option<&Arc<str>>, slot: usize, number: u64, version: u64) {
        match (session, self.slots.get_mut(slot).filter(|s| s.number == number)) {
            (Some(session), Some(_)) => self.homes.learned(session, slot, number, version),
            (None, Some(own)) => own.shared_version = version,
            (_, None) => {}
        }
    }

    /// Workers that can take or have a call.
    pub fn ready(&self) -> usize {
        self.slots.iter().filter(|s| s.stage().is_up()).count()
    }

    /// Whether a worker is being started right now.
    pub fn is_starting(&self) -> bool {
        self.slots.iter().any(|s| s.stage() == WorkerState::Initializing)
    }

    /// Workers that have a call.
    pub fn busy(&self) -> usize {
        self.slots.iter().filter(|s| s.stage() == WorkerState::Busy).count()
    }

    /// Slots whose worker is free.
    pub fn free_slots(&self) -> Vec<usize> {
        self.slots.iter().enumerate().filter(|(_, s)| s.is_free()).map(|(at, _)| at).collect()
    }

    /// How many calls wait, in all queues together.
    pub fn waiting(&self) -> usize {
        self.shared.len() + self.slots.iter().map(|s| s.queue.len()).sum::<usize>()
    }

    /// Ends a span of counting.
    pub fn cut(&mut self, now: Mono) -> Span {
        self.pass(now);
        let waiting = self.waiting();
        self.meter.cut(waiting)
    }

    /// What the pool is made of now.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The slots that have or had a worker.
    pub fn slots(&self) -> impl Iterator<Item = SlotView<'_>> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| {
            Some(SlotView {
                slot: at,
                number: slot.number,
                life: slot.life.as_ref()?,
                unhealthy: slot.unhealthy,
                overflow: at >= self.shape.regular,
                sessions: self.homes.residents(at),
            })
        })
    }

    /// The workers that others replaced, oldest first: slot, number and life.
    pub fn replaced(&self) -> impl Iterator<Item = &(usize, u64, Lifecycle)> {
        self.before.iter()
    }

    fn overflow(&self) -> std::ops::Range<usize> {
        self.shape.regular..self.shape.regular + self.shape.overflow
    }

    /// Counts the time since the last change, before the next.
    fn pass(&mut self, now: Mono) {
        let (busy, able) = (self.busy(), self.ready().min(self.shape.lanes));
        self.meter.pass(now, busy, able);
    }

    const fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    const fn is_wanted(&self, slot: usize) -> bool {
        let Shape { wanted, regular, overflow, .. } = self.shape;
        slot < wanted || (slot >= regular && slot < regular + overflow)
    }

    /// Whether one more worker would help: all are busy, none is on its way, and calls wait.
    fn wants_overflow(&self) -> bool {
        let room = self.overflow().any(|at| self.slots.get(at).is_some_and(Slot::is_empty));
        let busy = self.busy();
        let all_busy = busy > 0 && busy == self.ready() && !self.slots.iter().any(Slot::is_coming);
        room && all_busy && self.waiting() > 0
    }

    fn retire(&mut self, at: usize, why: &'static str, now: Mono) -> Option<W> {
        self.pass(now);
        let slot = self.slots.get_mut(at).filter(|s| s.is_free())?;
        let worker = slot.take_out(Place::Away)?;
        slot.end(why, Fate::Told, now);
        self.evict(at);
        Some(worker)
    }
}

#[cfg(test)]
mod tests;
