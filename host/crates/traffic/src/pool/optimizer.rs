//! Decides how many workers a pool should have: pure, from what it had to do.
//!
//! It grows a pool whose workers are nearly always busy while calls wait, raises the overflow where calls wait long,
//! and shrinks a pool whose workers are mostly idle, first by the overflow that it had raised. It changes a pool in
//! small steps, with a cool-down after each, and always within the bounds of the configuration.

use std::time::Duration;

use super::{load::Load, spec::Size};

/// What makes a pool change its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Above this utilisation, in parts per million, it grows, if calls wait.
    pub grow_above: u32,
    /// Below this one it shrinks, if none do.
    pub shrink_below: u32,
    /// Above this mean time that calls wait, the overflow is raised.
    pub wait_above: Duration,
    /// Seconds that are looked back on, and that must have passed since the last change.
    pub window: usize,
    /// The least time between two changes.
    pub cool_down: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grow_above: 900_000,
            shrink_below: 300_000,
            wait_above: Duration::from_millis(100),
            window: 10,
            cool_down: Duration::from_secs(30),
        }
    }
}

/// How many workers there are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Regular workers, which run all the time.
    pub workers: usize,
    /// Workers beyond these that may be started while calls wait.
    pub overflow: usize,
}

/// A change, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    /// How many workers there are to be.
    pub to: Wanted,
    /// The reason, as it is logged and shown.
    pub why: String,
}

/// What should change, if anything. `load` is that of the last [`Settings::window`] seconds, all of which are from after
/// the last change; `quiet` is the time since then.
pub fn decide(settings: &Settings, size: &Size, now: Wanted, load: &Load, quiet: Duration) -> Option<Resize> {
    let used = load.utilisation_ppm?;
    if quiet < settings.cool_down {
        return None;
    }
    let percent = used / 10_000;
    let waits = load.max_waiting > 0;
    if used > settings.grow_above && waits && now.workers < size.max {
        let to = Wanted { workers: (now.workers + step(now.workers)).min(size.max), ..now };
        let why = format!("{percent} % used and up to {} calls waiting", load.max_waiting);
        return Some(Resize { to, why });
    }
    let wait = Duration::from_micros(load.wait_mean_us);
    if wait > settings.wait_above && now.overflow < size.max_overflow {
        let to = Wanted { overflow: now.overflow + 1, ..now };
        return Some(Resize { to, why: format!("calls waited {wait:.0?} on average") });
    }
    if used < settings.shrink_below && !waits {
        let to = if now.overflow > size.overflow {
            Wanted { overflow: now.overflow - 1, ..now }
        } else {
            Wanted { workers: now.workers.saturating_sub(step(now.workers)).max(size.min), ..now }
        };
        return (to != now).then(|| Resize { to, why: format!("{percent} % used and no calls waiting") });
    }
    None
}

/// A quarter at a time: large pools need not take all day, small ones need not jump.
const fn step(workers: usize) -> usize {
    let quarter = workers / 4;
    if quarter > 1 { quarter } else { 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size { min: 2, max: 8, overflow: 1, max_overflow: 2, overflow_idle: Duration::ZERO };
    const LONG: Duration = Duration::from_mins(1);

    fn load(percent: u32, max_waiting: usize, wait_ms: u64) -> Load {
        let wait_mean_us = wait_ms * 1_000;
        Load { utilisation_ppm: Some(percent * 10_000), max_waiting, wait_mean_us, ..Load::default() }
    }

    fn decided(workers: usize, overflow: usize, load: &Load) -> Option<(usize, usize, String)> {
        let resize = decide(&Settings::default(), &SIZE, Wanted { workers, overflow }, load, LONG)?;
        Some((resize.to.workers, resize.to.overflow, resize.why))
    }

    #[test]
    fn each_rule_does_what_it_says() {
        let busy = "95 % used and up to 3 calls waiting".to_owned();
        assert_eq!(decided(4, 1, &load(95, 3, 0)), Some((5, 1, busy.clone())));
        assert_eq!(decided(4, 1, &load(95, 0, 0)), None, "nobody waits");
        assert_eq!(decided(4, 1, &load(90, 3, 0)), None, "not above");
        assert_eq!(decided(8, 1, &load(95, 3, 0)), None, "as many as there may be");
        let waited = "calls waited 150ms on average".to_owned();
        assert_eq!(decided(8, 1, &load(95, 3, 150)), Some((8, 2, waited.clone())));
        assert_eq!(decided(4, 1, &load(50, 3, 150)), Some((4, 2, waited)));
        assert_eq!(decided(8, 2, &load(95, 3, 150)), None);
        let idle = "10 % used and no calls waiting".to_owned();
        assert_eq!(decided(4, 2, &load(10, 0, 0)), Some((4, 1, idle.clone())), "the overflow first");
        assert_eq!(decided(4, 1, &load(10, 0, 0)), Some((3, 1, idle)));
        assert_eq!(decided(2, 1, &load(10, 0, 0)), None, "as few as there may be");
    }

    #[test]
    fn nothing_changes_while_it_cools_down_or_nothing_is_known() {
        let now = Wanted { workers: 4, overflow: 1 };
        let early = Duration::from_secs(29);
        assert_eq!(decide(&Settings::default(), &SIZE, now, &load(95, 3, 0), early), None);
        assert_eq!(decide(&Settings::default(), &SIZE, now, &Load::default(), LONG), None);
    }

    proptest! {
        /// Whatever the load, the pool stays within its bounds, steps are small, and each one has a reason.
        #[test]
        fn bounds_are_kept(
            min in 1_usize..20, more in 0_usize..20, overflow in 0_usize..4, raised in 0_usize..4,
            loads in prop::collection::vec((0_u32..=100, 0_usize..50, 0_u64..300), 1..80),
        ) {
            let max_overflow = overflow + raised;
            let size = Size { min, max: min + more, overflow, max_overflow, ..SIZE };
            let mut now = Wanted { workers: min, overflow };
            for (percent, waiting, wait) in loads {
                let Some(resize) = decide(&Settings::default(), &size, now, &load(percent, waiting, wait), LONG) else {
                    continue;
                };
                prop_assert!(resize.to != now && !resize.why.is_empty());
                prop_assert!((min..=min + more).contains(&resize.to.workers));
                prop_assert!((overflow..=max_overflow).contains(&resize.to.overflow));
                prop_assert!(resize.to.workers.abs_diff(now.workers) <= now.workers.div_ceil(4).max(1));
                now = resize.to;
            }
        }

        /// A pool that shrank is not so busy then that it would grow again at once.
        #[test]
        fn it_does_not_swing(workers in 2_usize..64, percent in 0_u32..30) {
            let size = Size { min: 1, max: 64, ..SIZE };
            let now = Wanted { workers, overflow: 1 };
            let Some(resize) = decide(&Settings::default(), &size, now, &load(percent, 0, 0), LONG) else {
                return Ok(());
            };
            let busy = percent * u32::try_from(workers).unwrap() / u32::try_from(resize.to.workers).unwrap();
            prop_assert!(busy <= 90, "{percent} % of {workers} are {busy} % of {}", resize.to.workers);
        }
    }
}
