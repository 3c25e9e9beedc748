//! `cutover policy candidate`: a policy runs beside the one in charge, is looked at, promoted or dropped.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::super::{HostAddress, client::Client, control::done, output};
use super::{Failed, activate};
use crate::admin::Order;
use cutover_model::{clock::UnixMs, environment, port::Kind, request::Ppm};
use cutover_policy_host::candidate::{Demote, Promote, Rule};

#[derive(Debug, Args)]
pub(crate) struct Candidate {
    /// The migration.
    migration: String,
    /// The policy that is to run beside the one in charge: a release (`NAME@VERSION`, `NAME`, or a digest), or the folder of
    /// a bundle on the host's machine (`./FOLDER`).
    #[arg(required_unless_present_any = ["status", "promote", "drop"])]
    policy: Option<String>,
    /// Settings as a JSON object, laid over those in force if the policy in charge has the same name, and over the policy's
    /// own otherwise. What changes is shown.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    settings: String,
    /// Lay `--settings` over the policy's own settings, whatever is in force.
    #[arg(long)]
    from_defaults: bool,
    #[command(flatten)]
    rule: RuleArgs,
    /// Shows the candidates of the migration: what they cost, where they disagree, what happens next.
    #[arg(long, conflicts_with = "policy")]
    status: bool,
    /// Puts the candidate of this kind in charge.
    #[arg(long, value_name = "KIND", conflicts_with_all = ["policy", "status"])]
    promote: Option<Kind>,
    /// Sends the candidate of this kind away.
    #[arg(long, value_name = "KIND", conflicts_with_all = ["policy", "status", "promote"])]
    drop: Option<Kind>,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT", required_unless_present = "status")]
    reason: Option<String>,
    #[command(flatten)]
    host: HostAddress,
}

/// When the candidate is promoted or demoted without anybody asking.
#[derive(Debug, Args)]
struct RuleArgs {
    /// Promote it by itself once it has run so long, such as `1h`, and the two conditions below hold.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    promote_after: Option<Duration>,
    /// Questions that it must have been asked before it is promoted or demoted by its share of disagreement or its fuel.
    #[arg(long, value_name = "N", default_value_t = 100)]
    min_asked: u64,
    /// The share of its answers that may differ for it to be promoted, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, requires = "promote_after")]
    promote_disagreed: f64,
    /// Drop it after so many failures.
    #[arg(long, value_name = "N", default_value_t = 3)]
    demote_failed: u64,
    /// Drop it when more of its answers differ, in percent.
    #[arg(long, value_name = "PERCENT")]
    demote_disagreed: Option<f64>,
    /// Drop it when it uses more fuel than so many percent of that of the policy in charge.
    #[arg(long, value_name = "PERCENT")]
    demote_fuel: Option<u64>,
}

pub(super) fn run(args: &Candidate) -> Result<(), Failed> {
    let client = Client::slow(&args.host.admin);
    let json = args.host.format.json;
    let migration = &args.migration;
    let reason = args.reason.clone().unwrap_or_default();
    let order = || Order { reason: reason.clone(), actor: environment::user() };
    let of = |kind: Kind| format!("/api/v1/migrations/{migration}/policies/{kind}/candidate");
    if args.status {
        return status(&client, migration, json);
    }
    let answer = if let Some(kind) = args.promote {
        client.post(&format!("{}/promote", of(kind)), &order())?
    } else if let Some(kind) = args.drop {
        client.delete(&of(kind), &order())?
    } else {
        let policy = args.policy.clone().unwrap_or_default();
        let choice = activate::Choice { policy, settings: args.settings.clone(), from_defaults: args.from_defaults };
        let body = choice.body(&reason, Some(args.rule.rule()?))?;
        client.put(&format!("/api/v1/migrations/{migration}/candidate"), &body)?
    };
    done(&answer, json);
    Ok(())
}

impl RuleArgs {
    fn rule(&self) -> Result<Rule, Failed> {
        let promote = self.promote_after.map(|after| {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            let max_disagreed = percent("--promote-disagreed", self.promote_disagreed)?;
            Ok(Promote { after_ms, asked: self.min_asked, max_disagreed })
        });
        let max_disagreed = self.demote_disagreed.map(|p| percent("--demote-disagreed", p)).transpose()?;
        let demote = Demote {
            failed: self.demote_failed,
            max_disagreed,
            asked: self.min_asked,
            max_fuel_percent: self.demote_fuel,
        };
        Ok(Rule { promote: promote.transpose()?, demote })
    }
}

/// The only place of this verb where a number is not whole: people write `0.5` for half a percent.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 0 and 1 000 000")]
fn percent(option: &str, value: f64) -> Result<Ppm, Failed> {
    if !(0.0..=100.0).contains(&value) {
        return Err(Failed::usage(format!("`{option}` is {value}; it must be between 0 and 100 percent")));
    }
    Ok(Ppm::new((value * 10_000.0).round() as u32))
}

fn status(client: &Client, migration: &str, json: bool) -> Result<(), Failed> {
    let answer = client.get(&format!("/api/v1/migrations/{migration}/policies"))?;
    let slots = answer.get("slots").and_then(Value::as_array).cloned().unwrap_or_default();
    let candidates = slots.iter().filter(|slot| slot.get("candidate").is_some_and(Value::is_object));
    let candidates: Vec<_> = candidates.collect();
    if json {
        output::json(&candidates);
    } else if candidates.is_empty() {
        output::line(&format!("{migration} has no candidates"));
    } else {
        candidates.iter().flat_map(|slot| describe(slot)).for_each(|line| output::line(&line));
    }
    Ok(())
}

fn describe(slot: &Value) -> Vec<String> {
    let text = |path: &str| slot.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |path: &str| slot.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let count = |name: &str| number(&format!("/candidate/evidence/{name}"));
    let share = Ppm::new(u32::try_from(number("/candidate/disagreed_ppm")).unwrap_or(0));
    let asked = count("asked");
    let mean = |name: &str| count(name).checked_div(asked).unwrap_or(0);
    let mut lines = vec![
        format!(
            "{}: {}@{} beside {}@{} since {}",
            text("/kind"),
            text("/candidate/name"),
            text("/candidate/version"),
            text("/active/name"),
            text("/active/version"),
            UnixMs(number("/candidate/since")).rfc3339()
        ),
        format!(
            "  asked {asked}, disagreed {} ({share}), failed {}, left out {}",
            count("disagreed"),
            count("failed"),
            count("left_out")
        ),
        format!(
            "  fuel {} a question beside {}, time {} us beside {} us",
            mean("fuel"),
            mean("active_fuel"),
            mean("took_us"),
            mean("active_took_us")
        ),
        format!("  next: {}: {}", text("/candidate/outlook/next"), text("/candidate/outlook/because")),
    ];
    let last = text("/candidate/evidence/last_failure");
    if !last.is_empty() {
        lines.push(format!("  last failure: it {last}"));
    }
    let disagreements = slot.pointer("/candidate/evidence/disagreements").and_then(Value::as_array);
    for d in disagreements.into_iter().flatten().rev().take(5) {
        let part = |name: &str| d.get(name).map(ToString::to_string).unwrap_or_default();
        let at = UnixMs(d.get("at").and_then(Value::as_u64).unwrap_or(0)).rfc3339();
        let about = d.get("about").and_then(Value::as_str).unwrap_or_default();
        lines.push(format!("  {at} {about}:\n    active    {}\n    candidate {}", part("active"), part("candidate")));
    }
    lines
}
