//! Shares, spans and ratios: read as settings write them, and written as findings show them.

use cutover_policy::{
    settings::{Ratio, Share, Span},
    text,
};
use rhai::{Dynamic, Engine, EvalAltResult, INT};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json::{self, int};

/// `"5%"` or ppm, as ppm.
pub(crate) fn share(value: &Dynamic) -> Result<u32, Box<EvalAltResult>> {
    read::<Share>(value).map(|share| share.0)
}

/// `"10m"` or milliseconds, as milliseconds.
pub(crate) fn span(value: &Dynamic) -> Result<u64, Box<EvalAltResult>> {
    read::<Span>(value).map(|span| span.0)
}

/// `2.5`, as ppm.
pub(crate) fn ratio(value: &Dynamic) -> Result<u32, Box<EvalAltResult>> {
    read::<Ratio>(value).map(|ratio| ratio.0)
}

/// The sentence of an error that was made here, without a position.
pub(crate) fn why(error: &EvalAltResult) -> String {
    match error {
        EvalAltResult::ErrorRuntime(value, _) => value.to_string(),
        other => other.to_string(),
    }
}

fn read<T: DeserializeOwned>(value: &Dynamic) -> Result<T, Box<EvalAltResult>> {
    let value: Value = json::from_script("value", value)?;
    serde_json::from_value(value).map_err(|e| e.to_string().into())
}

/// A count; negative ones are 0.
fn count(value: INT) -> u64 {
    value.try_into().unwrap_or_default()
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_fn("share", |value: Dynamic| share(&value).map(|ppm| int(ppm.into())))
        .register_fn("span", |value: Dynamic| span(&value).map(int))
        .register_fn("ratio", |value: Dynamic| ratio(&value).map(|ppm| int(ppm.into())))
        .register_fn("percent_text", |ppm: INT| text::percent(count(ppm)))
        .register_fn("ratio_text", |ppm: INT| text::times(count(ppm)))
        .register_fn("latency_text", |us: INT| text::latency(count(us)))
        .register_fn("span_text", |ms: INT| text::span(count(ms)))
        .register_fn("round_up", |value: INT| int(text::round_up(count(value))))
        .register_fn("excerpt", |value: &str, characters: INT| {
            text::excerpt(value, usize::try_from(characters).unwrap_or_default())
        });
}
