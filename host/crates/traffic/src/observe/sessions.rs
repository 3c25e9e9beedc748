//! Which sessions did what in the stage, so that a session is evidence once, and not once for each call.
//!
//! Sessions are known by a keyed hash alone, so the sets take eight bytes and some flags for each, and can be stored
//! ([`marks`](super::marks)). The sets are bounded. When they are full, half of the sessions are forgotten by a bit of
//! the hash, and neither these nor new ones of that half are counted from then on; then half of those left. The rest is
//! a sample that does not depend on what sessions do or where they are, so there is still evidence, and none of it
//! counts twice. To count each call as a session of its own would make one broken client look like a thousand.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::marks::{Group, Mark, Marks};
use cutover_model::request::PoolId;

/// Entries of all sets together: some tens of megabytes.
const MOST: usize = 1_000_000;

/// A session, as far as one is told from another: a hash of its sticky key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session(pub(super) u64);

/// Classes of HTTP statuses that are counted; what is left is 2xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StatusClass {
    /// Answers with 300 to 399.
    Redirection,
    /// Answers with 400 to 499, and a worker's refusal.
    ClientError,
}

/// A call, as far as it says something of its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Did {
    pub(super) operation: usize,
    pub(super) pool: PoolId,
    pub(super) failed: bool,
    /// The class of its answer, if it did not fail and that is one that is counted.
    pub(super) class: Option<StatusClass>,
}

/// What a call is as evidence. Of a session that is not in the sample: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is counted apart, and any of them may be without the others")]
pub(super) struct Evidence {
    /// The first call of its operation in the batch by a session that has not failed in the stage.
    pub(super) unit: bool,
    /// The session's first failure in the stage.
    pub(super) unit_error: bool,
    /// The session's first call in the stage.
    pub(super) session: bool,
    /// The same, of this operation.
    pub(super) session_of_operation: bool,
    /// The session's first failure of this operation in the stage.
    pub(super) failed_of_operation: bool,
    /// By [`StatusClass`]: the first call of its operation in the batch by a session that was not answered so in the stage.
    pub(super) at_risk: [bool; StatusClass::ALL.len()],
    /// By [`StatusClass`]: the first such answer to the session in the stage, of any operation.
    pub(super) first: [bool; StatusClass::ALL.len()],
}

/// Something that a session did for the first time in the stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh {
    pub(super) operation: usize,
    pub(super) pool: PoolId,
    pub(super) mark: Mark,
    pub(super) session: u64,
}

/// The sets of one stage.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Sessions by operation and pool.
    operations: Vec<[Table; 2]>,
    /// Sessions with a call of any operation, by pool.
    seen: [Set; 2],
    /// Sessions that failed, by pool.
    failed: [Set; 2],
    /// By pool and [`StatusClass`]: those that were answered so.
    answered: [[Set; StatusClass::ALL.len()]; 2],
    /// Entries in all of these together.
    entries: usize,
    most: usize,
    /// How often the sets were halved: so many low bits of each hash that is kept are zero.
    level: u8,
    batch: u32,
    /// What came to be in the sets since the batch began.
    fresh: Vec<Fresh>,
}

type Table = HashMap<u64, Entry, RandomState>;
type Set = HashSet<u64, RandomState>;

/// A session in an operation.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// The batch of its last call.
    batch: u32,
    marks: u8,
}

impl StatusClass {
    /// Every class, at its index.
    pub const ALL: [Self; 2] = [Self::Redirection, Self::ClientError];

    /// The class of a status, if it is counted.
    pub const fn of(status: u16) -> Option<Self> {
        match status / 100 {
            3 => Some(Self::Redirection),
            4 => Some(Self::ClientError),
            _ => None,
        }
    }

    /// The name in gauges and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
        }
    }

    const fn mark(self) -> Mark {
        match self {
            Self::Redirection => Mark::Redirection,
            Self::ClientError => Mark::ClientError,
        }
    }
}

impl Evidence {
    /// The evidence of a call without a session: it counts as a session of its own.
    pub(super) fn alone(did: Did) -> Self {
        Self {
            unit: true,
            unit_error: did.failed,
            session: true,
            session_of_operation: true,
            failed_of_operation: did.failed,
            at_risk: [true; StatusClass::ALL.len()],
            first: StatusClass::ALL.map(|class| did.class == Some(class)),
        }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self::bounded(MOST)
    }
}

impl Sessions {
    /// Empty sets, with room for so many entries.
    pub(super) fn bounded(most: usize) -> Self {
        let (operations, seen, failed, answered, fresh) = Default::default();
        // An entry that was read is of batch 0.
        Self { operations, seen, failed, answered, entries: 0, most, level: 0, batch: 1, fresh }
    }

    /// A further operation, and its number.
    pub(super) fn add_operation(&mut self) -> usize {
        self.operations.push(Default::default());
        self.operations.len() - 1
    }

    /// Counts a call of a session, and says what it is as evidence.
    pub(super) fn see(&mut self, Session(session): Session, did: Did) -> Evidence {
        let Did { operation, pool, failed, class } = did;
        let at = pool as usize;
        let (Some(table), Some(known_failed), Some(answered)) = (
            self.operations.get_mut(operation).and_then(|pools| pools.get_mut(at)),
            self.failed.get(at),
            self.answered.get(at),
        ) else {
            return Evidence::default();
        };
        if !is_sampled(session, self.level) {
            return Evidence::default();
        }
        let has_failed = !known_failed.is_empty() && known_failed.contains(&session);
        let was_answered = answered.each_ref().map(|known| !known.is_empty() && known.contains(&session));
        let entry = table.entry(session).or_default();
        let is_first_in_batch = std::mem::replace(&mut entry.batch, self.batch) != self.batch;
        let before = entry.marks;
        entry.marks |= Mark::Seen.bit() | if failed { Mark::Failed.bit() } else { 0 };
        entry.marks |= class.map_or(0, |class| class.mark().bit());
        let news = entry.marks & !before;
        let has = |marks: u8, mark: Mark| marks & mark.bit() != 0;
        Evidence {
            unit: is_first_in_batch && !has_failed,
            unit_error: failed && !has_failed,
            session: news != 0 && self.learn(session, did, news),
            session_of_operation: has(news, Mark::Seen),
            failed_of_operation: has(news, Mark::Failed),
            at_risk: was_answered.map(|was| is_first_in_batch && !was),
            first: StatusClass::ALL
                .map(|of| class == Some(of) && !was_answered.get(of as usize).is_some_and(|was| *was)),
        }
    }

    /// Takes note of what a session did for the first time in an operation; whether it is its first call of any.
    fn learn(&mut self, session: u64, Did { operation, pool, .. }: Did, news: u8) -> bool {
        for mark in Mark::ALL.into_iter().filter(|mark| news & mark.bit() != 0) {
            self.fresh.push(Fresh { operation, pool, mark, session });
        }
        let is_new = self.enter(session, pool as usize, news);
        while self.entries > self.most {
            self.halve();
        }
        is_new
    }

    /// Enters a session whose entry of an operation got these marks.
    fn enter(&mut self, session: u64, pool: usize, news: u8) -> bool {
        let is_new_entry = news & Mark::Seen.bit() != 0;
        let is_new = is_new_entry && self.seen.get_mut(pool).is_some_and(|seen| seen.insert(session));
        let has_failed = news & Mark::Failed.bit() != 0;
        let is_new_failure = has_failed && self.failed.get_mut(pool).is_some_and(|failed| failed.insert(session));
        let answered = self.answered.get_mut(pool).into_iter().flatten().zip(StatusClass::ALL);
        let answered = answered.filter(|(_, class)| news & class.mark().bit() != 0);
        let new_answers = answered.map(|(known, _)| usize::from(known.insert(session))).sum::<usize>();
        self.entries += [is_new_entry, is_new, is_new_failure].into_iter().filter(|is| *is).count() + new_answers;
        is_new
    }

    /// Forgets about half of the sessions, by a bit of their hashes.
    fn halve(&mut self) {
        self.level += 1;
        let level = self.level;
        let tables = self.operations.iter_mut().flatten();
        let left: usize = tables
            .map(|table| {
                table.retain(|session, _| is_sampled(*session, level));
                table.len()
            })
            .sum();
        let sets = self.seen.iter_mut().chain(&mut self.failed).chain(self.answered.iter_mut().flatten());
        let sets: usize = sets
            .map(|set| {
                set.retain(|session| is_sampled(*session, level));
                set.len()
            })
            .sum();
        self.entries = left + sets;
    }

    /// A batch ends: what sessions did in it for the first time.
    pub(super) fn end_batch(&mut self) -> Vec<Fresh> {
        self.batch = self.batch.wrapping_add(1);
        std::mem::take(&mut self.fresh)
    }

    /// Empties the sets, because a stage begins.
    pub(super) fn begin_stage(&mut self) {
        for table in self.operations.iter_mut().flatten() {
            *table = Table::default();
        }
        (self.seen, self.failed, self.answered) = Default::default();
        (self.entries, self.level) = (0, 0);
        self.fresh.clear();
    }

    /// How often the sets were halved in this stage.
    pub(super) const fn level(&self) -> u8 {
        self.level
    }

    /// Enters what was written down of a stage. `number` has the numbers of operations.
    pub(super) fn restore(&mut self, marks: &Marks, mut number: impl FnMut(&mut Self, &Group) -> usize) {
        while self.level < marks.level {
            self.halve();
        }
        for (group, sessions) in &marks.sessions {
            let (operation, pool) = (number(self, group), group.pool as usize);
            for &session in sessions {
                if !is_sampled(session, self.level) {
                    continue;
                }
                let table = self.operations.get_mut(operation).and_then(|pools| pools.get_mut(pool));
                let Some(entry) = table.map(|table| table.entry(session).or_default()) else { continue };
                let news = group.mark.bit() & !entry.marks;
                entry.marks |= news;
                self.enter(session, pool, news);
            }
        }
        while self.entries > self.most {
            self.halve();
        }
    }
}

/// Whether a session is counted.
const fn is_sampled(session: u64, level: u8) -> bool {
    session.trailing_zeros() >= level as u32
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn did(operation: usize, failed: bool, class: Option<StatusClass>) -> Did {
        Did { operation, pool: PoolId::V2, failed, class: class.filter(|_| !failed) }
    }

    fn sessions(operations: usize, most: usize) -> Sessions {
        let mut sessions = Sessions::bounded(most);
        for _ in 0..operations {
            sessions.add_operation();
        }
        sessions
    }

    fn written(sessions: &Sessions, fresh: Vec<Fresh>) -> Marks {
        let mut marks = Marks { level: sessions.level(), ..Marks::default() };
        for Fresh { operation, pool, mark, session } in fresh {
            marks.add(Group { operation: operation.to_string().into(), pool, mark }, session);
        }
        marks
    }

    fn restored(marks: &[Marks], operations: usize, most: usize) -> Sessions {
        let mut restored = sessions(operations, most);
        for marks in marks {
            let bytes = Marks::from_bytes(&marks.to_bytes()).unwrap();
            restored.restore(&bytes, |_, group| group.operation.parse().unwrap());
        }
        restored
    }

    /// Marks by operation, pool and session; sessions of all operations; the level.
    type Sets = (BTreeMap<(usize, usize, u64), u8>, Vec<BTreeSet<u64>>, u8);

    /// What is in the sets, without the batches.
    fn sets(sessions: &Sessions) -> Sets {
        let tables = sessions.operations.iter().enumerate();
        let entries = tables.flat_map(|(operation, pools)| {
            let pools = pools.iter().enumerate();
            pools.flat_map(move |(pool, table)| table.iter().map(move |(s, e)| ((operation, pool, *s), e.marks)))
        });
        let others = sessions.seen.iter().chain(&sessions.failed).chain(sessions.answered.iter().flatten());
        let others = others.map(|set| set.iter().copied().collect());
        (entries.collect(), others.collect(), sessions.level)
    }

    #[test]
    fn a_session_is_new_once_in_a_stage_and_a_unit_once_in_a_batch_until_it_fails() {
        let mut sets = sessions(2, MOST);
        let ada = Session(7);
        let first = sets.see(ada, did(0, false, None));
        assert!(first.session && first.session_of_operation && first.unit && first.at_risk == [true; 2]);
        assert_eq!(sets.see(ada, did(0, false, None)), Evidence::default());
        let other = sets.see(ada, did(1, false, None));
        assert!(!other.session && other.session_of_operation && other.unit);
        sets.end_batch();
        let next = sets.see(ada, did(0, true, None));
        assert!(next.unit && next.unit_error && next.failed_of_operation && !next.session_of_operation);
        let again = sets.see(ada, did(0, true, None));
        assert!(!again.unit_error && !again.failed_of_operation);
        let elsewhere = sets.see(ada, did(1, true, None));
        assert!(!elsewhere.unit && !elsewhere.unit_error && elsewhere.failed_of_operation);
        sets.begin_stage();
        assert!(sets.see(ada, did(0, true, None)).unit_error);
    }

    #[test]
    fn a_session_is_at_risk_of_a_class_until_it_was_answered_so() {
        let mut sets = sessions(1, MOST);
        let ada = Session(7);
        let refused = sets.see(ada, did(0, false, Some(StatusClass::ClientError)));
        assert_eq!((refused.at_risk, refused.first), ([true; 2], [false, true]));
        assert_eq!(sets.see(ada, did(0, false, Some(StatusClass::ClientError))).first, [false; 2]);
        sets.end_batch();
        let next = sets.see(ada, did(0, false, Some(StatusClass::Redirection)));
        assert_eq!((next.at_risk, next.first), ([true, false], [true, false]));
    }

    /// One that is logged out gets its first 4xx in each operation, and is one session.
    #[test]
    fn a_session_that_was_answered_so_is_at_risk_in_no_other_operation() {
        let mut sets = sessions(10, MOST);
        let ada = Session(7);
        let refused: usize = (0..10)
            .map(|operation| sets.see(ada, did(operation, false, Some(StatusClass::ClientError))))
            .filter(|evidence| evidence.first[1])
            .count();
        let fresh = sets.end_batch();
        let next = sets.see(ada, did(3, false, None));
        assert_eq!((refused, next.at_risk, next.unit), (1, [true, false], true));
        // The other pool did not answer so yet, and a host that begins again knows it.
        let of_v1 = Did { pool: PoolId::V1, ..did(3, false, Some(StatusClass::ClientError)) };
        assert!(sets.see(ada, of_v1).first[1]);
        let mut again = restored(&[written(&sets, fresh)], 10, MOST);
        assert_eq!(again.see(ada, did(3, false, Some(StatusClass::ClientError))).at_risk, [true, false]);
    }

    fn any_calls() -> impl Strategy<Value = Vec<(u64, Did, bool)>> {
        let class = prop::sample::select(vec![None, Some(StatusClass::Redirection), Some(StatusClass::ClientError)]);
        let pool = prop::sample::select(vec![PoolId::V1, PoolId::V2]);
        let call = (1_u64..40, 0_usize..3, pool, prop::bool::weighted(0.2), class, prop::bool::weighted(0.1));
        let call = call.prop_map(|(session, operation, pool, failed, class, ends)| {
            (session, Did { operation, pool, failed, class: class.filter(|_| !failed) }, ends)
        });
        prop::collection::vec(call, 0..400)
    }

    proptest! {
        #[test]
        fn counts_add_up_to_distinct_sessions(calls in any_calls()) {
            let mut sets = sessions(3, MOST);
            let (mut any, mut of_operation, mut failed, mut failed_any) = (0, 0, 0, 0);
            for (session, did, ends) in &calls {
                let evidence = sets.see(Session(*session), *did);
                any += usize::from(evidence.session);
                of_operation += usize::from(evidence.session_of_operation);
                failed += usize::from(evidence.failed_of_operation);
                failed_any += usize::from(evidence.unit_error);
                prop_assert!(failed <= of_operation && failed_any <= any);
                if *ends {
                    sets.end_batch();
                }
            }
            let distinct = |failed: bool| {
                let calls = calls.iter().filter(|(_, did, _)| !failed || did.failed);
                let keys: BTreeSet<_> = calls.map(|(s, did, _)| (*s, did.operation, did.pool)).collect();
                let sessions: BTreeSet<_> = keys.iter().map(|(s, _, pool)| (*s, *pool)).collect();
                (sessions.len(), keys.len())
            };
            prop_assert_eq!(((any, of_operation), (failed_any, failed)), (distinct(false), distinct(true)));
        }

        #[test]
        fn what_was_written_down_is_the_same_sets_again(calls in any_calls(), most in 5_usize..200) {
            let (mut sets_now, mut rows) = (sessions(3, most), Vec::new());
            for (session, did, ends) in calls {
                sets_now.see(Session(session), did);
                prop_assert!(sets_now.entries <= most);
                if ends {
                    let fresh = sets_now.end_batch();
                    rows.push(written(&sets_now, fresh));
                }
            }
            let fresh = sets_now.end_batch();
            rows.push(written(&sets_now, fresh));
            let again = restored(&rows, 3, most);
            prop_assert_eq!(sets(&again), sets(&sets_now));
            prop_assert_eq!(again.entries, sets_now.entries);
            let mut one = Marks::default();
            for row in rows {
                one.merge(row);
            }
            prop_assert_eq!(sets(&restored(&[one], 3, most)), sets(&sets_now), "in one row as in many");
        }

        #[test]
        fn nobody_in_the_sample_is_counted_twice_however_small_it_is(calls in any_calls(), most in 5_usize..60) {
            let mut sets = sessions(3, most);
            let (mut seen, mut failed) = (BTreeSet::new(), BTreeSet::new());
            for (session, did, _) in calls {
                let evidence = sets.see(Session(session), did);
                let key = (session, did.operation, did.pool as usize);
                prop_assert!(!evidence.session_of_operation || seen.insert(key), "{key:?} is new twice");
                prop_assert!(!evidence.failed_of_operation || failed.insert(key), "{key:?} fails first twice");
            }
        }
    }
}
