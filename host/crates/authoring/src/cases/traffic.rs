//! Batches as case files write them, and the real ones that they stand for.
//!
//! `{ seconds = 60, v1 = { requests = 1000, p99 = "80ms" } }` is 60 batches of a second. Counts are dealt to the seconds
//! evenly and in whole numbers that add up to just what was written; latencies are dealt by systematic sampling, so that
//! each second has a share of the fast and of the slow calls. Nothing is random: the same text gives the same batches.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    deal::{Deal, part},
    latency::Latency,
    unknown,
    workers::Workers,
};
use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Gauge, OperationCalls},
    request::{Class, Ppm},
};

/// The host keeps no more batches for one check.
pub(super) const MAX_SECONDS: u64 = 3_600;

/// A million million, so that no product of counts leaves 128 bits.
const MAX_REQUESTS: u64 = 1_000_000_000_000;

/// Some seconds of traffic, or one batch in full.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Traffic {
    seconds: Option<u64>,
    v1: Option<Served>,
    v2: Option<Served>,
    shadow: Option<Served>,
    operations: Option<BTreeMap<String, Operation>>,
    workers: Workers,
    comparisons: Pairs,
    gauges: BTreeMap<String, i64>,
    /// Gauges that count: what is written is all of it.
    counts: BTreeMap<String, u64>,
    exact: Option<Exact>,
}

/// The calls of one operation, and what its class is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Operation {
    class: Option<Class>,
    v1: Served,
    v2: Served,
    shadow: Served,
}

/// Calls of one pool.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Served {
    requests: u64,
    errors: u64,
    timeouts: u64,
    failed_over: u64,
    units: Option<u64>,
    unit_errors: Option<u64>,
    latency: Option<super::notation::Span>,
    p50: Option<super::notation::Span>,
    p90: Option<super::notation::Span>,
    p95: Option<super::notation::Span>,
    p99: Option<super::notation::Span>,
    max: Option<super::notation::Span>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pairs {
    same: u64,
    ignored: u64,
    different: u64,
    incomparable: u64,
}

/// A batch in full.
#[derive(Debug, Clone)]
struct Exact(Batch);

impl Traffic {
    /// Seconds that it takes.
    pub(super) fn seconds(&self) -> u64 {
        if self.exact.is_some() { 0 } else { self.seconds.unwrap_or(5) }
    }

    /// What contradicts itself, with the field.
    pub(super) fn problem(&self) -> Option<String> {
        let calls = self.v1.is_some() || self.v2.is_some() || self.shadow.is_some();
        if self.exact.is_some() {
            let others = calls || self.seconds.is_some() || self.operations.is_some();
            return others.then(|| "`exact` stands for the whole batch; leave out the other fields".into());
        }
        if !(1..=MAX_SECONDS).contains(&self.seconds()) {
            return Some(format!("`seconds` is {}, and not between 1 and {MAX_SECONDS}", self.seconds()));
        }
        if let Some(name) = self.counts.keys().find(|name| self.gauges.contains_key(*name)) {
            return Some(format!("has `{name}` in both `gauges` and `counts`"));
        }
        if calls && self.operations.is_some() {
            return Some("has both `operations` and `v1`, `v2` or `shadow`; the latter stand for `execute`".into());
        }
        let operations = self.operations();
        operations.iter().find_map(|(name, operation)| {
            let pools = [("v1", &operation.v1), ("v2", &operation.v2), ("shadow", &operation.shadow)];
            pools.into_iter().find_map(|(pool, served)| {
                let wrong = served.problem()?;
                let place = if calls { pool.to_owned() } else { format!("operations.{name}.{pool}") };
                Some(format!("`{place}` {wrong}"))
            })
        })
    }

    /// The batches, begun at `start`, at V2's `share`.
    pub(super) fn expand(&self, start: UnixMs, share: Ppm) -> Vec<Batch> {
        if let Some(Exact(batch)) = &self.exact {
            return vec![batch.clone()];
        }
        let seconds = self.seconds();
        let empty = |second: u64| Batch {
            start_ms: UnixMs(start.0.saturating_add(second * 1_000)),
            duration_ms: 1_000,
            share,
            v1: self.workers.v1.members(second, seconds),
            v2: self.workers.v2.members(second, seconds),
            comparisons: self.comparisons.part(second, seconds),
            gauges: self.gauges(second, seconds),
            ..Batch::default()
        };
        let mut batches: Vec<_> = (0..seconds).map(empty).collect();
        for (name, operation) in self.operations() {
            let [v1, v2] = [&operation.v1, &operation.v2].map(|served| served.deal(seconds, true));
            let shadow = operation.shadow.deal(seconds, false);
            let sides = v1.into_iter().zip(v2).zip(shadow);
            for (batch, ((v1, v2), shadow)) in batches.iter_mut().zip(sides) {
                // The host leaves out operations that nobody called.
                if v1.requests + v2.requests + shadow.requests > 0 {
                    let class = operation.class.unwrap_or(Class::Read);
                    batch.operations.push(OperationCalls { operation: name.clone(), class, v1, v2, shadow });
                }
            }
        }
        batches
    }

    /// Those of a second. As of a host, a count of 0 is left out, but for those that say that sessions are counted.
    fn gauges(&self, second: u64, seconds: u64) -> Vec<Gauge> {
        let same = self.gauges.iter().map(|(name, &value)| Gauge { name: name.clone(), value });
        let counts = self.counts.iter().filter_map(|(name, &whole)| {
            let value = i64::try_from(part(whole, second, seconds)).unwrap_or(i64::MAX);
            let is_said = value != 0 || ["v1.sessions", "v2.sessions"].contains(&name.as_str());
            is_said.then(|| Gauge { name: name.clone(), value })
        });
        let mut gauges: Vec<_> = same.chain(counts).collect();
        gauges.sort_by(|a, b| a.name.cmp(&b.name));
        gauges
    }

    fn operations(&self) -> BTreeMap<String, Operation> {
        let side = |served: &Option<Served>| served.clone().unwrap_or_default();
        let (v1, v2, shadow) = (side(&self.v1), side(&self.v2), side(&self.shadow));
        let one = || Operation { class: None, v1, v2, shadow };
        self.operations.clone().unwrap_or_else(|| BTreeMap::from([(super::format::execute(), one())]))
    }
}

impl Served {
    fn problem(&self) -> Option<String> {
        if self.requests > MAX_REQUESTS {
            return Some(format!("has {} `requests`, more than {MAX_REQUESTS}", self.requests));
        }
        let units = self.units.unwrap_or(self.requests);
        for (part, of, what, whole) in [
            (self.errors, self.requests, "errors", "requests"),
            (self.timeouts, self.errors, "timeouts", "errors"),
            (self.failed_over, self.errors, "failed_over", "errors"),
            (units, self.requests, "units", "requests"),
            (self.unit_errors.unwrap_or(0), units, "unit_errors", "units"),
        ] {
            if part > of {
                return Some(format!("has more `{what}` ({part}) than `{whole}` ({of})"));
            }
        }
        Latency::of(self.latency, &self.quantiles()).err()
    }

    fn quantiles(&self) -> [(&'static str, u32, Option<super::notation::Span>); 5] {
        [
            ("p50", 500_000, self.p50),
            ("p90", 900_000, self.p90),
            ("p95", 950_000, self.p95),
            ("p99", 990_000, self.p99),
            ("max", 1_000_000, self.max),
        ]
    }

    /// Calls second by second. Mirrored calls have no sessions.
    fn deal(&self, seconds: u64, sessions: bool) -> Vec<Calls> {
        let units = self.units.unwrap_or(if sessions { self.requests } else { 0 });
        let unit_errors = self.unit_errors.unwrap_or(self.errors.min(units));
        let mut latency = Latency::of(self.latency, &self.quantiles()).unwrap_or_default().histogram(self.requests);
        let mut requests = Deal::new(self.requests);
        let [mut errors, mut timeouts, mut failed_over, mut fresh, mut failing] =
            [self.errors, self.timeouts, self.failed_over, units, unit_errors].map(Deal::new);
        let mut calls = Vec::new();
        for second in 1..=seconds {
            let answered = requests.to(second, seconds);
            let failed = errors.to(requests.given, self.requests);
            let units = fresh.to(requests.given, self.requests);
            calls.push(Calls {
                requests: answered,
                errors: failed,
                timeouts: timeouts.to(errors.given, self.errors),
                failed_over: failed_over.to(errors.given, self.errors),
                units,
                unit_errors: failing.to(fresh.given, fresh.whole),
                latency: latency.take(answered, second),
            });
        }
        calls
    }
}

impl Pairs {
    fn part(&self, second: u64, seconds: u64) -> Comparisons {
        let [same, ignored, different, incomparable] =
            [self.same, self.ignored, self.different, self.incomparable].map(|whole| part(whole, second, seconds));
        Comparisons { same, ignored, different, incomparable }
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let custom = |message: String| serde::de::Error::custom(message);
        let written = Value::deserialize(deserializer)?;
        let batch: Batch = serde_json::from_value(written.clone()).map_err(|e| custom(e.to_string()))?;
        let read = serde_json::to_value(&batch).map_err(|e| custom(e.to_string()))?;
        match unknown(&written, &read) {
            Some(path) => Err(custom(format!("unknown field `{path}`"))),
            None => Ok(Self(batch)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn traffic(json: Value) -> Traffic {
        serde_json::from_value(json).unwrap()
    }

    fn total(batches: &[Batch]) -> OperationCalls {
        let mut all = batches.iter().flat_map(|b| &b.operations).cloned();
        let mut total = all.next().unwrap();
        for calls in all {
            total.v1.merge(&calls.v1);
            total.v2.merge(&calls.v2);
            total.shadow.merge(&calls.shadow);
        }
        total
    }

    #[test]
    fn shorthand_is_seconds_of_real_calls() {
        let written = json!({
            "seconds": 60,
            "v1": { "requests": 1000, "errors": 2, "p50": "20ms", "p99": "80ms" },
            "v2": { "requests": 7 },
            "workers": { "v2": { "failures": 3, "rss": { "from": "100MiB", "to": "159MiB" } } },
            "comparisons": { "same": 61 },
            "gauges": { "host.cpu-ppm": 5 },
        });
        let batches = traffic(written).expand(UnixMs(1_000), Ppm::new(50_000));
        assert_eq!((batches.len(), batches[59].start_ms, batches[0].share), (60, UnixMs(60_000), Ppm::new(50_000)));
        assert!(batches.iter().all(|b| (16..=17).contains(&b.operations[0].v1.requests)));
        let OperationCalls { v1, v2, .. } = total(&batches);
        assert_eq!((v1.requests, v1.errors, v1.units, v1.unit_errors, v2.requests), (1000, 2, 1000, 2, 7));
        for (ppm, us) in [(500_000, 20_000), (990_000, 80_000)] {
            let quantile = v1.latency.quantile_us(ppm).unwrap();
            assert!((us..us + us / 32 + 1).contains(&quantile), "{quantile} for {us}");
        }
        assert_eq!(batches.iter().map(|b| b.v2.failures).sum::<u32>(), 3);
        assert_eq!((batches[0].v2.rss_bytes, batches[59].v2.rss_bytes), (100 << 20, 159 << 20));
        assert_eq!(batches.iter().map(|b| b.comparisons.same).sum::<u64>(), 61);
        assert_eq!((batches[3].gauges[0].value, batches[3].v1.wanted), (5, 4));
    }

    #[test]
    fn counts_are_dealt_and_a_zero_is_said_only_of_sessions() {
        let counts = json!({ "v2.sessions": 2, "v2.4xx{a}": 7, "pairs.asked{a}": 0 });
        let written = json!({ "seconds": 4, "gauges": { "v2.x": 1 }, "counts": counts });
        let batches = traffic(written).expand(UnixMs(0), Ppm::ZERO);
        let of = |name: &str| {
            let gauges = batches.iter().flat_map(|batch| &batch.gauges).filter(|gauge| gauge.name == name);
            gauges.map(|gauge| gauge.value).collect::<Vec<_>>()
        };
        assert_eq!((of("v2.sessions"), of("v2.x")), (vec![0, 1, 0, 1], vec![1; 4]));
        assert_eq!((of("v2.4xx{a}").iter().sum::<i64>(), of("pairs.asked{a}")), (7, Vec::new()));
        assert!(batches.iter().all(|batch| batch.gauges.is_sorted_by(|a, b| a.name < b.name)));
        let twice = traffic(json!({ "gauges": { "x": 1 }, "counts": { "x": 1 } }));
        assert!(twice.problem().unwrap().contains("`x` in both"));
    }

    #[test]
    fn mirrored_calls_have_no_sessions() {
        let batches = traffic(json!({ "shadow": { "requests": 10, "errors": 4 } })).expand(UnixMs(0), Ppm::ZERO);
        let shadow = total(&batches).shadow;
        assert_eq!((shadow.requests, shadow.errors, shadow.units, shadow.unit_errors), (10, 4, 0, 0));
    }

    #[test]
    fn contradictions_are_named() {
        let problem = |json| traffic(json).problem().unwrap();
        assert_eq!(
            problem(json!({ "v2": { "requests": 1, "errors": 2 } })),
            "`v2` has more `errors` (2) than `requests` (1)"
        );
        assert_eq!(
            problem(json!({ "operations": { "a": { "v1": { "requests": 9, "p50": "2s", "p99": "1s" } } } })),
            "`operations.a.v1` has a `p99` of 1s below its `p50` of 2s"
        );
        assert!(problem(json!({ "seconds": 0 })).contains("between 1 and 3600"));
        assert!(problem(json!({ "operations": {}, "v1": {} })).contains("both"));
    }

    #[test]
    fn an_exact_batch_is_taken_as_it_is() {
        let batch = traffic(json!({ "v2": { "requests": 3 } })).expand(UnixMs(7), Ppm::ALL).remove(0);
        let mut written = serde_json::to_value(&batch).unwrap();
        assert_eq!(traffic(json!({ "exact": written })).expand(UnixMs(0), Ppm::ZERO), [batch]);
        written["v1"]["redy"] = 1.into();
        let error = serde_json::from_value::<Traffic>(json!({ "exact": written })).unwrap_err();
        assert!(error.to_string().contains("unknown field `v1.redy`"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_dealt_adds_up(requests in 0_u64..5_000_000_000, errors in 0_u64..1_000, units in 0_u64..10_000, seconds in 1_u64..100) {
            let errors = errors.min(requests);
            let units = units.min(requests);
            let written = json!({
                "seconds": seconds,
                "v1": { "requests": requests, "errors": errors, "timeouts": errors / 2, "units": units, "unit_errors": errors.min(units), "p50": "1ms", "p90": "3ms", "max": "1s" },
            });
            let traffic = traffic(written);
            prop_assert_eq!(traffic.problem(), None);
            let batches = traffic.expand(UnixMs(0), Ppm::ZERO);
            let mut sum = Calls::default();
            for calls in batches.iter().flat_map(|b| &b.operations).map(|o| &o.v1) {
                prop_assert!(calls.errors <= calls.requests && calls.timeouts <= calls.errors);
                prop_assert!(calls.units <= calls.requests && calls.unit_errors <= calls.units);
                prop_assert_eq!(calls.latency.total(), calls.requests);
                sum.merge(calls);
            }
            prop_assert_eq!((sum.requests, sum.errors, sum.timeouts), (requests, errors, errors / 2));
            prop_assert_eq!((sum.units, sum.unit_errors), (units, errors.min(units)));
        }
    }
}
