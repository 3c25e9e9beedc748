//! `cutover redeploy`: replaces V2 in the middle of a ramp.
//!
//! V1 gets V2's callers, V2's calls in flight end, V2 is replaced, and when it is ready it comes back at the same stage,
//! which begins anew. Workers are started anew by the host. Upstreams are replaced by a command that is given, or by
//! somebody who says so with `--done`.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::{Failed, OrderArgs, client::Client, control::done, output};
use crate::admin;
use cutover_model::{clock, environment};

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Redeploy {
    #[command(flatten)]
    order: OrderArgs,
    /// V2's upstreams were replaced: let it come back.
    #[arg(long, conflicts_with_all = ["command", "timeout"])]
    done: bool,
    /// How long to wait until V2 is back.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "5m")]
    timeout: Duration,
    /// What replaces V2's upstreams, run here while V1 has everybody. Without it, say so with `--done`.
    #[arg(last = true)]
    command: Vec<String>,
}

pub(super) fn run(args: &Redeploy) -> Result<(), Failed> {
    let (order, as_json) = (&args.order, args.order.host.format.json);
    let client = Client::new(&order.host.admin);
    let path = format!("/api/v1/migrations/{}", order.migration);
    let tell = |is_done| {
        let (reason, actor) = (order.reason.clone(), environment::user());
        let body = admin::Movement { reason, actor, without_v1: false, to: None, done: is_done };
        client.post(&format!("{path}/redeploy"), &body)
    };
    if args.done {
        done(&tell(true)?, as_json);
        return Ok(());
    }
    let begun = tell(false)?;
    let status = client.get(&path)?;
    let is_own = status.get("pools").and_then(Value::as_array).is_some_and(|pools| !pools.is_empty());
    if !is_own && args.command.is_empty() {
        done(&begun, as_json);
        return Ok(());
    }
    if !as_json {
        done(&begun, false);
    }
    let deadline = clock::mono() + args.timeout;
    let late = |what: &str| {
        let after = humantime::format_duration(args.timeout);
        Failed::coded(
            "timeout",
            format!("{what} after {after}; V1 has everybody, and `cutover status` says what V2 waits for"),
        )
    };
    if !is_own {
        replace(&args.command)?;
        // Calls may still be in flight.
        loop {
            match tell(true) {
                Ok(_) => break,
                // Somebody else has said so, or has gone back.
                Err(_) if client.get(&path)?.get("redeploys").and_then(Value::as_bool) != Some(true) => break,
                Err(refused) if refused.kind != "wrong-phase" || clock::mono() >= deadline => return Err(refused),
                Err(_) => thread::sleep(LOOK),
            }
        }
    }
    loop {
        let status = client.get(&path)?;
        let phase = status.get("phase").and_then(Value::as_str).unwrap_or_default();
        if phase == "rolled-back" {
            return Err(Failed::coded("never", format!("{} was rolled back meanwhile", order.migration)));
        }
        if status.get("redeploys").and_then(Value::as_bool) != Some(true) {
            let share =
                status.get("share").and_then(Value::as_u64).and_then(|ppm| u32::try_from(ppm).ok()).unwrap_or(0);
            let message = format!(
                "V2 is back: {} is {phase}, with {} on V2",
                order.migration,
                cutover_model::request::Ppm::new(share)
            );
            if as_json {
                output::json(&serde_json::json!({ "message": message, "detail": null, "state": status }));
            } else {
                output::line(&message);
            }
            return Ok(());
        }
        if clock::mono() >= deadline {
            return Err(late("V2 is not back"));
        }
        thread::sleep(LOOK);
    }
}

/// What replaces V2; its output is its own.
fn replace(command: &[String]) -> Result<(), Failed> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).status();
    let again = "V1 has everybody; replace V2 and say so with `--done`, or roll back";
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failed::coded("command", format!("`{program}` ended with {status}; {again}"))),
        Err(error) => Err(Failed::coded("command", format!("`{program}` cannot be run: {error}; {again}"))),
    }
}
