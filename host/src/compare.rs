//! Asks the comparison policy about mirrored pairs, off the request's path, and adds up what it says.
//!
//! Pairs wait in a bounded queue; when it is full they are dropped and counted, never waited for. The report keeps one
//! line for each place in which results differ, with an example, so that a thousand differences of one cause read as
//! one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    observe::Recorder,
    policy::{
        PolicyError,
        engine::Policy,
        port::{Comparison, Difference, Kind, Pair},
        trial::{Job, Trials},
    },
};

/// Pairs that may wait; at 64 KiB each they are 64 MiB.
const QUEUE: usize = 1_024;

/// Pairs that are compared in one question.
const BATCH: usize = 64;

/// How long a pair waits for company.
const GATHER: Duration = Duration::from_millis(20);

/// Lines that a report keeps.
const MAX_LINES: usize = 1_000;

/// Where pairs are handed in.
#[derive(Debug, Clone)]
pub struct Comparer {
    queue: mpsc::Sender<Pair>,
    report: Arc<Mutex<Report>>,
}

/// What comparisons have found since the host began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Pairs that were dropped because too many waited.
    pub dropped: u64,
    /// Questions that the policy did not answer, by cause.
    pub failures: BTreeMap<&'static str, u64>,
    /// Differences by place, the most frequent first once it is asked for.
    pub lines: Vec<Line>,
}

/// One place in which results differ.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The operation.
    pub operation: String,
    /// Where, as a JSON Pointer with array positions replaced by `*`.
    pub path: String,
    /// What kind of difference.
    pub kind: String,
    /// What it means.
    pub category: String,
    /// Whether the rules ignore it.
    pub ignored: bool,
    /// How often.
    pub count: u64,
    /// V1's value, the first time.
    pub v1: String,
    /// V2's value, the first time.
    pub v2: String,
}

/// Makes a comparer and the task that does its work, to be spawned by its owner. The task ends when the last clone of
/// the comparer is gone.
pub fn comparer(trials: Trials, recorder: Arc<Recorder>) -> (Comparer, impl Future<Output = ()> + Send) {
    let (queue, pairs) = mpsc::channel(QUEUE);
    let report = Arc::<Mutex<Report>>::default();
    let work = compare_all(pairs, trials, recorder, Arc::clone(&report));
    (Comparer { queue, report }, work)
}

impl Comparer {
    /// Hands in a pair; drops it if too many wait.
    pub fn submit(&self, pair: Pair) {
        if self.queue.try_send(pair).is_err() {
            self.report.lock().dropped += 1;
        }
    }

    /// What was found so far.
    pub fn report(&self) -> Report {
        let mut report = self.report.lock().clone();
        report.lines.sort_by(|a, b| (a.ignored, b.count).cmp(&(b.ignored, a.count)));
        report
    }
}

async fn compare_all(
    mut pairs: mpsc::Receiver<Pair>,
    trials: Trials,
    recorder: Arc<Recorder>,
    report: Arc<Mutex<Report>>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while pairs.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(pair) = pairs.try_recv()
            {
                batch.push(pair);
            }
        }
        let mut pairs = std::mem::take(&mut batch);
        let Some(policy) = trials.slots().get(Kind::Comparison).active() else { continue };
        while !pairs.is_empty() {
            let (asked, outcomes) = match policy.pairs_at_once(&pairs) {
                Ok(fitting) => {
                    let rest = pairs.split_off(fitting);
                    let asked = std::mem::replace(&mut pairs, rest);
                    let Some(compared) = compare(asked, &policy, &trials, &report).await else { continue };
                    compared
                }
                // No fault of the policy: it was not asked.
                Err(too_large) => (vec![pairs.remove(0)], vec![Comparison::Incomparable(not_asked(&too_large))]),
            };
            let mut report = report.lock();
            for (pair, outcome) in asked.iter().zip(outcomes) {
                recorder.compared(&outcome);
                report.add(&pair.operation, outcome);
            }
        }
    }
}

/// Asks about pairs that fit one question. None if that panicked.
async fn compare(
    asked: Vec<Pair>,
    policy: &Arc<Policy>,
    trials: &Trials,
    report: &Mutex<Report>,
) -> Option<(Vec<Pair>, Vec<Comparison>)> {
    let asking = Arc::clone(policy);
    let answer = tokio::task::spawn_blocking(move || (asking.compare(&asked), asked)).await;
    let (answered, asked) = answer.map_err(|error| tracing::error!(%error, "a comparison panicked")).ok()?;
    trials.submit(Kind::Comparison, || Job::Compared(asked.clone(), answered.clone()));
    let outcomes = answered.answer.unwrap_or_else(|error| {
        trials.failed(Kind::Comparison, Some(policy), &error);
        failed(&error, asked.len(), report)
    });
    Some((asked, outcomes))
}

/// Why a pair is not compared that is larger than any question may be.
fn not_asked(too_large: &PolicyError) -> String {
    format!("both results together are too large to compare: the policy {too_large}")
}

/// A policy that does not answer has not said that anything is the same.
fn failed(error: &PolicyError, pairs: usize, report: &Mutex<Report>) -> Vec<Comparison> {
    tracing::warn!(%error, "the comparison policy failed");
    *report.lock().failures.entry(error.cause()).or_default() += 1;
    vec![Comparison::Incomparable(format!("the comparison policy {error}")); pairs]
}

impl Report {
    fn add(&mut self, operation: &str, outcome: Comparison) {
        let (differences, ignored) = match outcome {
            Comparison::Same => return,
            Comparison::Ignored(all) => (all, true),
            Comparison::Different(all) => (all, false),
            Comparison::Incomparable(why) => {
                let [path, v2] = [String::new(), String::new()];
                let difference =
                    Difference { path, kind: "incomparable".into(), category: "unknown".into(), v1: why, v2 };
                (vec![difference], false)
            }
        };
        for d in differences {
            let path = place(&d.path);
            let full = self.lines.len() >= MAX_LINES;
            let known = self.lines.iter_mut().find(|l| {
                (l.operation.as_str(), &l.path, &l.kind, &l.category, l.ignored)
                    == (operation, &path, &d.kind, &d.category, ignored)
            });
            match known {
                Some(line) => line.count += 1,
                None if full => {}
                None => self.lines.push(Line {
                    operation: operation.into(),
                    path,
                    kind: d.kind,
                    category: d.category,
                    ignored,
                    count: 1,
                    v1: d.v1,
                    v2: d.v2,
                }),
            }
        }
    }
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
}
