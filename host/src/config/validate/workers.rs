//! What a pool of worker processes is made of.

use std::{sync::Arc, time::Duration};

use super::At;
use crate::{
    config::raw::workers as raw,
    pool::{
        checkout::Order,
        process::Patience,
        restarts::Budget,
        spec::{Mode, Queue, Size, WarmUp},
    },
};

/// Workers that a pool may have: each is a process with pipes, and one machine runs them all.
const MAX_WORKERS: usize = 1_024;

/// Calls that may wait: each holds its arguments.
const MAX_WAITING: usize = 1_000_000;

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
