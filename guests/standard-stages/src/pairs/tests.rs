use cutover_policy::{Gauge, settings::Share, testing::batch};
use proptest::prelude::*;

use super::*;

const LOOSE: Pairs = Pairs {
    max_different: Share(0),
    max_incomparable: Share(10_000),
    min_coverage: Share(500_000),
    enough: 100,
    window: 1_000,
};

fn with(gauges: &[(&str, u64)]) -> Batch {
    let mut batch = batch(0);
    batch.gauges = gauges.iter().map(|&(n, v)| Gauge { name: n.into(), value: i64::try_from(v).unwrap() }).collect();
    batch.gauges.sort_by(|a, b| a.name.cmp(&b.name));
    batch
}

fn unmet(seen: &Seen) -> Vec<String> {
    let conditions = seen.conditions(&LOOSE, 0, false);
    conditions.into_iter().filter(|c| !c.met).map(|c| c.finding.rule).collect()
}

#[test]
fn operations_are_told_apart_by_their_whole_name() {
    let all = counts(&with(&[("pairs.asked{a{b}", 3), ("pairs.asked{}}", 2), ("pairs.asked", 9), ("pairs.odd{a}", 1)]));
    let asked: Vec<_> = all.iter().map(|(name, counts)| (name.as_str(), counts.asked())).collect();
    assert_eq!(asked, [("a{b", 3), ("}", 2)]);
}

#[test]
fn a_host_that_says_nothing_of_pairs_has_its_comparisons_counted() {
    let mut old = batch(0);
    (old.comparisons.same, old.comparisons.different, old.comparisons.incomparable) = (90, 1, 9);
    let mut seen = Seen::default();
    seen.add(&old, 1_000);
    assert_eq!((seen.compared, unmet(&seen)), (91, vec!["different".to_owned(), "incomparable".into()]));
    let mut new = with(&[("pairs.asked{x}", 4), ("pairs.unanswered{x}", 4)]);
    new.comparisons.same = 7;
    assert_eq!(counts(&new).len(), 1, "its operations are all that there is");
}

#[test]
fn one_that_cannot_be_compared_of_a_few_is_within_a_hundred() {
    let mut seen = Seen::default();
    seen.add(&with(&[("pairs.asked{x}", 3), ("pairs.compared{x}", 2), ("pairs.incomparable{x}", 1)]), 1_000);
    assert_eq!(unmet(&seen), [""; 0]);
    seen.add(&with(&[("pairs.asked{x}", 1), ("pairs.incomparable{x}", 1)]), 1_000);
    assert_eq!(unmet(&seen), ["incomparable"]);
}

proptest! {
    /// Whatever the batches are, a difference counts for at least a window of pairs of its operation, and for no more
    /// than two windows and two batches.
    #[test]
    fn a_difference_counts_for_a_window_and_is_gone_after_two(
        batches in prop::collection::vec(1_u64..300, 1..60),
        at in 0_usize..60,
        window in 1_u64..1_000,
    ) {
        let mut seen = Seen::default();
        let at = at % batches.len();
        let mut after = 0;
        let largest = batches.iter().max().unwrap();
        for (i, &compared) in batches.iter().enumerate() {
            let different = u64::from(i == at);
            seen.add(&with(&[("pairs.asked{x}", compared), ("pairs.compared{x}", compared), ("pairs.different{x}", different)]), window);
            if i > at {
                after += compared;
            }
            let counts = i >= at && unmet(&seen).contains(&"different".to_owned());
            if i >= at && after < window {
                prop_assert!(counts, "{after} of {window}");
            }
            if i < at || after >= 2 * (window + largest) {
                prop_assert!(!counts, "{after} of {window}");
            }
        }
    }

    /// With pairs that come one by one it is met just when it was foretold.
    #[test]
    fn it_takes_as_many_more_pairs_as_it_says(
        before in prop::collection::vec(prop::bool::weighted(0.03), 1..400),
        window in 1_u64..200,
        max in prop::sample::select(vec![0_u64, 5_000, 20_000]),
    ) {
        let one = |different: bool| {
            let count = u64::from(different);
            with(&[("pairs.asked{x}", 1), ("pairs.compared{x}", 1), ("pairs.different{x}", count)])
        };
        let mut seen = Seen::default();
        for different in before {
            seen.add(&one(different), window);
        }
        let rules = Pairs { window, ..LOOSE };
        let met = |seen: &Seen| seen.conditions(&rules, max, false)[0].met;
        if !met(&seen) {
            let foretold = seen.operations["x"].missing(window, max);
            for more in 1..=foretold {
                prop_assert!(!met(&seen), "after {} of {foretold}", more - 1);
                seen.add(&one(false), window);
            }
            prop_assert!(met(&seen), "{foretold}");
        }
    }

    #[test]
    fn what_is_met_is_what_the_exact_shares_say(compared in 0_u64..5_000, incomparable in 0_u64..200, too_large in 0_u64..5_000) {
        let asked = compared + incomparable + too_large;
        let mut seen = Seen::default();
        seen.add(&with(&[
            ("pairs.asked{x}", asked),
            ("pairs.compared{x}", compared),
            ("pairs.incomparable{x}", incomparable),
            ("pairs.too-large{x}", too_large),
        ]), u64::MAX);
        let said = unmet(&seen);
        let whole = asked.max(100);
        prop_assert_eq!(said.contains(&"incomparable".to_owned()), incomparable * 100 > whole);
        prop_assert_eq!(said.contains(&"coverage".to_owned()), asked >= 100 && compared * 2 < whole);
    }

    #[test]
    fn what_is_remembered_is_read_again_as_it_was(batches in prop::collection::vec(1_u64..300, 0..5)) {
        let mut seen = Seen::default();
        for compared in batches {
            seen.add(&with(&[("pairs.asked{a/b}", compared), ("pairs.compared{a/b}", compared)]), 100);
        }
        let json = serde_json::to_string(&seen).unwrap();
        prop_assert_eq!(serde_json::from_str::<Seen>(&json).unwrap(), seen);
    }
}

#[test]
fn what_a_person_accepted_holds_no_longer_and_what_differs_after_it_does() {
    let mut seen = Seen::default();
    let pairs = [("pairs.asked{x}", 200), ("pairs.compared{x}", 200), ("pairs.different{x}", 3)];
    seen.add(&with(&pairs), 100);
    seen.add(&with(&pairs), 100);
    assert_eq!(unmet(&seen), ["different"]);
    seen.add(&with(&[("pairs.accepted{y}", 1)]), 100);
    assert_eq!(unmet(&seen), ["different"], "another operation's are its own");
    seen.add(&with(&[("pairs.accepted{x}", 1), ("pairs.asked{x}", 5), ("pairs.compared{x}", 5)]), 100);
    assert_eq!(unmet(&seen), Vec::<String>::new());
    seen.add(&with(&[("pairs.asked{x}", 1), ("pairs.compared{x}", 1), ("pairs.different{x}", 1)]), 100);
    assert_eq!(unmet(&seen), ["different"]);
}
