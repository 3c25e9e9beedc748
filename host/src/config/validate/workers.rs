//! What a pool of worker processes is made of.

use std::{sync::Arc, time::Duration};

use super::At;
use crate::{
    config::raw::workers as raw,
    pool::{
        breaker,
        checkout::Order,
        process::Patience,
        recovery::{Recovery, Rule},
        restarts::Budget,
        spec::{Mode, Queue, Size, WarmUp},
    },
    request::FailureKind,
};

/// Workers that a pool may have: each is a process with pipes, and one machine runs them all.
const MAX_WORKERS: usize = 1_024;

/// Calls that may wait: each holds its arguments.
const MAX_WAITING: usize = 1_000_000;

/// Attempts beyond the first: with exponential backoff, and within deadlines, there are never so many.
const MAX_RETRIES: usize = 100;

/// Warm-up calls of each worker.
const MAX_CALLS: usize = 100;

pub(super) fn size(at: &mut At<'_>, raw: &raw::Workers, mode: Mode) -> Size {
    let range = match raw {
        raw::Workers::Fixed(workers) => {
            within(at, *workers, 1, MAX_WORKERS);
            return Size { min: *workers, max: *workers, overflow: 0, most_overflow: 0, overflow_idle: Duration::ZERO };
        }
        raw::Workers::Range(range) => range,
    };
    let max = range.max.unwrap_or(range.min);
    within(&mut at.field("min"), range.min, 1, MAX_WORKERS);
    if max != range.min {
        within(&mut at.field("max"), max, range.min, MAX_WORKERS);
    }
    within(&mut at.field("overflow"), range.overflow, 0, MAX_WORKERS);
    if mode == Mode::Serialized && range.overflow > 0 {
        at.field("overflow")
            .wrong("is for pools that are `concurrent`: one that is `serialized` lends one worker at a time");
    }
    Size {
        min: range.min,
        max,
        overflow: range.overflow,
        most_overflow: range.overflow,
        overflow_idle: at.field("overflow_idle").duration(&range.overflow_idle, "1s", "1d"),
    }
}

pub(super) fn queue(at: &mut At<'_>, raw: &raw::Queue) -> Queue {
    let order = match raw.order.as_str() {
        "fifo" => Order::Fifo,
        "lifo" => Order::Lifo,
        other => {
            at.field("order").wrong(&format!("is `{other}`; it must be `fifo` or `lifo`"));
            Order::Fifo
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
