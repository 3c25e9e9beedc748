//! Inputs that are drawn: the same for each run, so that a failure can be repeated by its number.

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Gauge, Members, OperationCalls},
    port::{Pair, Phase, Side, Situation},
    request::{Class, Ppm},
};
use serde_json::{Map, Value};

/// Draws numbers (`SplitMix64`, Steele, Lea and Flood 2014).
pub(super) struct Draw(u64);

fn gauge(name: &str, value: u64) -> Gauge {
    Gauge { name: name.into(), value: i64::try_from(value).unwrap() }
}

impl Draw {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }

    fn calls(&mut self, most: u64, slow: u64) -> Calls {
        let requests = self.below(most);
        let errors = if self.one_in(3) { self.below(requests / 4 + 1) } else { 0 };
        let mut calls = Calls { requests, errors, units: requests, unit_errors: errors, ..Calls::default() };
        for _ in 0..requests.min(20) {
            let us = 1_000 + self.below(slow);
            calls.latency.record(us);
        }
        calls
    }

    /// A second of a migration.
    pub(super) fn batch(&mut self, start_ms: u64) -> Batch {
        let mut operations = Vec::new();
        for name in ["delete", "execute", "list"] {
            if self.one_in(3) {
                continue;
            }
            let (most, slow) = (self.of(&[20, 200, 2_000]), self.of(&[50_000, 300_000]));
            operations.push(OperationCalls {
                operation: name.into(),
                class: Class::Read,
                v1: self.calls(most, 100_000),
                v2: self.calls(most, slow),
                shadow: self.calls(most / 2, slow),
            });
        }
        let ready = u32::try_from(self.below(5)).unwrap();
        let v2 = Members {
            wanted: 4,
            ready,
            failures: u32::from(self.one_in(40)),
            queued: 0,
            rss_bytes: u64::from(ready) * (100 << 20) + start_ms * self.of(&[0, 0, 1, 40]),
        };
        let mut gauges = vec![
            gauge("host.cpu-ppm", 500_000 + self.below(330_000)),
            gauge("host.memory-ppm", 500_000 + self.below(420_000)),
        ];
        gauges.extend(self.sessions(&operations));
        Batch {
            start_ms: UnixMs(start_ms),
            duration_ms: 1_000,
            share: Ppm::new(100_000),
            operations,
            v1: Members::default(),
            v2,
            comparisons: Comparisons {
                same: self.below(40),
                ignored: self.below(3),
                different: u64::from(self.one_in(20)),
                incomparable: self.below(2),
            },
            gauges,
        }
    }

    /// Distinct sessions and classes of statuses, as a rule: hosts of before do not say.
    fn sessions(&mut self, operations: &[OperationCalls]) -> Vec<Gauge> {
        let mut gauges = Vec::new();
        if self.one_in(4) {
            return gauges;
        }
        for (pool, own) in [("v1", 1), ("v2", self.of(&[1, 1, 4]))] {
            let (sessions, failed) = (self.below(50), self.below(50) / 40);
            gauges.push(gauge(&format!("{pool}.sessions"), sessions));
            gauges.push(gauge(&format!("{pool}.failed-sessions"), failed.min(sessions)));
            for calls in operations {
                let of = if pool == "v1" { &calls.v1 } else { &calls.v2 };
                for class in ["3xx", "4xx"] {
                    let name = &calls.operation;
                    let some = of.requests * own * self.of(&[0, 0, 1, 2]) / 8;
                    gauges.push(gauge(&format!("{pool}.{class}{{{name}}}"), some));
                    let units = self.below(of.units + 1);
                    gauges.push(gauge(&format!("{pool}.{class}-units{{{name}}}"), units));
                    gauges.push(gauge(&format!("{pool}.{class}-first{{{name}}}"), some.min(units / 4)));
                    if pool == "v2" {
                        gauges.push(gauge(&format!("shadow.{class}{{{name}}}"), calls.shadow.requests * own / 8));
                    }
                }
            }
        }
        gauges.sort_by(|a, b| a.name.cmp(&b.name));
        gauges
    }

    /// A second of a migration in which pairs are counted by operation, as a rule: hosts of before do not say.
    pub(super) fn batch_with_pairs(&mut self, start_ms: u64) -> Batch {
        let mut batch = self.batch(start_ms);
        batch.gauges.extend(self.pairs());
        batch.gauges.sort_by(|a, b| a.name.cmp(&b.name));
        batch
    }

    fn pairs(&mut self) -> Vec<Gauge> {
        let mut gauges = Vec::new();
        if self.one_in(4) {
            return gauges;
        }
        let mut push = |name: &str, value: u64| gauges.push(gauge(name, value));
        for name in ["execute", "get {id}"] {
            let compared = self.below(400);
            let wrong = self.of(&[0, 0, 0, 0, 0, 300]);
            let parts = [
                ("compared", compared),
                ("different", u64::from(self.one_in(20)).min(compared)),
                ("incomparable", u64::from(self.one_in(3))),
                ("left-out", self.below(200)),
                ("too-large", wrong),
                ("unanswered", self.below(2)),
                ("unasked", 0),
            ];
            push(&format!("pairs.asked{{{name}}}"), parts.iter().map(|part| part.1).sum());
            for (part, count) in parts.into_iter().filter(|part| part.1 > 0) {
                push(&format!("pairs.{part}{{{name}}}"), count);
            }
        }
        if self.one_in(30) {
            push("pairs.rules-changed", 1);
        }
        gauges.sort_by(|a, b| a.name.cmp(&b.name));
        gauges
    }

    pub(super) fn situation(&mut self) -> Situation {
        let phases = [
            Phase::Preparing,
            Phase::Shadow,
            Phase::Ramping,
            Phase::Complete,
            Phase::Decommissioned,
            Phase::Paused,
            Phase::RolledBack,
        ];
        let mut operations = vec![("create".to_owned(), Class::Replicate), ("delete".into(), Class::Exclusive)];
        operations.extend(["execute", "list"].map(|name| (name.to_owned(), Class::Read)));
        operations.truncate(usize::try_from(self.below(5)).unwrap());
        Situation {
            now_ms: UnixMs(self.below(1 << 40)),
            migration: "programs".into(),
            phase: self.of(&phases),
            stage: u32::try_from(self.below(6)).unwrap(),
            share: Ppm::new(u32::try_from(self.below(1_000_001)).unwrap()),
            salt: "salt".into(),
            operations,
        }
    }

    /// A document and, often, nearly the same one.
    pub(super) fn pair(&mut self) -> Pair {
        let one = self.document(4);
        let other = if self.one_in(4) { self.document(4) } else { self.altered(&one) };
        let body = |draw: &mut Self, value: &Value| match draw.below(50) {
            0 | 1 => b"{no json".to_vec(),
            2 => Vec::new(),
            _ => value.to_string().into_bytes(),
        };
        let (one, other) = (body(self, &one), body(self, &other));
        let side = |draw: &mut Self, body| Side {
            success: !draw.one_in(12),
            status: draw.of(&[200, 200, 200, 200, 200, 200, 200, 503, 304]),
            media_type: if draw.one_in(12) {
                draw.of(&["", "text/html", "Application/JSON ; charset=utf-8", ";", "text/plain;x"]).into()
            } else {
                "application/json".into()
            },
            body,
        };
        Pair { operation: "list".into(), v1: side(self, one), v2: side(self, other) }
    }

    fn document(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 5 } else { 9 }) {
            0 => Value::Null,
            1 => self.one_in(2).into(),
            2 => i64::try_from(self.below(5)).unwrap().into(),
            3 => self.of(&[0.5, 1.0, 2.0, -3.25, 1e20]).into(),
            4 => self.of(&["", "a", "a/b", "long ".repeat(60).as_str()].map(str::to_owned)).into(),
            5 | 6 => (0..self.below(4)).map(|_| self.document(depth - 1)).collect(),
            _ => {
                let mut fields = Map::new();
                for _ in 0..self.below(4) {
                    let key = self.of(&["a", "b", "items", "pid", "duration_ms", "x/y", "~"]);
                    fields.insert(key.into(), self.document(depth - 1));
                }
                fields.into()
            }
        }
    }

    fn altered(&mut self, value: &Value) -> Value {
        match value {
            _ if self.one_in(12) => self.document(1),
            Value::Array(elements) => {
                let mut elements: Vec<_> = elements.iter().map(|e| self.altered(e)).collect();
                if self.one_in(2) {
                    elements.reverse();
                }
                if self.one_in(6) {
                    elements.pop();
                }
                elements.into()
            }
            Value::Object(fields) => {
                let mut kept = Map::new();
                for (key, value) in fields {
                    if !self.one_in(15) {
                        kept.insert(key.clone(), self.altered(value));
                    }
                }
                kept.into()
            }
            Value::Number(number) if self.one_in(4) => (number.as_f64().unwrap() * (1.0 + 1e-12)).into(),
            other => other.clone(),
        }
    }
}
