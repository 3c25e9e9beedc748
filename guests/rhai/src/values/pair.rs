//! What `compare` is shown: the same call answered by both.

use std::sync::Arc;

use rhai::{Dynamic, Engine, EvalAltResult, ImmutableString};

use super::int;
use crate::json;

/// A pair of answers.
#[derive(Debug, Clone)]
pub(crate) struct Pair(pub(crate) Arc<cutover_policy::Pair>);

/// One pool's answer.
#[derive(Debug, Clone)]
struct Side {
    pair: Arc<cutover_policy::Pair>,
    is_v1: bool,
}

impl Side {
    fn get(&self) -> &cutover_policy::Side {
        if self.is_v1 { &self.pair.v1 } else { &self.pair.v2 }
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.get().body).into_owned()
    }

    fn json(&mut self) -> Result<Dynamic, Box<EvalAltResult>> {
        let name = if self.is_v1 { "V1" } else { "V2" };
        let value = serde_json::from_slice(&self.get().body);
        value.map(json::to_script).map_err(|e| format!("the result of {name} cannot be read as JSON: {e}").into())
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Pair>("Pair")
        .register_get("operation", |p: &mut Pair| ImmutableString::from(p.0.operation.as_str()))
        .register_get("v1", |p: &mut Pair| Side { pair: Arc::clone(&p.0), is_v1: true })
        .register_get("v2", |p: &mut Pair| Side { pair: Arc::clone(&p.0), is_v1: false })
        .register_get("same_body", |p: &mut Pair| p.0.v1.body == p.0.v2.body);
    engine
        .register_type_with_name::<Side>("Side")
        .register_get("success", |s: &mut Side| s.get().success)
        .register_get("status", |s: &mut Side| int(s.get().status.into()))
        .register_get("media_type", |s: &mut Side| ImmutableString::from(s.get().media_type.as_str()))
        .register_get("size", |s: &mut Side| int(s.get().body.len() as u64))
        .register_get("text", Side::text)
        .register_get("json", Side::json);
}
