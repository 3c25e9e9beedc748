//! The rules: facts held against limits.
//!
//! A limit is broken only if it still were with fewer of what broke it (`min_errors` less one failed calls, and the like),
//! so that one odd call of few breaks none. A rule asks for a roll-back if besides that it is V2's own trouble: many
//! sessions have it, V1 does not have it too, and the latest check shows it still. Otherwise it warns. Observed values
//! are rounded up, so that what is over its limit also reads so.

mod errors;
mod latency;
mod members;

use cutover_policy::{Finding, finding, settings::Ratio, text};

pub(crate) use self::latency::p99_us;
use crate::{
    growth::Growth,
    members::Failures,
    settings::Settings,
    statuses::Moved,
    window::{Run, Sessions, Total, Totals},
};

const MILLION: u128 = 1_000_000;

/// What the rules look at.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Calls within the window.
    pub window: Totals,
    /// Calls of the latest check.
    pub latest: Totals,
    /// Calls since V2 last answered one well.
    pub run: Run,
    /// V2's sessions in this stage.
    pub sessions: Sessions,
    /// Whether V2's calls are mirrored ones, which have no sessions.
    pub mirrored: bool,
    /// How old the stage is.
    pub stage_age_ms: u64,
    /// V1's p99 in microseconds when it had calls last, if it ever had.
    pub v1_p99_us: Option<u64>,
    /// The operation whose answers are of other classes of status than V1's.
    pub statuses: Option<Moved>,
    /// Members that failed.
    pub failures: Failures,
    /// Growth of the memory of V2's workers; none if not known yet.
    pub growth: Option<Growth>,
    /// The host's use of its processors in parts per million.
    pub cpu_ppm: Option<u64>,
    /// The host's use of its memory in parts per million.
    pub memory_ppm: Option<u64>,
}

/// What the rules said.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// Ask for a roll-back at once.
    pub at_once: Vec<Finding>,
    /// Ask for a roll-back.
    pub roll_back: Vec<Finding>,
    /// Ask to tell people.
    pub warn: Vec<Finding>,
    /// Too few calls or sessions of V2.
    pub hold: Vec<Finding>,
    /// What people may want to see, and no reason to stay.
    pub notice: Vec<Finding>,
    /// Whether the calls of the window break a limit from which everything goes back, whoever's trouble it is.
    pub is_over: bool,
}

/// Asks every rule.
#[must_use]
pub fn ask(settings: &Settings, facts: &Facts) -> Findings {
    let mut said = Findings::default();
    said.at_once.extend(errors::outage(settings, facts));
    said.hold.extend(too_little(settings, facts));
    if facts.window.v2.requests >= settings.min_requests {
        errors::rate(settings, facts, &mut said);
        errors::ratio(settings, facts, &mut said);
        latency::p99_ratio(settings, facts, &mut said);
        latency::p99(settings, facts, &mut said);
        degradation(settings, facts, &mut said);
    }
    said.warn.extend(facts.statuses.as_ref().map(|moved| statuses(settings, moved)));
    members::failures(settings, facts.failures, &mut said);
    said.roll_back.extend(members::growth(settings, facts.growth));
    said.warn.extend(host("host-memory", "memory", facts.memory_ppm, settings.warn_memory.0));
    // Often another program's, and no fault of V2: people see it, and the ramp goes on.
    said.notice.extend(host("host-cpu", "processors", facts.cpu_ppm, settings.warn_cpu.0));
    said
}

fn too_little(settings: &Settings, facts: &Facts) -> Option<Finding> {
    let (calls, enough) = (facts.window.v2.requests, settings.min_requests);
    if calls < enough {
        let note = format!("V2 answered {calls} of the {enough} calls that a verdict needs");
        return Some(finding("too-little-data", calls, enough, "count", note));
    }
    let (sessions, enough) = (facts.sessions.seen, settings.min_sessions);
    let note = || format!("{sessions} of the {enough} sessions that a verdict needs were on V2 in this stage");
    (sessions < enough && !facts.mirrored).then(|| finding("too-little-data", sessions, enough, "count", note()))
}

/// The mean of how much worse V2 is than V1 in latency and in errors, as the migration plan that this product grew from
/// has it: `(max(0, (l2 - l1) / l1) + max(0, (e2 - e1) / max(e1, floor))) / 2`.
fn degradation(settings: &Settings, facts: &Facts, said: &mut Findings) {
    if facts.window.v1.requests < settings.min_requests {
        return;
    }
    let errors = errors::more(settings, facts);
    let (slower, is_felt) = latency::slower(settings, facts);
    let limit = u64::from(settings.warn_degradation) * 10_000;
    let found = |ppm: u64| {
        let (worse, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
        let note = format!("V2 is {worse} worse than V1 in the mean of latency and errors, more than {max}");
        (ppm > limit).then(|| finding("v2-degradation", ppm, limit, "ppm", note))
    };
    let mean = |slower: u64| slower.saturating_add(errors).div_ceil(2);
    match found(mean(if is_felt { slower } else { 0 })) {
        Some(felt) => said.warn.push(felt),
        // Fractions of what anybody notices are shown; they are no reason to stay.
        None => said.notice.extend(found(mean(slower))),
    }
}

fn statuses(settings: &Settings, moved: &Moved) -> Finding {
    let limit = settings.warn_status_change.0.into();
    let [v1, v2] = moved.ppm.map(|ppm| text::percent(text::round_up(ppm)));
    let (class, operation, max) = (moved.class, &moved.operation, text::percent(limit));
    let note = format!(
        "{class} are {v2} of V2's answers of {operation} and {v1} of V1's, further apart than {max}, whichever is right"
    );
    finding("v2-statuses", moved.by(), limit, "ppm", note)
}

fn host(rule: &str, what: &str, ppm: Option<u64>, limit: u32) -> Option<Finding> {
    let (ppm, limit) = (ppm?, limit.into());
    let (used, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    (ppm > limit)
        .then(|| finding(rule, ppm, limit, "ppm", format!("the host uses {used} of its {what}, more than {max}")))
}

/// What is over a limit without as many as one more than nothing needs: `least` of them are, one less is not enough.
const fn without(count: u64, least: u64) -> u64 {
    count.saturating_sub(least.saturating_sub(1))
}

fn over_ratio(rule: &str, ppm: u64, Ratio(limit): Ratio, what: &str, whose: &str) -> Finding {
    let (ratio, max) = (text::times(text::round_up(ppm)), text::times(limit.into()));
    finding(rule, ppm, limit.into(), "ratio-ppm", format!("{what} is {ratio} {whose}, more than {max}"))
}

/// In parts per million, rounded up; 0 of nothing.
pub(crate) fn parts(part: u64, whole: u64) -> u64 {
    quotient(u128::from(part) * MILLION, whole.into())
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
