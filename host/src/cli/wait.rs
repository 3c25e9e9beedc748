//! `cutover wait`: until a host serves, or a migration is where somebody wants it.

use std::{str::FromStr, thread, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{Failed, HostAddress, client::Client, output};
use cutover_model::{clock, port::Phase, request::Ppm};

/// How often it is looked: a person notices no shorter one.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The migration; without it, until the host serves.
    migration: Option<String>,
    /// A phase (`shadow`, `ramping`, `complete`, `paused`, `rolled-back`), or a share of V2 such as `25%`. Without it, until
    /// the migration is past `preparing`. What comes after a phase is past it: whoever waits for `shadow` is done when it
    /// ramps.
    #[arg(long = "for", value_name = "PHASE", requires = "migration")]
    until: Option<Until>,
    /// How long to wait at most.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "60s")]
    timeout: Duration,
    #[command(flatten)]
    host: HostAddress,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Phase(Phase),
    Share(Ppm),
}

/// What is to be seen of a migration now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    phase: Phase,
    paused_in: Option<Phase>,
    share: Ppm,
    because: String,
}

/// What that means.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    Done,
    NotYet,
    /// It will not come by itself.
    Never(String),
}

pub(super) fn run(wait: &Wait) -> Result<(), Failed> {
    let client = Client::new(&wait.host.admin);
    let deadline = clock::mono() + wait.timeout;
    loop {
        let looked = match &wait.migration {
            None => ready(&client),
            Some(name) => look(&client, name, wait.until.unwrap_or(Until::Phase(Phase::Shadow))),
        };
        let why = match looked {
            Ok((Waited::Done, shown)) => {
                let text = shown.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
                if wait.host.format.json {
                    output::json(&shown);
                } else {
                    output::line(&text);
                }
                return Ok(());
            }
            Ok((Waited::Never(why), _)) => return Err(Failed::coded("never", why)),
            Ok((Waited::NotYet, shown)) => shown.get("waiting_for").map_or_else(String::new, sentence),
            // A host that begins is not there yet.
            Err(failed) if failed.is_unreachable() => failed.message,
            Err(failed) => return Err(failed),
        };
        if clock::mono() >= deadline {
            let (what, after) =
                (wait.migration.as_deref().unwrap_or("the host"), humantime::format_duration(wait.timeout));
            return Err(Failed::coded("timeout", format!("{what} is not there after {after}: {why}")));
        }
        thread::sleep(LOOK);
    }
}

/// Whether the host serves.
fn ready(client: &Client) -> Result<(Waited, Value), Failed> {
    let mut answer = client.ready()?;
    let is_ready = answer.get("ready").and_then(Value::as_bool) == Some(true);
    if let Some(shown) = answer.as_object_mut() {
        shown.insert("message".into(), "the host serves".into());
    }
    Ok((if is_ready { Waited::Done } else { Waited::NotYet }, answer))
}

fn look(client: &Client, name: &str, until: Until) -> Result<(Waited, Value), Failed> {
    let status = client.get(&format!("/api/v1/migrations/{name}"))?;
    let seen = Seen::of(&status).ok_or_else(|| Failed::new("the host's answer has no phase"))?;
    let message = format!("{name} is {}, with {} on V2", seen.phase, seen.share);
    let waiting: Vec<_> = ["/not_starting", "/waiting_for"]
        .into_iter()
        .filter_map(|path| status.pointer(path).and_then(Value::as_array))
        .flatten()
        .filter_map(|why| why.as_str().or_else(|| why.get("note")?.as_str()))
        .map(ToOwned::to_owned)
        .collect();
    let mut waiting_for = vec![message.clone()];
    waiting_for.extend(waiting);
    let shown = json!({
        "migration": name, "phase": seen.phase, "share": seen.share, "message": message, "waiting_for": waiting_for,
    });
    Ok((until.of(name, &seen), shown))
}

fn sentence(notes: &Value) -> String {
    let notes = notes.as_array().into_iter().flatten().filter_map(Value::as_str);
    notes.collect::<Vec<_>>().join("; ")
}

impl Seen {
    fn of(status: &Value) -> Option<Self> {
        let phase = |field: &str| serde_json::from_value(status.get(field)?.clone()).ok();
        Some(Self {
            phase: phase("phase")?,
            paused_in: phase("paused_in"),
            share: serde_json::from_value(status.get("share")?.clone()).ok()?,
            because: status.get("because").and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
    }
}

impl Until {
    fn of(self, name: &str, seen: &Seen) -> Waited {
        let is_there = match self {
            Self::Share(share) => seen.share >= share,
            Self::Phase(wanted @ (Phase::Paused | Phase::RolledBack)) => seen.phase == wanted,
            Self::Phase(wanted) => at(seen.paused_in.unwrap_or(seen.phase)) >= at(wanted),
        };
        if is_there {
            return Waited::Done;
        }
        match seen.phase {
            Phase::RolledBack => Waited::Never(format!(
                "{name} was rolled back: {}; `cutover resume {name} --reason TEXT` begins again",
                seen.because
            )),
            Phase::Paused if self != Self::Phase(Phase::RolledBack) => Waited::Never(format!(
                "{name} is paused: {}; `cutover resume {name} --reason TEXT` goes on",
                seen.because
            )),
            Phase::Decommissioned => Waited::Never(format!("{name} is decommissioned, which is the end")),
            Phase::Preparing | Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Paused => Waited::NotYet,
        }
    }
}

/// The order of phases; those aside come before all.
const fn at(phase: Phase) -> u32 {
    match phase {
        Phase::Paused | Phase::RolledBack => 0,
        Phase::Preparing => 1,
        Phase::Shadow => 2,
        Phase::Ramping => 3,
        Phase::Complete => 4,
        Phase::Decommissioned => 5,
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(share) = Ppm::parse(text) {
            return Ok(Self::Share(share));
        }
        let wrong = || {
            "it must be `preparing`, `shadow`, `ramping`, `complete`, `paused`, `rolled-back`, or a share of V2 such as `25%`"
                .to_owned()
        };
        serde_json::from_value(text.into()).map(Self::Phase).map_err(|_unknown| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(phase: Phase, share: u32) -> Seen {
        Seen { phase, paused_in: None, share: Ppm::new(share), because: "because".into() }
    }

    #[test]
    fn what_is_past_a_phase_is_there_and_what_will_not_come_ends_the_wait() {
        let shadow: Until = "shadow".parse().unwrap();
        assert_eq!(shadow.of("m", &seen(Phase::Preparing, 0)), Waited::NotYet);
        assert_eq!(shadow.of("m", &seen(Phase::Shadow, 0)), Waited::Done);
        assert_eq!(shadow.of("m", &seen(Phase::Ramping, 50_000)), Waited::Done);
        assert!(matches!(shadow.of("m", &seen(Phase::RolledBack, 0)), Waited::Never(why) if why.contains("resume m")));
        let paused = Seen { paused_in: Some(Phase::Ramping), ..seen(Phase::Paused, 50_000) };
        assert_eq!(shadow.of("m", &paused), Waited::Done);
        let complete: Until = "complete".parse().unwrap();
        assert!(matches!(complete.of("m", &paused), Waited::Never(why) if why.contains("is paused: because")));
        let back: Until = "rolled-back".parse().unwrap();
        assert_eq!(back.of("m", &paused), Waited::NotYet);
        assert_eq!(back.of("m", &seen(Phase::RolledBack, 0)), Waited::Done);
    }

    #[test]
    fn a_share_is_reached_from_below() {
        let quarter: Until = "25%".parse().unwrap();
        assert_eq!(quarter.of("m", &seen(Phase::Ramping, 100_000)), Waited::NotYet);
        assert_eq!(quarter.of("m", &seen(Phase::Ramping, 250_000)), Waited::Done);
        assert!("shadows".parse::<Until>().unwrap_err().contains("`rolled-back`"));
    }
}
