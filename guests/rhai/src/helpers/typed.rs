//! `typed(settings, #{ window: "span", max_error_rate: "share" })`: settings with their types checked and read, all
//! problems at once. What is unknown is a problem, so that a misspelt setting does not go unnoticed.

use rhai::{Array, Dynamic, Engine, EvalAltResult, Map, Position};

use super::units;
use crate::{json::int, shape::type_name};

fn typed(settings: &Map, types: &Map, prefix: &str) -> Result<Map, Box<EvalAltResult>> {
    let mut read = Map::new();
    let mut problems = Array::new();
    for (name, wanted) in types {
        let wanted = wanted.to_string();
        let (wanted, optional) = wanted.strip_suffix('?').map_or((wanted.as_str(), false), |wanted| (wanted, true));
        let value = settings.get(name).cloned().unwrap_or_default();
        let value = if !value.is_unit() {
            one(value, wanted)?
        } else if optional {
            Ok(value)
        } else {
            Err(format!("is missing, and has to be {}", expected(wanted)))
        };
        match value {
            Ok(value) => drop(read.insert(name.clone(), value)),
            Err(message) => problems.push(problem(&path(prefix, name), &message)),
        }
    }
    let known: Vec<_> = types.keys().map(|name| format!("`{name}`")).collect();
    for unknown in settings.keys().filter(|name| !types.contains_key(*name)) {
        let message = format!("is unknown; the settings are {}", known.join(", "));
        problems.push(problem(&path(prefix, unknown), &message));
    }
    if problems.is_empty() {
        Ok(read)
    } else {
        Err(EvalAltResult::ErrorRuntime(problems.into(), Position::NONE).into())
    }
}

/// The outer error is one of the script (an unknown type), the inner one of the settings.
fn one(value: Dynamic, wanted: &str) -> Result<Result<Dynamic, String>, Box<EvalAltResult>> {
    let found = type_name(&value);
    let wrong = || Err(format!("is {found}, and has to be {}", expected(wanted)));
    let that = |is: bool, value: Dynamic| if is { Ok(value) } else { wrong() };
    Ok(match wanted {
        "share" => units::share(&value).map_or_else(|_| wrong(), |ppm| Ok(int(ppm.into()).into())),
        "span" => units::span(&value).map_or_else(|_| wrong(), |ms| Ok(int(ms).into())),
        "ratio" => units::ratio(&value).map_or_else(|_| wrong(), |ppm| Ok(int(ppm.into()).into())),
        "count" => that(value.as_int().is_ok_and(|n| n >= 0), value),
        "number" => that(value.is_int() || value.is_float(), value),
        "text" => that(value.is_string(), value),
        "flag" => that(value.is_bool(), value),
        "list" => that(value.is_array(), value),
        "map" => that(value.is_map(), value),
        words if words.contains('|') => {
            that(words.split('|').any(|word| found == format!("the text \"{word}\"")), value)
        }
        _ => {
            let types = "share, span, ratio, count, number, text, flag, list, map, or words such as \"v1|v2\"";
            return Err(
                format!("`typed` knows no type \"{wanted}\"; the types are {types}, each with ? if optional").into()
            );
        }
    })
}

fn expected(wanted: &str) -> String {
    match wanted {
        "share" => "a share such as \"5%\"".into(),
        "span" => "a span of time such as \"30s\" or \"1h\"".into(),
        "ratio" => "a ratio such as 3 or 2.5".into(),
        "count" => "a whole number of 0 or more".into(),
        "number" => "a number".into(),
        "text" => "a text".into(),
        "flag" => "true or false".into(),
        "list" => "a list".into(),
        "map" => "a table".into(),
        words => format!("one of \"{}\"", words.replace('|', "\", \"")),
    }
}

fn path(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn problem(path: &str, message: &str) -> Dynamic {
    Map::from([("path".into(), path.into()), ("message".into(), message.into())]).into()
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_fn("typed", |settings: Map, types: Map| typed(&settings, &types, ""))
        .register_fn("typed", |settings: Map, types: Map, prefix: &str| typed(&settings, &types, prefix))
        .register_fn("problem", |path: &str, message: &str| problem(path, message));
}
