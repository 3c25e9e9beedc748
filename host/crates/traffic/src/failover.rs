//! When V1 answers for V2, when either gets a copy of what the other was asked, and what that says of them: one law for
//! calls of operations and for HTTP requests. Pure.

use cutover_model::{
    clock::Mono,
    request::{Failure, FailureKind, PoolId},
};

/// What V2 made of a request that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The category of the failure.
    pub kind: FailureKind,
    /// Whether V2 may have seen any of the request.
    pub sent: bool,
}

/// What a request may do, whichever pool it went to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct May {
    /// It may be done twice: it is a read, and all of it is still at hand.
    pub repeat: bool,
    /// V1 may have it: V1 is there, and it has the state of the request's session.
    pub go_to_v1: bool,
}

impl May {
    /// Whether V1 may have to answer after V2, however V2 fails.
    pub const fn fail_over(self) -> bool {
        self.repeat && self.go_to_v1
    }

    /// Whether V1 is asked after a failure of V2: there has to be time left, and what may not be done twice must not have
    /// been seen.
    pub fn asks_v1(self, failed: Failed, now: Mono, deadline: Mono) -> bool {
        self.go_to_v1 && (self.repeat || !failed.sent) && now < deadline
    }

    /// Until when V2 may answer: if V1 may have to answer after it, a part of the time that is left is V1's.
    pub fn v2_deadline(self, now: Mono, deadline: Mono, reserve_percent: u32) -> Mono {
        if !self.fail_over() {
            return deadline;
        }
        now + deadline.since(now) * (100 - reserve_percent.min(99)) / 100
    }
}

impl Failed {
    /// Whether it counts against V2. A V2 that was closed before it saw the request has not failed it.
    pub const fn counts(self) -> bool {
        self.sent || !matches!(self.kind, FailureKind::System)
    }

    /// Whether it counts against a pool that was sent a copy, for which no caller waits. It does not if no member was
    /// reached: a pool that was closed has not failed the copy, nor has a V1 that may be on its way out.
    pub const fn mirrored_counts(self, pool: PoolId, is_open: bool) -> bool {
        self.sent || (is_open && matches!(pool, PoolId::V2))
    }
}

/// Whether what a pool answered may be mirrored to the other one: V2's answers only while V1 is there. A closed V2 is asked
/// all the same, so that each of V1's answers that was chosen is a pair that ends in some way.
pub const fn may_mirror(by: PoolId, is_v1_open: bool) -> bool {
    is_v1_open || matches!(by, PoolId::V1)
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        Self { kind: failure.kind, sent: failure.sent }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn any_kind() -> impl Strategy<Value = FailureKind> {
        proptest::sample::select(FailureKind::ALL.to_vec())
    }

    fn at(ms: u64) -> Mono {
        Mono::default() + Duration::from_millis(ms)
    }

    proptest! {
        #[test]
        fn v1_is_asked_only_in_time_and_for_what_may_be_done_there(
            (kind, sent, repeat, go_to_v1) in (any_kind(), any::<bool>(), any::<bool>(), any::<bool>()),
            (now, deadline) in (0..2_000_u64, 0..2_000_u64),
        ) {
            let (may, failed) = (May { repeat, go_to_v1 }, Failed { kind, sent });
            let asks = may.asks_v1(failed, at(now), at(deadline));
            prop_assert!(!asks || (go_to_v1 && now < deadline && (repeat || !sent)));
            // A read that may go to V1 always does while there is time, and so does what no member has seen.
            prop_assert!(asks || !go_to_v1 || now >= deadline || (sent && !repeat));
        }

        #[test]
        fn v2_leaves_v1_its_part_of_the_time_and_takes_all_if_v1_cannot_answer(
            (repeat, go_to_v1, reserve) in (any::<bool>(), any::<bool>(), 0..200_u32),
            (now, left) in (0..2_000_u64, 0..60_000_u64),
        ) {
            let (now, deadline) = (at(now), at(now + left));
            let until = May { repeat, go_to_v1 }.v2_deadline(now, deadline, reserve);
            prop_assert!(now <= until && until <= deadline);
            let part = if repeat && go_to_v1 { u128::from(100 - reserve.min(99)) } else { 100 };
            let given = until.since(now).as_nanos() * 100;
            let exact = deadline.since(now).as_nanos() * part;
            prop_assert!(given <= exact && exact - given < 100, "{given} of {exact}");
        }

        #[test]
        fn a_copy_that_reached_nobody_counts_only_against_an_open_v2(
            (kind, sent, is_v2, is_open) in (any_kind(), any::<bool>(), any::<bool>(), any::<bool>()),
        ) {
            let pool = if is_v2 { PoolId::V2 } else { PoolId::V1 };
            let counts = Failed { kind, sent }.mirrored_counts(pool, is_open);
            prop_assert_eq!(counts, sent || (is_v2 && is_open));
        }

        #[test]
        fn v1_s_answers_are_always_mirrored_and_v2_s_while_v1_is_there(is_open in any::<bool>()) {
            prop_assert!(may_mirror(PoolId::V1, is_open));
            prop_assert_eq!(may_mirror(PoolId::V2, is_open), is_open);
        }

        #[test]
        fn only_a_v2_that_was_closed_before_it_saw_a_request_has_not_failed_it(kind in any_kind(), sent in any::<bool>()) {
            prop_assert_eq!(Failed { kind, sent }.counts(), sent || kind != FailureKind::System);
        }
    }
}
