//! `cutover policy list`: which policies a host knows, and who vouches for them.

use clap::Args;
use serde_json::Value;

use super::{
    super::{HostAddress, client::Client, output},
    Failed,
};
use cutover_model::clock::UnixMs;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this one, with all its versions.
    name: Option<String>,
    #[command(flatten)]
    host: HostAddress,
}

/// What the columns are called.
const HEADER: [&str; 8] = ["NAME", "VERSION", "KIND", "DIGEST", "SIGNED", "AUTHOR", "PUSHED", "REASON"];

pub(super) fn run(args: &List) -> Result<(), Failed> {
    let client = Client::new(&args.host.admin);
    let answer = match &args.name {
        Some(name) => client.get(&format!("/api/v1/policies/{name}"))?,
        None => client.get("/api/v1/policies")?,
    };
    if args.host.format.json {
        output::json(&answer);
        return Ok(());
    }
    let policies = answer.get("policies").and_then(Value::as_array).cloned().unwrap_or_default();
    if policies.is_empty() {
        output::line("the host knows no policies yet; push one with `cutover policy push`");
    } else {
        for line in table(&policies) {
            output::line(&line);
        }
    }
    Ok(())
}

/// One line for each policy under a header, columns as wide as they must be.
fn table(policies: &[Value]) -> Vec<String> {
    let rows: Vec<_> = std::iter::once(HEADER.map(ToOwned::to_owned)).chain(policies.iter().map(row)).collect();
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEADER.len()).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn row(policy: &Value) -> [String; 8] {
    let text = |field: &str| policy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |field: &str| policy.get(field).and_then(Value::as_u64).unwrap_or(0);
    let accepted = policy.get("accepted").and_then(Value::as_bool).unwrap_or(true);
    let digest = text("component_sha256");
    [
        text("name"),
        text("version"),
        text("kind"),
        digest.get(..12).unwrap_or(&digest).to_owned(),
        format!("{}{}", number("signatures"), if accepted { "" } else { ", not accepted" }),
        text("author"),
        UnixMs(number("at")).rfc3339().get(..16).unwrap_or_default().replace('T', " "),
        text("reason"),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_read_as_a_table() {
        let policy = |name: &str, version: &str, accepted: bool| {
            json!({
                "name": name, "version": version, "kind": "rollback", "component_sha256": "0123456789abcdef",
                "signatures": 2, "accepted": accepted, "author": "alice", "at": 0, "reason": "fewer false alarms",
            })
        };
        let lines = table(&[policy("thresholds", "0.1.0", true), policy("sequential", "10.0.0", false)]);
        insta::assert_snapshot!(lines.join("\n"), @r"
        NAME        VERSION  KIND      DIGEST        SIGNED           AUTHOR  PUSHED            REASON
        thresholds  0.1.0    rollback  0123456789ab  2                alice   1970-01-01 00:00  fewer false alarms
        sequential  10.0.0   rollback  0123456789ab  2, not accepted  alice   1970-01-01 00:00  fewer false alarms
        ");
    }
}
