//! Rules on V2's workers.

use cutover_policy::{Finding, finding, text};

use super::{Findings, MILLION, Settings, parts, quotient};
use crate::{growth::Growth, members::Failures};

/// Workers that failed over those that there are meant to be.
pub(super) fn failures(settings: &Settings, failures: Failures, said: &mut Findings) {
    let Failures { v1, v1_wanted, v2, v2_wanted } = failures;
    let (ppm, limit) = (parts(v2, v2_wanted.into()), settings.max_worker_failures.0.into());
    if v2 < settings.min_worker_failures || ppm <= limit {
        return;
    }
    let (rate, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    let own = parts(v1, v1_wanted.into());
    let found = |why: &str| {
        let note = format!("workers of V2 failed {v2} times, {rate} of {v2_wanted}, more than {max}{why}");
        finding("v2-worker-failures", ppm, limit, "ppm", note)
    };
    if ppm <= quotient(u128::from(own) * u128::from(settings.shared_ratio.0), MILLION) {
        said.warn.push(found(&format!("; V1's failed {v1} times")));
    } else {
        said.roll_back.push(found(""));
    }
}

/// Memory that grows, for sure and beside V1's.
pub(super) fn growth(settings: &Settings, growth: Option<Growth>) -> Option<Finding> {
    let (Growth { ppm, sure_ppm }, limit) = (growth?, settings.max_memory_growth.0.into());
    let (grows, max) = (text::percent(text::round_up(ppm)), text::percent(limit));
    let note = format!("the memory of V2's workers grows {grows} an hour, more than {max}");
    (sure_ppm > limit && ppm > limit).then(|| finding("v2-memory-growth", ppm, limit, "ppm", note))
}
