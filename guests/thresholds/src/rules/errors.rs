//! Rules on calls that failed.

use super::{Facts, Findings, MILLION, Settings, Total, over_ratio, parts, quotient, without};
use cutover_policy::{Finding, finding, text};

/// Failures that V1 may have had besides those that it happened to have, and their standard deviation: of a V1 with few
/// calls none says little. With none of so many calls the rate is below three in as many, 19 times out of 20 (the rule of three).
const CHANCE: u64 = 3;

/// Calls of V1 below which that is left out, as it would say more than V1 does.
const FEW: u64 = 10;

/// V2 answers nobody, and V1 does not fail as badly.
pub(super) fn outage(settings: &Settings, facts: &Facts) -> Option<Finding> {
    let (run, least) = (facts.run, settings.outage_requests);
    let is_one_client =
        !facts.mirrored && run.failed < settings.outage_sessions && run.calls < settings.min_requests.max(least);
    if least == 0 || run.calls < least || is_one_client {
        return None;
    }
    // V2's rate is 100 %.
    if run.v1_errors > 0 && parts(run.v1_errors, run.v1_requests) >= shared_limit(settings, MILLION) {
        return None;
    }
    let (failed, of) = (run.v1_errors, run.v1_requests);
    let note = format!("V2 failed its last {} calls, all of them; V1 failed {failed} of {of} meanwhile", run.calls);
    Some(finding("v2-outage", run.calls, least - 1, "count", note))
}

/// V2's error rate.
pub(super) fn rate(settings: &Settings, facts: &Facts, said: &mut Findings) {
    let v2 = &facts.window.v2;
    let ppm = parts(v2.errors, v2.requests);
    let sure = parts(without(v2.errors, settings.min_errors), v2.requests);
    let v1 = v1_rate(&facts.window.v1);
    let is_shared = v1.is_some_and(|v1| sure <= times(settings, v1));
    let found = |limit: u32, why: &str| {
        let (rate, max) = (text::percent(text::round_up(ppm)), text::percent(limit.into()));
        finding(
            "v2-error-rate",
            ppm,
            limit.into(),
            "ppm",
            format!("V2 fails {rate} of its calls, more than {max}{why}"),
        )
    };
    let (max, warn) = (settings.max_error_rate.0, settings.warn_error_rate.0);
    if sure > max.into() {
        said.is_over = true;
        let own = parts(facts.window.v1.errors, facts.window.v1.requests);
        let latest = parts(facts.latest.v2.errors, facts.latest.v2.requests);
        if is_shared {
            let why = format!("; V1 fails {} of its own", text::percent(text::round_up(own)));
            said.warn.push(found(max, &why));
        } else if !is_spread(settings, facts) {
            said.warn.push(found(max, &of_few(facts)));
        } else if latest <= max.into() {
            said.warn.push(found(max, ", but not in this check"));
        } else {
            said.roll_back.push(found(max, ""));
        }
    } else if sure > warn.into() && !is_shared {
        said.warn.push(found(warn, ""));
    }
}

/// V2's error rate over V1's.
pub(super) fn ratio(settings: &Settings, facts: &Facts, said: &mut Findings) {
    let (v1, v2) = (&facts.window.v1, &facts.window.v2);
    if v1.requests < settings.min_requests {
        return;
    }
    let over = |errors: u64, calls: u64| {
        let numerator = u128::from(errors) * u128::from(v1.requests) * MILLION * MILLION;
        quotient(numerator, u128::from(calls) * base_errors(settings, v1))
    };
    let limit = settings.max_error_ratio;
    if over(without(v2.errors, settings.min_errors), v2.requests) <= limit.0.into() {
        return;
    }
    said.is_over = true;
    let finding = over_ratio("v2-error-ratio", over(v2.errors, v2.requests), limit, "V2's error rate", "V1's");
    let latest = over(facts.latest.v2.errors, facts.latest.v2.requests);
    if is_spread(settings, facts) && latest > limit.0.into() {
        said.roll_back.push(finding);
    } else {
        said.warn.push(finding);
    }
}

/// How much more V2 fails, in parts per million of V1's rate; 0 while that may be chance or one client's.
pub(super) fn more(settings: &Settings, facts: &Facts) -> u64 {
    let (v1, v2) = (&facts.window.v1, &facts.window.v2);
    let sure = parts(without(v2.errors, settings.min_errors), v2.requests);
    if v1_rate(v1).is_none_or(|rate| sure <= rate) || !is_spread(settings, facts) {
        return 0;
    }
    let more = (u128::from(v2.errors) * u128::from(v1.requests))
        .saturating_sub(u128::from(v1.errors) * u128::from(v2.requests));
    quotient(more * MILLION * MILLION, u128::from(v2.requests) * base_errors(settings, v1))
}

/// Whether V2's failures are those of many sessions, and not of one client that fails again and again: more sessions than
/// V1's rate explains fail for the first time. Where nearly all sessions have failed before, calls are all there is.
fn is_spread(settings: &Settings, facts: &Facts) -> bool {
    let (v1, v2) = (&facts.window.v1, &facts.window.v2);
    let least = settings.min_failed_sessions;
    let sure = without(v2.failed, least);
    let explained = times(settings, parts(v1.failed, v1.units));
    facts.mirrored
        || (sure > 0 && parts(sure, v2.units) > explained)
        || (v2.units < FEW && facts.sessions.failed >= least)
}

fn of_few(facts: &Facts) -> String {
    let failed = facts.window.v2.failed;
    let sessions = if failed == 1 { "session" } else { "sessions" };
    format!("; {failed} {sessions} failed for the first time, no more than on V1, so it may be one client's fault")
}

/// V1's error rate in parts per million, and what it may be by chance; none if it had no calls.
fn v1_rate(v1: &Total) -> Option<u64> {
    let errors = if v1.requests < FEW { v1.errors } else { by_chance(v1.errors) };
    (v1.requests > 0 && errors > 0).then(|| parts(errors, v1.requests))
}

/// V1's errors in millionths, and what it may have by chance, or as many as make up the floor of its rate. At least one:
/// neither is 0.
fn base_errors(settings: &Settings, v1: &Total) -> u128 {
    let floor = u128::from(settings.error_floor.0) * u128::from(v1.requests);
    (u128::from(by_chance(v1.errors)) * MILLION).max(floor)
}

/// As many as V1 may well have had when it happened to have these.
const fn by_chance(errors: u64) -> u64 {
    errors + CHANCE + errors.isqrt()
}

/// So many times as much that V1 no longer shares it.
fn times(settings: &Settings, ppm: u64) -> u64 {
    quotient(u128::from(ppm) * u128::from(settings.shared_ratio.0), MILLION)
}

/// What V1's rate must be below for V2's to be its own.
fn shared_limit(settings: &Settings, ppm: u128) -> u64 {
    quotient(ppm * MILLION, settings.shared_ratio.0.into())
}
