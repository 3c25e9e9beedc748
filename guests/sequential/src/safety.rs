//! Evidence that V2 is good enough: what `healthy` needs. No news is no evidence.
//!
//! Two mirror-image e-processes on errors, both since the stage began, because a larger share is a new load:
//! - **beside V1**: against "V2's odds of an error are at least `max_odds` times V1's" (a ratio of likelihoods, of an r
//!   below `max_odds` over that of `max_odds`). It works whatever the baseline is, but V1 and V2 must have errors for
//!   it to count: tables without any have one outcome. Its units are the sessions at risk of each span.
//! - **on its own**: against "V2 fails at least `max_rate` of its sessions", L = (q/p)^x2 ((1-q)/(1-p))^(n2-x2) with q
//!   below p. It works when nothing fails at all, and at a share of 100 %, where there is no V1 to compare with. Its
//!   units are distinct sessions of the stage: counted second by second, a few sessions that stay would make one that
//!   fails on each of its calls look like one in hundreds. A session counts when it is new, and its failure when it is
//!   the first, wherever that falls. Mirrored calls have no sessions, and are drawn by chance; each counts.
//!
//! A host that does not count sessions leaves units. They are distinct sessions if each of V2's calls so far was of a
//! unit of its own; from the first that was not, nobody knows how often the same were counted, and V2 has shown no more
//! sessions than were called within one batch, and those that failed before.
//!
//! V2 is unsafe if both are true, so the mean of the two is an e-process against that, and `healthy` is said of an
//! unsafe V2 with a probability of at most beta. Wealth is cut at a hundred times what is needed, which no fair game
//! minds, so that a V2 that becomes worse loses it again soon. It is kept as logarithms, so that no count makes it
//! overflow.

use cutover_policy::Batch;
use cutover_policy::hypergeometric::{Table, real};
use cutover_policy::memory::{Fields, Packed, Text};
use cutover_policy::packed;

use crate::process::Plain;

/// Alternatives as parts of the null's limit, half of the bets on each: with the usual limit of 3 times, a V2 that is
/// as good as V1, and a much better one. The first is also what the need for more units is reckoned with.
const BESIDE: [f64; 2] = [1.0 / 3.0, 0.1];

/// The same for the rate.
const ALONE: [f64; 2] = [0.1, 1.0 / 3.0];

/// Wealth is kept up to this many times what is needed.
const KEPT: f64 = 100.0;

/// When V2 is safe, fixed by the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The odds ratio that is too much.
    pub max_odds: f64,
    /// The error rate that is too much.
    pub max_rate: f64,
    /// The evidence that is needed: 1/beta.
    pub needed: f64,
}

/// What speaks for V2 in this stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Safety {
    /// Logarithms of the bets.
    beside: [f64; 2],
    alone: [f64; 2],
    /// Sessions of each pool, and those that failed.
    seen: Seen,
    /// Without counted sessions: those that V2 has had at least, and whether calls have shared any.
    least: u64,
    shared: bool,
}

/// Sessions of the stage, or mirrored calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// V1's.
    pub n1: u64,
    /// Those that failed.
    pub x1: u64,
    /// V2's.
    pub n2: u64,
    /// Those that failed.
    pub x2: u64,
}

/// What `healthy` still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// V2's units in this stage.
    pub units: u64,
    /// Those that failed.
    pub errors: u64,
    /// About how many more are needed if V2 is as good as V1, or does not fail.
    pub more: u64,
}

impl Default for Safety {
    fn default() -> Self {
        let half = -core::f64::consts::LN_2;
        Self { beside: [half; 2], alone: [half; 2], seen: Seen::default(), least: 0, shared: false }
    }
}

impl Safety {
    /// Bets on the table of one operation. Operations multiply: one odds ratio for all of them.
    pub fn compare(&mut self, limits: &Limits, table: &Table) {
        if table.informs() {
            let null = table.ln_probability(limits.max_odds);
            for (bet, part) in self.beside.iter_mut().zip(BESIDE) {
                *bet += table.ln_probability(limits.max_odds * part) - null;
            }
            cut(&mut self.beside, limits);
        }
    }

    /// Counts the sessions of a span.
    pub fn count(&mut self, limits: &Limits, span: &[&Batch], mirrored: bool) {
        if span.iter().any(|batch| !mirrored && batch.gauge("v2.sessions").is_some()) {
            let sum = |name| span.iter().map(|batch| batch.count(name)).fold(0, u64::saturating_add).min(MOST);
            let [n1, n2] = ["v1.sessions", "v2.sessions"].map(sum);
            let [x1, x2] = ["v1.failed-sessions", "v2.failed-sessions"].map(sum);
            self.bet(limits, Seen { n1, x1, n2, x2 });
            return;
        }
        self.add_units(limits, span, mirrored);
        if self.shared {
            let good = real(self.least) - real(self.seen.x2);
            self.alone = ALONE.map(|part| -core::f64::consts::LN_2 + gained(limits, part, self.seen.x2, good));
            cut(&mut self.alone, limits);
        }
    }

    fn add_units(&mut self, limits: &Limits, span: &[&Batch], mirrored: bool) {
        let mut seen = Seen::default();
        let mut requests = 0_u64;
        for operation in span.iter().flat_map(|batch| &batch.operations) {
            let (v1, v2) = (&operation.v1, crate::counting::v2(operation, mirrored));
            let units = if mirrored {
                [v1.requests, v1.errors, v2.requests, v2.errors]
            } else {
                [v1.units, v1.unit_errors, v2.units, v2.unit_errors]
            };
            for (sum, count) in [&mut seen.n1, &mut seen.x1, &mut seen.n2, &mut seen.x2].into_iter().zip(units) {
                *sum = sum.saturating_add(count);
            }
            requests = requests.saturating_add(v2.requests);
        }
        (seen.n1, seen.n2) = (seen.n1.min(MOST), seen.n2.min(MOST));
        (seen.x1, seen.x2) = (seen.x1.min(seen.n1), seen.x2.min(seen.n2));
        if !mirrored {
            let units = |batch: &&Batch| batch.operations.iter().map(|o| o.v2.units).fold(0, u64::saturating_add);
            let widest = span.iter().map(units).max().unwrap_or(0).min(MOST);
            self.least = self.least.max(widest.saturating_add(self.seen.x2));
            self.shared |= requests.min(MOST) > seen.n2;
        }
        self.bet(limits, seen);
    }

    /// A failure may be of a session that was counted as good before: then it takes that back.
    fn bet(&mut self, limits: &Limits, seen: Seen) {
        let good = real(seen.n2) - real(seen.x2);
        for (bet, part) in self.alone.iter_mut().zip(ALONE) {
            *bet += gained(limits, part, seen.x2, good);
        }
        cut(&mut self.alone, limits);
        self.seen.n1 = self.seen.n1.saturating_add(seen.n1);
        self.seen.x1 = self.seen.x1.saturating_add(seen.x1);
        self.seen.n2 = self.seen.n2.saturating_add(seen.n2);
        self.seen.x2 = self.seen.x2.saturating_add(seen.x2);
    }

    /// The evidence: 1 at first.
    #[must_use]
    pub fn wealth(&self) -> f64 {
        f64::midpoint(sum(&self.beside), sum(&self.alone))
    }

    /// What was seen in this stage.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What is missing; none if nothing is.
    #[must_use]
    pub fn need(&self, limits: &Limits) -> Option<Need> {
        if self.wealth() >= limits.needed {
            return None;
        }
        // How much the better of the two games must grow while the other stands still.
        let (beside, alone) = (sum(&self.beside), sum(&self.alone));
        let missing = |own: &[f64; 2], other: f64| libm::log(2.0 * limits.needed - other) - ln_sum(own);
        let by_silence = missing(&self.alone, beside) / gain(limits.max_rate, ALONE[0]);
        let by_errors = self.growth(limits).map(|growth| missing(&self.beside, alone) / growth);
        let more = libm::ceil(by_errors.map_or(by_silence, |units| units.min(by_silence))).max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, and at most 10^18")]
        let more = more.min(1e18) as u64;
        let units = if self.shared { self.least } else { self.seen.n2 };
        Some(Need { units, errors: self.seen.x2, more })
    }

    /// What the comparison with V1 is expected to gain for each unit of V2, if V2 is as good: the divergence for each
    /// error, and the errors of both for each unit of V2.
    fn growth(&self, limits: &Limits) -> Option<f64> {
        let (n1, n2) = (real(self.seen.n1), real(self.seen.n2));
        let part = |odds: f64| n2 * odds / (n2 * odds + n1);
        let (is, limit) = (part(limits.max_odds * BESIDE[0]), part(limits.max_odds));
        let bad = real(self.seen.x1) + real(self.seen.x2);
        let divergence = is * libm::log(is / limit) + (1.0 - is) * libm::log((1.0 - is) / (1.0 - limit));
        Some(divergence * bad / n2).filter(|growth| growth.is_finite() && *growth > 0.0)
    }
}

/// Counts are cut here, a million million, so that sums of them are exact.
const MOST: u64 = 1 << 40;

/// What units that are bad, and others that are good, add to the logarithm of a bet on `part` of the rate.
fn gained(limits: &Limits, part: f64, bad: u64, good: f64) -> f64 {
    real(bad) * libm::log(part) + good * gain(limits.max_rate, part)
}

/// What a unit that does not fail adds to the logarithm of the evidence.
fn gain(max_rate: f64, part: f64) -> f64 {
    libm::log((1.0 - max_rate * part) / (1.0 - max_rate))
}

fn sum(bets: &[f64; 2]) -> f64 {
    bets.iter().map(|bet| libm::exp(*bet)).sum()
}

/// The logarithm of the sum, also where that is no double.
fn ln_sum(bets: &[f64; 2]) -> f64 {
    let most = bets[0].max(bets[1]);
    most + libm::log(bets.iter().map(|bet| libm::exp(bet - most)).sum())
}

fn cut(bets: &mut [f64; 2], limits: &Limits) {
    let over = ln_sum(bets) - libm::log(KEPT * limits.needed);
    if over > 0.0 {
        for bet in bets {
            *bet -= over;
        }
    }
}

impl Packed for Safety {
    type Plain = Plain;

    fn write(&self, text: &mut Text) {
        let Seen { n1, x1, n2, x2 } = self.seen;
        text.doubles(&self.beside).doubles(&self.alone).number(n1).number(x1).number(n2).number(x2);
        text.number(self.least).number(self.shared.into());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let mut two = || fields.doubles()?.try_into().ok();
        let (beside, alone) = (two()?, two()?);
        let [n1, x1, n2, x2, least, shared] = fields.numbers()?;
        Some(Self { beside, alone, seen: Seen { n1, x1, n2, x2 }, least, shared: shared != 0 })
    }
}

packed!(Safety);

impl From<Plain> for Safety {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::Gauge;
    use cutover_policy::testing::{batch, calls, operation};

    use super::*;

    const LIMITS: Limits = Limits { max_odds: 3.0, max_rate: 0.01, needed: 20.0 };

    fn second(v1: (u64, u64), v2: (u64, u64)) -> Batch {
        let mut batch = batch(0);
        batch.operations.push(operation("a"));
        batch.operations[0].v1 = calls(v1.0, v1.1, 1);
        batch.operations[0].v2 = calls(v2.0, v2.1, 1);
        batch
    }

    fn add(safety: &mut Safety, batch: &Batch) {
        let operation = &batch.operations[0];
        let units = |calls: &cutover_policy::Calls| (calls.units, calls.unit_errors);
        safety.compare(&LIMITS, &Table::new(units(&operation.v1), units(&operation.v2)));
        safety.count(&LIMITS, &[batch], false);
    }

    fn after(batches: impl IntoIterator<Item = Batch>) -> Safety {
        let mut safety = Safety::default();
        batches.into_iter().for_each(|batch| add(&mut safety, &batch));
        safety
    }

    fn silence(units: usize) -> Safety {
        after(std::iter::repeat_n(second((19, 0), (1, 0)), units))
    }

    #[test]
    fn nothing_seen_is_nothing_known() {
        assert!((Safety::default().wealth() - 1.0).abs() < 1e-12);
        let need = Safety::default().need(&LIMITS).unwrap();
        assert_eq!((need.units, need.errors, need.more), (0, 0, 405));
    }

    #[test]
    fn a_v2_that_never_fails_is_safe_as_soon_as_it_was_foretold() {
        let mut units = 0;
        while let Some(need) = silence(units).need(&LIMITS) {
            assert!(units < 1_000);
            let left = usize::try_from(need.more).unwrap();
            assert!((410..=450).contains(&(units + left)) || units < 300, "{units} and {left} more");
            units += 1;
        }
        assert!((410..=450).contains(&units), "{units}");
    }

    #[test]
    fn errors_on_both_sides_show_an_equal_v2() {
        // 5 % of each: far above the absolute limit, so only the comparison can tell.
        let equal = after((0..60).map(|i| second((100, 5), (20, u64::from(i % 3 != 0) + u64::from(i % 3 == 1)))));
        assert_eq!(equal.need(&LIMITS), None);
        assert!(sum(&equal.alone) < 1.0);
    }

    #[test]
    fn a_v2_that_becomes_worse_loses_its_evidence() {
        let mut safety = silence(100_000);
        assert!(safety.wealth() <= KEPT * LIMITS.needed);
        let mut failing = 0;
        while safety.need(&LIMITS).is_none() {
            add(&mut safety, &second((19, 0), (1, 1)));
            failing += 1;
        }
        assert!(failing <= 6, "{failing}");
    }

    #[test]
    fn any_number_of_good_units_is_no_overflow() {
        for units in [78_400, 1 << 40, u64::MAX] {
            let safety = after([second((units, 0), (units, 0)), second((units, 0), (100, 0))]);
            assert!(safety.wealth().is_finite() && safety.need(&LIMITS).is_none(), "{units}");
            let failing = after([second((units, 0), (units, units)), second((units, units), (100, 0))]);
            assert!(failing.wealth().is_finite() && failing.need(&LIMITS).is_some(), "{units}");
        }
    }

    /// A second of V2 with the sessions that a host counts.
    fn counted(units: u64, sessions: i64, failed: i64) -> Batch {
        let gauge = |name: &str, value| Gauge { name: name.into(), value };
        let gauges = vec![gauge("v2.failed-sessions", failed), gauge("v2.sessions", sessions)];
        Batch { gauges, ..second((0, 0), (units, 0)) }
    }

    #[test]
    fn sessions_that_stay_are_counted_once() {
        // 100 sessions of V2, of which 10 fail wholly, are called each second for an hour.
        let safety = after((0..3_600).map(|n| if n == 0 { counted(100, 100, 10) } else { counted(90, 0, 0) }));
        let need = safety.need(&LIMITS).unwrap();
        assert_eq!((need.units, need.errors), (100, 10));
        // A session that fails later takes its good beginning back.
        let late = after([counted(500, 500, 0), counted(500, 0, 10)]);
        let at_once = after([counted(500, 500, 10)]);
        assert!((late.wealth() / at_once.wealth() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn units_that_share_sessions_show_no_more_of_them_than_were_there_at_once() {
        let mut shared = second((0, 0), (20, 0));
        shared.operations[0].v2.units = 11;
        let safety = after(std::iter::repeat_n(shared, 1_000));
        assert_eq!(safety.need(&LIMITS).map(|need| need.units), Some(11));
    }

    #[test]
    fn both_games_are_fair_at_the_edge_of_their_nulls() {
        let mean = |part: f64| 0.01 * part + 0.99 * libm::exp(gain(0.01, part));
        assert!(ALONE.iter().all(|&part| (mean(part) - 1.0).abs() < 1e-12));
        for truth in [3.0, 5.0, 100.0] {
            let tables = (0..=4).map(|x2| Table { n1: 30, x1: 4 - x2, n2: 10, x2 });
            let mean: f64 = tables
                .map(|t| {
                    let ratio = |part: f64| libm::exp(t.ln_probability(3.0 * part) - t.ln_probability(3.0));
                    libm::exp(t.ln_probability(truth)) * f64::midpoint(ratio(BESIDE[0]), ratio(BESIDE[1]))
                })
                .sum();
            assert!(mean <= 1.0 + 1e-12, "{mean} at {truth}");
        }
    }
}
