//! Which fields of a case mean something to which kind of policy. A field without meaning is a slip, not a wish.

use serde_json::{Map, Value};

use cutover_model::port::Kind;

/// Fields that not every kind has, and the kinds that have them.
pub(super) type Fields = &'static [(&'static str, &'static [Kind])];

const TIMED: &[Kind] = &[Kind::Routing, Kind::Rollback, Kind::Stages];
const JUDGING: &[Kind] = &[Kind::Rollback, Kind::Stages];

/// Fields of a step that not every kind has.
pub(super) const STEP: Fields = &[
    ("wait", TIMED),
    ("at", TIMED),
    ("phase", TIMED),
    ("stage", TIMED),
    ("share", TIMED),
    ("batch", JUDGING),
    ("batches", JUDGING),
    ("verdict", &[Kind::Stages]),
    ("forced", &[Kind::Stages]),
    ("migration", &[Kind::Routing]),
    ("salt", &[Kind::Routing]),
    ("operations", &[Kind::Routing]),
    ("requests", &[Kind::Routing]),
    ("pair", &[Kind::Comparison]),
    ("pairs", &[Kind::Comparison]),
    ("call", &[Kind::Adapter]),
    ("reply", &[Kind::Adapter]),
];

/// Fields of `start` that not every kind has.
pub(super) const START: Fields = &[
    ("now", TIMED),
    ("phase", TIMED),
    ("stage", TIMED),
    ("share", TIMED),
    ("stage_age", TIMED),
    ("memory", TIMED),
    ("verdict", &[Kind::Stages]),
    ("migration", &[Kind::Routing]),
    ("salt", &[Kind::Routing]),
    ("operations", &[Kind::Routing]),
];

/// Fields of an expectation that not every kind has.
pub(super) const EXPECT: Fields = &[
    ("verdict", &[Kind::Rollback]),
    ("evidence", &[Kind::Rollback]),
    ("findings", JUDGING),
    ("findings_include", JUDGING),
    ("action", &[Kind::Stages]),
    ("to", &[Kind::Stages]),
    ("otherwise", &[Kind::Routing]),
    ("share", &[Kind::Routing]),
    ("shadow_share", &[Kind::Routing]),
    ("shadow_operations", &[Kind::Routing]),
    ("sticky", &[Kind::Routing]),
    ("salt", &[Kind::Routing]),
    ("rules", &[Kind::Routing]),
    ("outcome", &[Kind::Comparison]),
    ("differences", &[Kind::Comparison]),
    ("why", &[Kind::Comparison]),
    ("outcomes", &[Kind::Comparison]),
    ("operation", &[Kind::Adapter]),
    ("notices", &[Kind::Adapter]),
    ("success", &[Kind::Adapter]),
    ("json", &[Kind::Adapter]),
];

/// Each field that is there and means nothing to this kind, as a sentence.
pub(super) fn misplaced(value: &Value, kind: Kind, fields: Fields) -> impl Iterator<Item = String> {
    let keys = value.as_object().into_iter().flat_map(Map::keys);
    keys.filter_map(move |key| {
        let (_, kinds) = fields.iter().find(|(name, kinds)| name == key && !kinds.contains(&kind))?;
        let kinds: Vec<_> = kinds.iter().map(|k| k.name()).collect();
        Some(format!("`{key}` is for {} policies, and this is a {kind} policy", kinds.join(" and ")))
    })
}
