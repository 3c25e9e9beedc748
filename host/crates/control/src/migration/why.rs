//! What V2 failed with before callers were taken from it, for people: a policy names rates, and the person who is woken
//! wants to know which status or timeout, and of which operation. Pure.

use std::fmt::Write as _;

use cutover_model::facts::Finding;

/// The rule of the finding that the host adds.
const RULE: &str = "v2-failed-with";

/// Over how many seconds before the decision failures are counted.
pub(super) const SECONDS: usize = 60;

/// Causes that are named.
const MOST: usize = 5;

/// The failures of V2 by operation and cause, most frequent first, as a finding; none if there are none.
pub(super) fn failed_with(failures: &[(String, String, u64)]) -> Option<Finding> {
    let total = failures.iter().map(|(_, _, count)| count).fold(0_u64, |total, count| total.saturating_add(*count));
    if total == 0 {
        return None;
    }
    let mut note = String::from("in the last minute V2 failed with");
    for (n, (operation, cause, count)) in failures.iter().take(MOST).enumerate() {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a text does not fail.
        let _infallible = write!(note, "{comma} {cause} ({count} of `{operation}`)");
    }
    if let Some(more) = failures.len().checked_sub(MOST).filter(|more| *more > 0) {
        let _infallible = write!(note, ", and {more} more causes");
    }
    let observed = i64::try_from(total).unwrap_or(i64::MAX);
    Some(Finding { rule: RULE.into(), observed, limit: 0, unit: "calls".into(), note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(failures: &[(&str, &str, u64)]) -> Option<String> {
        let failures: Vec<_> = failures.iter().map(|(o, c, n)| ((*o).to_owned(), (*c).to_owned(), *n)).collect();
        failed_with(&failures).map(|finding| finding.note)
    }

    #[test]
    fn what_failed_most_is_named_with_its_operation() {
        assert_eq!(note(&[]), None);
        let some = note(&[("get", "503", 120), ("list", "timeout", 3)]);
        assert_eq!(
            some.as_deref(),
            Some("in the last minute V2 failed with 503 (120 of `get`), timeout (3 of `list`)")
        );
        let many = note(&[
            ("a", "500", 7),
            ("a", "501", 6),
            ("a", "502", 5),
            ("a", "503", 4),
            ("a", "504", 3),
            ("b", "other", 2),
        ]);
        assert!(many.unwrap().ends_with("504 (3 of `a`), and 1 more causes"));
    }
}
