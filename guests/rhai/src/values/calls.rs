//! Calls of one pool: counts, and a histogram of latencies.

use std::sync::Arc;

use cutover_policy::Histogram;
use rhai::{Dynamic, Engine, EvalAltResult, INT};

use super::{int, latency::Latency};
use crate::helpers::{numbers, units};

/// Calls, as a script sees them. The fields are those of the contract.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<Tally>);

/// Counts that add up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) timeouts: u64,
    pub(crate) failed_over: u64,
    pub(crate) units: u64,
    pub(crate) unit_errors: u64,
    pub(crate) latency: Histogram,
}

impl Tally {
    /// From [`Tally::counts`] and buckets of latency.
    pub(crate) fn new(counts: [u64; 6], latency: Vec<(u32, u64)>) -> Self {
        let [requests, errors, timeouts, failed_over, units, unit_errors] = counts;
        let latency = latency.into_iter().collect();
        Self { requests, errors, timeouts, failed_over, units, unit_errors, latency }
    }

    /// All but latency.
    pub(crate) const fn counts(&self) -> [u64; 6] {
        [self.requests, self.errors, self.timeouts, self.failed_over, self.units, self.unit_errors]
    }

    /// Halves counts, and `failed` with them, until none is above `most`, a power of two.
    pub(crate) fn halve(&mut self, failed: u64, most: u64) -> u64 {
        let largest = self.counts().into_iter().fold(failed, u64::max);
        let halvings = (most.leading_zeros() + 1).saturating_sub(largest.saturating_sub(1).leading_zeros());
        let [requests, errors, timeouts, failed_over, units, unit_errors] =
            self.counts().map(|count| count.div_ceil(1 << halvings));
        let latency = std::mem::take(&mut self.latency);
        *self = Self { requests, errors, timeouts, failed_over, units, unit_errors, latency };
        failed.div_ceil(1 << halvings)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.add_counts(other);
        self.latency.merge(&other.latency);
    }

    /// Adds all but latency.
    pub(crate) fn add_counts(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.timeouts = self.timeouts.saturating_add(other.timeouts);
        self.failed_over = self.failed_over.saturating_add(other.failed_over);
        self.units = self.units.saturating_add(other.units);
        self.unit_errors = self.unit_errors.saturating_add(other.unit_errors);
    }
}

impl Calls {
    pub(crate) fn tally(&self) -> &Tally {
        &self.0
    }

    /// Both together.
    fn plus(self, other: &Self) -> Self {
        let mut sum = Arc::unwrap_or_clone(self.0);
        sum.add(&other.0);
        sum.into()
    }

    fn quantile(&self, share: &Dynamic) -> Result<Dynamic, Box<EvalAltResult>> {
        let ppm = units::share(share)?;
        Ok(self.0.latency.quantile_us(ppm).map_or(Dynamic::UNIT, |us| int(us).into()))
    }

    /// How many took at least so long; as exact as a bucket, the one that `us` falls into counts as a whole.
    fn slower_than(&mut self, us: INT) -> INT {
        let mut limit = Histogram::default();
        limit.record(us.try_into().unwrap_or_default());
        let from = limit.buckets().first().map_or(0, |(index, _)| *index);
        let slow = self.0.latency.buckets().iter().filter(|(index, _)| *index >= from);
        int(slow.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count)))
    }
}

impl From<Tally> for Calls {
    fn from(tally: Tally) -> Self {
        Self(tally.into())
    }
}

impl From<&cutover_policy::Calls> for Calls {
    fn from(calls: &cutover_policy::Calls) -> Self {
        let tally = Tally {
            requests: calls.requests,
            errors: calls.errors,
            timeouts: calls.timeouts,
            failed_over: calls.failed_over,
            units: calls.units,
            unit_errors: calls.unit_errors,
            latency: cutover_policy::histogram(&calls.latency),
        };
        tally.into()
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Calls>("Calls")
        .register_get("requests", |c: &mut Calls| int(c.0.requests))
        .register_get("errors", |c: &mut Calls| int(c.0.errors))
        .register_get("timeouts", |c: &mut Calls| int(c.0.timeouts))
        .register_get("failed_over", |c: &mut Calls| int(c.0.failed_over))
        .register_get("units", |c: &mut Calls| int(c.0.units))
        .register_get("unit_errors", |c: &mut Calls| int(c.0.unit_errors))
        .register_get("error_rate", |c: &mut Calls| numbers::parts(int(c.0.errors), int(c.0.requests)))
        .register_get("unit_error_rate", |c: &mut Calls| numbers::parts(int(c.0.unit_errors), int(c.0.units)))
        .register_get("latency", |c: &mut Calls| Latency::from(c.0.latency.clone()))
        .register_fn("+", |a: Calls, b: Calls| a.plus(&b))
        .register_fn("quantile", |c: &mut Calls, share: Dynamic| c.quantile(&share))
        .register_fn("slower_than", Calls::slower_than);
}
