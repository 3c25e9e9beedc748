//! What scripts are shown, what helpers give, and what is remembered from one question to the next.

use cutover_policy::{Gauge, Stages as _};
use proptest::prelude::*;

use super::*;

fn ask(policy: &Rhai, check: &Check, memory: &mut Memory) -> String {
    // As the host does it: bytes between questions.
    let stored = serde_json::to_vec(memory).unwrap();
    *memory = serde_json::from_slice(&stored).unwrap();
    policy.judge(check, memory).unwrap().findings.into_iter().map(|f| f.note).collect::<Vec<_>>().join("; ")
}

#[test]
fn memory_is_changed_in_place_and_kept() {
    let policy = policy(
        "fn bump() { this.n = (this.get(\"n\") ?? 0) + 1; }
         fn copied(m) { m.n = 100; }
         fn judge(check, memory) { memory.bump(); copied(memory); hold([finding(\"n\", `${memory.n}`)]) }",
    );
    let mut memory = Memory::default();
    for n in 1..4 {
        assert_eq!(ask(&policy, &check(0, Vec::new()), &mut memory), n.to_string());
    }
    assert_eq!(serde_json::to_string(&memory).unwrap(), r#"{"memory":{"n":3}}"#);
}

#[test]
fn a_question_that_fails_remembers_nothing_of_it() {
    let policy = policy("fn judge(check, memory) { memory.n = 1; window(\"w\", check, \"1m\"); throw \"no\" }");
    assert!(policy.judge(&check(0, vec![served(0, 1, 0)]), &mut Memory::default()).is_err());
    let other = policy.judge(&check(0, Vec::new()), &mut Memory::default());
    assert!(other.is_err(), "and the next one begins anew");
}

#[test]
fn a_check_is_shown_as_the_contract_has_it() {
    let policy = policy(
        "fn judge(check) {
             let b = check.batches[0]; let o = b.operations[0];
             let all = [check.now_ms, check.phase, check.stage, check.share, check.stage_started_ms, check.elapsed_ms,
                 check.batches.len(), b.start_ms, b.duration_ms, b.share, b.v2.ready, b.comparisons.same, o.operation,
                 o.class, o.v2.requests, o.v2.errors, o.v2.units, o.v2.error_rate, o.v2.quantile(\"99%\"),
                 o.shadow.quantile(500000), check.gauge(\"host.cpu-ppm\"), b.gauge(\"none\"), check.v1.requests,
                 check.only([\"none\"]).v1.requests, check.v2.slower_than(1), check.v2.slower_than(60000),
                 b.gauge_of(\"v2.4xx\", \"a{b}\"), check.gauge_of(\"v2.4xx\", \"a\"), check.count(\"host.cpu-ppm\"),
                 check.count_of(\"v2.4xx\", \"a{b}\"), b.count(\"none\"), b.count_of(\"v2.4xx\", \"a{b}\"),
                 b.gauges.keys(), b.gauges[\"v2.4xx{a{b}}\"]];
             hold([finding(\"all\", json_text(all))])
         }",
    );
    let mut batch = served(1_000, 10, 1);
    batch.v2.ready = 3;
    batch.comparisons.same = 4;
    let gauge = |name: &str, value| Gauge { name: name.into(), value };
    batch.gauges = vec![gauge("host.cpu-ppm", 7), gauge("v2.4xx{a{b}}", 2)];
    let mut next = served(2_000, 5, 0);
    next.gauges = vec![gauge("v2.4xx{a{b}}", 3)];
    let shown = ask(&policy, &check(6_000, vec![batch, next]), &mut Memory::default());
    assert_eq!(
        shown,
        "[6000,\"ramping\",1,100000,0,6000,2,1000,1000,0,3,4,\"execute\",\"read\",10,1,10,100000,50175,null,7,null,15,0,15,0,2,null,7,5,0,2,[\"host.cpu-ppm\",\"v2.4xx{a{b}}\"],2]"
    );
}

#[test]
fn progress_has_a_verdict_and_a_check_has_none() {
    let policy = policy("fn next(progress, forced) { hold([finding(\"v\", `${progress.verdict} ${forced}`)]) }");
    let next = policy.next(&progress(0, Verdict::RollBack, Vec::new()), true, &mut Memory::default()).unwrap();
    assert_eq!(next.findings[0].note, "roll-back true");
    assert!(judge("check.verdict").unwrap_err().contains("`judge` gives the verdict, and is not told one; `next` is"));
}

#[test]
fn helpers_give_what_they_promise() {
    for (expression, expected) in [
        ("[share(\"5%\"), share(7), span(\"10m\"), ratio(2.5)]", "[50000,7,600000,2500000]"),
        (
            "[percent_text(123000), ratio_text(2500000), latency_text(1500), span_text(5400000)]",
            r#"["12.3 %","2.5x","1.5 ms","1h 30m"]"#,
        ),
        ("[round_up(100100), excerpt(\"abcdef\", 3)]", r#"[101000,"ab…"]"#),
        ("[parts(1, 3), parts(1, 0), quotient([7, 2], [3]), quotient([1], [0])]", "[333334,0,5,0]"),
        ("quotient([9000000000000000000, 9000000000000000000], [9000000000000000000])", "9000000000000000000"),
        ("[trend([[0, 100], [60, 110], [120, 120]], 60), trend([[0, 5]], 1), trend([], 1)]", "[100000,null,null]"),
        (
            "local(0, \"+01:30\")",
            r#"{"day":1,"hour":1,"minute":30,"minute_of_day":90,"month":1,"second":0,"weekday":"thu","year":1970}"#,
        ),
        ("[utc(86400000).weekday, minutes(\"09:30\")]", r#"["fri",570]"#),
        ("[position(\"salt\", \"key\") < 1000000, is_v2(10, 20), is_v2(20, 20)]", "[true,true,false]"),
        (
            "[json(\"{\\\"a\\\":[1,2.5,null]}\"), json_kind(json(\"[]\")), shown(#{ b: 1, a: \"x\" })]",
            r#"[{"a":[1,2.5,null]},"array","{\"a\":\"x\",\"b\":1}"]"#,
        ),
        (
            "[pointer([\"a/b\", 3]), depth([[1]]), patterns([\"/x\", \"/**/b\"]).first([\"a\", 0, \"b\"]), \"/a\".matches([\"a\"])]",
            r#"["/a~1b/3",2,1,true]"#,
        ),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
    for (expression, expected) in [
        ("share(\"5\")", "expected a share such as"),
        ("local(0, \"CET\")", "is no offset from UTC"),
        ("minutes(\"9\")", "is no time of day"),
        ("rise([1], 1)", "a point is an array"),
        ("trend([1], 1)", "a point is an array of two whole numbers"),
        ("quotient([1.5], [2])", "`quotient` multiplies whole numbers, not f64"),
        ("patterns([\"x\"])", "does not begin with `/`"),
        ("json(\"{\")", "this text is not JSON"),
        ("typed(#{ a: 1 }, #{ a: \"int\" })", "`typed` knows no type \"int\""),
    ] {
        assert!(value(expression).contains(expected), "{expression}: {}", value(expression));
    }
}

#[test]
fn windows_add_up_and_forget() {
    let policy = policy(
        "fn judge(check) {
             let all = window(\"all\", check, \"60s\"); let stage = stage_window(\"stage\", check, \"60s\");
             window(\"all\", check, \"60s\");
             hold([finding(\"n\", json_text([all.v2.requests, stage.v2.requests, stage.begun, all.covered_ms, all.v2.error_rate]))])
         }",
    );
    let mut memory = Memory::default();
    let mut at = |second: u64, stage: u32, started: u64, batches| {
        let check = Check { stage, stage_started_ms: started * 1_000, ..check(second * 1_000, batches) };
        ask(&policy, &check, &mut memory)
    };
    assert_eq!(at(5, 0, 0, vec![served(0, 10, 1), served(1_000, 10, 0)]), "[20,20,true,5000,50000]");
    assert_eq!(at(10, 0, 0, vec![served(6_000, 5, 0)]), "[25,25,false,10000,40000]");
    assert_eq!(at(15, 1, 12, vec![served(11_000, 3, 0), served(13_000, 4, 0)]), "[32,4,true,15000,31250]");
    assert_eq!(at(80, 1, 12, vec![]), "[0,0,false,0,0]");
}

#[test]
fn windows_of_a_stage_reach_further_back_where_v2_has_few_calls_and_tell_what_lasts() {
    let policy = policy(
        "fn judge(check) {
             let w = stage_window(\"w\", check, \"60s\", \"1h\", 100);
             hold([finding(\"n\", json_text([w.v2.requests, w.latest.requests, w.failed_v1, w.failed_v2, w.sessions,
                 w.failed_sessions, w.run.calls, w.run.failed, w.run.v1_requests]))])
         }",
    );
    let mut memory = Memory::default();
    let mut at = |minute: u64, requests, errors, gauges: &[(&str, i64)]| {
        let mut batch = served(minute * 60_000, requests, errors);
        batch.gauges = gauges.iter().map(|&(name, value)| Gauge { name: name.into(), value }).collect();
        let stored = serde_json::to_vec(&memory).unwrap();
        memory = serde_json::from_slice(&stored).unwrap();
        ask(&policy, &check(minute * 60_000 + 5_000, vec![batch]), &mut memory)
    };
    assert_eq!(at(0, 40, 1, &[]), "[40,40,0,1,40,1,0,0,0]");
    assert_eq!(at(1, 50, 2, &[("v2.failed-sessions", 1), ("v2.sessions", 7)]), "[90,50,0,2,47,2,0,0,0]");
    assert_eq!(at(5, 60, 60, &[]), "[110,60,0,61,107,62,60,60,60]");
    assert_eq!(at(6, 3, 3, &[]), "[113,3,0,64,110,65,63,63,63]");
    assert_eq!(at(7, 200, 1, &[]), "[200,200,0,1,310,66,0,0,0]");
    assert_eq!(at(100, 1, 0, &[]), "[1,1,0,0,311,66,0,0,0]");
    // The clock is set back: nothing is in the future.
    assert_eq!(at(60, 2, 0, &[]), "[3,2,0,0,313,66,0,0,0]");
    assert_eq!(at(62, 200, 0, &[]), "[200,200,0,0,513,66,0,0,0]");
}

#[test]
fn windows_remember_latencies_only_where_they_are_wanted() {
    let ask_with = |window: &str| {
        let script = format!(
            "fn judge(check) {{ let w = {window}(\"w\", check, \"1h\"); hold([finding(\"n\", json_text([w.v2.requests, w.v2.errors, \
             w.v2.quantile(\"50%\")]))]) }}"
        );
        let mut memory = Memory::default();
        let mut said = String::new();
        for second in 0..3_600 {
            let mut batch = served(second * 1_000, 60, 1);
            batch.operations[0].v2.latency =
                (0..60).map(|i| cutover_policy::LatencyBucket { index: 400 + i, count: 1 }).collect();
            said = ask(&policy(&script), &check(second * 1_000 + 1_000, vec![batch]), &mut memory);
            if second == 20 {
                break;
            }
        }
        (said, serde_json::to_vec(&memory).unwrap().len())
    };
    let (said, bytes) = ask_with("window");
    assert!(said.starts_with("[1260,21,") && !said.ends_with("null]"), "{said}");
    let (counts, fewer) = ask_with("count_window");
    assert_eq!(counts, "[1260,21,null]");
    assert!(fewer * 2 < bytes, "{fewer} of {bytes} bytes");
}

#[test]
fn mirrored_calls_are_held_against_the_same_operations() {
    let policy = policy(
        "fn judge(check) { let w = stage_window(\"w\", check, \"60s\"); hold([finding(\"n\", json_text([w.v1.requests, w.v2.requests]))]) }",
    );
    let mut batch = served(0, 50, 0);
    batch.operations[0].shadow = calls(1, 0, 100);
    batch.operations.push(operation("write"));
    batch.operations[1].v1 = calls(1_000, 0, 100);
    let check = Check { phase: Phase::Shadow, ..check(1_000, vec![batch]) };
    assert_eq!(ask(&policy, &check, &mut Memory::default()), "[50,1]");
}

#[test]
fn decide_is_shown_the_request() {
    use cutover_policy::{Choice, Decide as _, Frame};
    let policy = policy(
        "fn make_plan(situation) { #{ otherwise: \"decide\" } }
         fn decide(request) {
             if request.header(\"X-Beta\") == \"1\" { \"v2\" }
             else if request.session == () || request.operation == \"delete\" { \"v1\" }
             else if request.is_v2 && request.position < request.share { \"share\" }
             else { \"v1\" }
         }",
    );
    let decide = |operation: &str, session: Option<&str>, beta: Option<&str>| {
        let mut frame = Vec::new();
        let value = |name: &str| match name {
            "operation" => Some(operation.to_owned()),
            "session" => session.map(str::to_owned),
            "header:x-beta" => beta.map(str::to_owned),
            _ => None,
        };
        let values: Vec<_> = Rhai::ATTRIBUTES.iter().map(|name| value(name)).collect();
        // The layout of the contract: position, share, number of attributes, then length and bytes of each.
        for word in [10_u32, 20, u32::try_from(values.len()).unwrap()] {
            frame.extend(word.to_le_bytes());
        }
        for value in &values {
            let length = value.as_ref().map_or(u32::MAX, |v| u32::try_from(v.len()).unwrap());
            frame.extend(length.to_le_bytes());
            frame.extend(value.iter().flat_map(|v| v.bytes()));
        }
        policy.decide(Frame::read(&frame).unwrap())
    };
    assert_eq!(decide("list", Some("s"), Some("1")), Choice::V2);
    assert_eq!(decide("list", Some("s"), None), Choice::Share);
    assert_eq!(decide("list", None, None), Choice::V1);
    assert_eq!(decide("delete", Some("s"), Some("0")), Choice::V1);
}

proptest! {
    #[test]
    fn the_same_question_has_the_same_answer_bit_for_bit(counts in prop::collection::vec((0_u64..100, 0_u64..100), 1..8)) {
        let script = include_str!("../../../../policies/thresholds-rhai/policy.rhai");
        let settings = super::bundles::settings("thresholds-rhai");
        let batches: Vec<_> = (0..).zip(&counts).map(|(i, &(n, errors))| served(i * 1_000, n, errors.min(n))).collect();
        let answer = || {
            let policy = configure(script, &settings).unwrap();
            let mut memory = Memory::default();
            let answer = policy.judge(&check(10_000, batches.clone()), &mut memory).unwrap();
            (answer, serde_json::to_vec(&memory).unwrap())
        };
        prop_assert_eq!(answer(), answer());
    }

    #[test]
    fn json_that_a_script_passes_through_is_unchanged(value in json_values()) {
        let shown = json::from_script("value", &json::to_script(value.clone())).unwrap();
        prop_assert_eq!(shown, value);
    }
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e15_f64..1e15).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

#[test]
fn a_script_keeps_latencies_of_its_own() {
    let policy = policy(
        "fn judge(check, memory) {
             memory.v1 = (histogram(memory.get(\"v1\") ?? \"\") + check.v1.latency).text;
             let all = histogram(memory.v1);
             let both = (check.v1 + check.v2).latency;
             let seen = [all.count, all.quantile(\"99%\"), all.beyond(50175), all.beyond(49000), both.count];
             hold([finding(\"seen\", json_text(seen))])
         }",
    );
    let mut memory = Memory::default();
    ask(&policy, &check(0, vec![served(0, 7, 0)]), &mut memory);
    assert_eq!(ask(&policy, &check(0, vec![served(1_000, 3, 0)]), &mut memory), "[10,50175,0,10,6]");
    assert_eq!(serde_json::to_string(&memory).unwrap(), r#"{"memory":{"v1":"368:10"}}"#);
    for (expression, expected) in [
        ("histogram(\"10:5 4;20:1\").folded(\"90%\").text", "\"11:9;20:1\""),
        ("histogram(\"10:5 4;20:1\").folded(\"91%\").text", "\"11:9;20:1\""),
        ("histogram(\"10:5 4;20:1\").folded(\"100%\").text", "\"20:10\""),
        ("histogram(\"10:5 4;20:1\").folded(\"0%\").text", "\"10:5 4;20:1\""),
        ("histogram().folded(\"90%\").text", "\"\""),
        ("histogram().quantile(\"99%\")", "null"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
    assert!(value("histogram(\"10\").count").contains("`histogram` reads what a histogram's `text` was"));
}

#[test]
fn lists_of_numbers_are_reckoned_with_number_by_number() {
    for (expression, expected) in [
        ("sum([1, 2.5])", "3.5"),
        ("sum([])", "0.0"),
        ("each_plus([1, 2], [10, 0.5])", "[11.0,2.5]"),
        ("each_times([1, 2], 3)", "[3.0,6.0]"),
        ("each_min([1, 4], 2)", "[1.0,2.0]"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
    assert!(value("each_plus([1], [1, 2])").ends_with("`each_plus` takes lists of one length, not of 1 and 2"));
    assert!(value("sum([\"1\"])").ends_with("`sum` takes numbers, not string"));
}

#[test]
fn likelihood_ratios_are_those_of_the_distribution() {
    // Two units each and one bad one: V2's with a probability of odds / (1 + odds).
    assert_eq!(
        value("likelihood_ratios([2, 0, 2, 1], [1, 4, 9.0], 1).map(|ratio| (ratio * 10).round())"),
        "[10.0,16.0,18.0]"
    );
    assert_eq!(value("likelihood_ratios([5, 0, 0, 0], [7], 1.5)"), "[1.0]");
    // Costs no more than the table that is believed: the rest is scaled down.
    let most = i64::MAX;
    assert!(value(&format!("likelihood_ratios([{most}, {most}, {most}, {most}], [2], 1)")).starts_with('['));
    for (wrong, why) in [("[1, 2, 3]", "is four counts"), ("[1, 2, 3, 0.5]", "is four counts")] {
        assert!(value(&format!("likelihood_ratios({wrong}, [2], 1)")).contains(why), "{wrong}");
    }
    for odds in ["[0], 1", "[2], 0", "[-1.0], 1"] {
        let said = value(&format!("likelihood_ratios([9, 1, 9, 1], {odds})"));
        assert!(said.ends_with("`likelihood_ratios` takes odds above 0"), "{said}");
    }
}
