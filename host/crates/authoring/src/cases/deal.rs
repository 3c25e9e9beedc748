//! Deals counts to seconds: evenly, in whole numbers, and so that they add up.

/// A whole that is dealt to seconds in order: after each, the part that is due so far has been given.
#[derive(Debug)]
pub(super) struct Deal {
    pub(super) whole: u64,
    pub(super) given: u64,
}

impl Deal {
    pub(super) const fn new(whole: u64) -> Self {
        Self { whole, given: 0 }
    }

    /// The next part, so that `done` of `all` have been given. Dealing a part of a thing in step with the thing keeps it
    /// at most as large, second by second.
    pub(super) fn to(&mut self, done: u64, all: u64) -> u64 {
        let due = u128::from(self.whole) * u128::from(done) / u128::from(all.max(1));
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        let part = due.saturating_sub(self.given);
        self.given = due.max(self.given);
        part
    }
}

/// What second number `second`, from 0, gets of a whole.
pub(super) fn part(whole: u64, second: u64, seconds: u64) -> u64 {
    let mut deal = Deal { whole, given: 0 };
    deal.to(second, seconds);
    deal.to(second + 1, seconds)
}
