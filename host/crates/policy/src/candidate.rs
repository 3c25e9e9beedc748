//! A candidate: a policy that is asked what the one in charge is asked, whose answers are compared and not obeyed.
//!
//! It is rolled out as traffic is: what it cost and where it would have decided differently is counted, and a [`Rule`]
//! promotes or demotes it on that evidence. The rule is a pure function of the evidence and of time.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::installed::InstalledPolicy;
use cutover_model::{clock::UnixMs, request::Ppm};

/// Disagreements that are kept to be shown; all are counted, and those of stages and rollback are in the log.
const SHOWN: usize = 20;

/// A policy that runs beside the one in charge.
#[derive(Debug)]
pub struct Candidate {
    /// The policy and what people call it.
    pub installed: InstalledPolicy,
    /// When it is promoted or demoted without an operator.
    pub rule: Rule,
    /// Since when it is the candidate.
    pub since: UnixMs,
    /// What it remembers. It has seen the checks from before the moment beside it.
    pub memory: Mutex<(Vec<u8>, UnixMs)>,
    /// What it answered and what it cost since it became a candidate.
    pub evidence: Mutex<Evidence>,
}

/// When a candidate is promoted or demoted without anybody asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Promoted when all of this holds; without it, only an operator promotes.
    pub promote: Option<Promote>,
    /// Demoted as soon as any of this holds.
    pub demote: Demote,
}

/// What a candidate must show to be put in charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promote {
    /// How long it must have run, in milliseconds.
    pub after_ms: u64,
    /// Questions that it must have been asked.
    pub asked: u64,
    /// The share of its answers that may differ from those of the policy in charge.
    pub max_disagreed: Ppm,
}

/// Limits at which a candidate is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demote {
    /// Failures after which it is dropped.
    pub failed: u64,
    /// The share of its answers that may differ, once it was asked `asked` questions; without it any share may.
    pub max_disagreed: Option<Ppm>,
    /// Questions from which shares and costs count.
    pub asked: u64,
    /// Fuel over that of the policy in charge, in percent: 300 is three times; without it any.
    pub max_fuel_percent: Option<u64>,
}

/// What is known of a candidate since it became one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Questions that both answered, or that the candidate failed.
    pub asked: u64,
    /// Answers that differ from those of the policy in charge.
    pub disagreed: u64,
    /// Questions to which the candidate gave no answer that can be used.
    pub failed: u64,
    /// Questions that were left out, because the candidate could not keep up.
    pub left_out: u64,
    /// Units of fuel that the candidate used for the questions that were asked.
    pub fuel: u64,
    /// Units of fuel that the policy in charge used for the same questions.
    pub active_fuel: u64,
    /// Time that the candidate took, in microseconds.
    pub took_us: u64,
    /// Time that the policy in charge took for the same questions, in microseconds.
    pub active_took_us: u64,
    /// The last disagreements, newest last.
    pub disagreements: VecDeque<Disagreement>,
    /// Why the last question failed; none if none has.
    pub last_failure: Option<String>,
}

/// One question that the two answer differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// When the two were asked.
    pub at: UnixMs,
    /// What was asked, in a few words.
    pub about: String,
    /// The answer of the policy in charge, as JSON.
    pub active: Value,
    /// The answer of the candidate, as JSON.
    pub candidate: Value,
}

/// What both were asked, and what became of it.
#[derive(Debug, Clone)]
pub struct Compared {
    /// Questions in it: one, or the pairs of a comparison.
    pub asked: u64,
    /// The questions that the two answered differently.
    pub disagreements: Vec<Disagreement>,
    /// Why the candidate has no answer, if it has none.
    pub failure: Option<String>,
    /// Units of fuel that the candidate and the policy in charge used, in this order.
    pub fuel: [u64; 2],
    /// Time that the candidate and the policy in charge took, in this order.
    pub took: [Duration; 2],
}

/// What a rule makes of the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weighed {
    /// The candidate stays one; this is what is still missing for a promotion.
    Wait(String),
    /// The candidate is to be put in charge, for this reason.
    Promote(String),
    /// The candidate is to be dropped, for this reason.
    Demote(String),
}

impl Default for Promote {
    /// An hour, 100 questions, no disagreement.
    fn default() -> Self {
        Self { after_ms: 3_600_000, asked: 100, max_disagreed: Ppm::ZERO }
    }
}

impl Default for Demote {
    /// Three failures; disagreement and fuel are for people to judge.
    fn default() -> Self {
        Self { failed: 3, max_disagreed: None, asked: 100, max_fuel_percent: None }
    }
}

impl Candidate {
    /// A candidate that begins.
    pub fn new(
        installed: InstalledPolicy,
        rule: Rule,
        since: UnixMs,
        memory: (Vec<u8>, UnixMs),
        evidence: Evidence,
    ) -> Self {
        Self { installed, rule, since, memory: Mutex::new(memory), evidence: Mutex::new(evidence) }
    }

    /// Counts what became of a question and weighs it all.
    pub fn learn(&self, compared: Compared, now: UnixMs) -> Weighed {
        let mut evidence = self.evidence.lock();
        evidence.add(compared);
        self.rule.weigh(&evidence, now.since(self.since))
    }
}

impl Evidence {
    fn add(&mut self, compared: Compared) {
        let us = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let [fuel, active_fuel] = compared.fuel;
        let [took, active_took] = compared.took;
        self.asked += compared.asked;
        self.disagreed += compared.disagreements.len() as u64;
        self.fuel = self.fuel.saturating_add(fuel);
        self.active_fuel = self.active_fuel.saturating_add(active_fuel);
        self.took_us = self.took_us.saturating_add(us(took));
        self.active_took_us = self.active_took_us.saturating_add(us(active_took));
        if let Some(failure) = compared.failure {
            self.failed += 1;
            self.last_failure = Some(failure);
        }
        for disagreement in compared.disagreements {
            if self.disagreements.len() >= SHOWN {
                self.disagreements.pop_front();
            }
            self.disagreements.push_back(disagreement);
        }
    }

    /// The share of the answers that differ.
    pub fn disagreed_share(&self) -> Ppm {
        let share = (u128::from(self.disagreed) * 1_000_000).checked_div(u128::from(self.asked)).unwrap_or(0);
        Ppm::new(u32::try_from(share).unwrap_or(1_000_000))
    }

    /// Its fuel over that of the policy in charge, in percent; none while either is unknown.
    pub fn fuel_percent(&self) -> Option<u64> {
        let percent = (u128::from(self.fuel) * 100).checked_div(u128::from(self.active_fuel))?;
        u64::try_from(percent).ok()
    }
}

impl Rule {
    /// What follows from the evidence. Demotion comes first: what is wrong once is not made good by being right often.
    pub fn weigh(&self, evidence: &Evidence, age: Duration) -> Weighed {
        if let Some(why) = self.demote.applies(evidence) {
            return Weighed::Demote(why);
        }
        let Some(promote) = self.promote else {
            return Weighed::Wait("an operator promotes it: it has no rule for that".into());
        };
        match promote.missing(evidence, age) {
            Some(missing) => Weighed::Wait(missing),
            None => Weighed::Promote(format!(
                "it answered {} questions in {} and disagreed on {}, at most {} may",
                evidence.asked,
                humantime::format_duration(Duration::from_secs(age.as_secs())),
                evidence.disagreed_share(),
                promote.max_disagreed
            )),
        }
    }
}

impl Demote {
    fn applies(&self, evidence: &Evidence) -> Option<String> {
        if evidence.failed >= self.failed {
            let last = evidence.last_failure.as_deref().unwrap_or("unknown");
            return Some(format!(
                "it failed {} times, {} are enough; the last time it {last}",
                evidence.failed, self.failed
            ));
        }
        if evidence.asked < self.asked {
            return None;
        }
        let share = evidence.disagreed_share();
        if let Some(most) = self.max_disagreed.filter(|most| share > *most) {
            return Some(format!("it disagreed on {share} of {} questions, at most {most} may", evidence.asked));
        }
        let percent = evidence.fuel_percent()?;
        let most = self.max_fuel_percent.filter(|most| percent > *most)?;
        Some(format!("it uses {percent} % of the fuel of the policy in charge, at most {most} % may be"))
    }
}

impl Promote {
    fn missing(&self, evidence: &Evidence, age: Duration) -> Option<String> {
        let after = Duration::from_millis(self.after_ms);
        if age < after {
            return Some(format!("it has run for less than {}", humantime::format_duration(after)));
        }
        if evidence.asked < self.asked {
            return Some(format!("it was asked {} questions of {}", evidence.asked, self.asked));
        }
        let share = evidence.disagreed_share();
        (share > self.max_disagreed)
            .then(|| format!("it disagreed on {share} of the questions, at most {} may", self.max_disagreed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(asked: u64, disagreed: u64, failed: u64) -> Evidence {
        let last_failure = (failed > 0).then(|| "trapped".to_owned());
        Evidence { asked, disagreed, failed, fuel: 30, active_fuel: 10, last_failure, ..Evidence::default() }
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn without_a_rule_only_failures_end_it() {
        let rule = Rule::default();
        assert!(matches!(rule.weigh(&evidence(10_000, 10_000, 2), HOUR * 99), Weighed::Wait(_)));
        let Weighed::Demote(why) = rule.weigh(&evidence(3, 0, 3), Duration::ZERO) else { panic!("is demoted") };
        assert_eq!(why, "it failed 3 times, 3 are enough; the last time it trapped");
    }

    #[test]
    fn promotion_needs_time_questions_and_agreement_at_once() {
        let rule = Rule {
            promote: Some(Promote { max_disagreed: Ppm::new(10_000), ..Promote::default() }),
            ..Rule::default()
        };
        assert!(matches!(rule.weigh(&evidence(100, 1, 0), HOUR / 2), Weighed::Wait(_)));
        assert!(matches!(rule.weigh(&evidence(99, 0, 0), HOUR), Weighed::Wait(_)));
        assert!(matches!(rule.weigh(&evidence(100, 2, 0), HOUR), Weighed::Wait(_)));
        assert!(matches!(rule.weigh(&evidence(100, 1, 0), HOUR), Weighed::Promote(_)));
        assert!(matches!(rule.weigh(&evidence(100, 1, 3), HOUR), Weighed::Demote(_)), "demotion comes first");
    }

    #[test]
    fn disagreement_and_fuel_demote_once_there_is_enough_evidence() {
        let demote = Demote { max_disagreed: Some(Ppm::new(50_000)), max_fuel_percent: Some(299), ..Demote::default() };
        let rule = Rule { promote: None, demote };
        assert!(matches!(rule.weigh(&evidence(99, 99, 0), HOUR), Weighed::Wait(_)));
        assert!(matches!(rule.weigh(&evidence(100, 6, 0), HOUR), Weighed::Demote(_)));
        let Weighed::Demote(why) = rule.weigh(&evidence(100, 5, 0), HOUR) else { panic!("three times the fuel") };
        assert!(why.contains("300 %"), "{why}");
    }

    #[test]
    fn only_the_last_disagreements_are_kept_and_all_are_counted() {
        let mut known = Evidence::default();
        for n in 0..50 {
            let disagreement = Disagreement {
                at: UnixMs(n),
                about: "a check".into(),
                active: "hold".into(),
                candidate: "warn".into(),
            };
            let took = [Duration::from_micros(3), Duration::from_micros(2)];
            known.add(Compared { asked: 1, disagreements: vec![disagreement], failure: None, fuel: [7, 5], took });
        }
        assert_eq!((known.asked, known.disagreed, known.fuel, known.active_took_us), (50, 50, 350, 100));
        assert_eq!((known.disagreements.len(), known.disagreements[0].at), (SHOWN, UnixMs(30)));
    }
}
