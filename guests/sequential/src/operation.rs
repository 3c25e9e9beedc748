//! What is remembered of an operation: V1's latencies of the last minutes, what it was like by hour, when it was last
//! called.

use cutover_policy::{
    Check, OperationCalls,
    memory::{Fields, Packed, Text},
    packed,
};
use serde::{Deserialize, Serialize};

use crate::{
    counting::Before,
    hours::Hours,
    latency::{self, Baseline, Limits},
    process::Plain,
    settings::Settings,
    units,
};

/// V1 is gone if it was not called for so long, all of it in this stage.
const GONE_MS: u64 = 60_000;

/// And if it would have been called so often meanwhile, going by V2's units and share: chance has a rare V1 wait for so
/// many with a probability of e^-12.
const GONE_UNITS: u64 = 12;

/// V2's units are counted up to this, a million million.
const MOST_WAITED: u64 = 1 << 40;

/// Calls of V2 that were held against a limit and did not take too long, from which on an operation's latency is judged.
const SETTLED: u64 = 20;

/// Calls that V2's own p99 is taken from, where nothing is known of V1.
const OWN_CALLS: u64 = 1_000;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    baseline: Baseline,
    facts: Facts,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Facts {
    /// When the latest batch began in which V1 was called; 0 for never.
    called_ms: u64,
    hours: Hours,
    /// V2's units in this stage since V1 was called.
    waited: u64,
    /// Whether the latencies are V2's own.
    is_own: bool,
    /// V2's calls in this stage whose latency was held against nothing, and those that were held against a limit and did not
    /// take too long.
    timed: [u64; 2],
}

/// A span, and the stage that it is in.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// When the span began.
    pub start_ms: u64,
    /// When the stage began.
    pub stage_started_ms: u64,
    /// V2's share in parts per million.
    pub share: u32,
}

impl Moment {
    /// A span that began at `start_ms`, in the check's stage.
    #[must_use]
    pub const fn of(check: &Check, start_ms: u64) -> Self {
        Self { start_ms, stage_started_ms: check.stage_started_ms, share: check.share }
    }
}

impl Operation {
    /// What is known of it before a span; `ill` if both pools fail more than V1 did.
    #[must_use]
    pub fn before(&self, settings: &Settings, at: Moment, ill: bool) -> Before {
        let ratio_ppm = settings.max_p99_ratio.0;
        let stated = Some(settings.objective_p99.0.saturating_mul(1_000)).filter(|us| *us > 0);
        if !self.is_gone(at) {
            let floor_us = settings.slow_floor.0.saturating_mul(1_000);
            let own = if self.facts.is_own { None } else { self.baseline.limits(ratio_ppm, floor_us) };
            let known = || self.facts.hours.p99_us().map(|us| Limits::of(us.max(floor_us), ratio_ppm));
            let limits = own.or_else(known);
            return Before { limits, far_us: stated.filter(|_| limits.is_none()), alone: None };
        }
        let times = |us: u64| u128::from(us) * u128::from(ratio_ppm) / 1_000_000;
        let far = self.facts.hours.p99_us().map(|us| u64::try_from(times(us)).unwrap_or(u64::MAX)).map(times);
        let far = far.map(|us| u64::try_from(us).unwrap_or(u64::MAX));
        Before { limits: None, alone: Some(self.alone(settings, ill)), far_us: stated.or(far) }
    }

    /// Whether V1's rate of failed units is known from before.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.facts.hours.known().rate.is_some()
    }

    /// The rate of failed units that is good enough without V1: as many times what V1 had as are no harm beside it.
    /// Where that is not known, it is taken to have been at the objective.
    #[must_use]
    pub fn good_enough(&self, settings: &Settings) -> f64 {
        let objective = crate::settings::part(settings.objective_error_rate);
        let had = self.facts.hours.known().rate.unwrap_or(objective);
        times_had(settings, had)
    }

    /// The same for V2 alone. What V1 had in the hour under way, or lately, counts besides what is known of it.
    fn alone(&self, settings: &Settings, ill: bool) -> f64 {
        let objective = crate::settings::part(settings.objective_error_rate);
        times_had(settings, self.facts.hours.had(objective, ill))
    }

    /// Adds calls of a span that began at `start_ms`, for what comes after. What was counted of an hour is left out if
    /// both pools were `ill` in it. All calls of the span are added before any is learnt from.
    pub fn add(&mut self, start_ms: u64, calls: &OperationCalls, settings: &Settings, ill: bool) {
        let Facts { called_ms, hours, waited, is_own, .. } = &mut self.facts;
        let enough = if *is_own { OWN_CALLS } else { latency::MIN_CALLS };
        self.baseline.slide(start_ms, settings.slow_window.0, enough);
        hours.arrive(start_ms, false, ill);
        let [units, _] = units::few(units::units(&calls.v2));
        *waited = waited.saturating_add(units).min(MOST_WAITED);
        if calls.v1.requests > 0 {
            *called_ms = start_ms;
            hours.add(units::few(units::units(&calls.v1)));
        }
    }

    /// Learns how long calls take: V1's, and V2's own only where V1 was called in none of the span's batches.
    pub fn learn(&mut self, at: Moment, calls: &OperationCalls) {
        let is_own = self.is_gone(at);
        // Nobody can say what V2 was to be like; it is held against how it began.
        if is_own && self.facts.hours.p99_us().is_some() {
            return;
        }
        let calls = if is_own { &calls.v2 } else { &calls.v1 };
        if is_own != self.facts.is_own && !calls.latency.is_empty() {
            (self.baseline, self.facts.is_own) = (Baseline::default(), is_own);
        }
        self.baseline.add(calls, at.start_ms);
    }

    /// The span is over.
    pub fn end_span(&mut self, at: Moment) {
        if self.facts.called_ms == at.start_ms {
            self.facts.waited = 0;
        }
        let is_known = !self.facts.is_own || self.facts.hours.p99_us().is_some();
        if self.is_gone(at) && !is_known && self.baseline.calls() >= OWN_CALLS {
            self.facts.hours.add_p99(self.baseline.limits(1_000_000, 0).map_or(0, |limits| limits.p99_us));
            self.baseline = Baseline::default();
        }
    }

    /// Keeps V1's p99 of now, if it is that of its latest calls.
    pub fn keep_p99(&mut self, p99_us: u64) {
        if self.v1_calls() >= latency::MIN_CALLS {
            self.facts.hours.add_p99(p99_us);
        }
    }

    /// Counts V2's calls of a span whose latency was held against nothing, and those that were held against a limit and did
    /// not take too long. The others say nothing good: it is for the evidence to say how bad they are.
    pub fn count_timed(&mut self, unjudged: u64, judged: u64) {
        for (sum, calls) in self.facts.timed.iter_mut().zip([unjudged, judged]) {
            *sum = sum.saturating_add(calls);
        }
    }

    /// V2's calls in this stage, and those whose latency could not be judged: none once it can be.
    #[must_use]
    pub const fn timed(&self) -> [u64; 2] {
        let [unjudged, judged] = self.facts.timed;
        [unjudged.saturating_add(judged), if judged < SETTLED { unjudged } else { 0 }]
    }

    /// V1's calls that its p99 would be taken from.
    #[must_use]
    pub fn v1_calls(&self) -> u64 {
        if self.facts.is_own { 0 } else { self.baseline.calls() }
    }

    /// The stage is over.
    pub fn end_stage(&mut self, now_ms: u64, ill: bool) {
        self.facts.hours.arrive(now_ms, true, ill);
        (self.facts.waited, self.facts.timed) = Default::default();
    }

    /// Whether V1 is called no more. At a share of 100 % that is a matter of time; else a V1 that has few callers would
    /// seem to be gone each time that they come late.
    fn is_gone(&self, at: Moment) -> bool {
        let since_ms = self.facts.called_ms.max(at.stage_started_ms);
        let (share, v1_share) = (u64::from(at.share), 1_000_000_u64.saturating_sub(at.share.into()));
        let due = self.facts.waited.saturating_mul(v1_share) >= share.saturating_mul(GONE_UNITS);
        since_ms.saturating_add(GONE_MS) < at.start_ms && (v1_share == 0 || due)
    }
}

/// As little is good enough in any case: of a V1 that never failed nobody knows how rarely it would have.
const LEAST_RATE: f64 = 0.001;

/// More than this is never good enough: nothing could be told from it.
const MOST_RATE: f64 = 0.9;

/// So many times what V1 had as are no harm.
fn times_had(settings: &Settings, had: f64) -> f64 {
    (had * crate::settings::times(settings.unsafe_error_odds)).clamp(LEAST_RATE, MOST_RATE)
}

impl Packed for Facts {
    type Plain = Plain;

    fn write(&self, text: &mut Text) {
        text.number(self.called_ms);
        self.hours.write(text);
        let [unjudged, judged] = self.timed;
        text.number(self.waited).number(self.is_own.into()).number(unjudged).number(judged);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (called_ms, hours) = (fields.number()?, Hours::read_from(fields)?);
        // That of versions before ends here.
        let [waited, is_own, unjudged, judged] = if fields.is_over() { [0; 4] } else { fields.numbers()? };
        Some(Self { called_ms, hours, waited, is_own: is_own != 0, timed: [unjudged, judged] })
    }
}

packed!(Facts);

impl From<Plain> for Facts {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{calls, operation};

    use super::*;

    fn at(start_ms: u64, share: u32) -> Moment {
        Moment { start_ms, stage_started_ms: 1_000_000, share }
    }

    /// Adds a span in which each pool has so many calls.
    fn add(known: &mut Operation, at: Moment, v1: u64, v2: u64) {
        let mut execute = operation("execute");
        (execute.v1, execute.v2) = (calls(v1, 0, 20_000), calls(v2, 0, 20_000));
        known.add(at.start_ms, &execute, &Settings::default(), false);
        known.learn(at, &execute);
        known.end_span(at);
    }

    #[test]
    fn v1_is_gone_after_a_minute_of_the_stage_in_which_it_would_have_been_called() {
        let mut known = Operation::default();
        assert!(!known.is_gone(at(1_060_000, 1_000_000)) && known.is_gone(at(1_060_001, 1_000_000)));
        // At 90 % a call of V1 is due with the ninth of V2.
        add(&mut known, at(1_000_000, 900_000), 0, 107);
        assert!(!known.is_gone(at(2_000_000, 900_000)));
        add(&mut known, at(1_005_000, 900_000), 0, 1);
        assert!(known.is_gone(at(2_000_000, 900_000)) && !known.is_gone(at(1_060_000, 900_000)));
        add(&mut known, at(2_000_000, 900_000), 1, 500);
        assert!(!known.is_gone(at(2_100_000, 900_000)));
        add(&mut known, at(2_100_000, 900_000), 0, 108);
        assert!(known.is_gone(at(2_105_000, 900_000)));
        known.end_stage(2_105_000, false);
        assert!(!known.is_gone(at(2_105_000, 900_000)));
    }

    #[test]
    fn what_is_known_by_hour_is_held_against_v2_where_v1_has_too_few_calls() {
        let settings = Settings::default();
        let mut known = Operation::default();
        add(&mut known, at(1_000_000, 500_000), 150, 100);
        let limits = |known: &Operation, start_ms| known.before(&settings, at(start_ms, 500_000), false).limits;
        assert_eq!(limits(&known, 1_005_000), None);
        known.facts.hours.add_p99(70_000);
        assert_eq!(limits(&known, 1_005_000), Some(Limits { p99_us: 70_000, doubled_us: 140_000 }));
        known.keep_p99(900_000);
        assert_eq!(known.facts.hours.p99_us(), Some(70_000), "it is no p99 of now");
        add(&mut known, at(1_005_000, 500_000), 50, 0);
        assert!(limits(&known, 1_010_000).unwrap().p99_us < 21_000);
    }

    #[test]
    fn what_versions_before_remembered_is_read() {
        let mut known = Operation::default();
        add(&mut known, at(1_000_000, 500_000), 150, 100);
        known.count_timed(0, 9);
        let text = serde_json::to_string(&known.facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), known.facts);
        // Without the last four fields, and the two that came with them.
        let of_before = format!("{}\"", text.rsplitn(7, '|').last().unwrap());
        let read: Facts = serde_json::from_str(&of_before).unwrap();
        assert_eq!((read.called_ms, read.timed, read.is_own), (1_000_000, [0, 0], false));
    }
}
