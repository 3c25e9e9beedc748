//! Holds what is said of pairs, and calls and replies that were translated, against expectations.

use super::{
    answer,
    expect::{Mismatches, compare_all},
    expect_format::{Expect, ExpectDifference, ExpectNotice, ExpectOutcome},
};
use cutover_model::port::{AdaptedCall, AdapterReply, Comparison, Difference};

pub(super) fn compare_outcomes(expect: &Expect, outcomes: &[Comparison], wrong: &mut Mismatches) {
    if let Some(expected) = &expect.outcomes {
        if expected.len() != outcomes.len() {
            let pairs = outcomes.len();
            return wrong.differ("outcomes", format!("{} outcomes", expected.len()), format!("{pairs} pairs"));
        }
        for (n, (expected, outcome)) in expected.iter().zip(outcomes).enumerate() {
            compare_outcome(&format!("outcomes[{n}]."), expected, outcome, wrong);
        }
    }
    let Some(outcome) = outcomes.first() else { return };
    wrong.same("outcome", expect.outcome.map(|o| format!("{o:?}").to_lowercase()), answer::outcome(outcome));
    compare_differences("differences", expect.differences.as_deref(), outcome, wrong);
    compare_why("why", expect.why.as_deref(), outcome, wrong);
}

fn compare_outcome(place: &str, expected: &ExpectOutcome, outcome: &Comparison, wrong: &mut Mismatches) {
    let name = format!("{:?}", expected.outcome).to_lowercase();
    wrong.same(&format!("{place}outcome"), Some(name), answer::outcome(outcome));
    compare_differences(&format!("{place}differences"), expected.differences.as_deref(), outcome, wrong);
    compare_why(&format!("{place}why"), expected.why.as_deref(), outcome, wrong);
}

fn compare_differences(
    field: &str,
    expected: Option<&[ExpectDifference]>,
    outcome: &Comparison,
    wrong: &mut Mismatches,
) {
    let Some(expected) = expected else { return };
    let actual: &[Difference] = match outcome {
        Comparison::Ignored(all) | Comparison::Different(all) => all,
        Comparison::Same | Comparison::Incomparable(_) => &[],
    };
    let given = |part: &Option<String>, name: &str| part.as_ref().map_or_else(String::new, |p| format!(", {name} {p}"));
    let wanted = |d: &ExpectDifference| {
        let parts = [(&d.kind, "kind"), (&d.category, "category"), (&d.v1, "v1"), (&d.v2, "v2")];
        format!("{:?}{}", d.path, parts.map(|(part, name)| given(part, name)).concat())
    };
    let is =
        |d: &Difference| format!("{:?}, kind {}, category {}, v1 {}, v2 {}", d.path, d.kind, d.category, d.v1, d.v2);
    let lines = (expected.iter().map(wanted).collect(), actual.iter().map(is).collect());
    compare_all(field, expected, actual, difference_holds, lines, true, wrong);
}

fn compare_why(field: &str, expected: Option<&str>, outcome: &Comparison, wrong: &mut Mismatches) {
    let Some(part) = expected else { return };
    match outcome {
        Comparison::Incomparable(why) if why.contains(part) => {}
        Comparison::Incomparable(why) => wrong.differ(field, format!("something with {part:?}"), why),
        Comparison::Same | Comparison::Ignored(_) | Comparison::Different(_) => {
            let nothing = format!("nothing: `{}`", answer::outcome(outcome));
            wrong.differ(field, format!("something with {part:?}"), nothing);
        }
    }
}

pub(super) fn compare_call(expect: &Expect, call: &AdaptedCall, wrong: &mut Mismatches) {
    wrong.same("operation", expect.operation.as_deref(), &call.operation);
    wrong.same("json", expect.json.as_ref(), answer::body(&call.body));
    if let Some(expected) = &expect.notices {
        let holds = |e: &ExpectNotice, (kind, message): &(String, String)| {
            e.kind == *kind && e.message.as_ref().is_none_or(|part| message.contains(part))
        };
        let wanted = expected.iter().map(|e| format!("{}: {}", e.kind, e.message.as_deref().unwrap_or("..")));
        let is = call.notices.iter().map(|(kind, message)| format!("{kind}: {message}"));
        compare_all("notices", expected, &call.notices, holds, (wanted.collect(), is.collect()), true, wrong);
    }
}

pub(super) fn compare_reply(expect: &Expect, reply: &AdapterReply, wrong: &mut Mismatches) {
    wrong.same("success", expect.success, reply.success);
    wrong.same("json", expect.json.as_ref(), answer::body(&reply.body));
}

fn difference_holds(expected: &ExpectDifference, difference: &Difference) -> bool {
    let same = |expected: &Option<String>, actual: &str| expected.as_ref().is_none_or(|e| e == actual);
    expected.path == difference.path
        && same(&expected.kind, &difference.kind)
        && same(&expected.category, &difference.category)
        && same(&expected.v1, &difference.v1)
        && same(&expected.v2, &difference.v2)
}
