//! Asks the comparison policy about mirrored pairs, off the request's path, and adds up what it says.
//!
//! Pairs wait in a bounded queue; when it is full they are dropped and counted, never waited for. The report keeps one
//! line for each place in which results differ, with an example, so that a thousand differences of one cause read as
//! one.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::observe::{
    Asked, Pairs, Uncompared,
    pairs::{Fates, Rules},
};
use cutover_model::port::{Comparison, Difference, Kind, Pair};
use cutover_policy_host::{
    PolicyError,
    ask::PolicyPort,
    evaluation::{EvaluationQueue, Job},
    slot::Slots,
};

/// Pairs that may wait; at 64 KiB each they are 64 MiB.
const QUEUE: usize = 1_024;

/// Pairs that are compared in one question.
const BATCH: usize = 64;

/// How long a pair waits for company.
const GATHER: Duration = Duration::from_millis(20);

/// Lines that a report keeps.
const MAX_LINES: usize = 1_000;

/// What a line says of pairs that the host itself found not to be comparable.
const BY_HOST: &str = "host";

/// The handle by which mirrored pairs reach the task that compares them. Clones share one queue and one report.
#[derive(Debug, Clone)]
pub struct Comparer {
    queue: mpsc::Sender<Asking>,
    pairs: Arc<Pairs>,
    report: Arc<Mutex<Report>>,
}

/// A pair, and the token that counts what becomes of it.
type Asking = (Pair, Asked);

/// What comparisons have found since the host began, by the rules that are in charge now.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Pairs that were dropped because too many waited.
    pub dropped: u64,
    /// Questions that the policy did not answer, by cause.
    pub failures: BTreeMap<&'static str, u64>,
    /// What became of all pairs, by operation, by whatever rules.
    pub pairs: BTreeMap<Arc<str>, Fates>,
    /// How often other rules were put in charge. What was found by those before is not in the lines.
    pub rules_changed: u64,
    /// Differences by place, and why pairs were not compared; the most frequent first once it is asked for.
    pub lines: Vec<Line>,
}

/// One place in which results differ.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The operation whose results differ.
    pub operation: String,
    /// Where, as a JSON Pointer with array positions replaced by `*`.
    pub path: String,
    /// The kind of difference: `missing`, `value` or another word of the policy; or why the pair was not compared.
    pub kind: String,
    /// What the policy says the difference means to the team, such as `timing`; `host` if the host could not compare
    /// the pair.
    pub category: String,
    /// Whether the rules ignore it.
    pub ignored: bool,
    /// How many of `count` a person has accepted.
    pub accepted: u64,
    /// How many were found since the rules now in charge took over.
    pub count: u64,
    /// V1's value in the first pair that was found.
    pub v1: String,
    /// V2's value in the first pair that was found.
    pub v2: String,
}

/// Makes a comparer and the task that does its work, to be spawned by its owner. The task ends when the last clone of
/// the comparer is gone.
pub fn comparer(evaluations: EvaluationQueue, pairs: Arc<Pairs>) -> (Comparer, impl Future<Output = ()> + Send) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let report = Arc::<Mutex<Report>>::default();
    let comparer = Work { evaluations, pairs: Arc::clone(&pairs), report: Arc::clone(&report) };
    (Comparer { queue, pairs, report }, comparer.run(waiting))
}

/// The rules that are in charge of a migration's pairs; `None` without a comparison policy.
pub fn rules(slots: &Slots) -> Option<Rules> {
    slots.get(Kind::Comparison).active().map(|policy| rules_of(&*policy))
}

fn rules_of(policy: &dyn PolicyPort) -> Rules {
    let mut hasher = DefaultHasher::new();
    (policy.digest(), policy.settings()).hash(&mut hasher);
    Rules(hasher.finish())
}

impl Comparer {
    /// Hands in a pair; leaves it out if too many wait.
    pub fn submit(&self, pair: Pair, asked: Asked) {
        // A pair that is not taken is dropped, and so counts as left out.
        if self.queue.try_send((pair, asked)).is_err() {
            self.report.lock().dropped += 1;
        }
    }

    /// Takes note of a pair that cannot be handed in, and why.
    pub fn leave(&self, asked: Asked, what: Uncompared, why: &str) {
        self.report.lock().at(self.pairs.changes()).leave(asked.operation(), what, why);
        asked.end(what);
    }

    /// Marks as accepted what was found different of an operation so far: a person accepted it.
    pub fn accept(&self, operation: &str) {
        let mut report = self.report.lock();
        for line in report.at(self.pairs.changes()).lines.iter_mut().filter(|line| line.operation == operation) {
            let differs = !line.ignored && line.category != BY_HOST;
            line.accepted = if differs { line.count } else { line.accepted };
        }
    }

    /// What was found so far.
    pub fn report(&self) -> Report {
        let mut report = self.report.lock().at(self.pairs.changes()).clone();
        report.pairs = self.pairs.totals();
        report.lines.sort_by(|a, b| (a.ignored, b.count).cmp(&(b.ignored, a.count)));
        report
    }
}

struct Work {
    evaluations: EvaluationQueue,
    pairs: Arc<Pairs>,
    report: Arc<Mutex<Report>>,
}

impl Work {
    async fn run(self, mut waiting: mpsc::Receiver<Asking>) {
        let mut batch = Vec::with_capacity(BATCH);
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            if batch.len() < BATCH {
                tokio::time::sleep(GATHER).await;
                while batch.len() < BATCH
                    && let Ok(asking) = waiting.try_recv()
                {
                    batch.push(asking);
                }
            }
            let (mut pairs, mut asked): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            while !pairs.is_empty() {
                let done = self.compare_some(&mut pairs).await;
                let rest = asked.split_off(asked.len() - pairs.len());
                let done_with = std::mem::replace(&mut asked, rest);
                self.take_note(done_with, done);
            }
        }
    }

    /// Compares as many of the first pairs as fit one question, and takes them off.
    async fn compare_some(&self, pairs: &mut Vec<Pair>) -> Done {
        self.pairs.in_force(|| rules(self.evaluations.slots()));
        let Some(policy) = self.evaluations.slots().get(Kind::Comparison).active() else {
            pairs.clear();
            return Done::Not(Uncompared::Unasked, "no comparison policy is in charge".into());
        };
        match policy.pairs_at_once(pairs) {
            Ok(fitting) => {
                let rest = pairs.split_off(fitting);
                let asked = std::mem::replace(pairs, rest);
                compare(asked, &policy, &self.evaluations, &self.report).await
            }
            // No fault of the policy: it was not asked.
            Err(too_large) => {
                pairs.remove(0);
                Done::Not(Uncompared::TooLarge, not_asked(&too_large))
            }
        }
    }

    fn take_note(&self, asked: Vec<Asked>, done: Done) {
        match done {
            Done::Compared(rules, outcomes) => {
                for (asked, outcome) in asked.into_iter().zip(outcomes) {
                    let operation = Arc::clone(asked.operation());
                    // What was said by rules that are in charge no longer is not kept.
                    if asked.compared(rules, &outcome).is_ok() {
                        self.report.lock().at(self.pairs.changes()).add(&operation, outcome);
                    }
                }
            }
            Done::Not(what, why) => {
                for asked in asked {
                    self.report.lock().at(self.pairs.changes()).leave(asked.operation(), what, &why);
                    asked.end(what);
                }
            }
        }
    }
}

/// What became of the pairs of a question.
enum Done {
    /// They were compared by these rules.
    Compared(Rules, Vec<Comparison>),
    /// They were not compared: why, for the counts and in words.
    Not(Uncompared, String),
}

/// Asks about pairs that fit one question. A policy that does not answer has not said that anything is the same.
async fn compare(
    asked: Vec<Pair>,
    policy: &Arc<dyn PolicyPort>,
    evaluations: &EvaluationQueue,
    report: &Mutex<Report>,
) -> Done {
    let asking = Arc::clone(policy);
    let answer = tokio::task::spawn_blocking(move || (asking.compare(&asked), asked)).await;
    let (answered, asked) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(%error, "a comparison panicked");
            return Done::Not(Uncompared::Unasked, "the comparison panicked".into());
        }
    };
    evaluations.submit(Kind::Comparison, || Job::Compared(asked, answered.clone()));
    match answered.answer {
        Ok(outcomes) => Done::Compared(rules_of(&**policy), outcomes),
        Err(error) => {
            evaluations.failed(Kind::Comparison, Some(policy), &error);
            tracing::warn!(%error, "the comparison policy failed");
            *report.lock().failures.entry(error.cause()).or_default() += 1;
            Done::Not(Uncompared::Unasked, format!("the comparison policy {error}"))
        }
    }
}

/// Why a pair is not compared that is larger than any question may be.
fn not_asked(too_large: &PolicyError) -> String {
    format!("both results together are too large to compare: the policy {too_large}")
}

impl Report {
    /// Removes what was found by earlier rules: `changes` is how often the rules have changed.
    fn at(&mut self, changes: u64) -> &mut Self {
        if self.rules_changed != changes {
            self.rules_changed = changes;
            self.lines.clear();
        }
        self
    }

    fn add(&mut self, operation: &str, outcome: Comparison) {
        let (differences, ignored) = match outcome {
            Comparison::Same => return,
            Comparison::Ignored(all) => (all, true),
            Comparison::Different(all) => (all, false),
            Comparison::Incomparable(why) => (vec![uncompared(Uncompared::Incomparable, "unknown", why)], false),
        };
        for difference in differences {
            self.count(operation, difference, ignored);
        }
    }

    fn leave(&mut self, operation: &str, what: Uncompared, why: &str) {
        let of_v2 = what == Uncompared::Unanswered;
        let mut found = uncompared(what, BY_HOST, why.into());
        if of_v2 {
            // It is V2 that did not answer.
            (found.v1, found.v2) = (String::new(), found.v1);
        }
        self.count(operation, found, false);
    }

    fn count(&mut self, operation: &str, found: Difference, ignored: bool) {
        let path = place(&found.path);
        let full = self.lines.len() >= MAX_LINES;
        let known = self.lines.iter_mut().find(|l| {
            (l.operation.as_str(), &l.path, &l.kind, &l.category, l.ignored)
                == (operation, &path, &found.kind, &found.category, ignored)
                && (l.category != BY_HOST || (&l.v1, &l.v2) == (&found.v1, &found.v2))
        });
        let Difference { kind, category, v1, v2, .. } = found;
        match known {
            Some(line) => line.count += 1,
            None if full => {}
            None => {
                let operation = operation.into();
                self.lines.push(Line { operation, path, kind, category, ignored, accepted: 0, count: 1, v1, v2 });
            }
        }
    }
}

/// A pair that was not compared, as a line has it.
fn uncompared(what: Uncompared, category: &str, why: String) -> Difference {
    let [path, v2] = [String::new(), String::new()];
    Difference { path, kind: what.name().into(), category: category.into(), v1: why, v2 }
}

/// The same place in every element of an array is one place.
fn place(pointer: &str) -> String {
    let segment =
        |s: &str| if !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) { "*".into() } else { s.to_owned() };
    pointer.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_one_place_are_one_line() {
        let mut report = Report::default();
        for n in 0..3 {
            let d = Difference {
                path: format!("/items/{n}/price"),
                kind: "value".into(),
                category: "semantic".into(),
                v1: n.to_string(),
                v2: "9".into(),
            };
            report.add("list", Comparison::Different(vec![d]));
        }
        assert_eq!(report.lines.len(), 1);
        let line = &report.lines[0];
        assert_eq!((line.path.as_str(), line.count, line.v1.as_str()), ("/items/*/price", 3, "0"));
    }

    #[test]
    fn why_pairs_were_not_compared_is_a_line_for_each_reason_until_the_rules_change() {
        let mut report = Report::default();
        for why in ["too large", "not now", "too large"] {
            report.at(0).leave("get", Uncompared::LeftOut, why);
        }
        report.at(0).add("get", Comparison::Incomparable("no JSON".into()));
        let lines: Vec<_> = report.lines.iter().map(|l| (l.kind.as_str(), l.v1.as_str(), l.count)).collect();
        assert_eq!(lines, [("left-out", "too large", 2), ("left-out", "not now", 1), ("incomparable", "no JSON", 1)]);
        assert!(report.at(1).lines.is_empty());
    }
}
