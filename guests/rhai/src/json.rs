//! Between JSON and the values of scripts. Maps of scripts are sorted by key, so nothing depends on a hash.

use rhai::{Array, Dynamic, INT};
use serde_json::{Map, Value};

use crate::shape::type_name;

/// How deeply what a script makes may nest.
const MAX_DEPTH: usize = 64;

/// JSON as a script sees it: `null` is `()`, integers beyond 64 bits with sign become floats.
pub(crate) fn to_script(value: Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(flag) => flag.into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(elements) => elements.into_iter().map(to_script).collect::<Array>().into(),
        Value::Object(fields) => map(fields).into(),
    }
}

/// A JSON object as a map.
pub(crate) fn map(fields: Map<String, Value>) -> rhai::Map {
    fields.into_iter().map(|(key, value)| (key.into(), to_script(value))).collect()
}

/// What a script made, as JSON. `path` is where it is, for the error.
pub(crate) fn from_script(path: &str, value: &Dynamic) -> Result<Value, String> {
    convert(path, value, MAX_DEPTH)
}

/// The fields of a map of a script, as JSON.
pub(crate) fn object(path: &str, map: &rhai::Map) -> Result<Map<String, Value>, String> {
    fields(path, map, MAX_DEPTH)
}

fn fields(path: &str, map: &rhai::Map, depth: usize) -> Result<Map<String, Value>, String> {
    map.iter().map(|(key, value)| Ok((key.to_string(), convert(&format!("{path}.{key}"), value, depth)?))).collect()
}

fn convert(path: &str, value: &Dynamic, depth: usize) -> Result<Value, String> {
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(format!("`{}..` nests deeper than {MAX_DEPTH}", path.get(..40).unwrap_or(path)));
    };
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(flag) = value.as_bool() {
        return Ok(flag.into());
    }
    if let Ok(whole) = value.as_int() {
        return Ok(whole.into());
    }
    if let Ok(float) = value.as_float() {
        return serde_json::Number::from_f64(float)
            .map(Value::Number)
            .ok_or_else(|| format!("`{path}` is {float}, which JSON cannot say"));
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(text.as_str().into());
    }
    if let Ok(character) = value.as_char() {
        return Ok(character.to_string().into());
    }
    if let Ok(elements) = value.as_array_ref() {
        let convert = |(i, element)| convert(&format!("{path}[{i}]"), element, deeper);
        return elements.iter().enumerate().map(convert).collect();
    }
    if let Ok(map) = value.as_map_ref() {
        return fields(path, &map, deeper).map(Value::Object);
    }
    Err(format!("`{path}` is {}, which JSON cannot say; take the numbers and texts out of it", type_name(value)))
}

/// A count, as scripts have them; what does not fit is cut.
pub(crate) fn int(value: u64) -> INT {
    INT::try_from(value).unwrap_or(INT::MAX)
}
