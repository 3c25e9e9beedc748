//! What `decide` is shown: one request.

use std::sync::Arc;

use cutover_policy::Frame;
use rhai::{Dynamic, Engine, EvalAltResult, ImmutableString};

use super::int;

/// What the host packs for a request. A guest says so before it knows its script, so these are the attributes of every
/// script; rules of a plan may test any header.
pub(crate) const ATTRIBUTES: [&str; 14] = [
    "operation",
    "session",
    "method",
    "path",
    "host",
    "header:x-cutover-pool",
    "header:x-region",
    "header:x-tenant",
    "header:x-user-id",
    "header:x-client-version",
    "header:x-beta",
    "header:user-agent",
    "header:accept-language",
    "header:referer",
];

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request(Arc<Packed>);

#[derive(Debug)]
struct Packed {
    position: u32,
    share: u32,
    is_v2: bool,
    attributes: Vec<Option<ImmutableString>>,
}

impl From<Frame<'_>> for Request {
    fn from(frame: Frame<'_>) -> Self {
        Self(Arc::new(Packed {
            position: frame.position,
            share: frame.share_ppm,
            is_v2: frame.is_v2(),
            attributes: frame.attributes().map(|value| value.map(ImmutableString::from)).collect(),
        }))
    }
}

impl Request {
    fn attribute(&self, name: &str) -> Option<Dynamic> {
        let at = ATTRIBUTES.iter().position(|attribute| *attribute == name)?;
        let value = self.0.attributes.get(at).cloned().flatten();
        Some(value.map_or(Dynamic::UNIT, Dynamic::from))
    }

    fn header(&mut self, name: &str) -> Result<Dynamic, Box<EvalAltResult>> {
        self.attribute(&format!("header:{}", name.to_lowercase())).ok_or_else(|| {
            let known: Vec<_> = ATTRIBUTES.iter().filter_map(|attribute| attribute.strip_prefix("header:")).collect();
            let known = known.join("`, `");
            format!("`decide` is not shown the header `{name}`, only `{known}`; rules of the plan may test any").into()
        })
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Request>("Request")
        .register_get("position", |r: &mut Request| int(r.0.position.into()))
        .register_get("share", |r: &mut Request| int(r.0.share.into()))
        .register_get("is_v2", |r: &mut Request| r.0.is_v2)
        .register_fn("header", Request::header);
    for name in ["operation", "session", "method", "path", "host"] {
        engine.register_get(name, move |r: &mut Request| r.attribute(name).unwrap_or_default());
    }
}
