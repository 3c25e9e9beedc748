//! `cutover policy replay`: asks recorded questions again, in this process, and compares.

use std::{collections::HashMap, sync::Arc};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{
    super::{HostAddress, client::Client, output},
    Failed, log,
};
use cutover_model::causes::chain;
use cutover_policy_host::{
    engine::{Engine, Limits},
    record::Call,
    replay::{self, Replayed},
};
use cutover_store::records::Decision;

/// Calls that are read from the host at once.
const PAGE: usize = 200;

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The number of a decision.
    #[arg(required_unless_present_any = ["call", "all"])]
    decision: Option<i64>,
    /// A call of the log instead, by its number.
    #[arg(long, value_name = "CALL", conflicts_with = "decision")]
    call: Option<i64>,
    /// Every call in the log of this migration instead.
    #[arg(long, value_name = "MIGRATION", conflicts_with_all = ["decision", "call"])]
    all: Option<String>,
    #[command(flatten)]
    host: HostAddress,
}

/// What became of one call.
#[derive(Debug, Serialize)]
struct Shown {
    /// `decision 3` or `call 17`.
    what: String,
    policy: String,
    digest: String,
    fuel: u64,
    #[serde(flatten)]
    replayed: Replayed,
}

/// Components that were fetched, and the engine that runs them.
struct Replayer<'a> {
    client: &'a Client,
    engine: Arc<Engine>,
    components: HashMap<String, Vec<u8>>,
}

pub(super) fn run(args: &Replay) -> Result<(), Failed> {
    let client = Client::slow(&args.host.admin);
    let engine = Engine::new(Limits::default()).map_err(|e| Failed::new(chain(&e)))?;
    let mut replayer = Replayer { client: &client, engine, components: HashMap::new() };
    let mut shown = Vec::new();
    if let Some(migration) = &args.all {
        let (mut before, mut left_out) = (None, 0);
        loop {
            let page = log::read(&client, migration, None, before, PAGE)?;
            for call in page.calls {
                let id = call.get("id").and_then(Value::as_i64).unwrap_or(0);
                shown.push(replayer.replay(format!("call {id}"), &parse(call)?)?);
            }
            left_out += page.left_out;
            output::note(&format!("replayed {} calls", shown.len()));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        if left_out > 0 {
            output::note(&log::gone(left_out));
        }
    } else if let Some(id) = args.call {
        let call = client.get(&format!("/api/v1/policy-calls/{id}"))?;
        shown.push(replayer.replay(format!("call {id}"), &parse(call)?)?);
    } else if let Some(id) = args.decision {
        let decision = client.get(&format!("/api/v1/decisions/{id}"))?;
        let decision: Decision = serde_json::from_value(decision)
            .map_err(|e| Failed::new(format!("the host's answer is not a decision: {e}")))?;
        let operator = || Failed::new(format!("decision {id} was made by {}, not by a policy", decision.actor));
        let call = decision.inputs.clone().ok_or_else(operator)?;
        shown.push(replayer.replay(format!("decision {id}"), &call)?);
    }
    show(&shown, args.host.format.json)
}

fn parse(call: Value) -> Result<Call, Failed> {
    serde_json::from_value(call).map_err(|e| Failed::new(format!("the host's answer is not a call: {e}")))
}

fn show(shown: &[Shown], json: bool) -> Result<(), Failed> {
    let differ: Vec<_> = shown.iter().filter(|s| !s.replayed.same).collect();
    if json {
        output::json(&shown);
    } else if let ([one], []) = (shown, differ.as_slice()) {
        output::line(&format!(
            "{} by {}: the same, byte for byte: answer, memory, and {} units of fuel",
            one.what, one.policy, one.fuel
        ));
    } else {
        output::line(&format!(
            "{} replayed, {} the same, {} not",
            shown.len(),
            shown.len() - differ.len(),
            differ.len()
        ));
        for one in &differ {
            output::line(&format!("{} by {} ({})", one.what, one.policy, one.digest));
            for d in &one.replayed.differences {
                for line in [
                    format!("  {}:", d.what),
                    format!("    recorded {}", d.recorded),
                    format!("    replayed {}", d.replayed),
                ] {
                    output::line(&line);
                }
            }
        }
    }
    if differ.is_empty() { Ok(()) } else { Err(Failed::new(format!("{} of {} differ", differ.len(), shown.len()))) }
}

impl Replayer<'_> {
    fn replay(&mut self, what: String, call: &Call) -> Result<Shown, Failed> {
        let component = match self.components.remove(&call.digest) {
            Some(component) => component,
            None => self.client.bytes(&format!("/api/v1/components/{}", call.digest))?,
        };
        let replayed = replay::replay(&self.engine, &component, call);
        self.components.insert(call.digest.clone(), component);
        let replayed = replayed.map_err(|e| Failed::new(format!("{what}: the policy {} {e}", call.policy)))?;
        Ok(Shown { what, policy: call.policy.clone(), digest: call.digest.clone(), fuel: call.fuel, replayed })
    }
}
