//! Looks after an open pool once a second: counts, samples what workers use, ends what nobody needs, and changes the
//! pool's size where the optimizer says so.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{Inner, WorkerPool};
use crate::pool::{
    load::{Load, Recent},
    optimizer::{self, Wanted},
    resources::{Gauge, Usage},
    spec::Mode,
    trend::{Samples, Trend},
};
use cutover_model::{
    clock::{self, Mono, UnixMs},
    facts,
};

/// Changes of size that are kept.
const KEPT: usize = 64;

/// What a pool remembers of what it had to do and what that took.
#[derive(Debug)]
pub(super) struct Ledger {
    recent: Mutex<Recent>,
    /// What each slot's worker uses, and the worker's number.
    used: Mutex<Vec<Option<Meters>>>,
    /// Mean resident memory of a worker, over time.
    memory: Mutex<Samples>,
    sizing: Mutex<Sizing>,
    /// Whether operators want the optimizer.
    optimizes: AtomicBool,
}

#[derive(Debug, Clone)]
pub(super) struct Meters {
    pub(super) number: u64,
    pub(super) gauge: Gauge,
    pub(super) memory: Samples,
}

#[derive(Debug, Default)]
struct Sizing {
    changed: Mono,
    /// Seconds counted since that change.
    spans: usize,
    changes: VecDeque<SizeChange>,
}

/// A change of a pool's size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeChange {
    /// When the size was changed.
    pub at: UnixMs,
    /// Regular workers before the change.
    pub from_workers: usize,
    /// Regular workers after the change.
    pub to_workers: usize,
    /// Workers of the overflow that there might be before the change.
    pub from_overflow: usize,
    /// Workers of the overflow that there may be after the change.
    pub to_overflow: usize,
    /// The reason, as it was logged.
    pub why: String,
}

impl Ledger {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            recent: Mutex::default(),
            used: Mutex::new(vec![None; slots]),
            memory: Mutex::default(),
            sizing: Mutex::default(),
            optimizes: AtomicBool::new(true),
        }
    }

    /// What the pool had to do in the last minute.
    pub(super) fn load(&self) -> Load {
        self.recent.lock().all()
    }

    pub(super) fn memory(&self) -> Option<Trend> {
        self.memory.lock().trend()
    }

    pub(super) fn changes(&self) -> Vec<SizeChange> {
        self.sizing.lock().changes.iter().cloned().collect()
    }

    /// What a slot's worker uses, if it was sampled.
    pub(super) fn used(&self, slot: usize, number: u64) -> Option<Meters> {
        self.used.lock().get(slot)?.clone().filter(|meters| meters.number == number)
    }

    pub(super) fn forget(&self) {
        self.memory.lock().clear();
        self.used.lock().fill(None);
    }
}

impl WorkerPool {
    /// Switches the optimizer on or off. Off, the pool keeps the size that it has.
    pub fn switch_optimizer(&self, on: bool) {
        self.0.ledger.optimizes.store(on, Ordering::Relaxed);
    }

    /// Measurements for policies: `v2.utilisation-ppm` over the last minute, `v2.memory-growth-ppm-per-hour` of a worker's
    /// mean resident memory and its standard error, and `v2.deadline-kills` since this was last asked. What is not known is
    /// left out, and so is nothing.
    pub fn gauges(&self) -> Vec<facts::Gauge> {
        let (pool, ledger) = (self.0.spec.id.name(), &self.0.ledger);
        let growth = ledger.memory().and_then(|trend| trend.ppm());
        let used = ledger.load().utilisation_ppm.map(i64::from);
        let kills = self.deadline_kills();
        let new = kills - self.0.overdue_told.swap(kills, Ordering::Relaxed);
        let all = [
            ("deadline-kills", i64::try_from(new).ok().filter(|new| *new > 0)),
            ("memory-growth-error-ppm-per-hour", growth.map(|(_, error)| error)),
            ("memory-growth-ppm-per-hour", growth.map(|(growth, _)| growth)),
            ("utilisation-ppm", used),
        ];
        let gauge =
            |(name, value): (&str, Option<i64>)| Some(facts::Gauge { name: format!("{pool}.{name}"), value: value? });
        all.into_iter().filter_map(gauge).collect()
    }
}

impl Inner {
    pub(super) fn tend(&self) {
        let now = clock::mono();
        let idle = u64::try_from(self.spec.size.overflow_idle.as_nanos()).unwrap_or(u64::MAX);
        let before = Mono::from_nanos(now.nanos().saturating_sub(idle));
        let (span, surplus) = {
            let mut checkout = self.checkout.lock();
            (checkout.cut(now), checkout.end_overflow(before, now))
        };
        for worker in surplus {
            self.end(worker);
        }
        self.ledger.recent.lock().push(span);
        self.sample(now);
        self.optimize(now);
    }

    fn sample(&self, now: Mono) {
        let running: Vec<_> = {
            let pids = self.pids.lock();
            let checkout = self.checkout.lock();
            let pid = |slot: usize| pids.get(slot).copied().flatten();
            checkout.slots().filter_map(|s| Some((s.slot, s.number, pid(s.slot)?))).collect()
        };
        let sampled = running.into_iter().filter_map(|(slot, number, pid)| Some((slot, number, Usage::of(pid)?)));
        let sampled: Vec<_> = sampled.collect();
        let mut used = self.ledger.used.lock();
        for (slot, number, usage) in &sampled {
            let Some(known) = used.get_mut(*slot) else { continue };
            let before = known.take().filter(|meters| meters.number == *number);
            let gauge = Gauge::next(before.as_ref().map(|meters| meters.gauge), now, *usage);
            let mut memory = before.map(|meters| meters.memory).unwrap_or_default();
            memory.add(now, usage.rss_bytes);
            *known = Some(Meters { number: *number, gauge, memory });
        }
        let sum: u64 = sampled.iter().map(|(_, _, usage)| usage.rss_bytes).sum();
        if let Some(mean) = sum.checked_div(sampled.len() as u64) {
            self.ledger.memory.lock().add(now, mean);
        }
    }

    fn optimize(&self, now: Mono) {
        let Some(settings) = self.spec.optimizer.filter(|_| self.ledger.optimizes.load(Ordering::Relaxed)) else {
            return;
        };
        let mut sizing = self.ledger.sizing.lock();
        sizing.spans += 1;
        let (shape, open) = {
            let checkout = self.checkout.lock();
            (checkout.shape(), checkout.is_open())
        };
        if !open || self.spec.mode == Mode::Serialized || sizing.spans < settings.window {
            return;
        }
        let load = self.ledger.recent.lock().last(settings.window);
        let from = Wanted { workers: shape.wanted, overflow: shape.overflow };
        let quiet = now.since(sizing.changed);
        let Some(resize) = optimizer::decide(&settings, &self.spec.size, from, &load, quiet) else { return };
        let to = resize.to;
        tracing::info!(pool = self.spec.label, ?from, ?to, "the pool changes its size: {}", resize.why);
        if sizing.changes.len() >= KEPT {
            sizing.changes.pop_front();
        }
        sizing.changes.push_back(SizeChange {
            at: clock::unix_ms(),
            from_workers: from.workers,
            to_workers: to.workers,
            from_overflow: from.overflow,
            to_overflow: to.overflow,
            why: resize.why,
        });
        (sizing.changed, sizing.spans) = (now, 0);
        drop(sizing);
        let surplus = self.checkout.lock().resize(to.workers, to.overflow, now);
        for worker in surplus {
            self.end(worker);
        }
        self.vacant.notify_one();
    }
}
