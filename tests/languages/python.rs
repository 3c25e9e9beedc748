//! `guests/python`: the comparison policy `similar-text`, with room for an interpreter of 18 MB.

use cutover_model::port::{Comparison, Kind, Pair, Side};
use cutover_policy_host::{
    engine::{Engine, Limits},
    error::PolicyError,
};

use super::{admit, component, generous, problems};

const PROSE: &str =
    "The quick brown fox jumps over the lazy dog and sleeps for some of the long and warm hours of a day";

fn pair(v1: &str, v2: &str) -> Pair {
    let side =
        |body: &str| Side { success: true, status: 200, media_type: "text/plain".into(), body: body.as_bytes().into() };
    Pair { operation: "execute".into(), v1: side(v1), v2: side(v2) }
}

/// An array in an array in an array.
fn nested(depth: usize, inner: &str) -> String {
    format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn similar_text_compares_prose_and_figures() {
    let Some(component) = component("python-similar-text") else { return };
    let engine = Engine::new(generous()).unwrap();
    let settings = r#"{ "mask": [{ "pattern": "\\d\\d:\\d\\d", "category": "timing" }] }"#;
    let policy = admit(&engine, Kind::Comparison, &component, settings).unwrap();
    let pairs = [
        pair(PROSE, PROSE),
        pair(PROSE, &PROSE.replace("quick", "fast")),
        pair("at 42 degrees", "at 43 degrees"),
        pair("done at 10:15", "done at 11:20"),
        pair(&format!(r#"{{"answer": "{PROSE}"}}"#), r#"{"answer": "no idea"}"#),
        pair(&"word ".repeat(6_000), &"word ".repeat(6_001)),
        pair(&nested(128, "1"), &nested(128, "2")),
        pair(&nested(100_000, "1"), &nested(100_000, "2")),
        pair(r#"["\ud800"]"#, r#"["\udfff"]"#),
    ];
    let asked = policy.compare(&pairs);
    let words: Vec<_> = asked.answer.unwrap().into_iter().map(summary).collect();
    assert_eq!(
        words,
        [
            "same",
            "ignored: value (wording) quick -> fast",
            "different: figures (semantic) 42 -> 43",
            "ignored: value (timing) done at 10:15 -> done at 11:20",
            &format!("different: /answer value (semantic) {PROSE} -> no idea"),
            "incomparable: a text has 6001 words, more than the 5000 of `max_words`",
            &format!("different: {} value (semantic) 1 -> 2", "/0".repeat(128)),
            "incomparable: a result is nested deeper than 128",
            "different: /0 value (semantic) ? -> ?",
        ]
    );
    // Unit for unit, on another instance.
    assert_eq!(policy.compare(&pairs).fuel, asked.fuel);
}

fn summary(comparison: Comparison) -> String {
    let (word, mut differences) = match comparison {
        Comparison::Same => return "same".into(),
        Comparison::Incomparable(why) => return format!("incomparable: {why}"),
        Comparison::Ignored(all) => ("ignored", all),
        Comparison::Different(all) => ("different", all),
    };
    let first = differences.remove(0);
    assert!(differences.is_empty(), "{differences:?}");
    let path = if first.path.is_empty() { String::new() } else { format!("{} ", first.path) };
    format!("{word}: {path}{} ({}) {} -> {}", first.kind, first.category, first.v1, first.v2)
}

#[test]
fn what_python_refuses_has_words() {
    let Some(component) = component("python-similar-text") else { return };
    let engine = Engine::new(generous()).unwrap();
    let said =
        problems(&engine, Kind::Comparison, &component, r#"{ "mask": [{ "pattern": "(" }], "similarity": "90%" }"#);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("`mask[0].pattern` is not a regular expression"), "{said:?}");
    let said = problems(&engine, Kind::Comparison, &component, r#"{ "similarity": 2.5, "max_word": 1 }"#);
    assert_eq!((said.len(), said[1].as_str()), (2, "`similarity` is 2.5; it must be a share from 0% to 100%"));
}

#[test]
fn an_interpreter_that_is_too_large_for_the_limits_says_which() {
    let Some(component) = component("python-similar-text") else { return };
    let engine = Engine::new(Limits { component_bytes: 16 << 20, ..generous() }).unwrap();
    let error = engine.compile(&component).unwrap_err();
    assert!(matches!(error, PolicyError::TooLarge { limit: 16_777_216, .. }), "{error}");
    assert!(error.to_string().contains("host.policy_limits.component_bytes"), "{error}");
}
