//! Whether a member may be used: what its last answers were, and what active checks say. Pure; times are arguments.
//!
//! A member that fails several times in a row is ejected for a while, each time for longer; the next success after that
//! forgives it. Never more than a part of a pool is ejected, because failures of most members are more likely the
//! requests' fault, or the network's, and the others would be overrun.

use std::time::Duration;

use cutover_model::clock::Mono;

/// The longest ejection is this many times the first.
const MOST_TIMES: u32 = 10;

/// When to eject, fixed by settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row.
    pub failures: u32,
    /// How long the first time; the n-th time n times as long, up to ten times.
    pub time: Duration,
    /// The largest part of a pool that may be out at once, in percent.
    pub most_percent: u32,
}

/// When active checks change their mind, fixed by settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Failures in a row until a member counts as down.
    pub failures: u32,
    /// Successes in a row until it counts as up.
    pub successes: u32,
}

/// What answers and checks have shown of one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberHealth {
    failures: u32,
    times: u32,
    out_until: Mono,
    down: bool,
    checks: u32,
}

impl MemberHealth {
    /// A member that active checks have not seen yet: down until they have.
    pub const fn unseen() -> Self {
        Self { failures: 0, times: 0, out_until: Mono::from_nanos(0), down: true, checks: 0 }
    }

    /// Whether it is out at this time.
    pub fn is_out(&self, now: Mono) -> bool {
        now < self.out_until
    }

    /// Whether active checks say that it is down.
    pub const fn is_down(&self) -> bool {
        self.down
    }

    /// Until when it is out.
    pub const fn out_until(&self) -> Mono {
        self.out_until
    }

    /// The member answered: its failures and its ejections before are forgotten.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
        self.times = 0;
    }

    /// The member did not answer. `may_go` says whether enough others would be left. True if it is ejected now.
    pub fn failed(&mut self, rule: Ejection, may_go: bool, now: Mono) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < rule.failures || self.is_out(now) || !may_go {
            return false;
        }
        self.failures = 0;
        self.times = (self.times + 1).min(MOST_TIMES);
        self.out_until = now + rule.time * self.times;
        true
    }

    /// An active check succeeded or failed. True if that changed whether it is down.
    pub const fn checked(&mut self, rule: Checks, well: bool) -> bool {
        if well != self.down {
            self.checks = 0;
            return false;
        }
        self.checks += 1;
        let enough = if self.down { rule.successes } else { rule.failures };
        if self.checks < enough {
            return false;
        }
        self.checks = 0;
        self.down = !self.down;
        true
    }
}

/// Whether one more of a pool may be out.
pub fn may_go(members: usize, out: usize, rule: Ejection) -> bool {
    (out + 1) * 100 <= members * rule.most_percent as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection = Ejection { failures: 3, time: Duration::from_secs(30), most_percent: 50 };

    const fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn failures_in_a_row_put_a_member_out_for_longer_each_time() {
        let mut member = MemberHealth::default();
        let three = |member: &mut MemberHealth, now| [(); 3].map(|()| member.failed(RULE, true, now));
        assert_eq!(three(&mut member, at(1)), [false, false, true]);
        assert!(member.is_out(at(30)) && !member.is_out(at(31)));
        assert_eq!(three(&mut member, at(40)), [false, false, true]);
        assert_eq!(member.out_until(), at(100));
        member.succeeded();
        three(&mut member, at(200));
        assert_eq!(member.out_until(), at(230));
    }

    #[test]
    fn a_success_between_failures_keeps_a_member_in() {
        let mut member = MemberHealth::default();
        for _ in 0..10 {
            assert!(!member.failed(RULE, true, at(1)) && !member.failed(RULE, true, at(1)));
            member.succeeded();
        }
        assert!(!member.is_out(at(1)));
    }

    #[test]
    fn at_most_a_part_of_a_pool_is_out() {
        assert!(may_go(2, 0, RULE) && !may_go(2, 1, RULE));
        assert!(!may_go(1, 0, RULE), "the only one stays");
        assert!(may_go(10, 4, RULE) && !may_go(10, 5, RULE));
        let mut member = MemberHealth::default();
        for _ in 0..9 {
            assert!(!member.failed(RULE, false, at(1)));
        }
    }

    #[test]
    fn checks_change_their_mind_after_several_in_a_row() {
        let rule = Checks { failures: 3, successes: 2 };
        let mut member = MemberHealth::unseen();
        assert!(member.is_down() && !member.checked(rule, true) && member.checked(rule, true) && !member.is_down());
        assert!(!member.checked(rule, false) && !member.checked(rule, false) && !member.checked(rule, true));
        assert!([(); 3].map(|()| member.checked(rule, false)) == [false, false, true] && member.is_down());
    }
}
