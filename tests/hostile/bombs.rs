//! Settings that are meant to break a policy or the host: too deep, too many, too large, too slow to read.

use std::{fs, time::Duration};

use cutover_model::{
    clock,
    port::{Kind, Pair, Side},
};
use cutover_policy_host::{
    admission::admit,
    engine::{Engine, Limits},
};

use super::{
    alone::alone,
    ask::{self, pair},
    contract::Export,
};
use crate::harness::components;

/// The policies that are shipped, and what they are asked.
const SHIPPED: [(&str, Export); 6] = [
    ("exact-compare", Export::Compare),
    ("json-compare", Export::Compare),
    ("sequential", Export::Judge),
    ("standard-stages", Export::Next),
    ("sticky-share", Export::MakePlan),
    ("thresholds", Export::Judge),
];

/// How long an attempt may take: three limits of 250 ms, and the rest for a machine that does other things.
const AT_MOST: Duration = Duration::from_secs(10);

fn settings() -> Vec<(&'static str, String)> {
    let nested = |open: &str, close: &str, times: usize| open.repeat(times) + &close.repeat(times);
    let stage = r#"{"share":"1%","soak":"1h"},"#;
    let ignore = format!(r#"{{"path":"{}/b","category":"c"}},"#, "/**/a".repeat(200));
    let list = |item: &str, times: usize| item.repeat(times).trim_end_matches(',').to_owned();
    vec![
        ("nothing", String::new()),
        ("no object", "[]".into()),
        ("null", "null".into()),
        ("a mark before it", "\u{feff}{}".into()),
        ("half of a pair", r#"{"a":"\ud800"}"#.into()),
        ("zeros", r#"{"a":"\u0000\u0000"}"#.into()),
        ("arrays in arrays", nested("[", "]", 100_000)),
        ("objects in objects", nested(r#"{"a":"#, "}", 100_000).replace(":}", ":0}")),
        ("arrays in a known field", format!(r#"{{"stages":{}}}"#, nested("[", "]", 100_000))),
        ("a number of a million digits", format!(r#"{{"min_requests":{}}}"#, "9".repeat(1_000_000))),
        ("a number with an exponent", r#"{"min_requests":1e999999999}"#.into()),
        ("a small one", format!(r#"{{"min_requests":0.{}1}}"#, "0".repeat(1_000_000))),
        ("a negative one", r#"{"min_requests":-9223372036854775808,"max_differences":-1}"#.into()),
        ("a share of too many digits", format!(r#"{{"max_error_rate":"{}%"}}"#, "9".repeat(100_000))),
        ("a span of too many digits", format!(r#"{{"soak":"{}h","shadow":{{"soak":"{0}d"}}}}"#, "9".repeat(100_000))),
        (
            "unknown fields",
            format!("{{{}}}", (0..100_000).map(|n| format!(r#""f{n}":0,"#)).collect::<String>() + r#""x":0"#),
        ),
        ("the same field", format!("{{{}}}", list(r#""min_requests":1,"#, 100_000))),
        ("a field of megabytes", format!(r#"{{"{}":0}}"#, "a".repeat(3_000_000))),
        ("200 000 stages", format!(r#"{{"stages":[{}]}}"#, list(stage, 200_000))),
        ("10 000 stages", format!(r#"{{"stages":[{}]}}"#, list(stage, 10_000))),
        ("patterns", format!(r#"{{"ignore":[{}]}}"#, list(&ignore, 1_000))),
        ("slashes", format!(r#"{{"unordered":["{}"]}}"#, "/".repeat(2_000_000))),
        ("megabytes", format!(r#"{{"a":"{}"}}"#, "x".repeat(7_000_000))),
        ("more than any policy gets", format!(r#"{{"a":"{}"}}"#, "x".repeat(20_000_000))),
    ]
}

#[test]
fn settings_that_are_bombs_are_refused_in_a_few_words() {
    alone("hostile::bombs::settings_that_are_bombs_are_refused_in_a_few_words", 500, || {
        let engine = Engine::new(Limits::default()).unwrap();
        // To refuse one's settings is best; what takes too long or is too large is cut off.
        let fair = ["settings", "deadline", "out-of-memory", "input-too-large", "malformed"];
        for (name, export) in SHIPPED {
            let component = fs::read(components().join(name).with_extension("wasm")).unwrap();
            for (what, settings) in settings() {
                let started = clock::mono();
                let admitted = admit(&engine, export.kind(), &component, &settings);
                let took = clock::mono().since(started);
                assert!(took < AT_MOST, "{name} took {took:?} for {what}");
                match admitted {
                    Ok(policy) => assert_eq!(ask::ask(&policy, export), Ok(()), "{name} took {what}"),
                    Err(error) => {
                        assert!(fair.contains(&error.cause()), "{name} given {what}: {error:.300}");
                        let said = error.to_string();
                        assert!(said.len() < 100_000, "{name} given {what}: {} bytes: {said:.300}", said.len());
                        if what.starts_with("more than") {
                            assert_eq!(error.cause(), "input-too-large", "{name}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn patterns_that_take_long_to_match_take_no_longer_than_the_limit() {
    let engine = Engine::new(Limits::default()).unwrap();
    let component = fs::read(components().join("json-compare.wasm")).unwrap();
    let ignore = format!(r#"{{"path":"{}/b","category":"c"}}"#, "/**/a".repeat(60));
    let settings = format!(r#"{{"ignore":[{}]}}"#, vec![ignore; 300].join(","));
    let policy = admit(&engine, Kind::Comparison, &component, &settings).unwrap();
    let deep = |leaf: u32| r#"{"a":"#.repeat(100) + &leaf.to_string() + &"}".repeat(100);
    let side = |leaf| Side { body: deep(leaf).into_bytes(), ..pair().v1 };
    let pairs = vec![Pair { v1: side(1), v2: side(2), ..pair() }; 200];
    let started = clock::mono();
    let answer = policy.compare(&pairs).answer;
    let took = clock::mono().since(started);
    assert!(took < AT_MOST, "{took:?}");
    match answer {
        Ok(outcomes) => assert_eq!(outcomes.len(), pairs.len()),
        Err(error) => assert_eq!(error.cause(), "deadline", "{error}"),
    }
}
