//! The rules: facts held against limits. A rule speaks only when the exact value is over its limit; observed values are
//! rounded up, so that they say so too.

use cutover_policy::settings::Ratio;
use cutover_policy::{Finding, finding, text};

use crate::settings::Settings;
use crate::window::{Total, Totals};

const MILLION: u128 = 1_000_000;

/// What the rules look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Calls and worker failures within the window.
    pub totals: Totals,
    /// Growth of the memory of V2's workers per hour in parts per million; none if not known yet.
    pub growth_ppm: Option<u64>,
    /// The host's use of its processors in parts per million.
    pub cpu_ppm: Option<u64>,
    /// The host's use of its memory in parts per million.
    pub memory_ppm: Option<u64>,
}

/// What the rules said.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// Ask for a roll-back.
    pub roll_back: Vec<Finding>,
    /// Ask to tell people.
    pub warn: Vec<Finding>,
    /// Too few calls of V2 for rules on calls.
    pub hold: Vec<Finding>,
}

/// Asks every rule.
#[must_use]
pub fn ask(settings: &Settings, facts: &Facts) -> Findings {
    let mut said = Findings::default();
    let v2 = facts.totals.v2;
    if v2.requests < settings.min_requests {
        let note = format!("V2 answered {} of the {} calls that a verdict needs", v2.requests, settings.min_requests);
        said.hold.push(finding("too-little-data", v2.requests, settings.min_requests, "count", note));
    } else {
        error_rate(settings, v2, &mut said);
        said.warn.extend(p99(settings, v2));
        if facts.totals.v1.requests >= settings.min_requests {
            said.roll_back.extend(error_ratio(settings, &facts.totals));
            said.roll_back.extend(p99_ratio(settings, &facts.totals));
            said.warn.extend(degradation(settings, &facts.totals));
        }
    }
    said.roll_back.extend(worker_failures(settings, &facts.totals));
    said.roll_back.extend(memory_growth(settings, facts.growth_ppm));
    said.warn.extend(host("host-cpu", "processors", facts.cpu_ppm, settings.warn_cpu.0));
    said.warn.extend(host("host-memory", "memory", facts.memory_ppm, settings.warn_memory.0));
    said
}

fn error_rate(settings: &Settings, v2: Total, said: &mut Findings) {
    let ppm = quotient(u128::from(v2.errors) * MILLION, v2.requests.into());
    let over = |limit: u32| {
        let (rate, max) = (text::percent(text::round_up(ppm)), text::percent(limit.into()));
        let note = format!("V2 fails {rate} of its calls, more than {max}");
        (ppm > limit.into()).then(|| finding("v2-error-rate", ppm, limit.into(), "ppm", note))
    };
    if let Some(finding) = over(settings.max_error_rate.0) {
        said.roll_back.push(finding);
    } else {
        said.warn.extend(over(settings.warn_error_rate.0));
    }
}

fn error_ratio(settings: &Settings, totals: &Totals) -> Option<Finding> {
    let (v1, v2) = (totals.v1, totals.v2);
    let ppm = quotient(
        u128::from(v2.errors) * u128::from(v1.requests) * MILLION * MILLION,
        u128::from(v2.requests) * base_errors(settings, v1),
    );
    over_ratio("v2-error-ratio", ppm, settings.max_error_ratio, "V2's error rate")
}

fn p99(settings: &Settings, v2: Total) -> Option<Finding> {
    let (us, limit) = (p99_us(settings, v2)?, settings.warn_p99.0.saturating_mul(1_000));
    let note = format!("V2's p99 is {}, more than {}", text::latency(text::round_up(us)), text::latency(limit));
    (us > limit).then(|| finding("v2-p99", us, limit, "us", note))
}

fn p99_ratio(settings: &Settings, totals: &Totals) -> Option<Finding> {
    let (v1, v2) = (totals.v1.p99_us?.max(1), p99_us(settings, totals.v2)?);
    let ppm = quotient(u128::from(v2) * MILLION, v1.into());
    over_ratio("v2-p99-ratio", ppm, settings.max_p99_ratio, "V2's p99")
}

fn over_ratio(rule: &str, ppm: u64, Ratio(limit): Ratio, what: &str) -> Option<Finding> {
    let note = || {
        let (ratio, max) = (text::times(text::round_up(ppm)), text::times(limit.into()));
        format!("{what} is {ratio} V1's, more than {max}")
    };
    (ppm > limit.into()).then(|| finding(rule, ppm, limit.into(), "ratio-ppm", note()))
}

/// The mean of how much worse V2 is than V1 in latency and in errors, as the migration plan that this product grew from
/// has it: `(max(0, (l2 - l1) / l1) + max(0, (e2 - e1) / max(e1, floor))) / 2`.
fn degradation(settings: &Settings, totals: &Totals) -> Option<Finding> {
    let (v1, v2) = (totals.v1, totals.v2);
    let latency = match (v1.p99_us, p99_us(settings, v2)) {
        (Some(l1), Some(l2)) => {
            let l1 = l1.max(1);
            quotient(u128::from(l2.saturating_sub(l1)) * MILLION, l1.into())
        }
        _ => 0,
    };
    let more = (u128::from(v2.errors) * u128::from(v1.requests))
        .saturating_sub(u128::from(v1.errors) * u128::from(v2.requests));
    let errors = quotient(more * MILLION * MILLION, u128::from(v2.requests) * base_errors(settings, v1));
    let ppm = latency.saturating_add(errors).div_ceil(2);
    let limit = u64::from(settings.warn_degradation) * 10_000;
    let (worse, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    let note = format!("V2 is {worse} worse than V1 in the mean of latency and errors, more than {max}");
    (ppm > limit).then(|| finding("v2-degradation", ppm, limit, "ppm", note))
}

fn worker_failures(settings: &Settings, totals: &Totals) -> Option<Finding> {
    let (failures, wanted) = (totals.failures, totals.wanted);
    let (ppm, limit) = (quotient(u128::from(failures) * MILLION, wanted.into()), settings.max_worker_failures.0.into());
    let (rate, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    let note = format!("workers of V2 failed {failures} times, {rate} of {wanted}, more than {max}");
    (ppm > limit).then(|| finding("v2-worker-failures", ppm, limit, "ppm", note))
}

fn memory_growth(settings: &Settings, growth_ppm: Option<u64>) -> Option<Finding> {
    let (ppm, limit) = (growth_ppm?, settings.max_memory_growth.0.into());
    let (growth, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    let note = format!("the memory of V2's workers grows {growth} an hour, more than {max}");
    (ppm > limit).then(|| finding("v2-memory-growth", ppm, limit, "ppm", note))
}

fn host(rule: &str, what: &str, ppm: Option<u64>, limit: u32) -> Option<Finding> {
    let (ppm, limit) = (ppm?, limit.into());
    let (used, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    (ppm > limit)
        .then(|| finding(rule, ppm, limit, "ppm", format!("the host uses {used} of its {what}, more than {max}")))
}

/// V1's errors in millionths, or as many as make up the floor of its rate. At least one: neither is 0.
fn base_errors(settings: &Settings, v1: Total) -> u128 {
    let floor = u128::from(settings.error_floor.0) * u128::from(v1.requests);
    (u128::from(v1.errors) * MILLION).max(floor)
}

fn p99_us(settings: &Settings, v2: Total) -> Option<u64> {
    v2.p99_us.filter(|&us| us >= settings.p99_floor.0.saturating_mul(1_000))
}

/// Rounded up; 0 if there is nothing to divide by. A division of 128 bits takes a thousand instructions in the sandbox, so
/// what fits in 64 is divided as such.
fn quotient(numerator: u128, denominator: u128) -> u64 {
    if denominator == 0 {
        return 0;
    }
    match (u64::try_from(numerator), u64::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) => numerator.div_ceil(denominator),
        _ => u64::try_from(numerator.div_ceil(denominator)).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests;
