//! Answers by class of status within the stage, operation by operation: a V2 that refuses or redirects what V1 answers
//! fails no call, and is no success either.

use std::collections::BTreeMap;

use cutover_policy::{Batch, Check, Phase};
use serde::{Deserialize, Serialize};

/// Operations that are counted; further ones are not.
const MOST: usize = 256;

/// Counts stop here, so that they and their sums are exact in floating point.
const FEW: u64 = 1 << 40;

/// Classes, and the gauges of V1's, of V2's and of mirrored calls; and of sessions that had one for the first time.
const CLASSES: [Class; 2] = [
    Class { name: "3xx", calls: ["v1.3xx", "v2.3xx", "shadow.3xx"], first: ["v1.3xx-first", "v2.3xx-first"] },
    Class { name: "4xx", calls: ["v1.4xx", "v2.4xx", "shadow.4xx"], first: ["v1.4xx-first", "v2.4xx-first"] },
];

struct Class {
    name: &'static str,
    calls: [&'static str; 3],
    first: [&'static str; 2],
}

/// Sums of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    /// Answers of V1 and of V2.
    calls: [u64; 2],
    /// Those of each class.
    classes: [Answers; 2],
}

/// Answers of one class, of V1 and of V2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Answers {
    calls: [u64; 2],
    sessions: [u64; 2],
}

/// Operations by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Statuses(BTreeMap<String, Sums>);

/// What moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The operation.
    pub operation: String,
    /// `3xx` or `4xx`.
    pub class: &'static str,
    /// Parts per million of V1's and of V2's answers, rounded up.
    pub ppm: [u64; 2],
}

impl Moved {
    /// By how much.
    #[must_use]
    pub const fn by(&self) -> u64 {
        self.ppm[0].abs_diff(self.ppm[1])
    }
}

/// What is enough to count.
#[derive(Debug, Clone, Copy)]
pub struct Enough {
    /// Answers of each pool.
    pub calls: u64,
    /// Sessions of the pool that has more of the class, where there are sessions.
    pub sessions: u64,
    /// Parts per million of the answers of an operation.
    pub change_ppm: u64,
}

impl Statuses {
    /// Adds the batches of the check's stage. Old ones count less and less, `enough` calls ten times over and more.
    pub(crate) fn add(&mut self, check: &Check, begun: bool, enough: u64) {
        if begun {
            self.0.clear();
        }
        for batch in crate::window::of_stage(check) {
            self.count(batch, check.phase == Phase::Shadow);
        }
        for sums in self.0.values_mut() {
            if sums.calls.iter().all(|calls| *calls >= enough.saturating_mul(20)) {
                sums.calls = sums.calls.map(|calls| calls / 2);
                sums.classes.iter_mut().for_each(|class| class.calls = class.calls.map(|calls| calls / 2));
            }
        }
    }

    fn count(&mut self, batch: &Batch, mirrored: bool) {
        // Those of old history did not count statuses.
        if batch.gauges.is_empty() {
            return;
        }
        for calls in &batch.operations {
            let name = calls.operation.as_str();
            let v2 = if mirrored { &calls.shadow } else { &calls.v2 };
            if !self.0.contains_key(name) && (self.0.len() >= MOST || v2.requests == 0) {
                continue;
            }
            let sums = self.0.entry(name.to_owned()).or_default();
            // As far as gauges go.
            let requests = [calls.v1.requests, v2.requests].map(|calls| calls.min(i64::MAX.unsigned_abs()));
            let mut more = Sums { calls: requests, ..Sums::default() };
            for (answers, class) in more.classes.iter_mut().zip(&CLASSES) {
                let [v1, v2, shadow] = class.calls.map(|gauge| batch.count_of(gauge, name));
                answers.calls = least([v1, if mirrored { shadow } else { v2 }], requests);
                answers.sessions = least(class.first.map(|gauge| batch.count_of(gauge, name)), requests);
            }
            more.bound();
            sums.add(&more);
            sums.bound();
        }
    }

    /// What moved most, beyond what is allowed and beyond chance.
    pub(crate) fn moved(&self, mirrored: bool, enough: Enough) -> Option<Moved> {
        let of = |(name, sums): (&String, &Sums)| {
            let moved = sums.classes.iter().zip(&CLASSES).filter_map(|(answers, class)| {
                let ppm = answers.moved(sums.calls, mirrored, enough)?;
                Some(Moved { operation: name.clone(), class: class.name, ppm })
            });
            moved.reduce(further)
        };
        self.0.iter().filter_map(of).reduce(further)
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        add(&mut self.calls, other.calls);
        for (answers, more) in self.classes.iter_mut().zip(&other.classes) {
            add(&mut answers.calls, more.calls);
            add(&mut answers.sessions, more.sessions);
        }
    }

    /// Halves a pool's counts together: cut one by one, they would be another rate.
    fn bound(&mut self) {
        let halvings = self.calls.map(|calls| (0..u64::BITS).find(|n| calls >> n <= FEW).unwrap_or(0));
        let halved = |counts: [u64; 2]| [counts[0] >> halvings[0], counts[1] >> halvings[1]];
        self.calls = halved(self.calls);
        for answers in &mut self.classes {
            answers.calls = halved(answers.calls);
            answers.sessions = least(answers.sessions, [FEW; 2]);
        }
    }
}

impl Answers {
    fn moved(&self, [n1, n2]: [u64; 2], mirrored: bool, enough: Enough) -> Option<[u64; 2]> {
        if n1 < enough.calls || n2 < enough.calls {
            return None;
        }
        let [x1, x2] = [self.calls[0].min(n1), self.calls[1].min(n2)];
        let [v1, v2] = [crate::rules::parts(x1, n1), crate::rules::parts(x2, n2)];
        let [of_v1, of_v2] = self.sessions;
        let sessions = if v2 > v1 { of_v2 } else { of_v1 };
        if !mirrored && sessions < enough.sessions {
            return None;
        }
        let rate = real(x1 + x2) / real(n1 + n2);
        let chance = (rate * (1.0 - rate) * (1.0 / real(n1) + 1.0 / real(n2))).sqrt() * 1e6;
        let sure = real(v1.abs_diff(v2)) - 3.0 * chance;
        (sure > real(enough.change_ppm)).then_some([v1, v2])
    }
}

/// The one that moved further; of two alike, the first.
fn further(one: Moved, other: Moved) -> Moved {
    if other.by() > one.by() { other } else { one }
}

fn add(sums: &mut [u64; 2], counts: [u64; 2]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
}

/// No session and no answer without a call.
fn least(counts: [u64; 2], most: [u64; 2]) -> [u64; 2] {
    [counts[0].min(most[0]), counts[1].min(most[1])]
}

/// Exact, as counts stop before the mantissa ends.
#[expect(clippy::cast_precision_loss, reason = "counts stop before the mantissa ends")]
const fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
