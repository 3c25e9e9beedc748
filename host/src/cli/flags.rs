//! `cutover flags`: list, get, set.

use serde_json::Value;

use super::{Failed, Flags, client::Client, output};
use crate::admin::SetFlag;
use cutover_model::environment;

pub(super) fn run(flags: Flags) -> Result<(), Failed> {
    match flags {
        Flags::List { migration, host } => {
            let shown = read(&Client::new(&host.admin), &migration)?;
            if host.format.json {
                output::json(&shown);
            } else {
                shown.iter().for_each(show);
            }
        }
        Flags::Get { migration, flag, host } => {
            let shown = read(&Client::new(&host.admin), &migration)?;
            let found = shown.iter().find(|f| f.get("flag").and_then(Value::as_str) == Some(&flag));
            let found = found.ok_or_else(|| Failed {
                kind: "wrong-flag".into(),
                ..Failed::refused(format!("there is no flag `{flag}`"))
            })?;
            if host.format.json {
                output::json(found);
            } else {
                output::line(&found.get("value").unwrap_or(&Value::Null).to_string());
            }
        }
        Flags::Set { migration, flag, value, reason, host } => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            let body = SetFlag { value, reason, actor: environment::user() };
            let done = Client::new(&host.admin).put(&format!("/api/v1/migrations/{migration}/flags/{flag}"), &body)?;
            super::control::done(&done, host.format.json);
        }
    }
    Ok(())
}

fn read(client: &Client, migration: &str) -> Result<Vec<Value>, Failed> {
    let mut answer = client.get(&format!("/api/v1/migrations/{migration}/flags"))?;
    match answer.get_mut("flags").map(Value::take) {
        Some(Value::Array(flags)) => Ok(flags),
        _ => Err(Failed::new("the host's answer has no flags")),
    }
}

fn show(flag: &Value) {
    let text = |field: &str| flag.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let value = flag.get("value").map(ToString::to_string).unwrap_or_default();
    output::line(&format!("{:28} {value:6} {:12} {}", text("flag"), text("source"), text("meaning")));
}
