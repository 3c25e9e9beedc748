//! What is remembered of an operation: V1's latencies of the last minutes, what it was like by hour, when it was last
//! called.

use cutover_policy::memory::{Fields, Packed, Text};
use cutover_policy::{OperationCalls, packed};
use serde::{Deserialize, Serialize};

use crate::counting::Before;
use crate::hours::Hours;
use crate::latency::Baseline;
use crate::process::Plain;
use crate::settings::Settings;
use crate::units;

/// V1 is gone if it was not called for so long.
const GONE_MS: u64 = 60_000;

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
}

impl Operation {
    /// What is known of it before a span that begins at `start_ms`; `ill` if both pools fail more than V1 did.
    #[must_use]
    pub fn before(&self, settings: &Settings, start_ms: u64, ill: bool) -> Before {
        let ratio_ppm = settings.max_p99_ratio.0;
        if !self.is_gone(start_ms) {
            let floor_us = settings.slow_floor.0.saturating_mul(1_000);
            return Before { limits: self.baseline.limits(ratio_ppm, floor_us), ..Before::default() };
        }
        let times = |us: u64| u128::from(us) * u128::from(ratio_ppm) / 1_000_000;
        let far = self.facts.hours.p99_us().map(|us| u64::try_from(times(us)).unwrap_or(u64::MAX)).map(times);
        let far = far.map(|us| u64::try_from(us).unwrap_or(u64::MAX));
        let stated = Some(settings.objective_p99.0.saturating_mul(1_000)).filter(|us| *us > 0);
        Before { limits: None, alone: Some(self.alone(settings, ill)), far_us: stated.or(far) }
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
    pub fn add(&mut self, start_ms: u64, calls: &OperationCalls, ill: bool) {
        let Facts { called_ms, hours } = &mut self.facts;
        hours.arrive(start_ms, false, ill);
        if calls.v1.requests > 0 {
            *called_ms = start_ms;
            hours.add(units::few(units::units(&calls.v1)));
        }
    }

    /// Learns how long calls take: V1's, and V2's own only where V1 was called in none of the span's batches.
    pub fn learn(&mut self, start_ms: u64, calls: &OperationCalls, settings: &Settings) {
        let window_ms = settings.slow_window.0;
        let gone = self.is_gone(start_ms);
        let hours = &mut self.facts.hours;
        if !gone {
            self.baseline.add(&calls.v1, start_ms, window_ms);
            return;
        }
        // Nobody can say what V2 was to be like; it is held against how it began.
        if hours.p99_us().is_none() {
            self.baseline.add(&calls.v2, start_ms, window_ms);
        }
    }

    /// The span is over.
    pub fn end_span(&mut self, start_ms: u64) {
        if self.is_gone(start_ms) && self.facts.hours.p99_us().is_none() && self.baseline.calls() >= OWN_CALLS {
            self.facts.hours.add_p99(self.baseline.limits(1_000_000, 0).map_or(0, |limits| limits.p99_us));
            self.baseline = Baseline::default();
        }
    }

    /// Keeps V1's p99 of now.
    pub fn keep_p99(&mut self, p99_us: u64) {
        self.facts.hours.add_p99(p99_us);
    }

    /// The stage is over.
    pub fn end_stage(&mut self, now_ms: u64, ill: bool) {
        self.facts.hours.arrive(now_ms, true, ill);
    }

    fn is_gone(&self, now_ms: u64) -> bool {
        self.facts.called_ms == 0 || self.facts.called_ms.saturating_add(GONE_MS) < now_ms
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
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { called_ms: fields.number()?, hours: Hours::read_from(fields)? })
    }
}

packed!(Facts);

impl From<Plain> for Facts {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}
