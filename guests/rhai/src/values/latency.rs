//! Latencies that a script keeps itself, where a window does not fit: histograms that add up and are texts in memory.

use std::sync::Arc;

use cutover_contract::histogram;
use cutover_policy::{
    Histogram,
    memory::{Fields, Text},
};
use rhai::{Dynamic, Engine, EvalAltResult, INT};

use super::int;
use crate::helpers::units;

/// Calls by how long they took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency(Arc<Histogram>);

impl Latency {
    /// From what [`Latency::text`] wrote.
    fn read(text: &str) -> Result<Self, Box<EvalAltResult>> {
        let mut fields = Fields::new(text);
        let buckets = fields.buckets().filter(|_| fields.is_over());
        let buckets = buckets.ok_or("`histogram` reads what a histogram's `text` was, such as \"460:1 12;470:3\"")?;
        Ok(buckets.into_iter().collect::<Histogram>().into())
    }

    /// Buckets and their counts, as memory has them: `460:1 12;470:3`.
    fn text(&self) -> String {
        let mut text = Text::default();
        text.buckets(self.0.buckets());
        text.into()
    }

    fn plus(self, other: &Self) -> Self {
        let mut sum = Arc::unwrap_or_clone(self.0);
        sum.merge(&other.0);
        sum.into()
    }

    fn quantile(&self, share: &Dynamic) -> Result<Dynamic, Box<EvalAltResult>> {
        let ppm = units::share(share)?;
        Ok(self.0.quantile_us(ppm).map_or(Dynamic::UNIT, |us| int(us).into()))
    }

    /// How many took longer than the whole bucket that `us` falls into.
    fn beyond(&self, us: INT) -> INT {
        let last = histogram::index(us.try_into().unwrap_or_default());
        let slow = self.0.buckets().iter().filter(|(index, _)| *index > last);
        int(slow.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count)))
    }

    /// The same calls with the fastest in one bucket, the slowest of those that make up `share`.
    fn folded(&self, share: &Dynamic) -> Result<Self, Box<EvalAltResult>> {
        let fast = u128::from(self.0.total()) * u128::from(units::share(share)?) / 1_000_000;
        let mut seen = 0_u64;
        let mut folded = Histogram::default();
        for &(index, count) in self.0.buckets() {
            seen = seen.saturating_add(count);
            if u128::from(seen) >= fast {
                let count = if folded.buckets().is_empty() { seen } else { count };
                folded.add(index, count);
            }
        }
        Ok(if folded.buckets().is_empty() { self.clone() } else { folded.into() })
    }
}

impl From<Histogram> for Latency {
    fn from(histogram: Histogram) -> Self {
        Self(histogram.into())
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Latency>("Histogram")
        .register_fn("histogram", Latency::default)
        .register_fn("histogram", Latency::read)
        .register_get("text", |l: &mut Latency| l.text())
        .register_get("count", |l: &mut Latency| int(l.0.total()))
        .register_fn("+", |a: Latency, b: Latency| a.plus(&b))
        .register_fn("quantile", |l: &mut Latency, share: Dynamic| l.quantile(&share))
        .register_fn("beyond", |l: &mut Latency, us: INT| l.beyond(us))
        .register_fn("folded", |l: &mut Latency, share: Dynamic| l.folded(&share));
}
