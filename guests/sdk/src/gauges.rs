//! Gauges of a batch by name: `batch.gauge("host.cpu-ppm")`, `batch.count_of("v2.4xx", "execute")`.
//!
//! A batch has its gauges ascending by name, so one is found by bisection; there may be dozens for each operation.

use std::cmp::Ordering;

use crate::{Batch, Gauge};

impl Batch {
    /// The value of a gauge; none where the host did not measure it, or where it would have been 0.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Option<i64> {
        self.find(name, None)
    }

    /// The value of a gauge that is about one operation: `NAME{OPERATION}`.
    #[must_use]
    pub fn gauge_of(&self, name: &str, operation: &str) -> Option<i64> {
        self.find(name, Some(operation))
    }

    /// A gauge that is a count: 0 where there is none, as the host leaves out those that would be 0.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        count(self.gauge(name))
    }

    /// A count that is about one operation.
    #[must_use]
    pub fn count_of(&self, name: &str, operation: &str) -> u64 {
        count(self.gauge_of(name, operation))
    }

    fn find(&self, name: &str, operation: Option<&str>) -> Option<i64> {
        let place = self.gauges.binary_search_by(|gauge| compare(gauge, name, operation)).ok()?;
        self.gauges.get(place).map(|gauge| gauge.value)
    }
}

fn count(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
}

/// The gauge's name against `name` or `name{operation}`, byte by byte, without writing the latter down.
fn compare(gauge: &Gauge, name: &str, operation: Option<&str>) -> Ordering {
    let Some(operation) = operation else { return gauge.name.as_str().cmp(name) };
    let (given, name) = (gauge.name.as_bytes(), name.as_bytes());
    let Some((front, rest)) = given.split_at_checked(name.len()) else { return given.cmp(name).then(Ordering::Less) };
    let wanted = || std::iter::once(b'{').chain(operation.bytes()).chain(std::iter::once(b'}'));
    front.cmp(name).then_with(|| rest.iter().copied().cmp(wanted()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batch;

    fn with(gauges: &[(&str, i64)]) -> Batch {
        let mut gauges: Vec<_> = gauges.iter().map(|&(name, value)| Gauge { name: name.into(), value }).collect();
        gauges.sort_by(|a, b| a.name.cmp(&b.name));
        Batch { gauges, ..batch(0) }
    }

    #[test]
    fn gauges_are_found_by_name_and_operation() {
        let batch = with(&[
            ("host.cpu-ppm", -1),
            ("v2.4xx", 3),
            ("v2.4xx-units{a}", 4),
            ("v2.4xx{}", 5),
            ("v2.4xx{a}", 6),
            ("v2.4xx{a}b}", 7),
            ("v2.4xx{ab}", 8),
            ("v2.4", 9),
        ]);
        assert_eq!([batch.gauge("v2.4xx"), batch.gauge("v2.4"), batch.gauge("v2")], [Some(3), Some(9), None]);
        let of = |operation| batch.gauge_of("v2.4xx", operation);
        assert_eq!([of(""), of("a"), of("ab"), of("a}b"), of("b")], [Some(5), Some(6), Some(8), Some(7), None]);
        assert_eq!(batch.gauge_of("v2.4xx-units", "a"), Some(4));
        assert_eq!((batch.count("host.cpu-ppm"), batch.gauge("host.cpu-ppm")), (0, Some(-1)));
        assert_eq!((batch.count("none"), batch.count_of("v2.4xx", "a")), (0, 6));
    }

    #[test]
    fn an_operation_is_compared_as_its_whole_name_is() {
        let names =
            ["", "v", "v2.4xx", "v2.4xx-units{a}", "v2.4xx{", "v2.4xx{a", "v2.4xx{a}", "v2.4xx{a}}", "v2.5", "w"];
        for (gauge, name, operation) in
            names.iter().flat_map(|gauge| ["", "v2.4xx", "v2.4xx-units"].map(|name| (gauge, name, "a")))
        {
            let gauge = Gauge { name: (*gauge).into(), value: 0 };
            let whole = gauge.name.cmp(&format!("{name}{{{operation}}}"));
            assert_eq!(compare(&gauge, name, Some(operation)), whole, "{} and {name}", gauge.name);
        }
    }
}
