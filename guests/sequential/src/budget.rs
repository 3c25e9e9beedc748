//! How a ramp's budget for false alarms is spread over its stages; see the crate's documentation.

/// The part of the budget that a ramp's first stage has: its share is the smallest, so it is where evidence is scarce.
const FIRST_STAGE: f64 = 0.9;

/// The part of a ramp's budget that its n-th stage has.
pub(crate) fn of(stage: u32) -> f64 {
    let n = f64::from(stage);
    if stage == 0 { FIRST_STAGE } else { (1.0 - FIRST_STAGE) / (n * (n + 1.0)) }
}
