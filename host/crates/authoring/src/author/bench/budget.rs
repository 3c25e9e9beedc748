//! What a question may cost, for CI to hold a policy to.

use std::time::Duration;

use serde::Serialize;

use super::Cost;

/// Limits on every function of a policy; a limit that is none holds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Units of fuel of the dearest question.
    pub max_fuel: Option<u64>,
    /// The 99th percentile of the time, in nanoseconds.
    pub max_p99_nanos: Option<u64>,
    /// The most linear memory that an instance may have, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// A limit that a function broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The function that broke it, as the contract names it.
    pub function: &'static str,
    /// The limit's name, as a bundle writes it, such as `max_fuel`.
    pub limit: &'static str,
    /// The limit, in its unit: fuel, nanoseconds or bytes.
    pub allowed: u64,
    /// What the function cost, in the same unit.
    pub measured: u64,
}

impl Budget {
    /// Reads what a bundle says, in its words.
    ///
    /// # Errors
    /// Which field is wrong, and what would be right.
    pub fn read(max_fuel: Option<u64>, max_p99: Option<&str>, max_memory: Option<&str>) -> Result<Self, String> {
        let p99 = max_p99.map(span).transpose();
        let memory = max_memory.map(bytes).transpose();
        Ok(Self {
            max_fuel,
            max_p99_nanos: p99.map_err(|e| format!("`max_p99` {e}"))?,
            max_memory_bytes: memory.map_err(|e| format!("`max_memory` {e}"))?,
        })
    }

    /// This one, with the limits that the other has instead of its own.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            max_fuel: self.max_fuel.or(other.max_fuel),
            max_p99_nanos: self.max_p99_nanos.or(other.max_p99_nanos),
            max_memory_bytes: self.max_memory_bytes.or(other.max_memory_bytes),
        }
    }

    /// Every limit that a function breaks.
    pub fn breaches(&self, cost: &Cost) -> Vec<Breach> {
        let memory = u64::try_from(cost.memory_bytes).unwrap_or(u64::MAX);
        let held = [
            ("max_fuel", self.max_fuel, cost.fuel.max),
            ("max_p99", self.max_p99_nanos, cost.nanos.p99),
            ("max_memory", self.max_memory_bytes, memory),
        ];
        let broken = held.into_iter().filter_map(|(limit, allowed, measured)| {
            let allowed = allowed.filter(|allowed| measured > *allowed)?;
            Some(Breach { function: cost.function, limit, allowed, measured })
        });
        broken.collect()
    }
}

/// `5us`, `1ms 500us`: nanoseconds.
///
/// # Errors
/// What would be right.
pub fn span(text: &str) -> Result<u64, String> {
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).ok().filter(|nanos| *nanos > 0);
    let read = humantime::parse_duration(text).ok().and_then(nanos);
    read.ok_or_else(|| format!("is `{text}`; it must be a span of time such as `5us` or `2ms`"))
}

/// `2MiB`, `512KiB`, or a number of bytes.
///
/// # Errors
/// What would be right.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0), ("", 0)];
    let read = units.iter().find_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(1 << shift)
    });
    read.filter(|bytes| *bytes > 0).ok_or_else(|| format!("is `{text}`; it must be a size such as `2MiB` or `512KiB`"))
}

#[cfg(test)]
mod tests {
    use super::{super::Spread, *};

    #[test]
    fn spans_and_sizes_are_read_as_people_write_them() {
        assert_eq!([span("5us"), span("2ms"), span("1ms 500us")], [Ok(5_000), Ok(2_000_000), Ok(1_500_000)]);
        assert_eq!([bytes("2MiB"), bytes("512 KiB"), bytes("100")], [Ok(2 << 20), Ok(512 << 10), Ok(100)]);
        for wrong in ["", "fast", "5", "0us"] {
            assert!(span(wrong).unwrap_err().contains("such as `5us`"), "{wrong}");
        }
        for wrong in ["", "big", "2 MB", "-1", "0", "99999999999GiB"] {
            assert!(bytes(wrong).unwrap_err().contains("such as `2MiB`"), "{wrong}");
        }
    }

    #[test]
    fn what_is_over_a_limit_is_named_with_how_much_it_was() {
        let spread = |max| Spread { mean: 1, p50: 1, p99: max - 1, max };
        let cost = Cost {
            function: "judge",
            fresh: true,
            calls: 1,
            fuel: spread(100),
            nanos: spread(2_000),
            alone_fuel: spread(10),
            alone_nanos: spread(10),
            memory_bytes: 65_536,
            remembered_bytes: 0,
            answer_bytes: 0,
            said_errors: 0,
        };
        let budget = Budget { max_fuel: Some(99), max_p99_nanos: Some(1_999), max_memory_bytes: Some(65_536) };
        let breaches = budget.breaches(&cost);
        assert_eq!(breaches, [Breach { function: "judge", limit: "max_fuel", allowed: 99, measured: 100 }]);
        let stricter = Budget { max_memory_bytes: Some(1), ..Budget::default() }.or(budget);
        assert_eq!(stricter.breaches(&cost).iter().map(|b| b.limit).collect::<Vec<_>>(), ["max_fuel", "max_memory"]);
        assert_eq!(Budget::default().breaches(&cost), []);
    }
}
