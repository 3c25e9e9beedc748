//! JSON, and the place of a session.

use cutover_policy::{share, text};
use rhai::{Array, Dynamic, Engine, EvalAltResult, INT};

use crate::json::{self, int};

/// Characters of a value that people are shown.
const SHOWN: usize = 200;

fn read(text: &str) -> Result<Dynamic, Box<EvalAltResult>> {
    serde_json::from_str(text).map(json::to_script).map_err(|e| format!("this text is not JSON: {e}").into())
}

fn write(value: &Dynamic) -> Result<String, Box<EvalAltResult>> {
    Ok(json::from_script("value", value)?.to_string())
}

/// The beginning of a value's JSON.
fn shown(value: &Dynamic) -> Result<String, Box<EvalAltResult>> {
    Ok(text::excerpt(&write(value)?, SHOWN))
}

/// Keys and places in arrays as a JSON Pointer (RFC 6901).
fn pointer(path: Array) -> String {
    let segment = |step: Dynamic| format!("/{}", step.to_string().replace('~', "~0").replace('/', "~1"));
    path.into_iter().map(segment).collect()
}

/// How deeply a value nests; a number is 0 deep.
fn depth(value: &Dynamic) -> INT {
    if let Ok(elements) = value.as_array_ref() {
        return 1 + elements.iter().map(depth).max().unwrap_or_default();
    }
    value.as_map_ref().map_or(0, |map| 1 + map.values().map(depth).max().unwrap_or_default())
}

/// `null`, `boolean`, `number`, `string`, `array` or `object`.
fn kind(value: &Dynamic) -> &'static str {
    match value {
        _ if value.is_unit() => "null",
        _ if value.is_bool() => "boolean",
        _ if value.is_int() || value.is_float() => "number",
        _ if value.is_array() => "array",
        _ if value.is_map() => "object",
        _ => "string",
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_fn("json", read)
        .register_fn("json_text", |value: Dynamic| write(&value))
        .register_fn("json_kind", |value: Dynamic| rhai::ImmutableString::from(kind(&value)))
        .register_fn("shown", |value: Dynamic| shown(&value))
        .register_fn("pointer", pointer)
        .register_fn("depth", |value: Dynamic| depth(&value))
        .register_fn("position", |salt: &str, key: &str| int(share::position(salt, key).into()))
        .register_fn("is_v2", |position: INT, share: INT| position < share);
}
