//! The statistics of a table of two pools, which a script cannot sum within its steps when there are many bad units.

use cutover_policy::hypergeometric::Table;
use rhai::{Array, Dynamic, Engine, EvalAltResult, FLOAT, INT};

use super::lists;

const NAME: &str = "likelihood_ratios";

/// The same as natural logarithms: a table of many bad units has ratios beyond any number.
const LN_NAME: &str = "ln_likelihood_ratios";

/// How many times likelier the table `[n1, x1, n2, x2]` (V1's units and bad ones, V2's units and bad ones) is if V2's
/// odds of a bad unit are so many times V1's than if they are `null` times; one answer for each of `odds`.
fn likelihood_ratios(table: &[Dynamic], odds: &[Dynamic], null: &Dynamic) -> Result<Array, Box<EvalAltResult>> {
    Ok(logarithms(NAME, table, odds, null)?.into_iter().map(|ln| Dynamic::from(libm::exp(ln))).collect())
}

fn ln_likelihood_ratios(table: &[Dynamic], odds: &[Dynamic], null: &Dynamic) -> Result<Array, Box<EvalAltResult>> {
    Ok(logarithms(LN_NAME, table, odds, null)?.into_iter().map(Dynamic::from).collect())
}

fn logarithms(
    name: &str,
    table: &[Dynamic],
    odds: &[Dynamic],
    null: &Dynamic,
) -> Result<Vec<FLOAT>, Box<EvalAltResult>> {
    let counts: Vec<INT> = table.iter().filter_map(|count| count.as_int().ok()).collect();
    let [n1, x1, n2, x2] = counts.as_slice() else {
        let what = "four counts: V1's units and bad ones, V2's units and bad ones";
        return Err(format!("a table of `{name}` is {what}").into());
    };
    let (odds, null) = (lists::numbers(name, odds)?, lists::number(name, null)?);
    if odds.iter().chain([&null]).any(|odds| !(odds.is_finite() && *odds > 0.0)) {
        return Err(format!("`{name}` takes odds above 0").into());
    }
    let count = |value: INT| value.try_into().unwrap_or_default();
    let table = Table::new((count(*n1), count(*x1)), (count(*n2), count(*x2)));
    let against = table.ln_probability(null);
    Ok(odds.into_iter().map(|odds| table.ln_probability(odds) - against).collect())
}

/// How many times likelier `bad` of `units` are at so many times the odds of `rate` than at `rate`, as a natural
/// logarithm; one answer for each of `times`.
fn ln_binomial_ratios(units: INT, bad: INT, rate: FLOAT, times: &[Dynamic]) -> Result<Array, Box<EvalAltResult>> {
    let name = "ln_binomial_ratios";
    let times = lists::numbers(name, times)?;
    if !(rate > 0.0 && rate < 1.0) || times.iter().any(|times| !(times.is_finite() && *times > 0.0)) {
        return Err(format!("`{name}` takes a rate between 0 and 1, and odds above 0").into());
    }
    let (units, bad) = (lists::number(name, &units.into())?, lists::number(name, &bad.into())?);
    let ln = |times: FLOAT| bad * libm::log(times) - units * libm::log1p(rate * (times - 1.0));
    Ok(times.into_iter().map(|times| ln(times).into()).collect())
}

pub(crate) fn register(engine: &mut Engine) {
    engine.register_fn(LN_NAME, |table: Array, odds: Array, null: Dynamic| ln_likelihood_ratios(&table, &odds, &null));
    engine.register_fn("ln_binomial_ratios", |units: INT, bad: INT, rate: FLOAT, times: Array| {
        ln_binomial_ratios(units, bad, rate, &times)
    });
    engine.register_fn(NAME, |table: Array, odds: Array, null: Dynamic| likelihood_ratios(&table, &odds, &null));
}
