//! One file for each kind: what a script is shown, and how its answer is read.

pub(crate) mod adapter;
pub(crate) mod comparison;
pub(crate) mod rollback;
pub(crate) mod routing;
pub(crate) mod stages;

use cutover_policy::Finding;
use rhai::{Dynamic, INT};

use crate::{functions::Function, shape::Shape};

/// Says whose answer it is that has the wrong shape.
fn wrong(function: Function) -> impl Fn(String) -> String {
    move |error| format!("`{}` answers wrongly: {error}", function.name())
}

/// An answer is a map with `answer`, or that word alone.
fn answer(value: Dynamic, what: &str) -> Result<(String, Option<Shape>), String> {
    if value.is_string() {
        return Ok((value.into_string().unwrap_or_default(), None));
    }
    let mut fields = Shape::of("answer", value, what)?;
    Ok((fields.required("answer")?, Some(fields)))
}

fn findings(fields: &mut Shape) -> Result<Vec<Finding>, String> {
    fields.list("findings", finding)
}

fn finding(path: &str, value: Dynamic) -> Result<Finding, String> {
    let mut fields = Shape::of(path, value, "a finding, as `finding(rule, observed, limit, unit, note)` makes it")?;
    let finding = Finding {
        rule: fields.required("rule")?,
        observed: fields.required::<INT>("observed")?,
        limit: fields.required::<INT>("limit")?,
        unit: fields.required("unit")?,
        note: fields.required("note")?,
    };
    fields.end()?;
    Ok(finding)
}
