//! `cutover policy log`.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{HostAddress, client::Client, output},
    Failed,
};
use cutover_model::{clock::UnixMs, port::Kind};

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The migration.
    migration: String,
    /// Only policies of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// At most so many, the newest first.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only calls before this number, to page on.
    #[arg(long, value_name = "CALL")]
    before: Option<i64>,
    #[command(flatten)]
    host: HostAddress,
}

/// Calls that the host looks at for one page.
const PAGE: usize = 200;

/// Some calls, newest first.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) calls: Vec<Value>,
    /// Where the next page begins; none at the end.
    pub(super) next: Option<i64>,
    /// Calls of this page that the host cannot show any more.
    pub(super) left_out: u64,
}

pub(super) fn run(args: &Log) -> Result<(), Failed> {
    let client = Client::slow(&args.host.admin);
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut calls, mut left_out, mut next) = (Vec::new(), 0, args.before);
    loop {
        let wanted = limit.saturating_sub(calls.len()).min(PAGE);
        let page = read(&client, &args.migration, args.kind, next, wanted)?;
        calls.extend(page.calls);
        left_out += page.left_out;
        next = page.next;
        if next.is_none() || calls.len() >= limit {
            break;
        }
    }
    if left_out > 0 {
        output::note(&gone(left_out));
    }
    if let Some(next) = next {
        output::note(&format!("there are more: --before {next}"));
    }
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

/// A page of calls, the newest first.
pub(super) fn read(
    client: &Client,
    migration: &str,
    kind: Option<Kind>,
    before: Option<i64>,
    limit: usize,
) -> Result<Page, Failed> {
    let mut path = format!("/api/v1/migrations/{migration}/policy-log?limit={limit}");
    if let Some(kind) = kind {
        path = format!("{path}&kind={kind}");
    }
    if let Some(before) = before {
        path = format!("{path}&before={before}");
    }
    serde_json::from_value(client.get(&path)?)
        .map_err(|e| Failed::new(format!("the host's answer is not a page of calls: {e}; is it of the same version?")))
}

/// Says that calls are left out, and why.
pub(super) fn gone(left_out: u64) -> String {
    format!(
        "{left_out} calls are left out: what they were asked is not kept any more (`host.keep_history` is shorter than \
         `host.keep_policy_log`)"
    )
}

/// What was said, in a few words.
fn said(call: &Value) -> String {
    let Some(ok) = call.pointer("/answer/ok") else {
        return format!("failed: {}", call.pointer("/answer/error").unwrap_or(&Value::Null));
    };
    let short = ["verdict", "action", "share"].iter().find_map(|part| Some((part, ok.get(part)?)));
    short.map_or_else(|| ok.to_string(), |(part, value)| format!("{part} {value}"))
}
