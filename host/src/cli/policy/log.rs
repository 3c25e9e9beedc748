//! `cutover policy log`.

use clap::Args;
use serde_json::Value;

use super::{
    super::{HostAddress, client::Client, output},
    Failed,
};
use crate::{clock::UnixMs, policy::port::Kind};

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The migration.
    migration: String,
    /// Only policies of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// At most so many, the newest first; 1000 at most.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// Only calls before this number, to page on.
    #[arg(long, value_name = "CALL")]
    before: Option<i64>,
    #[command(flatten)]
    host: HostAddress,
}

pub(super) fn run(args: &Log) -> Result<(), Failed> {
    let calls = read(&Client::slow(&args.host.admin), &args.migration, args.kind, args.before, args.limit)?;
    if args.host.format.json {
        output::json(&calls);
        return Ok(());
    }
    for call in &calls {
        let text = |path: &str| call.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |path: &str| call.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        output::line(&format!(
            "{:>8} {} {:9} {:9} {:32} {:>9} fuel {:>7} us  {}",
            number("/id"),
            UnixMs(u64::try_from(number("/at")).unwrap_or(0)).rfc3339(),
            text("/asked"),
            text("/role"),
            text("/policy"),
            number("/fuel"),
            number("/took_us"),
            said(call)
        ));
    }
    Ok(())
}

/// Calls, the newest first.
pub(super) fn read(
    client: &Client,
    migration: &str,
    kind: Option<Kind>,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<Value>, Failed> {
    let mut path = format!("/api/v1/migrations/{migration}/policy-log?limit={limit}");
    if let Some(kind) = kind {
        path = format!("{path}&kind={kind}");
    }
    if let Some(before) = before {
        path = format!("{path}&before={before}");
    }
    match client.get(&path)?.get_mut("calls").map(Value::take) {
        Some(Value::Array(calls)) => Ok(calls),
        _ => Err(Failed::new("the host's answer has no calls")),
    }
}

/// What was said, in a few words.
fn said(call: &Value) -> String {
    let Some(ok) = call.pointer("/answer/ok") else {
        return format!("failed: {}", call.pointer("/answer/error").unwrap_or(&Value::Null));
    };
    let short = ["verdict", "action", "share"].iter().find_map(|part| Some((part, ok.get(part)?)));
    short.map_or_else(|| ok.to_string(), |(part, value)| format!("{part} {value}"))
}
