//! How many sessions are V2's calls of? Evidence from latency is worth as much as its sessions.
//!
//! Sessions have levels of their own: one asks for large answers, another for small ones. At a share of 5 % V2 has a
//! few dozen, and if by chance some are slow, then all of their calls are, minute after minute. Taken call by call,
//! that is ever growing evidence against a V2 that is sound. L to the power of 1/m is an e-value for the m calls of a
//! session however they depend on each other (Hölder), so the logarithm is multiplied by sessions over calls.
//!
//! Both are sums of about the last five minutes, so a session that stays is counted anew after a while: a fault that
//! begins when all sessions are long known would be found never otherwise. Sessions are those that are new (the gauge
//! `v2.sessions`), or those that were called within one batch, if these are more. A host that does not count sessions
//! does not say how many there are; then a setting does. Mirrored calls are of the same sessions as V1's, so they
//! differ in nothing.

use cutover_policy::{
    Batch,
    hypergeometric::real,
    memory::{Fields, Text},
};

use crate::units;

/// What is left of a sum after a span of five seconds, so that it is about five minutes long.
const KEPT: f64 = 59.0 / 60.0;

/// V2's calls and sessions of the last minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sessions {
    calls: f64,
    new: f64,
    /// The most that were called within one batch.
    widest: f64,
}

impl Sessions {
    /// Adds a span. The answer is what logarithms of likelihood ratios of calls are multiplied with;
    /// `calls_per_session` holds where the host does not count sessions.
    pub fn add(&mut self, span: &[&Batch], calls_per_session: f64) -> f64 {
        let counted = units::sessions(span);
        let [_, [new, _]] = counted.unwrap_or_default();
        let operations = span.iter().flat_map(|batch| &batch.operations);
        let calls = operations.map(|operation| operation.v2.requests).fold(0, u64::saturating_add);
        self.calls = self.calls * KEPT + real(calls);
        self.new = self.new * KEPT + real(new);
        self.widest = (self.widest * KEPT).max(real(units::widest(span)));
        if counted.is_none() {
            return 1.0 / calls_per_session;
        }
        if self.calls > 0.0 { (self.new.max(self.widest) / self.calls).min(1.0) } else { 1.0 }
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        text.doubles(&[self.calls, self.new, self.widest]);
    }

    /// Reads it again.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [calls, new, widest] = fields.doubles()?.try_into().ok()?;
        Some(Self { calls, new, widest })
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::{
        Calls, Gauge, OperationCalls,
        testing::{batch, calls, operation},
    };

    use super::*;

    fn second(requests: u64, units: u64, new: Option<i64>) -> Batch {
        let mut batch = batch(0);
        let v2 = Calls { units, ..calls(requests, 0, 1) };
        batch.operations.push(OperationCalls { v2, ..operation("a") });
        batch.gauges = new.map(|value| Gauge { name: "v2.sessions".into(), value }).into_iter().collect();
        batch
    }

    #[test]
    fn calls_of_sessions_of_their_own_count_in_full() {
        let mut sessions = Sessions::default();
        for _ in 0..100 {
            assert!((sessions.add(&[&second(25, 25, Some(25))], 10.0) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn calls_of_the_same_sessions_count_for_their_sessions() {
        let mut sessions = Sessions::default();
        let powers: Vec<f64> =
            (0..1_000).map(|n| sessions.add(&[&second(20, 10, Some(if n == 0 { 10 } else { 0 }))], 10.0)).collect();
        assert!(powers[0] <= 0.5 && powers.windows(2).all(|two| two[1] <= two[0]), "{powers:?}");
        // Ten sessions every five minutes or so, of 20 calls in each of 60 spans.
        assert!((powers[999] - 10.0 / 1_200.0).abs() < 1e-3, "{}", powers[999]);
    }

    #[test]
    fn unknown_sessions_are_taken_from_the_setting() {
        assert_eq!(Sessions::default().add(&[&second(20, 20, None)], 10.0).to_bits(), 0.1_f64.to_bits());
    }
}
