use proptest::prelude::*;
use serde_json::json;

use super::*;

fn policy(settings: Value) -> JsonCompare {
    JsonCompare::configure(serde_json::from_value(settings).unwrap()).unwrap()
}

fn side(success: bool, status: u16, body: impl Into<Vec<u8>>) -> Side {
    Side { success, status, media_type: "application/json".into(), body: body.into() }
}

fn pair(v1: Side, v2: Side) -> Pair {
    Pair { operation: "execute".into(), v1, v2 }
}

fn bodies(v1: &Value, v2: &Value) -> Pair {
    pair(side(true, 200, v1.to_string()), side(true, 200, v2.to_string()))
}

/// Outcome, then `kind path category` of each difference.
fn said(settings: Value, pair: &Pair) -> Vec<String> {
    let (outcome, differences) = match policy(settings).compare(pair) {
        Outcome::Same => ("same".into(), Vec::new()),
        Outcome::Ignored(differences) => ("ignored".into(), differences),
        Outcome::Different(differences) => ("different".into(), differences),
        Outcome::Incomparable(why) => (why, Vec::new()),
    };
    let line = |d: Difference| format!("{} {} {}", d.kind, d.path, d.category);
    std::iter::once(outcome).chain(differences.into_iter().map(line)).collect()
}

#[test]
fn each_kind_of_difference_has_its_place() {
    let v1 = json!({ "gone": 1, "kind": "1", "value": { "a/b": [true] }, "list": [1, 2, 3], "order": ["x", "y"] });
    let v2 = json!({ "new": 1, "kind": 1, "value": { "a/b": [false] }, "list": [1, 5], "order": ["y", "x"] });
    let mut said = said(json!({}), &bodies(&v1, &v2));
    said.sort();
    assert_eq!(
        said,
        [
            "different",
            "extra /new semantic",
            "length /list semantic",
            "missing /gone semantic",
            "order /order semantic",
            "type /kind semantic",
            "value /list/1 semantic",
            "value /value/a~1b/0 semantic",
        ]
    );
}

#[test]
fn timing_and_identity_are_ignored() {
    let v1 = json!({ "answer": 42, "duration_ms": 5, "steps": [{ "pid": 1 }], "worker": { "name": "a" } });
    let v2 = json!({ "answer": 42, "duration_ms": 9, "steps": [{ "pid": 2 }], "worker": { "name": "b" }, "host": "x" });
    let mut said = said(json!({}), &bodies(&v1, &v2));
    said[1..].sort();
    assert_eq!(
        said,
        [
            "ignored",
            "extra /host identity",
            "value /duration_ms timing",
            "value /steps/0/pid identity",
            "value /worker identity"
        ]
    );
}

#[test]
fn ignored_differences_do_not_hide_others() {
    let many = |n: u32| (0..100).map(|i| json!({ "pid": i * n })).collect::<Value>();
    let pair = bodies(&json!({ "a": many(1), "z": 1 }), &json!({ "a": many(2), "z": 2 }));
    assert_eq!(said(json!({}), &pair), ["different", "value /z semantic"]);
}

#[test]
fn numbers_may_be_near() {
    let same = |settings: Value, v1: Value, v2: Value| said(settings, &bodies(&v1, &v2))[0] == "same";
    assert!(same(json!({}), json!(0.1), json!(0.100_000_000_000_01)));
    assert!(same(json!({}), json!(5), json!(5.0)));
    assert!(!same(json!({}), json!(0.1), json!(0.100_1)));
    assert!(
        !same(json!({}), json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992_u64)),
        "identifiers are exact"
    );
    assert!(!same(json!({ "tolerance": { "relative": 0.5 } }), json!(100), json!(101)));
    assert!(same(json!({ "tolerance": { "absolute": 1 } }), json!(100), json!(101)));
    assert!(same(json!({ "tolerance": { "relative": 0.5 } }), json!(100), json!(101.0)));
}

#[test]
fn order_of_unordered_arrays_is_ignored() {
    let settings = || json!({ "unordered": ["/**/programs"] });
    let (v1, v2) = (json!({ "programs": [1, 2, 2] }), json!({ "programs": [2, 1, 2] }));
    assert_eq!(said(settings(), &bodies(&v1, &v2)), ["ignored", "order /programs format"]);
    assert_eq!(said(json!({}), &bodies(&v1, &v2)), ["different", "order /programs semantic"]);
    let v2 = json!({ "programs": [2, 1, 1] });
    assert_eq!(said(settings(), &bodies(&v1, &v2)), ["different", "value /programs/2 semantic"]);
    let v2 = json!({ "programs": [2, 2, 1, 7] });
    assert_eq!(said(settings(), &bodies(&v1, &v2)), ["different", "extra /programs/3 semantic"]);
}

#[test]
fn elements_are_paired_by_what_is_not_ignored() {
    let v1 = json!([{ "id": "a", "duration_ms": 1 }, { "id": "b", "duration_ms": 2 }]);
    let v2 = json!([{ "id": "b", "duration_ms": 1 }, { "id": "a", "duration_ms": 9.5 }]);
    assert_eq!(
        said(json!({ "unordered": [""] }), &bodies(&v1, &v2)),
        ["ignored", "value /0/duration_ms timing", "value /1/duration_ms timing", "order  format"]
    );
}

#[test]
fn success_and_status_are_compared_first() {
    let ok = || side(true, 200, "{}");
    assert_eq!(said(json!({}), &pair(ok(), side(false, 500, "oops"))), ["different", "success  semantic"]);
    assert_eq!(said(json!({}), &pair(ok(), side(true, 201, "{}"))), ["different", "status  semantic"]);
}

#[test]
fn the_same_failure_in_other_words_is_ignored_unless_told() {
    let failed = || pair(side(false, 404, r#"{"error":"no"}"#), side(false, 404, r#"{"error":"never"}"#));
    assert_eq!(said(json!({}), &failed()), ["ignored", "value  format"]);
    assert_eq!(said(json!({ "error_messages": "compare" }), &failed()), ["different", "value /error semantic"]);
    let other = pair(side(false, 404, "no"), side(false, 500, "no"));
    assert_eq!(said(json!({}), &other), ["different", "status  semantic"]);
}

#[test]
fn what_v1_says_to_be_json_and_is_not_is_incomparable_unless_the_bytes_are_the_same() {
    let why = |v1: &str, v2: &str| said(json!({}), &pair(side(true, 200, v1), side(true, 200, v2))).remove(0);
    assert_eq!(why("<html>", "{}"), "the result of V1 cannot be read as JSON: expected value at line 1 column 1");
    assert_eq!((why("", "").as_str(), why("{\"a\":NaN}", "{\"a\":NaN}").as_str()), ("same", "same"));
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(why(&deep(129), &deep(130)).contains("recursion limit"));
    assert_eq!((why(&deep(127), &deep(127)).as_str(), why(&deep(129), &deep(129)).as_str()), ("same", "same"));
}

#[test]
fn json_and_something_else_differ_whatever_it_is() {
    let json = || side(true, 200, r#"{"a":1}"#);
    let typed = |media_type: &str, body: &str| Side { media_type: media_type.into(), ..side(true, 200, body) };
    let html = typed("text/html; charset=utf-8", "<html>Something went wrong</html>");
    assert_eq!(said(json!({}), &pair(json(), side(true, 200, ""))), ["different", "type  semantic"]);
    assert_eq!(said(json!({}), &pair(side(true, 200, ""), json())), ["different", "value  semantic"]);
    let both = ["different", "media-type  semantic", "type  semantic"];
    assert_eq!(said(json!({}), &pair(json(), html.clone())), both);
    let login = Side { status: 302, ..html };
    assert_eq!(
        said(json!({ "media_types": "ignore" }), &pair(json(), login)),
        ["different", "status  semantic", "type  semantic"]
    );
    let bom = side(true, 200, "\u{feff}{\"a\":1}");
    assert_eq!(said(json!({}), &pair(json(), bom)), ["different", "type  semantic"]);
}

#[test]
fn media_types_are_compared_without_their_parameters_and_only_of_bodies() {
    let typed = |media_type: &str, body: &str| Side { media_type: media_type.into(), ..side(true, 200, body) };
    let said = |v1: Side, v2: Side| said(json!({}), &pair(v1, v2));
    assert_eq!(said(typed("application/json", "1"), typed("Application/JSON; charset=utf-8", "1")), ["same"]);
    assert_eq!(said(typed("application/json", "1"), typed("", "1")), ["different", "media-type  semantic"]);
    assert_eq!(said(typed("application/json", ""), typed("", "")), ["same"]);
    assert_eq!(said(typed("text/plain", "OK"), typed("text/plain", "OK")), ["same"]);
    assert_eq!(said(typed("text/plain", "OK"), typed("text/plain", "KO")), ["different", "value  semantic"]);
}

#[test]
fn nothing_new_and_the_whole_cannot_be_compared_but_the_other_way_round_they_differ() {
    let (nothing, whole) = (|| side(true, 304, ""), || side(true, 200, "{}"));
    assert!(said(json!({}), &pair(nothing(), whole()))[0].starts_with("V1 says that nothing was modified"));
    assert_eq!(said(json!({}), &pair(nothing(), nothing())), ["same"]);
    assert_eq!(said(json!({}), &pair(whole(), nothing()))[..2], ["different", "status  semantic"]);
}

#[test]
fn reports_are_bounded() {
    let v1 = json!((0..100).collect::<Vec<_>>());
    let v2 = json!((100..200).collect::<Vec<_>>());
    assert_eq!(said(json!({ "max_differences": 3 }), &bodies(&v1, &v2)).len(), 4);
    let Outcome::Different(found) = policy(json!({})).compare(&bodies(&json!("é".repeat(5_000)), &json!(1))) else {
        panic!("a text is no number");
    };
    assert_eq!((found[0].v1.chars().count(), found[0].v2.as_str()), (200, "1"));
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6..1e6).prop_map(Value::from),
        "[a-c/~]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c/~]{0,2}|pid", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn a_document_is_the_same_as_itself(document in document()) {
        prop_assert_eq!(policy(json!({})).compare(&bodies(&document, &document)), Outcome::Same);
    }

    #[test]
    fn which_side_is_which_does_not_matter_to_the_outcome(v1 in document(), v2 in document()) {
        let outcome = |v1, v2| said(json!({}), &bodies(v1, v2)).remove(0);
        prop_assert_eq!(outcome(&v1, &v2), outcome(&v2, &v1));
    }

    #[test]
    fn every_place_that_is_named_exists(v1 in document(), v2 in document()) {
        if let Outcome::Different(differences) = policy(json!({})).compare(&bodies(&v1, &v2)) {
            for d in differences {
                prop_assert!(v1.pointer(&d.path).is_some() || v2.pointer(&d.path).is_some(), "{}", d.path);
            }
        }
    }

    #[test]
    fn a_multiset_has_no_order(elements in prop::collection::vec(document(), 0..6), by in 0_usize..6) {
        let mut turned = elements.clone();
        turned.rotate_left(by.min(elements.len()));
        let outcome = policy(json!({ "unordered": [""], "ignore": [] })).compare(&bodies(&elements.into(), &turned.into()));
        prop_assert!(matches!(outcome, Outcome::Same | Outcome::Ignored(_)), "{outcome:?}");
    }
}
