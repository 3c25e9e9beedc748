//! What a pool of worker processes is made of.

use std::sync::Arc;

use super::At;
use crate::config::raw::workers as raw;
use cutover_model::request::FailureKind;
use cutover_traffic::pool::{
    breaker,
    checkout::QueueOrder,
    optimizer,
    process::Patience,
    recovery::{Recovery, Rule},
    restarts::Budget,
    spec::{Mode, Queue, Size, WarmUp},
};

/// Workers that a pool may have: each is a process with pipes, and one machine runs them all.
const MAX_WORKERS: usize = 1_024;

/// Calls that may wait: each holds its arguments.
const MAX_WAITING: usize = 1_000_000;

/// Attempts beyond the first: with exponential backoff, and within deadlines, there are never so many.
const MAX_RETRIES: usize = 100;

/// Warm-up calls of each worker.
const MAX_CALLS: usize = 100;

pub(super) fn size(pool: &mut At<'_>, raw: &raw::Workers, optimizer: &raw::Optimizer, mode: Mode) -> Size {
    let range = match raw {
        raw::Workers::Fixed(workers) => {
            within(&mut pool.field("workers"), *workers, 1, MAX_WORKERS);
            raw::Range::fixed(*workers)
        }
        raw::Workers::Range(range) => range.clone(),
    };
    let mut at = pool.field("workers");
    let max = range.max.unwrap_or(range.min);
    if matches!(raw, raw::Workers::Range(_)) {
        within(&mut at.field("min"), range.min, 1, MAX_WORKERS);
    }
    if max != range.min {
        within(&mut at.field("max"), max, range.min, MAX_WORKERS);
    }
    within(&mut at.field("overflow"), range.overflow, 0, MAX_WORKERS);
    if mode == Mode::Serialized && range.overflow > 0 {
        at.field("overflow")
            .wrong("is for pools that are `concurrent`: one that is `serialized` lends one worker at a time");
    }
    let overflow_idle = at.field("overflow_idle").duration(&range.overflow_idle, "1s", "1d");
    // Without bounds that hold there is nothing to build a pool from; nobody will.
    let (min, overflow) = (range.min.min(MAX_WORKERS), range.overflow.min(MAX_WORKERS));
    let max_overflow = optimizer.max_overflow.unwrap_or((2 * overflow).min(MAX_WORKERS));
    within(&mut pool.field("optimizer").field("max_overflow"), max_overflow, overflow, MAX_WORKERS);
    Size {
        min,
        max: max.clamp(min, MAX_WORKERS),
        overflow,
        max_overflow: max_overflow.clamp(overflow, MAX_WORKERS),
        overflow_idle,
    }
}

pub(super) fn optimizer(at: &mut At<'_>, raw: &raw::Optimizer) -> Option<optimizer::Settings> {
    within(&mut at.field("grow_above"), raw.grow_above as usize, 1, 100);
    within(&mut at.field("shrink_below"), raw.shrink_below as usize, 0, 50);
    let settings = optimizer::Settings {
        grow_above: raw.grow_above.saturating_mul(10_000),
        shrink_below: raw.shrink_below.saturating_mul(10_000),
        wait_above: at.field("wait_above").duration(&raw.wait_above, "1ms", "1h"),
        window: usize::try_from(at.field("window").duration(&raw.window, "1s", "1m").as_secs()).unwrap_or(usize::MAX),
        cool_down: at.field("cool_down").duration(&raw.cool_down, "1s", "1d"),
    };
    raw.enabled.then_some(settings)
}

pub(super) fn queue(at: &mut At<'_>, raw: &raw::Queue) -> Queue {
    let order = match raw.order.as_str() {
        "fifo" => QueueOrder::Fifo,
        "lifo" => QueueOrder::Lifo,
        other => {
            at.field("order").wrong(&format!("is `{other}`; it must be `fifo` or `lifo`"));
            QueueOrder::Fifo
        }
    };
    within(&mut at.field("most"), raw.most, 0, MAX_WAITING);
    let timeout = raw.timeout.as_ref().map(|timeout| at.field("timeout").duration(timeout, "1ms", "1h"));
    Queue { order, most: raw.most, timeout }
}

pub(super) fn restarts(at: &mut At<'_>, raw: &raw::Restarts) -> Budget {
    within(&mut at.field("count"), raw.count, 0, 10_000);
    Budget { count: raw.count, within: at.field("within").duration(&raw.within, "1s", "1d") }
}

pub(super) fn warm_up(at: &mut At<'_>, raw: raw::WarmUp) -> WarmUp {
    let at_once = match raw.order.as_str() {
        "parallel" => usize::MAX,
        "sequential" => 1,
        "staged" => {
            within(&mut at.field("stage"), raw.stage, 1, MAX_WORKERS);
            raw.stage
        }
        other => {
            at.field("order").wrong(&format!("is `{other}`; it must be `parallel`, `sequential` or `staged`"));
            1
        }
    };
    if raw.calls.len() > MAX_CALLS {
        at.field("calls").wrong(&format!("has {} calls; there may be {MAX_CALLS}", raw.calls.len()));
    }
    let timeout = at.field("timeout").duration(&raw.timeout, "1ms", "1h");
    let calls = raw.calls.into_iter().map(|call| (Arc::from(call.operation), call.arguments)).collect();
    WarmUp { at_once, calls, timeout }
}

pub(super) fn errors(at: &mut At<'_>, raw: &raw::Errors) -> Recovery {
    let rows = [
        ("initialization", FailureKind::Initialization, raw.initialization),
        ("connection", FailureKind::Connection, raw.connection),
        ("communication", FailureKind::Communication, raw.communication),
        ("timeout", FailureKind::Timeout, raw.timeout),
        ("resource", FailureKind::Resource, raw.resource),
        ("health_check", FailureKind::HealthCheck, raw.health_check),
        ("session", FailureKind::Session, raw.session),
        ("worker", FailureKind::Worker, raw.worker),
        ("system", FailureKind::System, raw.system),
    ];
    let mut recovery = Recovery::default();
    for (name, kind, row) in rows {
        let default = Rule::default_of(kind);
        let retries = row.retries.unwrap_or(default.retries);
        within(&mut at.field(name).field("retries"), retries as usize, 0, MAX_RETRIES);
        let rule = Rule {
            severity: row.severity.unwrap_or(default.severity),
            strategy: row.strategy.unwrap_or(default.strategy),
            retries,
            backoff: row.backoff.unwrap_or(default.backoff),
        };
        recovery.set(kind, rule);
    }
    let mut times = at.field("backoff");
    recovery.linear = times.field("linear").duration(&raw.backoff.linear, "1ms", "1h");
    recovery.exponential = times.field("exponential").duration(&raw.backoff.exponential, "1ms", "1h");
    recovery.longest = times.field("longest").duration(&raw.backoff.longest, "1ms", "1h");
    recovery
}

pub(super) fn breaker(at: &mut At<'_>, raw: &raw::Breaker) -> Option<breaker::Settings> {
    for (name, value) in [("failures", raw.failures), ("trials", raw.trials), ("successes", raw.successes)] {
        within(&mut at.field(name), value as usize, 1, 10_000);
    }
    let settings = breaker::Settings {
        failures: raw.failures,
        open_for: at.field("open_for").duration(&raw.open_for, "10ms", "1d"),
        trials: raw.trials,
        successes: raw.successes,
    };
    raw.enabled.then_some(settings)
}

pub(super) fn stop(at: &mut At<'_>, raw: &raw::Stop) -> Patience {
    Patience {
        close: at.field("close").duration(&raw.close, "0s", "1h"),
        term: at.field("term").duration(&raw.term, "0s", "1h"),
    }
}

pub(super) fn within(at: &mut At<'_>, value: usize, least: usize, most: usize) {
    if !(least..=most).contains(&value) {
        at.wrong(&format!("is {value}; it must be between {least} and {most}"));
    }
}
