//! Arithmetic on counts that must not overflow, and the line through points.

use cutover_policy::line::{self, Rise};
use rhai::{Array, Dynamic, Engine, EvalAltResult, INT, Map};

const MILLION: u128 = 1_000_000;

/// `part` of `whole` in parts per million, rounded up; 0 of nothing.
pub(crate) fn parts(part: INT, whole: INT) -> INT {
    divided(count(part) * MILLION, count(whole))
}

/// The product of the first over that of the second, rounded up; 0 if there is nothing to divide by.
fn quotient(over: Array, under: Array) -> Result<INT, Box<EvalAltResult>> {
    let product = |factors: Array| {
        factors.into_iter().try_fold(1_u128, |product, factor| {
            let factor =
                factor.as_int().map_err(|found| format!("`quotient` multiplies whole numbers, not {found}"))?;
            Ok::<_, Box<EvalAltResult>>(product.saturating_mul(count(factor)))
        })
    };
    Ok(divided(product(over)?, product(under)?))
}

/// How much a least-squares line through `[x, y]` points rises for each `per` of x, in ppm of the smallest y (at least
/// 1); negative if it falls, `()` if all have one x.
fn trend(points: Array, per: INT) -> Result<Dynamic, Box<EvalAltResult>> {
    let points: Vec<(i128, i128)> = points.into_iter().map(point).collect::<Result<_, _>>()?;
    let Some(&(first, _)) = points.first() else { return Ok(Dynamic::UNIT) };
    let (mut n, mut sx, mut sy, mut sxx, mut sxy) = (0_i128, 0_i128, 0_i128, 0_i128, 0_i128);
    for (x, y) in points.iter().map(|&(x, y)| (x - first, y)) {
        n += 1;
        sx = sx.saturating_add(x);
        sy = sy.saturating_add(y);
        sxx = sxx.saturating_add(x.saturating_mul(x));
        sxy = sxy.saturating_add(x.saturating_mul(y));
    }
    let smallest = points.iter().map(|&(_, y)| y).min().unwrap_or(1).max(1);
    let rise = n.saturating_mul(sxy).saturating_sub(sx.saturating_mul(sy));
    let run = n.saturating_mul(sxx).saturating_sub(sx.saturating_mul(sx)).saturating_mul(smallest);
    let ppm = rise.saturating_mul(i128::from(per)).saturating_mul(1_000_000).checked_div(run);
    Ok(ppm.map_or(Dynamic::UNIT, |ppm| INT::try_from(ppm).unwrap_or(INT::MAX).into()))
}

/// How a least-squares line through `[x, y]` points rises for each `per` of x, and the standard error of that; `()` where
/// there is none.
fn rise(points: Array, per: INT) -> Result<Dynamic, Box<EvalAltResult>> {
    let whole = |value: i128| INT::try_from(value).unwrap_or(INT::MAX);
    let point = |value| point(value).map(|(x, y)| (whole(x), whole(y)));
    let points: Vec<_> = points.into_iter().map(point).collect::<Result<_, _>>()?;
    Ok(line::rise(&points, per).map_or(Dynamic::UNIT, |Rise { rise, error }| {
        Map::from([("rise".into(), rise.into()), ("error".into(), error.into())]).into()
    }))
}

fn point(value: Dynamic) -> Result<(i128, i128), Box<EvalAltResult>> {
    let pair = value.into_array().unwrap_or_default();
    match pair.as_slice() {
        [x, y] if x.is_int() && y.is_int() => {
            Ok((x.as_int().unwrap_or_default().into(), y.as_int().unwrap_or_default().into()))
        }
        _ => Err("a point is an array of two whole numbers, as in `[[0, 100], [60, 110]]`".into()),
    }
}

fn divided(numerator: u128, denominator: u128) -> INT {
    if denominator == 0 { 0 } else { INT::try_from(numerator.div_ceil(denominator)).unwrap_or(INT::MAX) }
}

/// A count; negative ones are 0.
fn count(value: INT) -> u128 {
    value.try_into().unwrap_or_default()
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_fn("parts", parts)
        .register_fn("quotient", quotient)
        .register_fn("trend", trend)
        .register_fn("rise", rise);
}
