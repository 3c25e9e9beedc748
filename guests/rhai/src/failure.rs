//! What went wrong in a script, as one sentence that says where.

use rhai::{EvalAltResult, ParseError, ParseErrorType, Position};

use crate::engine::{MAX_ARRAY, MAX_CALLS, MAX_MAP, MAX_OPERATIONS, MAX_TEXT};

/// Callers that are named.
const SHOWN: usize = 4;

/// `at line 3, column 5: Undefined variable: x`.
pub(crate) fn of_compiling(error: &ParseError, script: &str) -> String {
    let hint = match error.err_type() {
        ParseErrorType::VariableUndefined(name) if is_constant(script, name) => {
            format!("; write `global::{name}` for a constant of the script")
        }
        _ => String::new(),
    };
    format!("{}{}{hint}", place(error.position()), error.err_type())
}

/// `at line 3, column 5 (in `helper`, called at line 9, column 2): Property not found: x`.
pub(crate) fn of_running(error: &EvalAltResult) -> String {
    let mut callers = Vec::new();
    let mut innermost = error;
    while let EvalAltResult::ErrorInFunctionCall(name, _, inner, at) = innermost {
        callers.push((name, *at));
        innermost = inner;
    }
    let mut calls: Vec<_> = callers.iter().rev().take(SHOWN).map(|(name, at)| called(name, *at)).collect();
    if callers.len() > SHOWN {
        calls.push("..".into());
    }
    let at = place(innermost.position());
    let (what, calls) = (what(innermost), calls.join(", "));
    match (at.strip_suffix(": "), calls.is_empty()) {
        (_, true) => format!("{at}{what}"),
        (Some(at), false) => format!("{at} ({calls}): {what}"),
        (None, false) => format!("({calls}): {what}"),
    }
}

fn called(name: &str, at: Position) -> String {
    // The language names them by a hash.
    let name = if name.starts_with("anon$") { "an anonymous function".into() } else { format!("`{name}`") };
    match (at.line(), at.position()) {
        (Some(line), Some(column)) => format!("in {name}, called at line {line}, column {column}"),
        _ => format!("in {name}"),
    }
}

fn place(at: Position) -> String {
    match (at.line(), at.position()) {
        (Some(line), Some(column)) => format!("at line {line}, column {column}: "),
        _ => String::new(),
    }
}

/// The interpreter's own words, but for limits, which are named with their numbers.
fn what(error: &EvalAltResult) -> String {
    match error {
        EvalAltResult::ErrorTooManyOperations(_) => {
            format!("takes more than {MAX_OPERATIONS} steps; does a loop not end?")
        }
        EvalAltResult::ErrorStackOverflow(_) => {
            format!("calls functions within functions more than {MAX_CALLS} deep; use a loop")
        }
        EvalAltResult::ErrorDataTooLarge(what, _) => format!(
            "makes too large a value ({what}); a text has at most {MAX_TEXT} bytes, an array {MAX_ARRAY} elements and a \
             map {MAX_MAP} fields"
        ),
        EvalAltResult::ErrorRuntime(value, _) => value.to_string(),
        EvalAltResult::ErrorPropertyNotFound(name, _) => {
            format!("there is no `{name}` in this map; read what may be missing with `.get(\"{name}\")`")
        }
        // The only way: everywhere else a name that is unknown does not compile.
        EvalAltResult::ErrorVariableNotFound(name, _) if name == "settings" => {
            "an anonymous function cannot see `settings`; take what it needs into a variable before it, as in \
             `let limit = settings.limit;`"
                .into()
        }
        EvalAltResult::ErrorFunctionNotFound(signature, _) => {
            format!("there is no function `{}`", signature.replace("&str | ImmutableString | String", "string"))
        }
        other => without_place(other),
    }
}

/// The interpreter writes the position at the end; ours is at the beginning.
fn without_place(error: &EvalAltResult) -> String {
    let text = error.to_string();
    let end = format!(" ({})", error.position());
    text.strip_suffix(&end).unwrap_or(&text).to_owned()
}

fn is_constant(script: &str, name: &str) -> bool {
    let declares = |line: &str| {
        let rest = line.trim_start().strip_prefix("const ")?.trim_start().strip_prefix(name)?;
        rest.trim_start().starts_with('=').then_some(())
    };
    script.lines().any(|line| declares(line).is_some())
}
