//! Translates calls by name: what V1 calls one thing and V2 another.

use std::collections::BTreeMap;

use cutover_policy::{AdaptedCall, Adapter, Call, Notice, Policy, Problem, Reply};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// See the module.
#[derive(Debug)]
pub struct Renames(Settings);

/// Its settings and their defaults; `policy.toml` says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Operations: V1's name and V2's.
    operations: BTreeMap<String, String>,
    /// Fields of arguments and results: V1's name and V2's.
    fields: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        let one = |v1: &str, v2: &str| BTreeMap::from([(v1.to_owned(), v2.to_owned())]);
        Self { operations: one("run_program", "execute"), fields: one("id", "program_id") }
    }
}

impl Policy for Renames {
    type Settings = Settings;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "translates the names of operations and fields";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        Ok(Self(settings))
    }
}

impl Adapter for Renames {
    fn adapt_call(&self, call: &Call) -> Result<AdaptedCall, String> {
        let to_v2 = |name: &str| self.0.fields.get(name).cloned();
        let body = renamed(&call.body, to_v2).ok_or("the arguments are not a JSON object")?;
        let (operation, notices) = match self.0.operations.get(&call.operation) {
            None => (call.operation.clone(), Vec::new()),
            Some(name) => {
                let message = format!("`{}` is called `{name}` in V2", call.operation);
                (name.clone(), vec![Notice { kind: "deprecation".into(), message }])
            }
        };
        Ok(AdaptedCall { operation, body, notices })
    }

    fn adapt_reply(&self, _call: &Call, reply: Reply) -> Result<Reply, String> {
        let to_v1 = |name: &str| self.0.fields.iter().find(|(_, v2)| *v2 == name).map(|(v1, _)| v1.clone());
        let translated = if reply.success { renamed(&reply.body, to_v1) } else { None };
        // Errors, and results without fields, look the same in both versions.
        Ok(Reply { body: translated.unwrap_or(reply.body), ..reply })
    }
}

/// A JSON object with other names for its fields; none if it is not one.
fn renamed(body: &[u8], name: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let fields: Map<_, _> = fields.into_iter().map(|(field, value)| (name(&field).unwrap_or(field), value)).collect();
    Some(Value::Object(fields).to_string().into_bytes())
}

cutover_policy::export!(Renames: adapter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_there_and_back() {
        let policy = Renames::configure(Settings::default()).expect("the defaults have no problems");
        let call = Call { operation: "run_program".into(), session: String::new(), body: br#"{"id":"p1"}"#.to_vec() };
        let adapted = policy.adapt_call(&call).expect("it has fields");
        assert_eq!((adapted.operation.as_str(), adapted.body), ("execute", br#"{"program_id":"p1"}"#.to_vec()));
        let reply = Reply { success: true, body: br#"{"program_id":"p1"}"#.to_vec() };
        assert_eq!(policy.adapt_reply(&call, reply).expect("it has fields").body, br#"{"id":"p1"}"#);
        assert!(policy.adapt_call(&Call { body: b"[]".to_vec(), ..call }).is_err());
    }
}
