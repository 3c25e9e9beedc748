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

use cutover_policy::{
    Batch, Calls,
    hypergeometric::{Table, real},
    memory::{Fields, Packed, Text},
    packed,
};

use crate::{process::Plain, units};

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
    /// When the latest span began, and the latest that had a session of V2 that is new.
    latest_ms: u64,
    fresh_ms: Option<u64>,
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
    /// Whether it fails so much that more like these would never show it.
    pub hopeless: bool,
    /// For how long no new one came.
    pub waited_ms: u64,
}

impl Default for Safety {
    fn default() -> Self {
        let half = -core::f64::consts::LN_2;
        let (seen, least, shared, latest_ms, fresh_ms) = Default::default();
        Self { beside: [half; 2], alone: [half; 2], seen, least, shared, latest_ms, fresh_ms }
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
        let before = (self.seen.n2, self.least);
        if let Some([v1, v2]) = units::sessions(span).filter(|_| !mirrored) {
            self.bet(limits, v1, v2);
        } else {
            self.add_units(limits, span, mirrored);
        }
        let start_ms = span.first().map_or(0, |first| first.start_ms);
        let is_fresh = if self.shared { self.least > before.1 } else { self.seen.n2 > before.0 };
        if is_fresh || self.fresh_ms.is_none() {
            self.fresh_ms = Some(start_ms);
        }
        self.latest_ms = start_ms;
        if self.shared {
            let good = real(self.least) - real(self.seen.x2);
            self.alone = ALONE.map(|part| -core::f64::consts::LN_2 + gained(limits, part, self.seen.x2, good));
            cut(&mut self.alone, limits);
        }
    }

    fn add_units(&mut self, limits: &Limits, span: &[&Batch], mirrored: bool) {
        let (mut v1_units, mut v2_units, mut requests) = ([0_u64; 2], [0_u64; 2], 0_u64);
        for operation in span.iter().flat_map(|batch| &batch.operations) {
            let (v1, v2) = (&operation.v1, crate::counting::v2(operation, mirrored));
            let units = |calls: &Calls| {
                if mirrored { [calls.requests, calls.errors.min(calls.requests)] } else { units::units(calls) }
            };
            for (sums, counts) in [(&mut v1_units, units(v1)), (&mut v2_units, units(v2))] {
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
            }
            requests = requests.saturating_add(v2.requests);
        }
        if !mirrored {
            let [widest, _] = units::few([units::widest(span), 0]);
            self.least = self.least.max(widest.saturating_add(self.seen.x2));
            self.shared |= requests > v2_units[0];
        }
        self.bet(limits, v1_units, v2_units);
    }

    /// A failure may be of a session that was counted as good before: then it takes that back.
    fn bet(&mut self, limits: &Limits, v1: [u64; 2], v2: [u64; 2]) {
        let ([n1, x1], [n2, x2]) = (units::few(v1), units::few(v2));
        let good = real(n2) - real(x2);
        for (bet, part) in self.alone.iter_mut().zip(ALONE) {
            *bet += gained(limits, part, x2, good);
        }
        cut(&mut self.alone, limits);
        self.seen.n1 = self.seen.n1.saturating_add(n1);
        self.seen.x1 = self.seen.x1.saturating_add(x1);
        self.seen.n2 = self.seen.n2.saturating_add(n2);
        self.seen.x2 = self.seen.x2.saturating_add(x2);
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
        // How much one of the two games must grow while the other stands still.
        let (beside, alone) = (sum(&self.beside), sum(&self.alone));
        let goal = 2.0 * limits.needed;
        let by_silence = until(&self.alone, ALONE.map(|part| gain(limits.max_rate, part)), goal - beside);
        let by_errors = until(&self.beside, self.growth(limits), goal - alone);
        let more = libm::ceil(by_silence.min(by_errors)).max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, and at most 10^18")]
        let more = more.min(1e18) as u64;
        let units = if self.shared { self.least } else { self.seen.n2 };
        let waited_ms = self.latest_ms.saturating_sub(self.fresh_ms.unwrap_or(self.latest_ms));
        Some(Need { units, errors: self.seen.x2, more, hopeless: self.is_hopeless(units, limits), waited_ms })
    }

    /// What the bets beside V1 are expected to gain for each unit of V2, if V2 is as good: for each error, and so many errors
    /// of both as V1's rate makes.
    fn growth(&self, limits: &Limits) -> [f64; 2] {
        let (n1, n2) = (real(self.seen.n1), real(self.seen.n2));
        if self.seen.n1 == 0 || self.seen.n2 == 0 {
            return [0.0; 2];
        }
        let errors = real(self.seen.x1) / n1 * (n1 + n2) / n2;
        self.gained_beside(limits, n2 / (n1 + n2)).map(|gained| gained * errors)
    }

    /// What the bets beside V1 gain for each error, of which V2 has a part of `is`.
    fn gained_beside(&self, limits: &Limits, is: f64) -> [f64; 2] {
        let (n1, n2) = (real(self.seen.n1), real(self.seen.n2));
        let part = |odds: f64| n2 * odds / (n2 * odds + n1);
        let limit = part(limits.max_odds);
        BESIDE.map(|of| {
            let bet = part(limits.max_odds * of);
            is * libm::log(bet / limit) + (1.0 - is) * libm::log((1.0 - bet) / (1.0 - limit))
        })
    }

    /// Whether no bet gains from more units like those that were seen, of which more than two failed.
    fn is_hopeless(&self, units: u64, limits: &Limits) -> bool {
        let Seen { n1, x1, x2, .. } = self.seen;
        if x2 < HOPELESS || units == 0 {
            return false;
        }
        let rate = (real(x2) / real(units)).min(1.0);
        let alone = ALONE.map(|part| rate * libm::log(part) + (1.0 - rate) * gain(limits.max_rate, part));
        let is = real(x2) / (real(x1) + real(x2));
        let beside = if n1 > 0 { self.gained_beside(limits, is) } else { [0.0; 2] };
        alone.into_iter().chain(beside).all(|gained| gained <= 0.0)
    }
}

/// Failed units that are more than an odd one or two.
const HOPELESS: u64 = 3;

/// How many units it takes until bets that are logarithms, and grow by so much with each, are worth `goal`; infinitely many
/// if none of them grows. The logarithm of their sum is convex, so Newton's steps from beyond come down to it.
fn until(bets: &[f64; 2], growth: [f64; 2], goal: f64) -> f64 {
    let goal = libm::log(goal);
    let alone = |(bet, growth): (&f64, f64)| if growth > 0.0 { (goal - bet) / growth } else { f64::INFINITY };
    let mut units = bets.iter().zip(growth).map(alone).fold(f64::INFINITY, f64::min);
    if !units.is_finite() {
        return units;
    }
    for _ in 0..STEPS {
        let grown = [bets[0] + units * growth[0], bets[1] + units * growth[1]];
        let sum = ln_sum(&grown);
        let slope = growth[0] * libm::exp(grown[0] - sum) + growth[1] * libm::exp(grown[1] - sum);
        units -= (sum - goal) / slope;
    }
    units
}

/// Steps that are enough for a number of units: each squares what is missing.
const STEPS: usize = 8;

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
        text.number(self.latest_ms).number(self.fresh_ms.is_some().into()).number(self.fresh_ms.unwrap_or(0));
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let mut two = || fields.doubles()?.try_into().ok();
        let (beside, alone) = (two()?, two()?);
        let [n1, x1, n2, x2, least, shared] = fields.numbers()?;
        // That of versions before ends here.
        let [latest_ms, known, fresh_ms] = if fields.is_over() { [0; 3] } else { fields.numbers()? };
        let (seen, fresh_ms) = (Seen { n1, x1, n2, x2 }, (known != 0).then_some(fresh_ms));
        Some(Self { beside, alone, seen, least, shared: shared != 0, latest_ms, fresh_ms })
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
    use cutover_policy::{
        Gauge,
        testing::{batch, calls, operation},
    };

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
        assert_eq!((need.units, need.errors, need.more), (0, 0, 449));
    }

    #[test]
    fn a_v2_that_never_fails_is_safe_as_soon_as_it_was_foretold() {
        let mut units = 0;
        while let Some(need) = silence(units).need(&LIMITS) {
            assert!(units < 1_000);
            let left = usize::try_from(need.more).unwrap();
            assert_eq!(units + left, 449, "{units} and {left} more");
            units += 1;
        }
        assert_eq!(units, 449);
    }

    /// What is foretold after some failures is when it turns healthy, if no more come.
    #[test]
    fn failures_of_before_are_in_what_is_foretold() {
        for failed in [1, 2, 5] {
            let mut safety = silence(300);
            for _ in 0..failed {
                add(&mut safety, &second((0, 0), (1, 1)));
            }
            let foretold = safety.need(&LIMITS).unwrap().more;
            let mut more = 0;
            while safety.need(&LIMITS).is_some() {
                add(&mut safety, &second((0, 0), (1, 0)));
                more += 1;
            }
            assert_eq!(more, foretold, "{failed}");
        }
    }

    /// Both fail one in twenty, evenly: it is the comparison that shows it.
    #[test]
    fn errors_of_both_are_in_what_is_foretold() {
        let (mut safety, mut foretold) = (Safety::default(), Vec::new());
        while let Some(need) = safety.need(&LIMITS) {
            foretold.push(need.units + need.more);
            assert!(foretold.len() < 400);
            add(&mut safety, &second((200, 10), (20, 1)));
        }
        let turned = 20 * foretold.len() as u64;
        let late = &foretold[foretold.len() / 2..];
        assert!(late.iter().all(|said| said.abs_diff(turned) * 20 <= turned + 400), "{turned}: {foretold:?}");
    }

    #[test]
    fn a_v2_that_fails_too_much_is_told_so_and_not_how_much_is_missing() {
        let hopeless = |v1, v2| after([second(v1, v2)]).need(&LIMITS).unwrap().hopeless;
        assert!(hopeless((100, 0), (12, 12)) && hopeless((0, 0), (100, 10)) && hopeless((1_000, 20), (100, 8)));
        assert!(!hopeless((100, 0), (12, 2)), "may be chance");
        assert!(!hopeless((1_000, 50), (100, 6)) && !hopeless((0, 0), (1_000, 4)));
    }

    #[test]
    fn sessions_that_stay_are_no_new_ones_to_wait_for() {
        let at = |minutes: u64, batch: Batch| Batch { start_ms: minutes * 60_000, ..batch };
        let mut safety = Safety::default();
        for minute in 0..30 {
            safety.count(&LIMITS, &[&at(minute, counted(100, (minute < 15).into(), 0))], false);
        }
        assert_eq!(safety.need(&LIMITS).unwrap().waited_ms, 15 * 60_000);
        safety.count(&LIMITS, &[&at(30, counted(100, 1, 0))], false);
        assert_eq!(safety.need(&LIMITS).unwrap().waited_ms, 0);
        let mut shared = Safety::default();
        for minute in 0..30 {
            shared.count(&LIMITS, &[&at(minute, Batch { gauges: Vec::new(), ..shared_by(20, 10) })], false);
        }
        assert_eq!(shared.need(&LIMITS).unwrap().waited_ms, 29 * 60_000);
    }

    fn shared_by(requests: u64, sessions: u64) -> Batch {
        let mut batch = second((0, 0), (requests, 0));
        batch.operations[0].v2.units = sessions;
        batch
    }

    #[test]
    fn sessions_without_calls_show_nothing() {
        for (sessions, failed) in [(25, 0), (i64::MAX, 0), (-25, 0), (i64::MIN, i64::MIN)] {
            let safety = after((0..30).map(|_| counted(0, sessions, failed)));
            assert_eq!(safety.need(&LIMITS).map(|need| need.units), Some(0), "{sessions}");
        }
        let mut units = second((0, 0), (0, 0));
        units.operations[0].v2.units = 25;
        assert_eq!(after(std::iter::repeat_n(units, 30)).need(&LIMITS).map(|need| need.units), Some(0));
        assert_eq!(after([counted(90, i64::MAX, 0)]).need(&LIMITS).map(|need| need.units), Some(90));
    }

    #[test]
    fn counts_that_are_too_large_are_the_same_rate() {
        let safety = after([second((1 << 44, 1 << 40), (1 << 44, 1 << 40))]);
        assert_eq!(*safety.seen(), Seen { n1: 1 << 40, x1: 1 << 36, n2: 1 << 40, x2: 1 << 36 });
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
