//! What scripts answer with: maps with the right fields.

use rhai::{Array, Dynamic, Engine, INT, Map};

/// `healthy()`, `healthy(findings)`: an answer that is a word, with findings or without.
fn word(engine: &mut Engine, name: &str, answer: &'static str) {
    engine
        .register_fn(name, move || map([("answer", answer.into())]))
        .register_fn(name, move |findings: Dynamic| map([("answer", answer.into()), ("findings", findings)]));
}

fn step(engine: &mut Engine, answer: &'static str) {
    let fields = move |stage: INT, share, soak, findings| {
        let to = [("stage", stage.into()), ("share", share), ("soak", soak)];
        map(to.into_iter().chain([("answer", answer.into()), ("findings", findings)]))
    };
    engine
        .register_fn(answer, move |stage: INT, share: Dynamic| fields(stage, share, Dynamic::UNIT, Dynamic::UNIT))
        .register_fn(answer, move |stage: INT, share: Dynamic, soak: Dynamic| fields(stage, share, soak, Dynamic::UNIT))
        .register_fn(answer, move |stage: INT, share: Dynamic, soak: Dynamic, findings: Dynamic| {
            fields(stage, share, soak, findings)
        });
}

fn finding(rule: &str, observed: INT, limit: INT, unit: &str, note: &str) -> Map {
    map([
        ("rule", rule.into()),
        ("observed", observed.into()),
        ("limit", limit.into()),
        ("unit", unit.into()),
        ("note", note.into()),
    ])
}

/// A plan that follows the share and mirrors nothing yet.
fn plan(situation: &mut Map) -> Map {
    let given = |name: &str| situation.get(name).cloned().unwrap_or_default();
    let reads = given("operations").into_array().unwrap_or_default().into_iter().filter_map(Dynamic::try_cast::<Map>);
    let is_read = |operation: &Map| operation.get("class").is_some_and(|class| class.to_string() == "read");
    let reads: Array = reads.filter(is_read).filter_map(|operation| operation.get("name").cloned()).collect();
    map([
        ("rules", Array::new().into()),
        ("otherwise", "share".into()),
        ("sticky", "session".into()),
        ("salt", given("salt")),
        ("share", given("share")),
        ("shadow_share", INT::from(0).into()),
        ("shadow_operations", reads.into()),
    ])
}

fn routing(engine: &mut Engine) {
    let condition = |attribute: &str, test: &'static str| [("attribute", attribute.into()), ("test", test.into())];
    engine
        .register_fn("plan", plan)
        .register_fn("rule", |name: &str, conditions: Dynamic, target: &str| {
            map([("name", name.into()), ("conditions", conditions), ("target", target.into())])
        })
        .register_fn("one_of", move |attribute: &str, values: Dynamic| {
            map(condition(attribute, "one-of").into_iter().chain([("values", values)]))
        })
        .register_fn("prefix", move |attribute: &str, value: &str| {
            map(condition(attribute, "prefix").into_iter().chain([("value", value.into())]))
        })
        .register_fn("present", move |attribute: &str| map(condition(attribute, "present")))
        .register_fn("absent", move |attribute: &str| map(condition(attribute, "absent")));
}

fn comparison(engine: &mut Engine) {
    let with = |answer: &'static str, differences| map([("answer", answer.into()), ("differences", differences)]);
    engine
        .register_fn("same", || map([("answer", "same".into())]))
        .register_fn("ignored", move |differences: Dynamic| with("ignored", differences))
        .register_fn("different", move |differences: Dynamic| with("different", differences))
        .register_fn("incomparable", |why: &str| map([("answer", "incomparable".into()), ("why", why.into())]))
        .register_fn("difference", |path: &str, kind: &str, category: &str, v1: Dynamic, v2: Dynamic| {
            let (v1, v2) = (v1.to_string().into(), v2.to_string().into());
            map([("path", path.into()), ("kind", kind.into()), ("category", category.into()), ("v1", v1), ("v2", v2)])
        });
}

fn adapter(engine: &mut Engine) {
    let notice = |kind: &'static str, message: &str| map([("kind", kind.into()), ("message", message.into())]);
    engine
        .register_fn("adapted", |operation: &str, body: Dynamic| map([("operation", operation.into()), ("body", body)]))
        .register_fn("adapted", |operation: &str, body: Dynamic, notices: Dynamic| {
            map([("operation", operation.into()), ("body", body), ("notices", notices)])
        })
        .register_fn("deprecation", move |message: &str| notice("deprecation", message))
        .register_fn("hint", move |message: &str| notice("hint", message))
        .register_fn("reply", |success: bool, body: Dynamic| map([("success", success.into()), ("body", body)]));
}

fn map(fields: impl IntoIterator<Item = (&'static str, Dynamic)>) -> Map {
    fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

pub(crate) fn register(engine: &mut Engine) {
    for (name, answer) in [
        ("healthy", "healthy"),
        ("hold", "hold"),
        ("warn", "warn"),
        ("roll_back", "roll-back"),
        ("complete", "complete"),
        ("pause", "pause"),
    ] {
        word(engine, name, answer);
    }
    for answer in ["advance", "retreat"] {
        step(engine, answer);
    }
    engine
        .register_fn("finding", finding)
        .register_fn("finding", |rule: &str, note: &str| finding(rule, 1, 0, "count", note));
    routing(engine);
    comparison(engine);
    adapter(engine);
}
