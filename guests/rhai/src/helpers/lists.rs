//! Arithmetic on lists of numbers, number by number. A step of the script for each would be most of the steps that it
//! has.

use rhai::{Array, Dynamic, Engine, EvalAltResult, FLOAT};

/// `name(a, b)`: what `of` makes of the numbers of `a` and those of `b` in their order, or of `b` if it is one number.
fn each(name: &str, a: &[Dynamic], b: &Dynamic, of: fn(FLOAT, FLOAT) -> FLOAT) -> Result<Array, Box<EvalAltResult>> {
    let a = numbers(name, a)?;
    let b = match b.as_array_ref() {
        Ok(list) => numbers(name, &list)?,
        Err(_) => vec![number(name, b)?; a.len()],
    };
    if a.len() != b.len() {
        return Err(format!("`{name}` takes lists of one length, not of {} and {}", a.len(), b.len()).into());
    }
    Ok(a.into_iter().zip(b).map(|(a, b)| of(a, b).into()).collect())
}

/// In their order, so that the sum is the same everywhere.
fn sum(list: &[Dynamic]) -> Result<FLOAT, Box<EvalAltResult>> {
    Ok(numbers("sum", list)?.into_iter().fold(0.0, |sum, number| sum + number))
}

/// The exponential of each, at most e^700, which is still a number.
fn each_exp(list: &[Dynamic]) -> Result<Array, Box<EvalAltResult>> {
    Ok(numbers("each_exp", list)?.into_iter().map(|number| libm::exp(number.min(700.0)).into()).collect())
}

/// The numbers of a list.
pub(crate) fn numbers(name: &str, list: &[Dynamic]) -> Result<Vec<FLOAT>, Box<EvalAltResult>> {
    list.iter().map(|value| number(name, value)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "as the language itself reckons with integers and floats")]
pub(crate) fn number(name: &str, value: &Dynamic) -> Result<FLOAT, Box<EvalAltResult>> {
    let whole = || value.as_int().map(|whole| whole as FLOAT);
    value.as_float().or_else(|_| whole()).map_err(|found| format!("`{name}` takes numbers, not {found}").into())
}

pub(crate) fn register(engine: &mut Engine) {
    let mut register = |name: &'static str, of: fn(FLOAT, FLOAT) -> FLOAT| {
        engine.register_fn(name, move |a: Array, b: Dynamic| each(name, &a, &b, of));
    };
    register("each_plus", |a, b| a + b);
    register("each_times", |a, b| a * b);
    register("each_min", FLOAT::min);
    engine.register_fn("each_exp", |list: Array| each_exp(&list));
    engine.register_fn("sum", |list: Array| sum(&list));
}
