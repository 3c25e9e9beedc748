//! What people are told although nothing moves: a judge that warns, and answers that differ while V2 has callers. Pure.
//!
//! A finding is told once, and again an hour later if it is still there: people who are told every five seconds stop
//! listening.

use std::{collections::BTreeMap, time::Duration};

use cutover_model::{clock::Mono, facts::Finding, port::Verdict};

/// How long a finding is not told again.
const LASTS: Duration = Duration::from_hours(1);

/// Rules that are kept in mind: policies choose their names.
const MOST: usize = 256;

/// Findings of a stages policy that say that V2 answers otherwise, or that this cannot be told.
const OF_PAIRS: [&str; 3] = ["different", "incomparable", "coverage"];

/// The findings that were told, and when.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<String, Mono>);

impl Told {
    /// The findings of a judge's verdict that people have to be told of now.
    pub(super) fn of_judge(&mut self, verdict: Verdict, findings: &[Finding], now: Mono) -> Vec<Finding> {
        if verdict == Verdict::Warn { self.news(findings.iter(), now) } else { Vec::new() }
    }

    /// The same of what holds a stages policy while V2 has callers.
    pub(super) fn of_stages(&mut self, has_callers: bool, findings: &[Finding], now: Mono) -> Vec<Finding> {
        let of_pairs = findings.iter().filter(|finding| OF_PAIRS.contains(&finding.rule.as_str()));
        if has_callers { self.news(of_pairs, now) } else { Vec::new() }
    }

    /// All of them, if one of them is new.
    fn news<'a>(&mut self, findings: impl Iterator<Item = &'a Finding>, now: Mono) -> Vec<Finding> {
        self.0.retain(|_, at| now.since(*at) < LASTS);
        let findings: Vec<_> = findings.cloned().collect();
        let mut is_news = false;
        for finding in &findings {
            if !self.0.contains_key(&finding.rule) && self.0.len() < MOST {
                self.0.insert(finding.rule.clone(), now);
                is_news = true;
            }
        }
        if is_news { findings } else { Vec::new() }
    }
}

/// The finding as one sentence for people.
pub(super) fn sentence(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{}: {}", finding.rule, finding.note)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(rule: &str) -> Finding {
        Finding { rule: rule.into(), observed: 2, limit: 1, unit: "count".into(), note: "much".into() }
    }

    fn at(seconds: u64) -> Mono {
        Mono::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_warning_is_told_once_an_hour_and_another_one_at_once() {
        let mut told = Told::default();
        let (one, both) = ([finding("v2-statuses")], [finding("v2-statuses"), finding("v2-p99")]);
        assert_eq!(told.of_judge(Verdict::Hold, &both, at(0)), []);
        assert_eq!(told.of_judge(Verdict::Warn, &one, at(1)), one);
        assert_eq!(told.of_judge(Verdict::Warn, &one, at(6)), []);
        assert_eq!(told.of_judge(Verdict::Warn, &both, at(11)), both, "with what is known, as one of them is new");
        assert_eq!(told.of_judge(Verdict::Warn, &one, at(3_600)), []);
        assert_eq!(told.of_judge(Verdict::Warn, &one, at(3_601)), one);
        assert_eq!(sentence(&both), "v2-statuses: much; v2-p99: much");
    }

    #[test]
    fn answers_that_differ_are_told_while_v2_has_callers_and_a_soak_is_not() {
        let mut told = Told::default();
        let findings = [finding("soak"), finding("different")];
        assert_eq!(told.of_stages(false, &findings, at(0)), []);
        assert_eq!(told.of_stages(true, &findings, at(1)), [finding("different")]);
        assert_eq!(told.of_stages(true, &findings, at(2)), []);
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let mut told = Told::default();
        for n in 0..1_000 {
            told.of_judge(Verdict::Warn, &[finding(&format!("r{n}"))], at(n));
        }
        assert_eq!(told.0.len(), MOST);
    }
}
