//! Made-up history with a fault at a known time, for tests and benches of what reads history. The same settings give
//! the same history everywhere.

use cutover_contract::histogram;

use super::Recorded;
use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Gauge, Members, OperationCalls},
    port::{Check, Phase},
    request::{Class, Ppm},
};

/// The operations and the part of the calls that each gets, in hundredths.
const OPERATIONS: [(&str, Class, u64); 3] =
    [("create_program", Class::Replicate, 10), ("execute", Class::Read, 70), ("list_programs", Class::Read, 20)];

/// A call in this many is slow.
const SLOW_ONE_IN: u64 = 50;

/// What is made up.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// How many checks the history has.
    pub checks: u64,
    /// The time from one to the next, in milliseconds.
    pub interval_ms: u64,
    /// Batches in a check; they share its time evenly.
    pub batches: u64,
    /// Calls in a check, all operations and both pools.
    pub calls: u64,
    /// When the first check's stage began.
    pub start: UnixMs,
    /// V2's share, and from which check on; one stage each, the first from check 0.
    pub stages: Vec<(u64, Ppm)>,
    /// The part of calls that fails in either pool, in parts per million.
    pub errors_ppm: u64,
    /// When V2 begins to fail more, and the part of its calls that fails from then on.
    pub fault: Option<(UnixMs, u64)>,
    /// The seed: the same one draws the same history.
    pub seed: u64,
}

impl Default for Synthetic {
    /// A day of checks each 5 s with one batch of 100 calls; 5 % on V2 for an hour, then a half; no fault.
    fn default() -> Self {
        Self {
            checks: 17_280,
            interval_ms: 5_000,
            batches: 1,
            calls: 100,
            start: UnixMs(1_767_225_600_000),
            stages: vec![(0, Ppm::new(50_000)), (720, Ppm::new(500_000))],
            errors_ppm: 2_000,
            fault: None,
            seed: 1,
        }
    }
}

/// The checks of a [`Synthetic`], in order.
#[derive(Debug)]
pub struct Checks {
    of: Synthetic,
    chance: Chance,
    next: u64,
}

/// The generator `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Chance(u64);

impl IntoIterator for Synthetic {
    type Item = Recorded;
    type IntoIter = Checks;

    fn into_iter(self) -> Checks {
        Checks { chance: Chance(self.seed), next: 0, of: self }
    }
}

impl Iterator for Checks {
    type Item = Recorded;

    fn next(&mut self) -> Option<Recorded> {
        let n = self.next;
        if n == self.of.checks {
            return None;
        }
        self.next += 1;
        let begun = |&(_, &(first, _)): &(usize, &(u64, Ppm))| first <= n;
        let (stage, &(first, share)) = self.of.stages.iter().enumerate().rfind(begun).unwrap_or((0, &(0, Ppm::ZERO)));
        let at = |check: u64| UnixMs(self.of.start.0 + check * self.of.interval_ms);
        let (begins, batches) = (at(n), self.of.batches.max(1));
        let length = self.of.interval_ms / batches;
        let check = Check {
            now_ms: at(n + 1),
            phase: Phase::Ramping,
            stage: u32::try_from(stage).unwrap_or(u32::MAX),
            share,
            stage_started_ms: at(first),
            batches: (0..batches).map(|b| self.batch(UnixMs(begins.0 + b * length), length, share)).collect(),
        };
        Some(Recorded { id: i64::try_from(n + 1).unwrap_or(i64::MAX), check, verdict: None })
    }
}

impl Checks {
    fn batch(&mut self, start: UnixMs, length_ms: u64, share: Ppm) -> Batch {
        let calls = self.of.calls / self.of.batches.max(1);
        let operations = OPERATIONS.map(|(operation, class, hundredths)| {
            let (mut v1, mut v2) = (Calls::default(), Calls::default());
            for _ in 0..calls * hundredths / 100 {
                let on_v2 = self.chance.below(1_000_000) < u64::from(share.get());
                let fault = self.of.fault.filter(|(from, _)| on_v2 && start >= *from);
                let errors_ppm = fault.map_or(self.of.errors_ppm, |(_, ppm)| ppm);
                self.call(if on_v2 { &mut v2 } else { &mut v1 }, errors_ppm);
            }
            OperationCalls { operation: operation.into(), class, v1, v2, shadow: Calls::default() }
        });
        let members = |wanted| Members { wanted, ready: wanted, failures: 0, queued: 0, rss_bytes: 40_000_000 };
        Batch {
            start_ms: start,
            duration_ms: u32::try_from(length_ms).unwrap_or(u32::MAX),
            share,
            operations: operations.into(),
            v1: members(1),
            v2: members(4),
            comparisons: Comparisons::default(),
            gauges: vec![
                Gauge { name: "host.cpu-ppm".into(), value: 300_000 },
                Gauge { name: "host.memory-ppm".into(), value: 400_000 },
            ],
        }
    }

    /// Each call is of a session of its own.
    fn call(&mut self, calls: &mut Calls, errors_ppm: u64) {
        let failed = u64::from(self.chance.below(1_000_000) < errors_ppm);
        calls.requests += 1;
        calls.units += 1;
        calls.errors += failed;
        calls.unit_errors += failed;
        let us = 20_000 + self.chance.below(10_000);
        let slow = self.chance.below(SLOW_ONE_IN) == 0;
        calls.latency.add(histogram::index(if slow { 3 * us } else { us }), 1);
    }
}

impl Chance {
    /// A number below `most`, evenly but for a part in 2^32.
    const fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 32) * most) >> 32
    }
}
