//! The statistics of a table of two pools, which a script cannot sum within its steps when there are many bad units.

use cutover_policy::hypergeometric::Table;
use rhai::{Array, Dynamic, Engine, EvalAltResult, INT};

use super::lists;

const NAME: &str = "likelihood_ratios";

/// How many times likelier the table `[n1, x1, n2, x2]` (V1's units and bad ones, V2's units and bad ones) is if V2's
/// odds of a bad unit are so many times V1's than if they are `null` times; one answer for each of `odds`.
fn likelihood_ratios(table: &[Dynamic], odds: &[Dynamic], null: &Dynamic) -> Result<Array, Box<EvalAltResult>> {
    let counts: Vec<INT> = table.iter().filter_map(|count| count.as_int().ok()).collect();
    let [n1, x1, n2, x2] = counts.as_slice() else {
        return Err(
            "a table of `likelihood_ratios` is four counts: V1's units and bad ones, V2's units and bad ones".into()
        );
    };
    let (odds, null) = (lists::numbers(NAME, odds)?, lists::number(NAME, null)?);
    if odds.iter().chain([&null]).any(|odds| !(odds.is_finite() && *odds > 0.0)) {
        return Err("`likelihood_ratios` takes odds above 0".into());
    }
    let count = |value: INT| value.try_into().unwrap_or_default();
    let table = Table::new((count(*n1), count(*x1)), (count(*n2), count(*x2)));
    let against = table.ln_probability(null);
    Ok(odds.into_iter().map(|odds| Dynamic::from(libm::exp(table.ln_probability(odds) - against))).collect())
}

pub(crate) fn register(engine: &mut Engine) {
    engine.register_fn(NAME, |table: Array, odds: Array, null: Dynamic| likelihood_ratios(&table, &odds, &null));
}
