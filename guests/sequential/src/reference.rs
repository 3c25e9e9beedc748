//! The evidence again, from its definition and from nothing of the policy: over all starts and effects one by one, with
//! probabilities from all terms of the distribution; and the policy on counts of any size.
#![expect(clippy::cast_precision_loss, reason = "counts are small, and evidence is in millionths")]

use cutover_policy::{
    Batch, Calls, Check, Gauge, LatencyBucket,
    testing::{batch, operation},
};
use proptest::prelude::*;

use super::*;

/// Draws; see Steele, Lea, Flood 2014.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most.max(1)
    }

    /// Of any order of magnitude up to 2^`bits`.
    fn magnitude(&mut self, bits: u64) -> u64 {
        let shift = 64 - self.below(bits + 1);
        if shift >= 64 { 0 } else { self.next() >> shift }
    }
}

/// A table as the policy documents it: halved together until it is small enough.
type Counts = [u64; 4];

fn scaled([mut n1, x1, mut n2, x2]: Counts) -> Counts {
    let (mut x1, mut x2) = (x1.min(n1), x2.min(n2));
    while x1 + x2 > 65_536 || n1 + n2 > 1 << 32 {
        (n1, x1, n2, x2) = (n1.div_ceil(2), x1.div_ceil(2), n2.div_ceil(2), x2 / 2);
    }
    [n1, x1, n2, x2]
}

/// ln P(x2 | n1, n2, bad), Fisher's noncentral hypergeometric, by all of its terms in multiples of the first.
fn ln_fisher([n1, x1, n2, x2]: Counts, odds: f64) -> f64 {
    let real = |n: u64| n as f64;
    let bad = x1 + x2;
    let (least, most) = (bad.saturating_sub(n1), bad.min(n2));
    let mut terms = vec![0.0_f64];
    for j in least..most {
        let step = real(n2 - j).ln() + real(bad - j).ln() - real(j + 1).ln() - real(n1 + j + 1 - bad).ln() + odds.ln();
        terms.push(terms.last().unwrap() + step);
    }
    let top = terms.iter().copied().fold(f64::MIN, f64::max);
    let all = top + terms.iter().map(|term| (term - top).exp()).sum::<f64>().ln();
    terms[usize::try_from(x2 - least).unwrap()] - all
}

/// The effects and their weights: a bell around ln 4 with a standard deviation of ln 2.2255, on eight points from 1.25
/// to 50.
fn effects() -> Vec<(f64, f64)> {
    let at: Vec<f64> = (0..8).map(|i| 1.25_f64.ln() + f64::from(i) / 7.0 * (50.0_f64 / 1.25).ln()).collect();
    let bell: Vec<f64> = at.iter().map(|at| (-0.5 * ((at - 4.0_f64.ln()) / 2.2255_f64.ln()).powi(2)).exp()).collect();
    let all: f64 = bell.iter().sum();
    at.iter().zip(bell).map(|(at, bell)| (at.exp(), bell / all)).collect()
}

/// What logarithms are divided by, from all spans before: twice the sum of squared differences over that of sums.
fn clusters(spans: &[[Counts; 2]]) -> f64 {
    let bad = |span: &[Counts; 2], pool: usize| span.iter().map(|table| table[2 * pool + 1]).sum::<u64>();
    let (mut squares, mut sums, mut squared_sums) = (0.0, 0.0, 0.0);
    for two in spans.windows(2) {
        for pool in 0..2 {
            let (a, b) = (bad(&two[0], pool) as f64, bad(&two[1], pool) as f64);
            if pool == 1 && b > a {
                continue;
            }
            squares += (a - b) * (a - b);
            sums += a + b;
            squared_sums += (a + b) * (a + b);
        }
        if sums > 4_096.0 {
            (squares, sums, squared_sums) = (squares / 2.0, sums / 2.0, squared_sums / 2.0);
        }
    }
    if squares > sums + 3.0 * f64::sqrt(2.0 * squared_sums) { 2.0 * f64::max(squares / sums, 1.0) } else { 1.0 }
}

/// The wealth of 1 that is bet on a series of ratios, one for each effect, over all starts.
fn wealth(ratios: &[Vec<f64>]) -> f64 {
    let (mut cash, mut won) = (1.0, 0.0);
    for start in 0..ratios.len() {
        let part = if start == 0 { 0.7 } else { 1.0 / (720.0 + start as f64) };
        for (effect, (_, weight)) in effects().iter().enumerate() {
            let ln: f64 = ratios[start..].iter().map(|span| span[effect].min(15.0_f64.ln())).sum();
            won += cash * part * weight * ln.exp();
        }
        cash *= 1.0 - part;
    }
    cash + won
}

/// The base-10 logarithm of the evidence after these spans of two operations.
fn evidence(spans: &[[Counts; 2]]) -> f64 {
    let tables: Vec<[Counts; 2]> = spans.iter().map(|span| span.map(scaled)).collect();
    let informs = |[n1, x1, n2, x2]: Counts| (x1 + x2).saturating_sub(n1) < (x1 + x2).min(n2);
    let (mut all, mut each) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (n, span) in tables.iter().enumerate() {
        let divisor = clusters(&tables[..n]);
        let ratios = |table: Counts| -> Vec<f64> {
            effects().iter().map(|(r, _)| (ln_fisher(table, *r) - ln_fisher(table, 1.0)) / divisor).collect()
        };
        let own: Vec<Vec<f64>> = span.iter().map(|&t| if informs(t) { ratios(t) } else { vec![0.0; 8] }).collect();
        for (operation, own) in own.iter().enumerate().filter(|(o, _)| informs(span[*o])) {
            each[operation].push(own.clone());
        }
        if span.iter().any(|&table| informs(table)) {
            all.push((0..8).map(|effect| own[0][effect] + own[1][effect]).collect());
        }
    }
    // The second operation is new after the first has played, and is staked with half of what that has then.
    let stake = if informs(tables[0][0]) { wealth(&each[0][..1]) } else { 1.0 };
    let metric = 0.5 * wealth(&all) + 0.25 * wealth(&each[0]) + 0.25 * stake * wealth(&each[1]);
    ((0.9 * metric + 0.1) * 0.9).log10()
}

fn calls(units: u64, errors: u64) -> Calls {
    Calls { requests: units, errors, units, unit_errors: errors, ..operation("").v1 }
}

#[test]
fn evidence_is_that_of_its_definition() {
    let histories = if cfg!(debug_assertions) { 60 } else { 10_000 };
    let policy = Sequential::configure(Settings::default()).unwrap();
    let mut worst = 0.0_f64;
    for seed in 0..histories {
        let mut draw = Draw(seed);
        let (mut memory, mut spans) = (Memory::default(), Vec::new());
        let mut now = 1_000_000;
        let rates = [draw.below(12), draw.below(12)];
        for _ in 0..=draw.below(11) {
            let table = |draw: &mut Draw| {
                let [n1, n2] = [1 + draw.magnitude(40), 1 + draw.magnitude(40)];
                // Both are as bad as one likes: none, a few, or nearly all of a few.
                let x1 = draw.below(1 << rates[0].min(7)).min(n1);
                [n1, x1, n2, draw.below(1 << rates[1].min(7)).min(n2)]
            };
            let span = [table(&mut draw), table(&mut draw)];
            let mut second = batch(now);
            second.operations = vec![operation("a"), operation("b")];
            for (calls_of, [n1, x1, n2, x2]) in second.operations.iter_mut().zip(span) {
                (calls_of.v1, calls_of.v2) = (calls(n1, x1), calls(n2, x2));
            }
            spans.push(span);
            // Holes, and a clock that goes back.
            now = (now + 5_000 + draw.below(2) * draw.below(40_000)).saturating_sub(draw.below(2) * draw.below(4_000));
            let check = Check {
                now_ms: now,
                phase: Phase::Ramping,
                stage: 0,
                share: 0,
                stage_started_ms: 0,
                batches: vec![second],
            };
            let got = policy.judge(&check, &mut memory).unwrap().evidence as f64 / 1e6;
            let exact = evidence(&spans);
            worst = worst.max((got - exact).abs());
            assert!((got - exact).abs() <= 1e-6, "{seed}: {got} and not {exact} after {spans:?}");
        }
    }
    assert!(worst > 0.0, "it is told in millionths");
}

/// Anything that fits the contract: counts of any size, gauges and latencies, holes, and clocks that step.
fn any_check() -> impl Strategy<Value = Check> {
    (any::<u64>(), 0..4_u32, 0..3_u8).prop_map(|(seed, stage, phase)| {
        let mut draw = Draw(seed);
        let time =
            |draw: &mut Draw| if draw.below(4) == 0 { draw.magnitude(63) } else { 1_000_000 + draw.below(900_000) };
        let start = time(&mut draw);
        let batches = (0..draw.below(4)).map(|n| any_batch(&mut draw, start.saturating_add(n * 1_000))).collect();
        Check {
            now_ms: start,
            phase: [Phase::Shadow, Phase::Ramping, Phase::Complete][usize::from(phase)],
            stage,
            share: 0,
            stage_started_ms: if draw.below(2) == 0 { 0 } else { time(&mut draw) },
            batches,
        }
    })
}

fn any_batch(draw: &mut Draw, start_ms: u64) -> Batch {
    let mut second = batch(start_ms);
    let any_calls = |draw: &mut Draw| {
        let latency = (0..draw.below(4)).map(|i| LatencyBucket {
            index: u32::try_from(200 * i + draw.below(200)).unwrap(),
            count: draw.magnitude(64),
        });
        let latency = latency.collect();
        let mut count = || draw.magnitude(64);
        Calls { requests: count(), errors: count(), units: count(), unit_errors: count(), latency, ..operation("").v1 }
    };
    for name in ["a", "b", "c|d\"{}"] {
        if draw.below(3) > 0 {
            let mut of = operation(name);
            (of.v1, of.v2, of.shadow) = (any_calls(draw), any_calls(draw), any_calls(draw));
            second.operations.push(of);
        }
    }
    for name in [
        "v1.4xx-first{a}",
        "v1.failed-sessions",
        "v1.sessions",
        "v2.3xx-first{b}",
        "v2.4xx-first{a}",
        "v2.4xx-units{a}",
        "v2.failed-sessions",
        "v2.sessions",
    ] {
        if draw.below(2) == 0 {
            let value = i64::from_ne_bytes(draw.magnitude(64).to_ne_bytes());
            second.gauges.push(Gauge { name: name.into(), value });
        }
    }
    (second.v1.ready, second.v2.failures) =
        (u32::try_from(draw.magnitude(32)).unwrap(), u32::try_from(draw.magnitude(32)).unwrap());
    second
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 24 } else { 1_000 }))]

    #[test]
    fn no_history_is_an_error(checks in prop::collection::vec(any_check(), 1..12)) {
        let policy = Sequential::configure(Settings::default()).unwrap();
        let mut memory = Memory::default();
        for check in checks {
            let judgement = policy.judge(&check, &mut memory).unwrap();
            prop_assert!(judgement.verdict != Verdict::Warn || !judgement.findings.is_empty());
            prop_assert!(judgement.evidence.abs() < 400_000_000, "{}", judgement.evidence);
            let stored = serde_json::to_vec(&memory).unwrap();
            let back: Memory = serde_json::from_slice(&stored).unwrap();
            prop_assert!(back == memory, "it is read as it was written");
        }
    }
}
