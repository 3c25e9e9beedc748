//! What the evidence comes to.

use cutover_policy::{Finding, Judgement, Verdict};

use crate::{Memory, Sequential, budget, operation::Operation, settings::part, unjudged::Unjudged, words};

impl Sequential {
    /// The weighted mean of the metrics' evidence, times the stage's part of the budget; what is not weighted is never
    /// bet. A mean of e-processes is one, however they depend on each other.
    pub(crate) fn evidence(&self, memory: &Memory) -> f64 {
        let idle = 1.0 - self.weights.iter().sum::<f64>();
        let parts = memory.against.iter().zip(self.weights).map(|(portfolio, weight)| weight * portfolio.wealth());
        parts.fold(idle.max(0.0), |sum, part| sum + part) * budget::of(memory.facts.stages)
    }

    /// Back if V2 is worse or out; a warning if it may be, if both are worse than V1 was, or if it answers otherwise;
    /// nothing until it has been shown to be safe, or while the last seconds speak against it.
    pub(crate) fn verdict(&self, memory: &Memory, mirrored: bool) -> Judgement {
        let settings = &self.settings;
        let evidence = self.evidence(memory);
        let facts = &memory.facts;
        let outage = facts.outage.is_total(settings).then(|| words::outage(settings, facts.outage));
        let need = memory.safety.need(&self.limits);
        let unjudged = Unjudged::of(&memory.operations).filter(|_| settings.objective_p99.0 == 0);
        let suspicious = evidence >= self.warns_at;
        let [errors, ..] = &self.games;
        let seen = memory.safety.seen();
        let is_grave = facts.ailing.is_grave(errors, seen);
        let ailing = is_grave.then(|| words::ailing(&facts.ailing, seen));
        let mut findings: Vec<_> = outage.into_iter().chain(ailing).collect();
        let back = !findings.is_empty() || evidence >= 1.0 / part(settings.alpha_rollback);
        if suspicious {
            findings.extend(self.suspects(memory, mirrored));
        }
        if !is_grave && facts.ailing.is_plain() {
            findings.push(words::plain(&facts.ailing, seen));
        }
        findings.extend(self.warnings(memory, mirrored));
        let verdict = if back {
            Verdict::RollBack
        } else if !findings.is_empty() {
            Verdict::Warn
        } else if need.is_some() || unjudged.is_some() || facts.doubts != 0 || facts.differs || facts.ill {
            Verdict::Hold
        } else {
            Verdict::Healthy
        };
        if verdict == Verdict::Hold {
            findings.extend(need.map(|need| words::need(settings, need, mirrored)));
            findings.extend(words::doubts(facts));
            findings.extend(unjudged.as_ref().map(words::unjudged));
        }
        Judgement { verdict, findings, evidence: millionths(libm::log10(evidence.max(f64::MIN_POSITIVE))) }
    }

    /// What keeps the share where it is, and is no reason to go back.
    fn warnings(&self, memory: &Memory, mirrored: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        if memory.combined.wealth() >= self.warns_at {
            let is_known = memory.operations.values().all(Operation::is_known);
            findings.push(words::combined(memory.combined.run(), is_known));
        }
        let [_, statuses, ..] = &memory.against;
        if self.evidence(memory) < self.warns_at && statuses.wealth() >= self.warns_at {
            findings.extend(words::suspect(&self.settings, 1, statuses, mirrored));
        }
        if memory.fewer.wealth() >= self.warns_at {
            findings.push(words::fewer(&self.settings, &memory.fewer, mirrored));
        }
        findings
    }

    /// The metrics that make up a tenth of the evidence or more, the gravest first.
    fn suspects(&self, memory: &Memory, mirrored: bool) -> Vec<Finding> {
        let parts = memory.against.iter().zip(self.weights).map(|(portfolio, weight)| weight * portfolio.wealth());
        let mut suspects: Vec<_> = parts.zip(&memory.against).enumerate().collect();
        suspects.sort_by(|(_, (a, _)), (_, (b, _))| b.total_cmp(a));
        let gravest = suspects.first().map_or(0.0, |(_, (part, _))| *part);
        let main = suspects.into_iter().filter(|(_, (part, _))| part * 10.0 >= gravest);
        main.filter_map(|(metric, (_, portfolio))| words::suspect(&self.settings, metric, portfolio, mirrored))
            .collect()
    }
}

/// For the host, which takes integers.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and logarithms of doubles are below 400")]
fn millionths(value: f64) -> i64 {
    libm::round(value * 1e6) as i64
}
