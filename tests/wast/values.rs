//! Values in scripts, as wasmtime has them.

use wasmtime::component::Val;
use wast::{WastArg, WastRet, component::WastVal};

/// An argument.
pub(super) fn argument(argument: &WastArg<'_>) -> Result<Val, String> {
    match argument {
        WastArg::Component(value) => val(value),
        other => Err(format!("an argument of a core module: {other:?}")),
    }
}

/// Whether a result is as the script wants it.
pub(super) fn same(wanted: &WastRet<'_>, got: &Val) -> Result<(), String> {
    let WastRet::Component(wanted) = wanted else {
        return Err(format!("a result of a core module: {wanted:?}"));
    };
    let wanted = val(wanted)?;
    // Floats by their bits: a NaN is equal to itself, and to no other one.
    if bits(wanted.clone()) == bits(got.clone()) { Ok(()) } else { Err(format!("{got:?} instead of {wanted:?}")) }
}

fn val(value: &WastVal<'_>) -> Result<Val, String> {
    let all = |values: &[WastVal<'_>]| values.iter().map(val).collect::<Result<Vec<_>, _>>();
    let maybe = |value: Option<&WastVal<'_>>| value.map(|v| val(v).map(Box::new)).transpose();
    Ok(match value {
        WastVal::Bool(b) => Val::Bool(*b),
        WastVal::U8(n) => Val::U8(*n),
        WastVal::S8(n) => Val::S8(*n),
        WastVal::U16(n) => Val::U16(*n),
        WastVal::S16(n) => Val::S16(*n),
        WastVal::U32(n) => Val::U32(*n),
        WastVal::S32(n) => Val::S32(*n),
        WastVal::U64(n) => Val::U64(*n),
        WastVal::S64(n) => Val::S64(*n),
        WastVal::F32(n) => Val::Float32(f32::from_bits(n.bits)),
        WastVal::F64(n) => Val::Float64(f64::from_bits(n.bits)),
        WastVal::Char(c) => Val::Char(*c),
        WastVal::String(s) => Val::String((*s).into()),
        WastVal::List(values) => Val::List(all(values)?),
        WastVal::Tuple(values) => Val::Tuple(all(values)?),
        WastVal::Record(fields) => {
            Val::Record(fields.iter().map(|(name, v)| Ok(((*name).into(), val(v)?))).collect::<Result<_, String>>()?)
        }
        WastVal::Variant(case, payload) => Val::Variant((*case).into(), maybe(payload.as_deref())?),
        WastVal::Enum(case) => Val::Enum((*case).into()),
        WastVal::Option(payload) => Val::Option(maybe(payload.as_deref())?),
        WastVal::Result(Ok(payload)) => Val::Result(Ok(maybe(payload.as_deref())?)),
        WastVal::Result(Err(payload)) => Val::Result(Err(maybe(payload.as_deref())?)),
        WastVal::Flags(names) => Val::Flags(names.iter().map(|name| (*name).into()).collect()),
        WastVal::Map(_) => return Err("a map, which is not a type of the component model's first version".into()),
    })
}

/// The same value with floats as integers of the same bits.
fn bits(value: Val) -> Val {
    let all = |values: Vec<Val>| values.into_iter().map(bits).collect();
    let boxed = |value: Option<Box<Val>>| value.map(|v| Box::new(bits(*v)));
    match value {
        Val::Float32(n) => Val::U32(n.to_bits()),
        Val::Float64(n) => Val::U64(n.to_bits()),
        Val::List(values) => Val::List(all(values)),
        Val::Tuple(values) => Val::Tuple(all(values)),
        Val::Record(fields) => Val::Record(fields.into_iter().map(|(name, v)| (name, bits(v))).collect()),
        Val::Variant(case, payload) => Val::Variant(case, boxed(payload)),
        Val::Option(payload) => Val::Option(boxed(payload)),
        Val::Result(Ok(payload)) => Val::Result(Ok(boxed(payload))),
        Val::Result(Err(payload)) => Val::Result(Err(boxed(payload))),
        other => other,
    }
}
