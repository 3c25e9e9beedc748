//! What mirrored pairs show, by operation: how many differ, how many could not be compared, and how many were.
//!
//! A pair that was not compared is not the same. What is looked at are the last pairs of each operation: a window and up
//! to as many again. So one difference of thousands is forgotten once enough pairs after it were the same, and those of a
//! rare operation are not washed away by a busy one. Pairs that were left out for want of room are a sample's other
//! part and say nothing; but if nearly all are, too few were compared.

use std::collections::BTreeMap;

use cutover_policy::{Batch, finding, text};
use serde::{Deserialize, Serialize};

use crate::{Condition, settings::Pairs};

/// In the first batch of other comparison rules: what those before found counts no longer.
const RULES_CHANGED: &str = "pairs.rules-changed";

/// In the first batch after a person accepted what differed of an operation so far: that counts no longer.
const ACCEPTED: &str = "pairs.accepted{";

/// The gauges of an operation, in the order of [`Counts`].
const GAUGES: [&str; 8] =
    ["asked", "compared", "different", "incomparable", "left-out", "too-large", "unanswered", "unasked"];

/// As people read them, for those that can be the reason.
const MISSING: [(usize, &str); 5] =
    [(3, "incomparable"), (4, "left out"), (5, "too large"), (6, "not answered by V2"), (7, "not asked about")];

/// Pairs of an operation, in the order of [`GAUGES`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts([u64; 8]);

/// The pairs of the last window that is full, and those since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window(Counts, Counts);

/// Pairs since the phase or stage began, or since the rules changed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    /// All that were compared.
    pub(crate) compared: u64,
    /// Those looked at, by operation. A host that does not tell them apart has one without a name.
    operations: BTreeMap<String, Window>,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }

    fn of(self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn asked(self) -> u64 {
        self.of(0)
    }

    fn compared(self) -> u64 {
        self.of(1)
    }

    fn different(self) -> u64 {
        self.of(2)
    }

    fn incomparable(self) -> u64 {
        self.of(3)
    }

    /// Those that there was room for.
    fn tried(self) -> u64 {
        [1, 3, 5, 6, 7].into_iter().fold(0, |sum: u64, at| sum.saturating_add(self.of(at)))
    }
}

impl Window {
    fn add(&mut self, counts: Counts, window: u64) {
        self.1.add(counts);
        if self.1.tried() >= window {
            (self.0, self.1) = (self.1, Counts::default());
        }
    }

    /// What differed so far is as good as the same.
    fn accept(&mut self) {
        for counts in [&mut self.0, &mut self.1] {
            if let Some(different) = counts.0.get_mut(2) {
                *different = 0;
            }
        }
    }

    fn all(self) -> Counts {
        let mut all = self.0;
        all.add(self.1);
        all
    }

    /// How many more pairs without a difference it takes until no more than `max` of the compared ones differ. What differs
    /// is watered down, leaves with the full window when this one is full, and is gone when the next one is.
    fn missing(self, window: u64, max: u64) -> u64 {
        let (full, open) = (self.0, self.1);
        // Those that it takes by themselves; none if none may differ.
        let watered = |counts: Counts| {
            let (different, compared) = (u128::from(counts.different()) * 1_000_000, u128::from(counts.compared()));
            let needed = if different == 0 { Some(0) } else { different.checked_div(max.into()) };
            let needed = needed.map(|n| if n * u128::from(max) < different { n + 1 } else { n });
            needed.map(|n| u64::try_from(n.saturating_sub(compared)).unwrap_or(u64::MAX))
        };
        let left = window.saturating_sub(open.tried()).max(1);
        let mut both = full;
        both.add(open);
        match (watered(both), watered(open)) {
            (Some(more), _) if more < left => more,
            (_, Some(more)) if more < left.saturating_add(window) => more.max(left),
            _ => left.saturating_add(window),
        }
    }
}

impl Seen {
    pub(crate) fn add(&mut self, batch: &Batch, window: u64) {
        if batch.gauge(RULES_CHANGED).is_some() {
            *self = Self::default();
        }
        let accepted = batch.gauges.iter().filter_map(|g| g.name.strip_prefix(ACCEPTED)?.strip_suffix('}'));
        for operation in accepted {
            if let Some(window) = self.operations.get_mut(operation) {
                window.accept();
            }
        }
        for (operation, counts) in counts(batch) {
            self.compared = self.compared.saturating_add(counts.compared());
            self.operations.entry(operation).or_default().add(counts, window);
        }
    }

    /// What pairs have to show. `max_different` is that of the phase.
    pub(crate) fn conditions(&self, rules: &Pairs, max_different: u64, always: bool) -> Vec<Condition> {
        let all: Vec<_> = self.operations.iter().map(|(name, window)| (name.as_str(), window.all())).collect();
        let mut conditions = Vec::new();
        if always || !all.is_empty() {
            conditions.push(self.different(&all, rules.window, max_different));
        }
        if !all.is_empty() {
            conditions.push(incomparable(&all, rules));
            conditions.push(coverage(&all, rules));
        }
        conditions
    }
}

impl Seen {
    fn different(&self, all: &[(&str, Counts)], window: u64, max: u64) -> Condition {
        let (name, ppm) = worst(all, |counts| ppm_up(counts.different(), counts.compared().max(1)));
        let observed = text::percent(text::round_up(ppm));
        let more = self.operations.get(name).filter(|_| ppm > max).map_or_else(String::new, |own| {
            format!("; it takes {} more without a difference", text::round_up(own.missing(window, max)))
        });
        let note = format!("{observed} of the compared pairs{} differ, {} may{more}", of(name), text::percent(max));
        Condition { met: ppm <= max, finding: finding("different", ppm, max, "ppm", note) }
    }
}

/// By operation, or, of a host that does not count so, all together.
fn counts(batch: &Batch) -> BTreeMap<String, Counts> {
    let mut all = BTreeMap::<_, Counts>::new();
    let mut by_operation = false;
    for gauge in &batch.gauges {
        let Some(name) = gauge.name.strip_prefix("pairs.") else { continue };
        by_operation = true;
        let Some((what, operation)) = name.split_once('{').and_then(|(w, o)| Some((w, o.strip_suffix('}')?))) else {
            continue;
        };
        let Some(at) = GAUGES.iter().position(|known| *known == what) else { continue };
        let counts = all.entry(operation.to_owned()).or_default();
        if let Some(count) = counts.0.get_mut(at) {
            *count = u64::try_from(gauge.value).unwrap_or(0);
        }
    }
    let pairs = &batch.comparisons;
    let compared = [pairs.same, pairs.ignored, pairs.different].into_iter().fold(0, u64::saturating_add);
    let asked = compared.saturating_add(pairs.incomparable);
    if !by_operation && asked > 0 {
        all.insert(String::new(), Counts([asked, compared, pairs.different, pairs.incomparable, 0, 0, 0, 0]));
    }
    all
}

fn incomparable(all: &[(&str, Counts)], rules: &Pairs) -> Condition {
    let max = rules.max_incomparable.0.into();
    let (name, ppm) = worst(all, |counts| ppm_up(counts.incomparable(), counts.tried().max(rules.enough)));
    let observed = text::percent(text::round_up(ppm));
    let note =
        format!("{observed} of the mirrored pairs{} could not be compared, {} may", of(name), text::percent(max));
    Condition { met: ppm <= max, finding: finding("incomparable", ppm, max, "ppm", note) }
}

/// An operation with few pairs is not looked at; one whose pairs were nearly all left out is.
fn coverage(all: &[(&str, Counts)], rules: &Pairs) -> Condition {
    let min = rules.min_coverage.0.into();
    let covered = |counts: &Counts| {
        let enough = counts.tried().max(rules.enough);
        // Rounded down, so that it is below a limit just when the exact value is.
        1_000_000 - ppm_up(enough - counts.compared().min(enough), enough).min(1_000_000)
    };
    let asked = all.iter().filter(|(_, counts)| counts.asked() >= rules.enough);
    let Some((name, counts)) = asked.min_by_key(|(_, counts)| covered(counts)) else {
        let note = format!("no operation has {} mirrored pairs", rules.enough);
        return Condition { met: true, finding: finding("coverage", 1_000_000, min, "ppm", note) };
    };
    let ppm = covered(counts);
    let met = ppm >= min;
    Condition { met, finding: finding("coverage", ppm, min, "ppm", covered_note(name, *counts, ppm, min, met)) }
}

fn covered_note(name: &str, counts: Counts, ppm: u64, min: u64, met: bool) -> String {
    let (observed, needed) = (text::percent(ppm), text::percent(min));
    let mut note = format!("{observed} of the mirrored pairs{} were compared, {needed} must be", of(name));
    let missing = MISSING.iter().filter(|(at, _)| counts.of(*at) > 0);
    let missing: Vec<_> = missing.map(|(at, what)| format!("{} {what}", counts.of(*at))).collect();
    if !met && !missing.is_empty() {
        note = format!("{note}; of {} asked, {}", counts.asked(), missing.join(", "));
    }
    note
}

/// The operation with the largest value, the first of equals; none if there is none.
fn worst<'a>(all: &[(&'a str, Counts)], value: impl Fn(&Counts) -> u64) -> (&'a str, u64) {
    let mut worst = ("", 0);
    for (name, counts) in all {
        let ppm = value(counts);
        if ppm > worst.1 {
            worst = (name, ppm);
        }
    }
    worst
}

fn of(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" of `{name}`") }
}

/// Rounded up, so that what is observed is over a limit just when the exact value is.
fn ppm_up(part: u64, whole: u64) -> u64 {
    let ppm = (u128::from(part) * 1_000_000).div_ceil(u128::from(whole.max(1)));
    u64::try_from(ppm).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
