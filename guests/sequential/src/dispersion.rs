//! Do bad units come one by one, or in clusters?
//!
//! A caller that tries again fails ten times for one cause, and a stall makes all calls of a second slow. The
//! statistics of tables take each unit for a cause of its own, so that a burst that hits V2 by chance looks like much
//! evidence. What each pool had before shows how large clusters are: for two spans in a row with a and b bad units,
//! `(a - b)^2` has the mean of a + b if they come one by one (given their sum, the first is binomial), and about m times
//! that if they come m at a time. Neighbours are compared, so that neither drift nor a fault that lasts makes units
//! look clustered. V2's count, too, because V1 may not have shown a cluster yet, but only where they fall: a burst is over
//! in the next span, and a fault that begins is not.
//!
//! The index is the sum of the first over the sum of the second, where that is more than chance makes of single units:
//! 3 standard deviations of the sum of squares, whose variance is 2 s^2 - 2 s for each pair with the sum s. Otherwise
//! it is 1, and nothing is lost on traffic that has no clusters. It is known before the table that it tempers, so it is
//! a stake that does not depend on how the bet ends.

use cutover_policy::{
    hypergeometric::real,
    memory::{Fields, Text},
};

/// Where there are clusters, they are taken to be so much larger than they seem: a few of them say little of the
/// largest.
const MARGIN: f64 = 2.0;

/// Weight at which old pairs begin to be forgotten.
const MEMORY: f64 = 4_096.0;

/// What neighbouring spans had.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dispersion {
    /// Bad units of V1 and of V2 in the span before; none before the first.
    before: Option<[u64; 2]>,
    /// Sums over pairs with bad units: of squared differences, of sums, and of squared sums.
    squares: f64,
    sums: f64,
    squared_sums: f64,
}

impl Dispersion {
    /// Adds the bad units of V1 and of V2 in the next span.
    pub fn add(&mut self, bad: [u64; 2]) {
        if let Some(before) = self.before.replace(bad) {
            let [v1, v2] = before;
            let [bad1, bad2] = bad;
            let of_v1 = Some((v1, bad1));
            let of_v2 = Some((v2, bad2)).filter(|(before, bad)| bad <= before);
            for (before, bad) in of_v1.into_iter().chain(of_v2) {
                let (difference, sum) = (real(before.abs_diff(bad)), real(before.saturating_add(bad)));
                self.squares += difference * difference;
                self.sums += sum;
                self.squared_sums += sum * sum;
            }
            if self.sums > MEMORY {
                self.squares *= 0.5;
                self.sums *= 0.5;
                self.squared_sums *= 0.5;
            }
        }
    }

    /// How many units one cause makes bad; 1 unless they are clustered.
    #[must_use]
    pub fn index(&self) -> f64 {
        let chance = 3.0 * libm::sqrt(2.0 * self.squared_sums);
        if self.squares > self.sums + chance { MARGIN * (self.squares / self.sums).max(1.0) } else { 1.0 }
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        let [v1, v2] = self.before.unwrap_or_default();
        text.number(self.before.is_some().into()).number(v1).number(v2);
        text.doubles(&[self.squares, self.sums, self.squared_sums]);
    }

    /// Reads it again.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [known, v1, v2] = fields.numbers()?;
        let before = (known != 0).then_some([v1, v2]);
        let [squares, sums, squared_sums] = fields.doubles()?.try_into().ok()?;
        Some(Self { before, squares, sums, squared_sums })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(spans: impl IntoIterator<Item = u64>) -> f64 {
        let mut dispersion = Dispersion::default();
        spans.into_iter().for_each(|bad| dispersion.add([bad, 0]));
        dispersion.index()
    }

    #[test]
    fn single_units_are_no_clusters() {
        let single: [&[u64]; 4] = [&[], &[5], &[0, 1, 0, 0, 1, 1, 0, 2], &[40, 52, 47, 38, 44]];
        assert!(single.iter().all(|spans| after(spans.iter().copied()) <= 1.0));
        // A baseline that drifts, and one that has a step, which is forgotten after a while.
        assert!(after(0..100) <= 1.0 && after((0..100).chain([1_000; 400])) <= 1.0);
    }

    #[test]
    fn bursts_are_clusters_of_their_size() {
        let index = after([0, 11, 0, 0, 11, 0]);
        assert!((index - MARGIN * 11.0).abs() < 1e-12, "{index}");
    }

    #[test]
    fn a_fault_of_v2_that_begins_is_no_cluster_and_a_burst_is() {
        let after = |spans: &[u64]| {
            let mut dispersion = Dispersion::default();
            for bad in spans {
                dispersion.add([0, *bad]);
            }
            dispersion.index()
        };
        assert!(after(&[0, 0, 500, 500]) <= 1.0 && after(&[0, 0, 11, 0]) > 11.0);
    }

    #[test]
    fn what_is_largest_is_still_a_number() {
        let index = after([0, u64::MAX, 0, u64::MAX, u64::MAX, 0]);
        assert!(index.is_finite() && index >= 1.0, "{index}");
    }
}
