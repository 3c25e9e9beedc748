//! What became of the pairs that were to be compared, by operation.
//!
//! A pair that nobody compared is not known to be the same. So each pair that is asked for ends in exactly one way,
//! whatever happens to the call, the queue or the policy. The types see to that: [`Asked`] is used up by its end, and
//! one that is dropped counts as left out.
//!
//! When other rules are put in charge, a batch has pairs of one set of rules only: pairs of the new rules wait for the
//! next batch, which says that the rules changed. So the reader of batches knows which pairs still count.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Serialize;

use cutover_model::{
    facts::{Comparisons, Gauge},
    port::Comparison,
};

/// The gauge in the first batch with pairs of other rules.
const RULES_CHANGED: &str = "pairs.rules-changed";

/// The gauge in the first batch after a person accepted the differences of an operation.
const ACCEPTED: &str = "pairs.accepted";

/// The rules that pairs are compared by: a policy and its settings, as far as one is told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules(pub u64);

/// Why a pair was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncompared {
    /// There was no room for it, or nothing to compare.
    LeftOut,
    /// An answer is larger than what is kept, or both are larger than what a policy can be asked.
    TooLarge,
    /// The other pool gave no answer.
    Unanswered,
    /// No comparison policy was in charge, or it did not answer.
    Unasked,
    /// An answer is such that no policy can be asked about it.
    Incomparable,
}

impl Uncompared {
    /// As it is written in gauges and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeftOut => "left-out",
            Self::TooLarge => "too-large",
            Self::Unanswered => "unanswered",
            Self::Unasked => "unasked",
            Self::Incomparable => "incomparable",
        }
    }
}

/// Pairs of one operation. `asked` are those of all other fields but `different` together, and those under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Fates {
    /// Reads that were answered and chosen to be mirrored.
    pub asked: u64,
    /// Compared: the same, the same but for what is ignored, or different.
    pub compared: u64,
    /// Those of `compared` that differ.
    pub different: u64,
    /// Not comparable, as the policy says, or as [`Uncompared::Incomparable`].
    pub incomparable: u64,
    /// Pairs that ended as [`Uncompared::LeftOut`].
    pub left_out: u64,
    /// Pairs that ended as [`Uncompared::TooLarge`].
    pub too_large: u64,
    /// Pairs that ended as [`Uncompared::Unanswered`].
    pub unanswered: u64,
    /// Pairs that ended as [`Uncompared::Unasked`].
    pub unasked: u64,
}

/// Counts the pairs of one migration.
#[derive(Debug, Default)]
pub struct Pairs(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rules: Option<Rules>,
    /// How often the rules changed.
    changes: u64,
    now: Counts,
    /// What belongs to the next batch, because it is by other rules.
    next: Option<Counts>,
    totals: BTreeMap<Arc<str>, Fates>,
}

/// What a batch has of pairs.
#[derive(Debug, Default)]
struct Counts {
    rules_changed: bool,
    comparisons: Comparisons,
    operations: BTreeMap<Arc<str>, Fates>,
    /// Reads that V2 answered and that were sent to V1 as well.
    mirrored_back: BTreeMap<Arc<str>, u64>,
    /// Operations whose differences so far were accepted.
    accepted: BTreeSet<Arc<str>>,
}

/// A pair that is to be compared.
#[derive(Debug)]
#[must_use = "dropping it leaves the pair out"]
pub struct Asked {
    /// None once it has ended.
    pairs: Option<Arc<Pairs>>,
    operation: Arc<str>,
}

impl Pairs {
    /// A read was answered and is to be mirrored.
    pub fn ask(self: &Arc<Self>, operation: &Arc<str>) -> Asked {
        self.0.lock().count(operation, |fates| fates.asked += 1);
        Asked { pairs: Some(Arc::clone(self)), operation: Arc::clone(operation) }
    }

    /// Counts a read that V2 answered and that was sent to V1 as well.
    pub(super) fn mirror_back(&self, operation: &Arc<str>) {
        *self.0.lock().now.mirrored_back.entry(Arc::clone(operation)).or_default() += 1;
    }

    /// Takes note of the rules that are in charge now, if any are. What was compared by others counts no longer.
    pub fn in_force(&self, rules: impl FnOnce() -> Option<Rules>) {
        let mut inner = self.0.lock();
        let Some(rules) = rules() else { return };
        let before = inner.rules.replace(rules);
        if before.is_some_and(|before| before != rules) {
            inner.change();
        }
    }

    /// The rules in charge are not those that were in charge when the host ended.
    pub fn changed_before(&self) {
        self.0.lock().change();
    }

    /// A person accepts what was found of an operation so far: it no longer holds the migration. What is found after it
    /// does.
    pub fn accept(&self, operation: &Arc<str>) {
        let mut inner = self.0.lock();
        let counts = inner.open();
        counts.accepted.insert(Arc::clone(operation));
        if let Some(fates) = counts.operations.get_mut(operation) {
            // Those of this very second are among what was seen.
            let accepted = std::mem::take(&mut fates.different);
            counts.comparisons.different = counts.comparisons.different.saturating_sub(accepted);
            counts.comparisons.ignored += accepted;
        }
    }

    /// How often the rules changed.
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// All pairs since the host began, by operation.
    pub fn totals(&self) -> BTreeMap<Arc<str>, Fates> {
        self.0.lock().totals.clone()
    }

    /// Ends the batch: returns its counts, and begins the next.
    pub(super) fn cut(&self) -> (Comparisons, Vec<Gauge>) {
        let mut inner = self.0.lock();
        let next = inner.next.take().unwrap_or_default();
        let counts = std::mem::replace(&mut inner.now, next);
        let mut gauges = Vec::new();
        if counts.rules_changed {
            gauges.push(Gauge { name: RULES_CHANGED.into(), value: 1 });
        }
        gauges.extend(counts.accepted.into_iter().map(|operation| gauge(format!("{ACCEPTED}{{{operation}}}"), 1)));
        for (operation, fates) in counts.operations {
            let counted = fates.named().into_iter().filter(|(_, count)| *count > 0);
            gauges.extend(counted.map(|(name, count)| gauge(format!("pairs.{name}{{{operation}}}"), count)));
        }
        let mirrored_back = counts.mirrored_back.into_iter();
        gauges.extend(mirrored_back.map(|(operation, count)| gauge(format!("v1.mirrored{{{operation}}}"), count)));
        (counts.comparisons, gauges)
    }
}

impl Inner {
    fn change(&mut self) {
        self.changes += 1;
        // Of three sets of rules within one batch the second is over as well.
        if let Some(next) = self.next.take() {
            self.now.merge(next);
        }
        self.next = Some(Counts { rules_changed: true, ..Counts::default() });
    }

    fn open(&mut self) -> &mut Counts {
        self.next.as_mut().unwrap_or(&mut self.now)
    }

    fn count(&mut self, operation: &Arc<str>, add: impl Fn(&mut Fates)) {
        add(of(&mut self.open().operations, operation));
        add(of(&mut self.totals, operation));
    }
}

impl Counts {
    fn merge(&mut self, other: Self) {
        self.comparisons.merge(other.comparisons);
        self.accepted.extend(other.accepted);
        for (operation, fates) in other.operations {
            of(&mut self.operations, &operation).merge(fates);
        }
    }
}

fn gauge(name: String, count: u64) -> Gauge {
    Gauge { name, value: i64::try_from(count).unwrap_or(i64::MAX) }
}

fn of<'a>(all: &'a mut BTreeMap<Arc<str>, Fates>, operation: &Arc<str>) -> &'a mut Fates {
    all.entry(Arc::clone(operation)).or_default()
}

impl Fates {
    /// Adds all of `other`.
    pub const fn merge(&mut self, other: Self) {
        self.asked += other.asked;
        self.compared += other.compared;
        self.different += other.different;
        self.incomparable += other.incomparable;
        self.left_out += other.left_out;
        self.too_large += other.too_large;
        self.unanswered += other.unanswered;
        self.unasked += other.unasked;
    }

    /// Each by its name, ascending.
    pub const fn named(self) -> [(&'static str, u64); 8] {
        [
            ("asked", self.asked),
            ("compared", self.compared),
            ("different", self.different),
            ("incomparable", self.incomparable),
            ("left-out", self.left_out),
            ("too-large", self.too_large),
            ("unanswered", self.unanswered),
            ("unasked", self.unasked),
        ]
    }
}

impl Asked {
    /// The operation that the pair belongs to.
    pub const fn operation(&self) -> &Arc<str> {
        &self.operation
    }

    /// Ends it as compared by these rules, or as what they could not compare. If other rules took charge meanwhile, the
    /// pair ends as [`Uncompared::Unasked`].
    ///
    /// # Errors
    /// What the pair counts as instead.
    pub fn compared(self, rules: Rules, outcome: &Comparison) -> Result<(), Uncompared> {
        let mut now = Ok(());
        self.close(|inner, operation| {
            if inner.rules.is_some_and(|in_charge| in_charge != rules) {
                now = Err(Uncompared::Unasked);
                return inner.leave(operation, Uncompared::Unasked);
            }
            let counts = &mut inner.open().comparisons;
            let compared = match outcome {
                Comparison::Same => &mut counts.same,
                Comparison::Ignored(_) => &mut counts.ignored,
                Comparison::Different(_) => &mut counts.different,
                Comparison::Incomparable(_) => &mut counts.incomparable,
            };
            *compared += 1;
            let is_compared = u64::from(!matches!(outcome, Comparison::Incomparable(_)));
            let is_different = u64::from(matches!(outcome, Comparison::Different(_)));
            inner.count(operation, |fates| {
                fates.compared += is_compared;
                fates.incomparable += 1 - is_compared;
                fates.different += is_different;
            });
        });
        now
    }

    /// Ends it as not compared.
    pub fn end(self, why: Uncompared) {
        self.close(|inner, operation| inner.leave(operation, why));
    }

    fn close(mut self, count: impl FnOnce(&mut Inner, &Arc<str>)) {
        if let Some(pairs) = self.pairs.take() {
            count(&mut pairs.0.lock(), &self.operation);
        }
    }
}

impl Inner {
    fn leave(&mut self, operation: &Arc<str>, why: Uncompared) {
        // Both answered, and still it is not known whether they are the same.
        if matches!(why, Uncompared::TooLarge | Uncompared::Unasked | Uncompared::Incomparable) {
            self.open().comparisons.incomparable += 1;
        }
        self.count(operation, |fates| match why {
            Uncompared::LeftOut => fates.left_out += 1,
            Uncompared::TooLarge => fates.too_large += 1,
            Uncompared::Unanswered => fates.unanswered += 1,
            Uncompared::Unasked => fates.unasked += 1,
            Uncompared::Incomparable => fates.incomparable += 1,
        });
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(pairs) = self.pairs.take() {
            pairs.0.lock().leave(&self.operation, Uncompared::LeftOut);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: Rules = Rules(1);
    const NEW: Rules = Rules(2);

    fn gauges(pairs: &Pairs) -> Vec<(String, i64)> {
        pairs.cut().1.into_iter().map(|gauge| (gauge.name, gauge.value)).collect()
    }

    fn named(all: &[(&str, i64)]) -> Vec<(String, i64)> {
        all.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn pairs_are_counted_by_operation_and_by_what_became_of_them() {
        let (pairs, get) = (Arc::<Pairs>::default(), Arc::<str>::from("get {x}"));
        pairs.in_force(|| Some(OLD));
        pairs.ask(&get).compared(OLD, &Comparison::Different(Vec::new())).unwrap();
        pairs.ask(&get).compared(OLD, &Comparison::Same).unwrap();
        pairs.ask(&get).end(Uncompared::TooLarge);
        let under_way = pairs.ask(&get);
        let (comparisons, batch) = pairs.cut();
        assert_eq!((comparisons.same, comparisons.different, comparisons.incomparable), (1, 1, 1));
        let batch: Vec<_> = batch.into_iter().map(|gauge| (gauge.name, gauge.value)).collect();
        let wanted = [
            ("pairs.asked{get {x}}", 4),
            ("pairs.compared{get {x}}", 2),
            ("pairs.different{get {x}}", 1),
            ("pairs.too-large{get {x}}", 1),
        ];
        assert_eq!(batch, named(&wanted));
        drop(under_way);
        assert_eq!(gauges(&pairs), named(&[("pairs.left-out{get {x}}", 1)]));
        assert_eq!(gauges(&pairs), []);
    }

    #[test]
    fn other_rules_begin_with_a_batch_of_their_own() {
        let (pairs, get) = (Arc::<Pairs>::default(), Arc::<str>::from("get"));
        pairs.in_force(|| Some(OLD));
        pairs.in_force(|| None);
        let late = pairs.ask(&get);
        pairs.ask(&get).compared(OLD, &Comparison::Different(Vec::new())).unwrap();
        pairs.in_force(|| Some(NEW));
        pairs.ask(&get).compared(NEW, &Comparison::Same).unwrap();
        assert_eq!(late.compared(OLD, &Comparison::Different(Vec::new())), Err(Uncompared::Unasked));
        let before = [("pairs.asked{get}", 2), ("pairs.compared{get}", 1), ("pairs.different{get}", 1)];
        assert_eq!(gauges(&pairs), named(&before));
        let after =
            [(RULES_CHANGED, 1), ("pairs.asked{get}", 1), ("pairs.compared{get}", 1), ("pairs.unasked{get}", 1)];
        assert_eq!(gauges(&pairs), named(&after));
        pairs.in_force(|| Some(NEW));
        assert_eq!((gauges(&pairs), pairs.changes()), (Vec::new(), 1));
    }

    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Ask,
        Compare(u8),
        Leave(Uncompared),
        Drop,
        Swap(u64),
        Cut,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        use Uncompared::{Incomparable, LeftOut, TooLarge, Unanswered, Unasked};
        prop_oneof![
            4 => Just(Happens::Ask),
            3 => (0_u8..4).prop_map(Happens::Compare),
            2 => prop::sample::select(vec![LeftOut, TooLarge, Unanswered, Unasked, Incomparable]).prop_map(Happens::Leave),
            1 => Just(Happens::Drop),
            1 => (0_u64..3).prop_map(Happens::Swap),
            1 => Just(Happens::Cut),
        ]
    }

    proptest! {
        #[test]
        fn every_pair_that_is_asked_for_ends_in_exactly_one_way(history in prop::collection::vec((happens(), 0_usize..8), 0..60)) {
            let (pairs, get) = (Arc::<Pairs>::default(), Arc::<str>::from("get"));
            let (mut under_way, mut sum, mut rules) = (Vec::new(), BTreeMap::<String, i64>::new(), Rules(0));
            pairs.in_force(|| Some(rules));
            let mut add = |batch: Vec<(String, i64)>| batch.into_iter().for_each(|(n, v)| *sum.entry(n).or_default() += v);
            for (what, at) in history {
                let one = (at < under_way.len()).then(|| under_way.swap_remove(at));
                match (what, one) {
                    (Happens::Compare(n), Some((asked, by))) => {
                        let none = Vec::new();
                        let outcome = match n {
                            0 => Comparison::Same,
                            1 => Comparison::Ignored(none),
                            2 => Comparison::Different(none),
                            _ => Comparison::Incomparable(String::new()),
                        };
                        let counts = Asked::compared(asked, by, &outcome).is_ok();
                        prop_assert_eq!(counts, by == rules);
                    }
                    (Happens::Leave(why), Some((asked, _))) => asked.end(why),
                    (Happens::Drop, Some((asked, _))) => drop(asked),
                    (what, one) => {
                        under_way.extend(one);
                        match what {
                            Happens::Ask => under_way.push((pairs.ask(&get), rules)),
                            Happens::Swap(n) => {
                                rules = Rules(n);
                                pairs.in_force(|| Some(rules));
                            }
                            Happens::Cut => add(gauges(&pairs)),
                            Happens::Compare(_) | Happens::Leave(_) | Happens::Drop => {}
                        }
                    }
                }
            }
            let left = i64::try_from(under_way.len()).unwrap();
            let total = |pairs: &Pairs| pairs.totals().get("get").copied().unwrap_or_default();
            let open = total(&pairs);
            let ended = open.named().iter().filter(|(n, _)| !["asked", "different"].contains(n)).map(|(_, v)| v).sum::<u64>();
            prop_assert_eq!(open.asked, ended + under_way.len() as u64);
            drop(under_way);
            add(gauges(&pairs));
            add(gauges(&pairs));
            let of = |name: &str| sum.get(&format!("pairs.{name}{{get}}")).copied().unwrap_or(0);
            let ends = ["compared", "incomparable", "left-out", "too-large", "unanswered", "unasked"];
            prop_assert_eq!(of("asked"), ends.iter().map(|name| of(name)).sum::<i64>(), "{} under way", left);
            prop_assert!(of("different") <= of("compared"));
        }
    }
}
