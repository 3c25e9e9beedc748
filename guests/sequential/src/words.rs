//! Findings: what was observed, what it was held against, and a sentence for people.

use cutover_policy::{Finding, finding, settings::Ratio, text};

use crate::{
    ailing::Ailing,
    facts::Facts,
    outage::Outage,
    process::{Portfolio, Suspicion},
    run::Run,
    safety::{Need, Seen},
    settings::Settings,
    unjudged::Unjudged,
};

/// V2 answers nothing.
pub(crate) fn outage(settings: &Settings, outage: Outage) -> Finding {
    let Outage { failed, v1_calls, v1_errors, .. } = outage;
    let note = format!(
        "V2 failed its last {} calls, all of them, while V1 failed {} of {}",
        grouped(failed),
        grouped(v1_errors),
        grouped(v1_calls)
    );
    finding("v2-outage", failed, outage.needed(settings), "count", note)
}

/// V2 goes on failing.
pub(crate) fn ailing(ailing: &Ailing, seen: &Seen) -> Finding {
    let Ailing { since_ms, last_ms, v1_calls, v1_errors, v2_calls, v2_errors, .. } = *ailing;
    let ppm = |errors: u64, calls: u64| errors * 1_000_000 / calls.max(1);
    let [e2, c2, e1, c1] = [v2_errors, v2_calls, v1_errors, v1_calls].map(grouped);
    let [x2, n2, x1, n1] = [seen.x2, seen.n2, seen.x1, seen.n1].map(grouped);
    let note = format!(
        "V2 goes on failing since {}: {e2} of {c2} calls against V1's {e1} of {c1}, and {x2} of {n2} sessions of this stage \
         against {x1} of {n1}",
        text::span(last_ms.saturating_sub(since_ms)),
    );
    finding("v2-failing", ppm(v2_errors, v2_calls), ppm(v1_errors, v1_calls), "ppm", note)
}

/// A metric that speaks against V2; `metric` is its place in the order of `METRICS`.
pub(crate) fn suspect(settings: &Settings, metric: usize, portfolio: &Portfolio, mirrored: bool) -> Option<Finding> {
    let Suspicion { operation, run } = portfolio.suspicion();
    let [n1, x1, n2, x2] = [run.n1, run.x1, run.n2, run.x2].map(grouped);
    let (within, place) = (within(&run), place(operation));
    let won = odds(portfolio.wealth());
    if run.n1 == 0 && metric < 4 {
        let allowed = text::percent(text::round_up(run.allowed_ppm()));
        let (rule, what) = match metric {
            0 => ("v2-errors-alone", format!("V2 failed {x2} of {n2} sessions within {within}")),
            _ => (
                "v2-slow-alone",
                format!("{x2} of V2's {n2} calls within {within} took far longer than is known of V1"),
            ),
        };
        let note = format!("{what}{place}, with no V1 beside it: odds {won} to 1 against a rate of at most {allowed}");
        return Some(finding(rule, run.rate_ppm(), run.allowed_ppm(), "ppm", note));
    }
    let one = Ratio(1_000_000);
    let (rule, limit, counts) = match metric {
        0 if mirrored => {
            ("v2-errors", settings.max_error_odds, format!("V2 fails {x2} of {n2} calls against V1's {x1} of {n1}"))
        }
        0 => {
            let share = text::percent(share(run.n1, run.n2));
            let counts =
                format!("{x2} sessions of V2 failed within {within} and {x1} of V1, where V2 had {share} of them");
            ("v2-errors", settings.max_error_odds, counts)
        }
        1 => {
            let what = if mirrored { "calls" } else { "sessions" };
            let counts = format!("V2 answers {x2} of {n2} {what} with such a status against V1's {x1} of {n1}");
            ("v2-statuses", settings.max_status_odds, counts)
        }
        2 => {
            let counts = format!("{x2} of V2's {n2} calls are slower than V1's p99, against {x1} of V1's {n1}");
            ("v2-slow", settings.max_slow_odds, counts)
        }
        3 => {
            let ratio = text::times(settings.max_p99_ratio.0.into());
            let counts = format!("{x2} of V2's {n2} calls take over {ratio} V1's p99, {x1} of V1's {n1} over 1x");
            ("v2-p99", one, counts)
        }
        4 => {
            let counts = format!("workers of V2 failed {x2} times in {n2} worker-seconds, V1's {x1} in {n1}");
            ("v2-worker-failures", settings.max_failure_odds, counts)
        }
        _ => return None,
    };
    let place = if metric < 4 { place } else { String::new() };
    let good =
        if limit == one { "as good".to_owned() } else { format!("within {} of V1", text::times(limit.0.into())) };
    let note = format!("{counts}{place}: odds {won} to 1 against V2 being {good}");
    Some(finding(rule, run.odds_ratio_ppm(), limit.0.into(), "ratio-ppm", note))
}

/// V1 has statuses that V2 has not.
pub(crate) fn fewer(settings: &Settings, portfolio: &Portfolio, mirrored: bool) -> Finding {
    let Suspicion { operation, run } = portfolio.suspicion();
    // The pools are swapped.
    let [n2, x2, n1, x1] = [run.n1, run.x1, run.n2, run.x2].map(grouped);
    let what = if mirrored { "calls" } else { "sessions" };
    let (place, won, limit) = (place(operation), odds(portfolio.wealth()), settings.max_status_odds.0);
    let note = format!(
        "V1 answers {x1} of {n1} {what} with such a status and V2 {x2} of {n2}{place}: odds {won} to 1 against V1 being within {} \
         of V2",
        text::times(limit.into())
    );
    finding("v2-fewer-statuses", run.odds_ratio_ppm(), limit.into(), "ratio-ppm", note)
}

/// Both fail more than V1 did, or, if that is not known, more than the objective says.
pub(crate) fn combined(run: &Run, is_known: bool) -> Finding {
    let (n, x, within) = (grouped(run.n2), grouped(run.x2), within(run));
    let most = text::percent(text::round_up(run.allowed_ppm()));
    let both = format!("V1 and V2 together failed {x} of {n} sessions within {within}");
    let note = if is_known {
        format!("{both}, where at most {most} would be as before: V2 may harm what both use")
    } else {
        format!(
            "{both}, and by `objective_error_rate`, because too little is known of V1, at most {most} may: V2 may harm what both \
             use, or V1 always fails more than the objective says"
        )
    };
    finding("combined-errors", run.rate_ppm(), run.allowed_ppm(), "ppm", note)
}

/// The last seconds alone speak against V2, or against both.
pub(crate) fn doubts(facts: &Facts) -> Option<Finding> {
    let names = ["errors", "statuses", "latencies", "latencies beyond the limit", "worker failures"];
    let metrics = names.into_iter().enumerate().filter(|(metric, _)| facts.doubts & (1 << metric) != 0);
    let mut said: Vec<_> = metrics.map(|(_, name)| name).collect();
    said.extend(facts.differs.then_some("missing statuses"));
    said.extend(facts.ill.then_some("errors of both pools"));
    let note = format!("the last seconds alone would be a reason to warn: {}", said.join(", "));
    (!said.is_empty()).then(|| finding("in-doubt", said.len() as u64, 0, "count", note))
}

/// V2 may be slow, and nobody could say so.
pub(crate) fn unjudged(unjudged: &Unjudged<'_>) -> Finding {
    let Unjudged { calls, of, operation, v1_calls } = *unjudged;
    let least = crate::latency::MIN_CALLS;
    let (calls, of, had) = (grouped(calls), grouped(of), grouped(v1_calls));
    let note = format!(
        "the latency of {calls} of V2's {of} calls in this stage was held against nothing: V1 had {had} of the {least} calls \
         that its p99 takes, in `{operation}`; `objective_p99` says what V2 may take without them"
    );
    finding("latency-unjudged", v1_calls, least, "count", note)
}

/// How long a run has been going on.
fn within(run: &Run) -> String {
    text::span(run.latest_ms.saturating_sub(run.since_ms).saturating_add(5_000))
}

fn place(operation: Option<&str>) -> String {
    operation.map(|name| format!(" in `{name}`")).unwrap_or_default()
}

/// V2's part of all units, in parts per million, to a tenth of a percent.
fn share(n1: u64, n2: u64) -> u64 {
    let all = u128::from(n1) + u128::from(n2);
    u64::try_from((u128::from(n2) * 1_000).div_ceil(all.max(1))).unwrap_or(0) * 1_000
}

/// No new session for so long, and waiting shows nothing.
const WAITED_MS: u64 = 600_000;

/// V2 fails half of its calls, and few sessions make them.
pub(crate) fn plain(ailing: &Ailing, seen: &Seen) -> Finding {
    let found = self::ailing(ailing, seen);
    Finding {
        rule: "v2-failing-few".into(),
        note: format!("{}; so few may be one caller's fault", found.note),
        ..found
    }
}

/// What `healthy` waits for.
pub(crate) fn need(settings: &Settings, need: Need, mirrored: bool) -> Finding {
    let Need { units, errors, more, hopeless, waited_ms } = need;
    let what = if mirrored { "mirrored calls" } else { "sessions" };
    let so_far = match (units, errors) {
        (0, _) => "V2 was not called yet in this stage".to_owned(),
        (_, 0) => format!("V2 failed none of {} {what} in this stage", grouped(units)),
        _ => format!("V2 failed {} of {} {what} in this stage", grouped(errors), grouped(units)),
    };
    let more_words = grouped(text::round_up(more));
    let (rate, odds) = (settings.unsafe_error_rate.0, settings.unsafe_error_odds.0);
    let missing = if hopeless {
        let (rate, odds) = (text::percent(rate.into()), text::times(odds.into()));
        format!("it is not safe as long as so many fail: less than {rate} may, or {odds} V1's odds")
    } else {
        format!("about {more_words} more without a fault of its own would show that it is safe")
    };
    let stuck = if waited_ms < WAITED_MS || mirrored {
        String::new()
    } else {
        let waited = text::span(waited_ms);
        format!(", and none came for {waited}: give V2 a larger share, raise `unsafe_error_rate`, or advance by hand")
    };
    let note = format!("{so_far}; {missing}{stuck}");
    finding("evidence-of-safety", units, units.saturating_add(more), "count", note)
}

/// A count in groups of three digits: `6 600`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Wealth as odds, to a million; nobody needs more.
fn odds(wealth: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a million, and not negative")]
    let whole = wealth.clamp(0.0, 1e6) as u64;
    if wealth > 1e6 { "over 1 000 000".to_owned() } else { grouped(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 6_600, 1_234_567].map(grouped), ["0", "999", "6 600", "1 234 567"]);
        assert_eq!([odds(80.9), odds(1e9)], ["80", "over 1 000 000"]);
    }

    #[test]
    fn a_need_says_what_was_seen_and_what_is_missing() {
        let settings = Settings::default();
        let missing = Need { more: 290, units: 0, errors: 0, hopeless: false, waited_ms: 599_999 };
        let said = |units, errors, mirrored| need(&settings, Need { units, errors, ..missing }, mirrored).note;
        let end = "; about 290 more without a fault of its own would show that it is safe";
        assert_eq!(said(0, 0, false), format!("V2 was not called yet in this stage{end}"));
        assert_eq!(said(1_200, 0, true), format!("V2 failed none of 1 200 mirrored calls in this stage{end}"));
        assert_eq!(said(1_200, 3, false), format!("V2 failed 3 of 1 200 sessions in this stage{end}"));
        let stuck = Need { units: 20, waited_ms: 12 * 60_000, ..missing };
        assert_eq!(
            need(&settings, stuck, false).note,
            format!(
                "V2 failed none of 20 sessions in this stage{end}, and none came for 12m: give V2 a larger share, raise \
                 `unsafe_error_rate`, or advance by hand"
            )
        );
        assert_eq!(
            need(&settings, stuck, true).note,
            format!("V2 failed none of 20 mirrored calls in this stage{end}")
        );
        assert_eq!(
            need(&settings, Need { units: 12, errors: 12, hopeless: true, ..missing }, false).note,
            "V2 failed 12 of 12 sessions in this stage; it is not safe as long as so many fail: less than 1 % may, or 3x V1's odds"
        );
    }
}
