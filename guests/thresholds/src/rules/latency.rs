//! Rules on how long calls took.

use cutover_policy::{finding, settings::Ratio, text};

use super::{Facts, Findings, MILLION, Settings, Total, over_ratio, quotient, without};

/// The 99th percentile, in parts per million.
const P99: u32 = 990_000;

/// V1's p99, and how V2's may compare with it.
struct Base {
    us: u64,
    limit: Ratio,
    whose: &'static str,
}

/// V1's p99 of the same time, or what it was when V1 had calls last: then V2's may be twice as far from it, as hours differ.
fn base(settings: &Settings, facts: &Facts) -> Option<Base> {
    let v1 = &facts.window.v1;
    let limit = settings.max_p99_ratio;
    if let Some(us) = p99_us(v1).filter(|_| v1.requests >= settings.min_requests) {
        return Some(Base { us: us.max(1), limit, whose: "V1's" });
    }
    let us = facts.v1_p99_us?.max(1);
    Some(Base { us, limit: Ratio(limit.0.saturating_mul(2)), whose: "what V1's was" })
}

/// V2's p99 over V1's, or on its own where V1 was never seen.
pub(super) fn p99_ratio(settings: &Settings, facts: &Facts, said: &mut Findings) {
    let Some(v2_us) = p99_us(&facts.window.v2) else { return };
    let (limit_us, finding) = if let Some(Base { us, limit, whose }) = base(settings, facts) {
        let ppm = quotient(u128::from(v2_us) * MILLION, us.into());
        if ppm <= limit.0.into() || v2_us < us.saturating_add(floor_us(settings)) {
            return;
        }
        let limit_us = quotient(u128::from(us) * u128::from(limit.0), MILLION);
        (limit_us, over_ratio("v2-p99-ratio", ppm, limit, "V2's p99", whose))
    } else {
        let limit = settings.max_p99.0.saturating_mul(1_000);
        if v2_us <= limit {
            return;
        }
        let note = format!("V2's p99 is {}, more than {}", text::latency(text::round_up(v2_us)), text::latency(limit));
        (limit, finding("v2-p99", v2_us, limit, "us", note))
    };
    if !is_slow(&facts.window.v2, limit_us, settings.min_slow_calls) {
        return;
    }
    said.is_over = true;
    let is_still = is_slow(&facts.latest.v2, limit_us, 1);
    if is_still && facts.stage_age_ms >= settings.warm_up.0 {
        said.roll_back.push(finding);
    } else {
        said.warn.push(finding);
    }
}

/// V2's p99, unless V1's is much the same.
pub(super) fn p99(settings: &Settings, facts: &Facts, said: &mut Findings) {
    let Some(us) = p99_us(&facts.window.v2) else { return };
    let limit = settings.warn_p99.0.saturating_mul(1_000);
    let base = base(settings, facts).map_or(0, |base| base.us);
    let said_before = said.roll_back.iter().chain(&said.warn).any(|finding| finding.rule == "v2-p99");
    if us > limit && us >= base.saturating_add(floor_us(settings)) && !said_before {
        let note = format!("V2's p99 is {}, more than {}", text::latency(text::round_up(us)), text::latency(limit));
        said.warn.push(finding("v2-p99", us, limit, "us", note));
    }
}

/// How much longer V2's p99 is, in parts per million of V1's, 0 while that may be chance; and whether it is more than the
/// floor, so that somebody may feel it.
pub(super) fn slower(settings: &Settings, facts: &Facts) -> (u64, bool) {
    let (Some(v1), Some(v2)) = (p99_us(&facts.window.v1), p99_us(&facts.window.v2)) else { return (0, false) };
    let v1 = v1.max(1);
    // Of the mean with errors it is one half.
    let allowed = quotient(u128::from(v1) * u128::from(settings.warn_degradation) * 2, 100);
    if !is_slow(&facts.window.v2, v1.saturating_add(allowed), settings.min_slow_calls) {
        return (0, false);
    }
    let more = v2.saturating_sub(v1);
    (quotient(u128::from(more) * MILLION, v1.into()), more >= floor_us(settings))
}

/// Whether more than a hundredth of the calls took longer, even with fewer of those.
fn is_slow(calls: &Total, us: u64, least: u64) -> bool {
    let slow = without(calls.latency.beyond(us), least);
    u128::from(slow) * 100 > u128::from(calls.latency.total())
}

pub(crate) fn p99_us(calls: &Total) -> Option<u64> {
    calls.latency.quantile_us(P99)
}

fn floor_us(settings: &Settings) -> u64 {
    settings.p99_floor.0.saturating_mul(1_000)
}
