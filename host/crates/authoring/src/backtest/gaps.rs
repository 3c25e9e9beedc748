//! Spans without history: the host was down, or nothing was judged.

use serde::Serialize;

use cutover_model::{clock::UnixMs, port::Check};

/// Spans that are kept; more are counted.
const KEPT: usize = 1_000;

/// The shortest span that counts, in milliseconds: a host that restarts or is busy for a moment is not worth a word.
const SHORTEST_MS: u64 = 30_000;

/// A span is one only if it is this many times the usual distance of checks.
const TIMES_USUAL: u64 = 3;

/// A span that no batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The end of the last check before the gap.
    pub from: UnixMs,
    /// When the first batch after it began.
    pub to: UnixMs,
}

/// Finds gaps while checks go by.
#[derive(Debug, Default)]
pub struct Gaps {
    found: Vec<Gap>,
    more: u64,
    /// The end of the last check.
    last: Option<UnixMs>,
    /// The smallest distance of two checks so far.
    usual_ms: Option<u64>,
}

impl Gaps {
    /// Adds the next check.
    pub fn add(&mut self, check: &Check) {
        let now = check.now_ms;
        // A batch that began before the last check was cut late; it covers nothing new.
        let begins = check.batches.first().map_or(now, |batch| batch.start_ms);
        if let Some(last) = self.last.replace(now) {
            let distance = now.0.saturating_sub(last.0);
            let missing = begins.0.saturating_sub(last.0);
            let usual = self.usual_ms.unwrap_or(distance);
            if missing >= SHORTEST_MS.max(usual.saturating_mul(TIMES_USUAL)) {
                self.keep(Gap { from: last, to: begins });
            }
            if distance > 0 {
                self.usual_ms = Some(usual.min(distance));
            }
        }
    }

    /// The next check may be earlier than the last.
    pub const fn clock_set_back(&mut self) {
        self.last = None;
    }

    /// What was found, and how many more there are.
    pub fn found(self) -> (Vec<Gap>, u64) {
        (self.found, self.more)
    }

    fn keep(&mut self, gap: Gap) {
        if self.found.len() < KEPT {
            self.found.push(gap);
        } else {
            self.more += 1;
        }
    }
}
