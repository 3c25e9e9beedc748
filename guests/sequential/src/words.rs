//! Findings: what was observed, what it was held against, and a sentence for people.

use cutover_policy::settings::Ratio;
use cutover_policy::{Finding, finding, text};

use crate::outage::Outage;
use crate::process::{Portfolio, Suspicion};
use crate::safety::Need;
use crate::settings::Settings;

/// V2 answers nothing.
pub(crate) fn outage(settings: &Settings, outage: Outage) -> Finding {
    let Outage { failed, v1_calls, v1_errors, .. } = outage;
    let note = format!(
        "V2 failed its last {} calls, all of them, while V1 failed {} of {}",
        grouped(failed),
        grouped(v1_errors),
        grouped(v1_calls)
    );
    finding("v2-outage", failed, settings.outage_requests, "count", note)
}

/// A metric that speaks against V2; `metric` is its place in the order of `METRICS`.
pub(crate) fn suspect(settings: &Settings, metric: usize, portfolio: &Portfolio, mirrored: bool) -> Option<Finding> {
    let Suspicion { operation, run } = portfolio.suspicion();
    let one = Ratio(1_000_000);
    let [n1, x1, n2, x2] = [run.n1, run.x1, run.n2, run.x2].map(grouped);
    let calls = if mirrored { "calls" } else { "sessions" };
    let (rule, limit, counts) = match metric {
        0 => ("v2-errors", settings.max_error_odds, format!("V2 fails {x2} of {n2} {calls} against V1's {x1} of {n1}")),
        1 => {
            let counts = format!("{x2} of V2's {n2} calls are slower than V1's p99, against {x1} of V1's {n1}");
            ("v2-slow", settings.max_slow_odds, counts)
        }
        2 => {
            let ratio = text::times(settings.max_p99_ratio.0.into());
            let counts = format!("{x2} of V2's {n2} calls take over {ratio} V1's p99, {x1} of V1's {n1} over 1x");
            ("v2-p99", one, counts)
        }
        3 => {
            let counts = format!("workers of V2 failed {x2} times in {n2} worker-seconds, V1's {x1} in {n1}");
            ("v2-worker-failures", settings.max_failure_odds, counts)
        }
        _ => return None,
    };
    let place = operation.filter(|_| metric < 3).map(|name| format!(" in `{name}`")).unwrap_or_default();
    let good =
        if limit == one { "as good".to_owned() } else { format!("within {} of V1", text::times(limit.0.into())) };
    let note = format!("{counts}{place}: odds {} to 1 against V2 being {good}", odds(portfolio.wealth()));
    Some(finding(rule, run.odds_ratio_ppm(), limit.0.into(), "ratio-ppm", note))
}

/// What `healthy` waits for.
pub(crate) fn need(need: Need, mirrored: bool) -> Finding {
    let Need { units, errors, more } = need;
    let what = if mirrored { "mirrored calls" } else { "sessions" };
    let so_far = match (units, errors) {
        (0, _) => "V2 was not called yet in this stage".to_owned(),
        (_, 0) => format!("V2 failed none of {} {what} in this stage", grouped(units)),
        _ => format!("V2 failed {} of {} {what} in this stage", grouped(errors), grouped(units)),
    };
    let more_words = grouped(text::round_up(more));
    let note = format!("{so_far}; about {more_words} more without a fault of its own would show that it is safe");
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
        let said = |units, errors, mirrored| need(Need { units, errors, more: 290 }, mirrored).note;
        let end = "; about 290 more without a fault of its own would show that it is safe";
        assert_eq!(said(0, 0, false), format!("V2 was not called yet in this stage{end}"));
        assert_eq!(said(1_200, 0, true), format!("V2 failed none of 1 200 mirrored calls in this stage{end}"));
        assert_eq!(said(1_200, 3, false), format!("V2 failed 3 of 1 200 sessions in this stage{end}"));
    }
}
