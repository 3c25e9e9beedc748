//! `fn adapt_call(request)` and `fn adapt_reply(request, reply)`; `call` is a word of the language.

use cutover_policy::{AdaptedCall, Adapter, Call, Notice, Reply};
use rhai::{Dynamic, Map};

use super::wrong;
use crate::{Rhai, functions::Function, json, shape::Shape};

impl Adapter for Rhai {
    fn adapt_call(&self, call: &Call) -> Result<AdaptedCall, String> {
        let answer = self.0.ask(Function::AdaptCall, vec![shown(call)?])?;
        adapted(answer).map_err(wrong(Function::AdaptCall))
    }

    fn adapt_reply(&self, call: &Call, reply: Reply) -> Result<Reply, String> {
        let body = body("reply", &reply.body)?;
        let shown_reply = Map::from([("success".into(), reply.success.into()), ("body".into(), body)]);
        let answer = self.0.ask(Function::AdaptReply, vec![shown(call)?, shown_reply.into()])?;
        replied(answer).map_err(wrong(Function::AdaptReply))
    }
}

fn shown(call: &Call) -> Result<Dynamic, String> {
    let map = Map::from([
        ("operation".into(), call.operation.clone().into()),
        ("session".into(), call.session.clone().into()),
        ("body".into(), body("call", &call.body)?),
    ]);
    Ok(map.into())
}

fn body(whose: &str, bytes: &[u8]) -> Result<Dynamic, String> {
    if bytes.is_empty() {
        return Ok(Dynamic::UNIT);
    }
    let value = serde_json::from_slice(bytes).map_err(|e| format!("the body of the {whose} is not JSON: {e}"))?;
    Ok(json::to_script(value))
}

fn adapted(value: Dynamic) -> Result<AdaptedCall, String> {
    let mut fields = Shape::of("answer", value, "a call, as `adapted(operation, body)` makes it")?;
    let operation = fields.required("operation")?;
    let body = fields.take("body").unwrap_or_else(|| Map::new().into());
    if !body.is_map() {
        return Err(format!("`answer.body` is {}, and has to be a map", crate::shape::type_name(&body)));
    }
    let body = json::from_script("answer.body", &body)?.to_string().into_bytes();
    let notices = fields.list("notices", notice)?;
    fields.end()?;
    Ok(AdaptedCall { operation, body, notices })
}

fn notice(path: &str, value: Dynamic) -> Result<Notice, String> {
    let mut fields = Shape::of(path, value, "a notice, as `deprecation(text)` and `hint(text)` make it")?;
    let notice = Notice { kind: fields.required("kind")?, message: fields.required("message")? };
    fields.end()?;
    Ok(notice)
}

fn replied(value: Dynamic) -> Result<Reply, String> {
    let mut fields = Shape::of("answer", value, "a reply, as `reply(success, body)` makes it")?;
    let success = fields.required("success")?;
    let body = fields.take("body").unwrap_or_default();
    let body = json::from_script("answer.body", &body)?.to_string().into_bytes();
    fields.end()?;
    Ok(Reply { success, body })
}
