//! `<`, `<=`, `>` and `>=` that refuse to compare apples with oranges.
//!
//! The language's own say false, so that `rate > settings.max_rate` with a text for a limit would never roll back.

use std::cmp::Ordering;

use rhai::{Dynamic, Engine, EvalAltResult};

use crate::shape::type_name;

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_fn("<", |a: Dynamic, b: Dynamic| compare(&a, "<", &b).map(|o| o == Some(Ordering::Less)))
        .register_fn(">", |a: Dynamic, b: Dynamic| compare(&a, ">", &b).map(|o| o == Some(Ordering::Greater)))
        .register_fn("<=", |a: Dynamic, b: Dynamic| compare(&a, "<=", &b).map(|o| o.is_some_and(Ordering::is_le)))
        .register_fn(">=", |a: Dynamic, b: Dynamic| compare(&a, ">=", &b).map(|o| o.is_some_and(Ordering::is_ge)));
}

/// `None` where one of two floats is no number.
fn compare(a: &Dynamic, operator: &str, b: &Dynamic) -> Result<Option<Ordering>, Box<EvalAltResult>> {
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        return Ok(Some(a.cmp(&b)));
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(a.partial_cmp(&b));
    }
    if let (Some(a), Some(b)) = (text(a), text(b)) {
        return Ok(Some(a.cmp(&b)));
    }
    let hint = if a.is_string() || b.is_string() { "; read \"5%\" with share(..), \"10m\" with span(..)" } else { "" };
    Err(format!("`{operator}` cannot compare {} with {}{hint}", type_name(a), type_name(b)).into())
}

#[expect(clippy::cast_precision_loss, reason = "as the language itself compares integers with floats")]
fn number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|whole| whole as f64))
}

fn text(value: &Dynamic) -> Option<String> {
    value.as_char().map(String::from).ok().or_else(|| Some(value.as_immutable_string_ref().ok()?.to_string()))
}
