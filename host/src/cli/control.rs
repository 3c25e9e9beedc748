//! `cutover status` and the verbs that move a migration.

use std::time::Duration;

use serde_json::Value;

use super::{Failed, HostAddress, OrderArgs, client::Client, output};
use crate::admin;
use cutover_model::{clock::UnixMs, environment, request::Ppm};

/// How an order is meant, where there are several ways.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    pub(super) without_v1: bool,
    pub(super) to: Option<Ppm>,
}

pub(super) fn order(order: &OrderArgs, verb: &str, How { without_v1, to }: How) -> Result<(), Failed> {
    let to = to.map(|share| share.to_string());
    let (reason, actor) = (order.reason.clone(), environment::user());
    let body = admin::Movement { reason, actor, without_v1, to, done: false };
    let path = format!("/api/v1/migrations/{}/{verb}", order.migration);
    let answer = Client::new(&order.host.admin).post(&path, &body)?;
    done(&answer, order.host.format.json);
    Ok(())
}

/// Shows what became of an order.
pub(super) fn done(answer: &Value, as_json: bool) {
    match answer.get("message").and_then(Value::as_str) {
        Some(message) if !as_json => {
            output::line(message);
            for changed in answer.pointer("/detail/changed").and_then(Value::as_array).into_iter().flatten() {
                let part = |name: &str| changed.get(name).map(ToString::to_string).unwrap_or_default();
                let setting = changed.get("setting").and_then(Value::as_str).unwrap_or_default();
                let shown = |value: String| if value == "null" { "(not set)".into() } else { value };
                output::line(&format!("  {setting}: {} -> {}", shown(part("from")), shown(part("to"))));
            }
        }
        _ => output::json(answer),
    }
}

pub(super) fn status(host: &HostAddress, migration: Option<&str>) -> Result<(), Failed> {
    let client = Client::new(&host.admin);
    if let Some(name) = migration {
        let one = client.get(&format!("/api/v1/migrations/{name}"))?;
        if host.format.json {
            output::json(&serde_json::json!({ "migrations": [one] }));
        } else {
            for line in describe(&one) {
                output::line(&line);
            }
        }
        return Ok(());
    }
    let status = client.get("/api/v1/status")?;
    let Some(Value::Array(all)) = status.get("migrations") else {
        return Err(Failed::new("the host's answer has no migrations"));
    };
    if host.format.json {
        output::json(&status);
    } else {
        all.iter().flat_map(describe).chain(gone(&status, all)).for_each(|line| output::line(&line));
    }
    Ok(())
}

/// Warnings about migrations that the host's store has and its configuration has not.
fn gone(status: &Value, shown: &[Value]) -> Vec<String> {
    let warnings = status.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_shown = |warning: &Value| shown.iter().any(|one| one.get("migration") == warning.get("migration"));
    let message =
        |warning: &Value| format!("warning: {}", warning.get("message").and_then(Value::as_str).unwrap_or_default());
    warnings.iter().filter(|warning| !is_shown(warning)).map(message).collect()
}

/// One migration as lines of text.
fn describe(migration: &Value) -> Vec<String> {
    let text = |path: &str| migration.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |path: &str| migration.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let share = |path: &str| Ppm::new(u32::try_from(number(path)).unwrap_or(0));
    let (phase, since) = (text("/phase"), UnixMs(number("/since")).rfc3339());
    let mut lines =
        vec![format!("{}: {phase}, {}{} on V2, since {since}", text("/migration"), stage(migration), share("/share"))];
    if share("/share") != share("/effective_share") {
        lines.push(format!("  held back: V2 gets {} at the moment", share("/effective_share")));
    }
    let troubles = [("store", "/store_trouble"), ("store", "/store_new")];
    for (label, path) in troubles {
        let why = text(path);
        if !why.is_empty() {
            lines.push(format!("  {label}: {why}"));
        }
    }
    lines.extend(alarms(migration));
    lines.extend(doubts(migration));
    lines.extend(ahead(migration));
    for pool in ["v1", "v2"] {
        let at = |field: &str| number(&format!("/{pool}/{field}"));
        let brief = migration.pointer("/pools").and_then(Value::as_array);
        let brief = brief.and_then(|all| all.iter().find(|brief| brief.get("pool").is_some_and(|name| name == pool)));
        // Only workers have more to be told of.
        let members = if brief.is_some() { "workers" } else { "upstreams" };
        let (ready, wanted, calls) = (at("members/ready"), at("members/wanted"), at("requests"));
        let failed = Ppm::new(u32::try_from(at("error_ppm")).unwrap_or(0));
        let times = match calls {
            0 => String::new(),
            _ => format!(", {failed} failed, p50 {}, p99 {}", millis(at("p50_us")), millis(at("p99_us"))),
        };
        let seconds = number("/window_seconds");
        lines.push(format!("  {pool}: {ready}/{wanted} {members}, {calls} calls in {seconds} s{times}"));
        lines.extend(brief.map(workers).unwrap_or_default());
    }
    let notes = |path: &str| migration.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    lines.push(format!(
        "  compared: {} same, {} ignored, {} different, {} incomparable",
        number("/comparisons/same"),
        number("/comparisons/ignored"),
        number("/comparisons/different"),
        number("/comparisons/incomparable"),
    ));
    if let Some(verdict) = migration.pointer("/verdict/verdict").and_then(Value::as_str) {
        lines.push(format!("  verdict: {verdict}"));
    }
    for finding in notes("/verdict/findings") {
        let part = |field: &str| finding.get(field).and_then(Value::as_str).unwrap_or_default();
        lines.push(format!("    {}: {}", part("rule"), part("note")));
    }
    for failing in notes("/policy_failures") {
        let part = |field: &str| failing.get(field).and_then(Value::as_str).unwrap_or_default();
        let count = failing.get("count").and_then(Value::as_u64).unwrap_or(0);
        lines.push(format!("  failing {} policy ({count}x): the policy {}", part("kind"), part("message")));
    }
    for policy in notes("/policies") {
        let part = |field: &str| policy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let digest = part("digest");
        let short = digest.get(..12).unwrap_or(&digest);
        lines.push(format!("  {}: {} {} ({short})", part("kind"), part("name"), part("version")));
    }
    lines
}

/// The stage as people count: `stage 2 of 6, `.
fn stage(migration: &Value) -> String {
    let at = |field: &str| migration.pointer(&format!("/outlook/{field}")).and_then(Value::as_u64);
    match (at("stage"), at("stages").unwrap_or(0)) {
        (_, 0) => format!("stage {}, ", migration.get("stage").and_then(Value::as_u64).unwrap_or(0)),
        (Some(0), stages) => format!("before stage 1 of {stages}, "),
        (Some(stage), stages) => format!("stage {stage} of {stages}, "),
        (None, stages) => format!("between the {stages} stages, "),
    }
}

/// What comes next, and everything that holds it.
fn ahead(migration: &Value) -> Vec<String> {
    let Some(ahead) = migration.get("outlook") else { return Vec::new() };
    let phase = migration.get("phase").and_then(Value::as_str).unwrap_or_default();
    let mut lines = Vec::new();
    let span = |ms: u64| humantime::format_duration(Duration::from_secs(ms.div_ceil(1_000))).to_string();
    let ends = ["complete", "decommissioned", "rolled-back", "preparing"];
    if !ends.contains(&phase) {
        let next = ahead.get("next").and_then(Value::as_u64).map(|ppm| Ppm::new(u32::try_from(ppm).unwrap_or(0)));
        let next = next.map_or_else(|| "the end".into(), |share| format!("{share} on V2"));
        let when = ahead.get("expected_ms").and_then(Value::as_u64);
        let when = when.map_or_else(String::new, |ms| format!(", in about {} at this traffic", span(ms)));
        lines.push(format!("  next: {next}{when}"));
    }
    for hold in ahead.get("holds").and_then(Value::as_array).into_iter().flatten() {
        let part = |field: &str| hold.get(field).and_then(Value::as_str).unwrap_or_default();
        let when = hold.get("expected_ms").and_then(Value::as_u64).map(|ms| format!(" (about {} more)", span(ms)));
        lines.push(format!("    held by {}: {}{}", part("what"), part("why"), when.unwrap_or_default()));
        if !part("moves").is_empty() {
            lines.push(format!("      moved by: {}", part("moves")));
        }
    }
    lines.extend(migration.get("rails").map(rails));
    lines
}

/// What no policy passes, in one line.
fn rails(rails: &Value) -> String {
    let share = |field: &str| {
        Ppm::new(rails.get(field).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
    };
    let is_on = |field: &str| rails.get(field).and_then(Value::as_bool) == Some(true);
    let mut parts = vec![
        format!("{} at first", share("first_share")),
        format!("{} a step", share("largest_step")),
        format!("{} pairs compared", rails.get("min_compared").and_then(Value::as_u64).unwrap_or(0)),
    ];
    if is_on("healthy") {
        parts.push("only while healthy".into());
    }
    if share("approval_over") < Ppm::ALL {
        parts.push(format!("by a person over {}", share("approval_over")));
    }
    if is_on("freeze") {
        parts.push("frozen".into());
    }
    format!("  rails for policies: {}", parts.join(", "))
}

/// Microseconds as people read them.
fn millis(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        10_000..100_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{} ms", us / 1_000),
    }
}

/// What the host's start has changed.
fn doubts(migration: &Value) -> Vec<String> {
    let warnings = migration.pointer("/warnings").and_then(Value::as_array).into_iter().flatten();
    let warnings = warnings.map(|warning| format!("  warning: {}", warning.as_str().unwrap_or_default()));
    warnings.collect()
}

/// What is lost, what will happen when, and a clock that policies are told and people are not.
fn alarms(migration: &Value) -> Vec<String> {
    let span = |ms: Option<i64>| {
        let seconds = Duration::from_secs(ms.unwrap_or(0).unsigned_abs() / 1_000);
        humantime::format_duration(seconds).to_string()
    };
    let mut lines = Vec::new();
    for lost in migration.pointer("/failsafe").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| lost.get(field).and_then(Value::as_str).unwrap_or_default();
        let ms = |field: &str| lost.get(field).and_then(Value::as_i64);
        let then = match (lost.get("held_back").and_then(Value::as_str), ms("acts_in_ms")) {
            (Some(why_not), _) => why_not.to_owned(),
            (None, Some(0)) => format!("{} is due", text("action")),
            (None, Some(left)) => format!("{} in {}", text("action"), span(Some(left))),
            (None, None) => "nothing is done, as configured".into(),
        };
        lines.push(format!("  LOST: {} for {}: {}; {then}", text("lost"), span(ms("for_ms")), text("why")));
    }
    let ahead = migration.pointer("/clock/ahead_ms").and_then(Value::as_i64);
    if ahead.is_some_and(|ms| ms.abs() >= 1_000) {
        let side = if ahead.is_some_and(|ms| ms > 0) { "ahead of" } else { "behind" };
        lines.push(format!("  clock: policies are told a time that is {} {side} the wall clock", span(ahead)));
    }
    if let Some(by_ms) = migration.pointer("/clock/last_step/by_ms").and_then(Value::as_i64) {
        let at = migration.pointer("/clock/last_step/at").and_then(Value::as_u64).unwrap_or(0);
        lines.push(format!("  clock: the wall clock stepped by {by_ms} ms at {}", UnixMs(at).rfc3339()));
    }
    if let Some(gap_ms) = migration.pointer("/clock/last_gap/by_ms").and_then(Value::as_i64) {
        let at = migration.pointer("/clock/last_gap/at").and_then(Value::as_u64).unwrap_or(0);
        lines.push(format!("  clock: the host did not run for {} until {}", span(Some(gap_ms)), UnixMs(at).rfc3339()));
    }
    lines
}

/// A pool's workers as lines of text.
fn workers(brief: &Value) -> Vec<String> {
    let number = |path: &str| brief.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let percent = |path: &str| brief.pointer(path).and_then(Value::as_f64).map(|ppm| ppm / 1e4);
    let states = brief.get("states").and_then(Value::as_object);
    let states = states.into_iter().flatten().map(|(state, count)| format!("{count} {state}"));
    let mut parts = vec![states.collect::<Vec<_>>().join(" ")];
    if let Some(used) = percent("/load/utilisation_ppm") {
        parts.push(format!("{used:.0}% used"));
    }
    parts.push(format!("{} waiting, p99 {}", number("/load/waiting"), millis(number("/load/wait_p99_us"))));
    parts.push(format!("{} MiB", number("/rss_bytes") >> 20));
    if let (Some(growth), Some(error)) =
        (percent("/memory_growth_ppm_per_hour"), percent("/memory_growth_error_ppm_per_hour"))
    {
        parts.push(format!("growing {growth:+.1}% an hour (+-{error:.1})"));
    }
    parts.push(format!("{:.0}% of a processor", percent("/cpu_ppm").unwrap_or(0.0)));
    let mut lines = vec![format!("      {}", parts.join(", "))];
    let refused = brief.get("refused").and_then(Value::as_array).cloned().unwrap_or_default();
    if !refused.is_empty() {
        let names: Vec<_> = refused.iter().filter_map(Value::as_str).collect();
        lines.push(format!("      refused because they failed too often: {}", names.join(", ")));
    }
    if brief.get("restarts_spent").and_then(Value::as_bool) == Some(true) {
        let each = number("/restart_each_seconds");
        lines.push(format!("      its restarts are spent: dead workers are replaced once each {each} s"));
    }
    let kills = number("/deadline_kills");
    if kills > 0 {
        lines.push(format!("      {kills} workers were killed because a call missed its deadline"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_reads_as_a_few_lines() {
        let status = json!({
            "migration": "programs", "phase": "ramping", "stage": 1, "share": 100_000, "effective_share": 50_000,
            "since": 0, "because": null, "window_seconds": 60,
            "outlook": { "stage": 2, "stages": 6, "next": 250_000, "expected_ms": null, "holds": [
                { "what": "auto_rollback", "why": "nobody goes back by itself", "expected_ms": null,
                  "moves": "`cutover flags set programs auto_rollback true --reason TEXT`" },
                { "what": "soak", "why": "lasted 18m of 1h", "expected_ms": 2_520_000, "moves": "time" },
            ] },
            "failsafe": [{ "lost": "judge", "why": "the rollback policy trapped", "for_ms": 35_000, "action": "rollback",
                           "acts_in_ms": 85_000, "held_back": null }],
            "clock": { "ahead_ms": 3_600_000, "last_step": { "at": 0, "by_ms": -3_600_000 },
                       "last_gap": { "at": 60_000, "by_ms": 35_000 } },
            "store_new": "it is a new one",
            "v1": { "requests": 900, "error_ppm": 0, "p50_us": 2000, "p99_us": 9000, "members": { "ready": 1, "wanted": 1 } },
            "v2": { "requests": 100, "error_ppm": 20_000, "p50_us": 1900, "p99_us": 4000, "members": { "ready": 4, "wanted": 4 } },
            "comparisons": { "same": 10, "ignored": 2, "different": 0, "incomparable": 0 },
            "verdict": { "verdict": "warn", "findings": [{ "rule": "v2-p99", "note": "slow" }] },
            "pools": [
                { "pool": "v2", "states": { "ready": 3, "busy": 1 }, "rss_bytes": 52_428_800, "cpu_ppm": 310_000,
                  "load": { "utilisation_ppm": 250_000, "waiting": 2, "wait_p99_us": 12_000 },
                  "memory_growth_ppm_per_hour": 4_000, "memory_growth_error_ppm_per_hour": 1_000,
                  "restarts_spent": true, "restart_each_seconds": 30, "deadline_kills": 2, "refused": ["execute"] },
            ],
            "policies": [{ "kind": "rollback", "name": "thresholds", "version": "0.1.0", "digest": "0123456789abcdef" }],
        });
        insta::assert_snapshot!(describe(&status).join("\n"), @r"
        programs: ramping, stage 2 of 6, 10% on V2, since 1970-01-01T00:00:00.000Z
          held back: V2 gets 5% at the moment
          store: it is a new one
          LOST: judge for 35s: the rollback policy trapped; rollback in 1m 25s
          clock: policies are told a time that is 1h ahead of the wall clock
          clock: the wall clock stepped by -3600000 ms at 1970-01-01T00:00:00.000Z
          clock: the host did not run for 35s until 1970-01-01T00:01:00.000Z
          next: 25% on V2
            held by auto_rollback: nobody goes back by itself
              moved by: `cutover flags set programs auto_rollback true --reason TEXT`
            held by soak: lasted 18m of 1h (about 42m more)
              moved by: time
          v1: 1/1 upstreams, 900 calls in 60 s, 0% failed, p50 2.00 ms, p99 9.00 ms
          v2: 4/4 workers, 100 calls in 60 s, 2% failed, p50 1.90 ms, p99 4.00 ms
              1 busy 3 ready, 25% used, 2 waiting, p99 12.0 ms, 50 MiB, growing +0.4% an hour (+-0.1), 31% of a processor
              refused because they failed too often: execute
              its restarts are spent: dead workers are replaced once each 30 s
              2 workers were killed because a call missed its deadline
          compared: 10 same, 2 ignored, 0 different, 0 incomparable
          verdict: warn
            v2-p99: slow
          rollback: thresholds 0.1.0 (0123456789ab)
        ");
    }
}
