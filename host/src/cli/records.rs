//! `cutover decisions`, `audit`, `comparisons`, `compare`: what a host has on record, and what becomes of differences.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Failed, HostAddress, client::Client, control::done, output};
use crate::admin::Acceptance;
use cutover_model::{clock::UnixMs, environment, request::Ppm};

#[derive(Debug, Args)]
pub(super) struct Records {
    /// The migration.
    migration: String,
    /// How many, newest first.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    host: HostAddress,
}

#[derive(Debug, Args)]
pub(super) struct Compared {
    /// The migration.
    migration: String,
    #[command(flatten)]
    host: HostAddress,
}

#[derive(Debug, Subcommand)]
pub(super) enum Compare {
    /// Accepts what differed of an operation so far: it holds the ramp no longer. What differs from now on does.
    Accept {
        /// The migration.
        migration: String,
        /// The operation.
        operation: String,
        /// Why; it goes on record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        host: HostAddress,
    },
}

pub(super) fn decisions(args: &Records) -> Result<(), Failed> {
    show(args, "decisions", |decision| {
        let text = |field: &str| decision.get(field).and_then(Value::as_str).unwrap_or_default();
        let share = |field: &str| share(decision.get(field));
        let by = decision.get("policy").and_then(Value::as_str).unwrap_or_else(|| text("actor"));
        format!(
            "{} {:5} {:12} {} -> {}, {} -> {} on V2, by {by}: {}",
            at(decision),
            decision.get("id").and_then(Value::as_i64).unwrap_or(0),
            text("kind"),
            text("from_phase"),
            text("to_phase"),
            share("from_share"),
            share("to_share"),
            text("reason"),
        )
    })
}

pub(super) fn audit(args: &Records) -> Result<(), Failed> {
    show(args, "audit", |entry| {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        let detail = entry.get("detail").map(ToString::to_string).unwrap_or_default();
        format!("{} {} by {}: {detail}", at(entry), text("action"), text("actor"))
    })
}

pub(super) fn comparisons(args: &Compared) -> Result<(), Failed> {
    let answer = Client::new(&args.host.admin).get(&format!("/api/v1/migrations/{}/comparisons", args.migration))?;
    if args.host.format.json {
        output::json(&answer);
        return Ok(());
    }
    for line in describe(&answer) {
        output::line(&line);
    }
    Ok(())
}

pub(super) fn compare(verb: &Compare) -> Result<(), Failed> {
    let Compare::Accept { migration, operation, reason, host } = verb;
    let body = Acceptance { operation: operation.clone(), reason: reason.clone(), actor: environment::user() };
    let path = format!("/api/v1/migrations/{migration}/comparisons/accept");
    done(&Client::new(&host.admin).post(&path, &body)?, host.format.json);
    Ok(())
}

fn show(args: &Records, what: &str, line: impl Fn(&Value) -> String) -> Result<(), Failed> {
    let path = format!("/api/v1/migrations/{}/{what}?limit={}", args.migration, args.limit);
    let answer = Client::new(&args.host.admin).get(&path)?;
    if args.host.format.json {
        output::json(&answer);
        return Ok(());
    }
    let all = answer.get(what).and_then(Value::as_array).cloned().unwrap_or_default();
    if all.is_empty() {
        output::line(&format!("{} has none yet", args.migration));
    }
    for one in &all {
        output::line(&line(one));
    }
    Ok(())
}

fn at(record: &Value) -> String {
    UnixMs(record.get("at").and_then(Value::as_u64).unwrap_or(0)).rfc3339()
}

fn share(ppm: Option<&Value>) -> Ppm {
    Ppm::new(ppm.and_then(Value::as_u64).and_then(|ppm| u32::try_from(ppm).ok()).unwrap_or(0))
}

fn describe(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let pairs = answer.pointer("/report/pairs").and_then(Value::as_object);
    for (operation, fates) in pairs.into_iter().flatten() {
        let counted = fates.as_object().into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
        let counted = counted.map(|(fate, count)| format!("{count} {}", fate.replace('_', "-")));
        lines.push(format!("{operation}: {}", counted.collect::<Vec<_>>().join(", ")));
    }
    if lines.is_empty() {
        lines.push("no pair was mirrored yet".into());
    }
    for line in answer.pointer("/report/lines").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| line.get(field).and_then(Value::as_str).unwrap_or_default();
        let count = |field: &str| line.get(field).and_then(Value::as_u64).unwrap_or(0);
        let mut marks = Vec::new();
        if line.get("ignored").and_then(Value::as_bool) == Some(true) {
            marks.push("ignored by the rules".to_owned());
        }
        if count("accepted") > 0 {
            marks.push(format!("{} accepted", count("accepted")));
        }
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        let place = if text("path").is_empty() { String::new() } else { format!(" at {}", text("path")) };
        lines.push(format!("  {}x {}{place}: {}{marks}", count("count"), text("operation"), text("kind")));
        for (pool, value) in [("V1", text("v1")), ("V2", text("v2"))].into_iter().filter(|(_, value)| !value.is_empty())
        {
            lines.push(format!("      {pool}: {value}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn comparisons_read_as_pairs_by_operation_and_places_with_examples() {
        let answer = json!({ "report": {
            "pairs": { "get": { "asked": 12, "compared": 11, "different": 3, "left_out": 1, "unasked": 0 } },
            "lines": [
                { "operation": "get", "path": "/items/*/price", "kind": "value", "ignored": false, "accepted": 2, "count": 3,
                  "v1": "1", "v2": "2" },
                { "operation": "get", "path": "", "kind": "left-out", "ignored": false, "accepted": 0, "count": 1,
                  "v1": "the host was busy", "v2": "" },
            ],
        }});
        insta::assert_snapshot!(describe(&answer).join("\n"), @r"
        get: 12 asked, 11 compared, 3 different, 1 left-out
          3x get at /items/*/price: value (2 accepted)
              V1: 1
              V2: 2
          1x get: left-out
              V1: the host was busy
        ");
    }
}
