//! Brings free workers and calls that wait together.

use std::{collections::VecDeque, sync::Arc};

use super::{Checkout, Lent, QueueOrder, Waiter, slot::Slot};
use crate::pool::lifecycle::WorkerState;
use cutover_model::clock::Mono;

impl<W> Checkout<W> {
    /// Lets the calls that wait for a worker which is gone have any.
    pub(super) fn evict(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let queue = std::mem::take(&mut slot.queue);
        for waiter in queue {
            insert(&mut self.shared, waiter);
        }
    }

    /// The slot where a session is at home; a session that has none, or whose worker is gone, gets one with a worker that
    /// is free, otherwise where the fewest sessions are. None if no worker is up.
    pub(super) fn home(&mut self, session: &Arc<str>) -> Option<usize> {
        let home = self.homes.get(session).map(|home| home.slot);
        let stage = home.and_then(|at| self.slots.get(at)).map(Slot::stage);
        match stage {
            Some(WorkerState::Ready | WorkerState::Busy) => return home,
            Some(WorkerState::Degraded) if !self.has_ready() => return home,
            Some(
                WorkerState::Degraded | WorkerState::Initializing | WorkerState::Terminating | WorkerState::Terminated,
            )
            | None => {}
        }
        let up = self.slots.iter().enumerate().filter(|(_, slot)| slot.stage().is_up());
        let load = |(at, slot): (usize, &Slot<W>)| {
            (slot.stage() == WorkerState::Degraded, !slot.is_free(), self.homes.residents(at), slot.queue.len(), at)
        };
        let (.., at) = up.map(load).min()?;
        self.homes.settle(session, at);
        Some(at)
    }

    /// Whether a worker that is well is free.
    pub(super) fn has_ready(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_free() && slot.stage() == WorkerState::Ready)
    }

    /// The free worker that goes first.
    pub(super) fn best_free(&self) -> Option<usize> {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_free());
        let rank = |(at, slot): (usize, &Slot<W>)| {
            (slot.stage() == WorkerState::Ready, at < self.shape.regular, slot.used, at)
        };
        free.map(rank).max().map(|(.., at)| at)
    }

    pub(super) fn lend(&mut self, at: usize, now: Mono) -> Option<Lent<W>> {
        let slot = self.slots.get_mut(at)?;
        let number = slot.number;
        Some(Lent { slot: at, number, worker: slot.lend(now)? })
    }

    /// A session that had no home is at home with the worker that it got.
    pub(super) fn moved_in(&mut self, session: Option<&Arc<str>>, lent: Lent<W>) -> Lent<W> {
        if let Some(session) = session {
            self.homes.settle(session, lent.slot);
        }
        lent
    }

    /// Hands out workers as long as a free one and a waiter for it exist.
    pub(super) fn dispatch(&mut self, now: Mono) {
        while self.waiting() > 0 && self.busy() < self.shape.lanes {
            let Some((at, from)) = self.next() else { return };
            let Some(waiter) = self.take_waiter(from) else { return };
            if from.is_none()
                && let Some(elsewhere) = self.settled_elsewhere(&waiter, at)
            {
                // Another call of its session was faster and found a home.
                if let Some(slot) = self.slots.get_mut(elsewhere) {
                    insert(&mut slot.queue, waiter);
                }
                continue;
            }
            if let (Some(from), Some(session)) = (from.filter(|from| *from != at), &waiter.session) {
                self.move_session(session, from, at);
            }
            self.pass(now);
            let Some(lent) = self.lend(at, now) else { return };
            let wait = now.since(waiter.since);
            let lent = self.moved_in(waiter.session.as_ref(), lent);
            match waiter.hand_over.send(lent) {
                Ok(()) => self.meter.served(wait),
                Err(Lent { worker, .. }) => {
                    // The taker gave up while it waited.
                    if let Some(slot) = self.slots.get_mut(at) {
                        slot.not_taken(worker, now);
                    }
                }
            }
        }
    }

    /// A free worker and the queue of the call that it is to have: a slot's, or the shared one.
    pub(super) fn next(&self) -> Option<(usize, Option<usize>)> {
        let free = || self.slots.iter().enumerate().filter(|(_, slot)| slot.is_free());
        let own = free().filter_map(|(at, slot)| Some((self.first(&slot.queue)?, at, Some(at))));
        let any = self.best_free().and_then(|at| Some((self.first(&self.shared)?, at, None)));
        let best = match self.shape.order {
            QueueOrder::Fifo => own.chain(any).min(),
            QueueOrder::Lifo => own.chain(any).max(),
        };
        best.map(|(_, at, from)| (at, from)).or_else(|| self.take_over().map(|(at, from)| (at, Some(from))))
    }

    /// A free worker, and a busy one with so many more sessions that one of those that wait there should move.
    pub(super) fn take_over(&self) -> Option<(usize, usize)> {
        let at = self.best_free()?;
        let few = self.homes.residents(at);
        let crowded = |(from, slot): (usize, &Slot<W>)| {
            let waits = slot.queue.iter().any(|w| w.session.is_some());
            (waits && self.homes.residents(from) > few + 1).then(|| (self.homes.residents(from), from))
        };
        self.slots.iter().enumerate().filter_map(crowded).max().map(|(_, from)| (at, from))
    }

    pub(super) fn first(&self, queue: &VecDeque<Waiter<W>>) -> Option<u64> {
        match self.shape.order {
            QueueOrder::Fifo => queue.front(),
            QueueOrder::Lifo => queue.back(),
        }
        .map(|w| w.ticket)
    }

    pub(super) fn take_waiter(&mut self, from: Option<usize>) -> Option<Waiter<W>> {
        let queue = match from {
            Some(at) => &mut self.slots.get_mut(at)?.queue,
            None => &mut self.shared,
        };
        match self.shape.order {
            QueueOrder::Fifo => queue.pop_front(),
            QueueOrder::Lifo => queue.pop_back(),
        }
    }

    /// Where the session of a call in the shared queue is at home by now, if not with the worker that is free.
    pub(super) fn settled_elsewhere(&mut self, waiter: &Waiter<W>, at: usize) -> Option<usize> {
        let home = self.homes.get(waiter.session.as_ref()?)?.slot;
        (home != at && matches!(self.slots.get(home)?.stage(), WorkerState::Ready | WorkerState::Busy)).then_some(home)
    }

    /// The other calls of a session that moves wait where it goes.
    pub(super) fn move_session(&mut self, session: &Arc<str>, from: usize, to: usize) {
        let Some(slot) = self.slots.get_mut(from) else { return };
        let (moving, staying): (VecDeque<_>, _) =
            std::mem::take(&mut slot.queue).into_iter().partition(|w| w.session.as_ref() == Some(session));
        slot.queue = staying;
        if let Some(slot) = self.slots.get_mut(to) {
            for waiter in moving {
                insert(&mut slot.queue, waiter);
            }
        }
    }
}

/// Queues are in the order of their tickets.
fn insert<W>(queue: &mut VecDeque<Waiter<W>>, waiter: Waiter<W>) {
    let at = queue.partition_point(|w| w.ticket < waiter.ticket);
    queue.insert(at, waiter);
}
