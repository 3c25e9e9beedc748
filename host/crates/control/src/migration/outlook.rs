//! Where a ramp goes from here: which stage of how many it is in, what comes next, and everything that holds it, each
//! with what would make it move and, if the traffic tells it, in how long. Pure.
//!
//! The rules of the shipped stages policies are known here, and get an estimate and advice; the findings of other
//! policies are shown as they are.

use serde::Serialize;

use super::{flags::Off, snapshot::Held};
use cutover_model::{
    facts::Finding,
    port::{Phase, Verdict},
    request::Ppm,
};
use cutover_store::state::State;

/// Where a ramp goes from here, as operators are shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Which stage of the table in force it is, from 1; 0 before the first. None if the share is none of the table's.
    pub stage: Option<usize>,
    /// How many stages the table has; 0 if the host cannot read it.
    pub stages: usize,
    /// The share that comes next; none if that is the end.
    pub next: Option<Ppm>,
    /// In how many milliseconds that may be at the earliest at this traffic; none if time and traffic alone do not bring it.
    pub expected_ms: Option<u64>,
    /// Everything that holds it; what the stages policy waits for comes last.
    pub holds: Vec<Hold>,
}

/// Something that holds a migration where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// Its name: a rule, a flag, a phase.
    pub what: String,
    /// Why, as a sentence.
    pub why: String,
    /// In how many milliseconds it is over at this traffic; none if that cannot be told.
    pub expected_ms: Option<u64>,
    /// What would make it move; empty if that is not known.
    pub moves: String,
}

/// What is known of a migration.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The name of the migration.
    pub name: &'a str,
    /// The state that it is in.
    pub state: &'a State,
    /// What the stages policy waits for.
    pub waiting_for: &'a [Finding],
    /// What the rollback policy said last.
    pub verdict: Option<(Verdict, &'a [Finding])>,
    /// Flags that hold something back.
    pub off: &'a [Off],
    /// Slots without a policy in charge.
    pub held: &'a [Held],
    /// Why pools are not whole, one sentence each.
    pub not_starting: &'a [String],
    /// Why nothing is put on record, or how much is yet to be.
    pub unrecorded: Option<String>,
    /// Why the plan in force is not that of the state.
    pub stale_plan: Option<&'a str>,
    /// What came lately, to estimate times by.
    pub rates: Rates,
}

/// What came in a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// How long the span was, in milliseconds.
    pub span_ms: u64,
    /// Pairs that were compared.
    pub compared: u64,
    /// Calls that callers made to V2.
    pub v2_requests: u64,
}

/// Says where a ramp goes, from what is known of it.
pub fn outlook(seen: &Seen<'_>) -> Outlook {
    let state = seen.state;
    let rows = state.table.as_ref().map(|table| table.stages.as_slice()).unwrap_or_default();
    let ramps = state.in_force() == Phase::Ramping;
    let reached = if ramps {
        let is_row = rows.iter().any(|row| row.share == state.share);
        is_row.then(|| rows.iter().filter(|row| row.share <= state.share).count())
    } else {
        Some(if state.share == Ppm::ALL { rows.len() } else { 0 })
    };
    let next = state.table.as_ref().and_then(|table| table.next(state.share)).map(|row| row.share);
    let judged = verdict(seen);
    let is_told = !judged.is_empty() || matches!(seen.verdict, Some((Verdict::Healthy, _)));
    let waiting_for = seen.waiting_for.iter().filter(|finding| !is_met(finding, is_told));
    let waits: Vec<_> = waiting_for.map(|finding| waits(seen, finding)).collect();
    let holds: Vec<_> = phase(seen).into_iter().chain(of_flags(seen)).chain(of_host(seen)).chain(judged).collect();
    let holds = if holds.is_empty() && waits.is_empty() { unasked(state).into_iter().collect() } else { holds };
    let known = waits.iter().map(|hold| hold.expected_ms).collect::<Option<Vec<_>>>();
    let expected_ms = known.filter(|_| holds.is_empty() && !waits.is_empty()).and_then(|all| all.into_iter().max());
    Outlook { stage: reached, stages: rows.len(), next, expected_ms, holds: holds.into_iter().chain(waits).collect() }
}

fn hold(what: &str, why: impl Into<String>, moves: impl Into<String>) -> Hold {
    Hold { what: what.into(), why: why.into(), expected_ms: None, moves: moves.into() }
}

/// Nothing is known to hold it: it is early, or the policy says no more.
fn unasked(state: &State) -> Option<Hold> {
    let why = "the stages policy has not been asked yet in this stage, or says no reason";
    state.is_staged().then(|| hold("check", why, "the next check"))
}

/// A phase that only something else than time ends.
fn phase(seen: &Seen<'_>) -> Vec<Hold> {
    let (state, name) = (seen.state, seen.name);
    let because = || state.because.clone().unwrap_or_else(|| "nobody said why".into());
    let mut holds = Vec::new();
    if state.redeploys {
        let moves =
            format!("V2, when it is ready; for upstreams, once you say `cutover redeploy {name} --done --reason TEXT`");
        holds.push(hold("redeploy", "V2 is being replaced, and V1 has its callers", moves));
    }
    match state.phase {
        Phase::Paused => {
            holds.push(hold("paused", because(), format!("`cutover resume {name} --reason TEXT`")));
        }
        Phase::RolledBack => {
            holds.push(hold("rolled-back", because(), format!("`cutover resume {name} --reason TEXT` begins again")));
        }
        Phase::Preparing => {
            let why = "V2 is started, and callers stay on V1";
            holds.push(hold("preparing", why, "both pools, by themselves, when all their members are ready"));
        }
        Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Decommissioned => {}
    }
    holds
}

/// Flags that keep it where it is, or callers less safe.
fn of_flags(seen: &Seen<'_>) -> impl Iterator<Item = Hold> {
    let name = seen.name;
    // Where V2 has everybody there is nothing to raise.
    let is_whole = seen.state.share == Ppm::ALL;
    let off = seen.off.iter().filter(move |off| !(is_whole && off.flag == "auto_advance"));
    off.map(move |off| {
        let value = if off.flag == "gradual_rollout_percentage" { "100" } else { "true" };
        hold(off.flag, off.meaning.clone(), format!("`cutover flags set {name} {} {value} --reason TEXT`", off.flag))
    })
}

/// What is wrong around it.
fn of_host(seen: &Seen<'_>) -> Vec<Hold> {
    let mut holds: Vec<_> = seen
        .held
        .iter()
        .map(|held| {
            let moves = format!("`cutover policy activate {} POLICY --reason TEXT`", seen.name);
            hold(&format!("no {} policy", held.kind), held.why.clone(), moves)
        })
        .collect();
    holds.extend(seen.not_starting.iter().map(|why| hold("pool", why.clone(), "its members, when they are up again")));
    let unrecorded = seen.unrecorded.as_ref();
    holds.extend(unrecorded.map(|why| hold("store", why.clone(), "the store, when it takes records again")));
    let stale = seen.stale_plan;
    holds.extend(stale.map(|why| hold("plan", why, "the routing policy, which is asked again at each check")));
    holds
}

/// What the judge says, if that holds the ramp.
fn verdict(seen: &Seen<'_>) -> Vec<Hold> {
    let Some((verdict, findings)) = seen.verdict.filter(|_| seen.state.is_judged()) else { return Vec::new() };
    let holds = match verdict {
        Verdict::Healthy => false,
        // In `shadow` V2 has no callers yet to be judged by.
        Verdict::Hold => seen.state.in_force() == Phase::Ramping,
        Verdict::Warn | Verdict::RollBack => true,
    };
    let what = format!("verdict {}", verdict.name());
    let moves = match verdict {
        Verdict::Healthy | Verdict::Hold => "evidence, as it comes with calls",
        Verdict::Warn => "V2, when it is no longer so; what counts is in the rollback policy's settings",
        Verdict::RollBack => "a rollback, which is held back",
    };
    let shown = findings.iter().filter(|finding| holds && !finding.note.is_empty());
    shown.map(|finding| hold(&what, format!("{}: {}", finding.rule, finding.note), moves)).collect()
}

/// Whether what a finding of the stages policy names is there: policies also say what they have seen. `is_told` if the
/// judge's verdict holds nothing, or is told by its own findings.
fn is_met(finding: &Finding, is_told: bool) -> bool {
    match finding.rule.as_str() {
        "soak" | "kept-soak" | "compared" | "v2-requests" | "rail-soak" | "coverage" => {
            finding.observed >= finding.limit
        }
        "incomparable" | "different" => finding.observed <= finding.limit,
        "verdict" => is_told,
        _ => false,
    }
}

/// What the stages policy waits for, as far as that is known by its rule.
fn waits(seen: &Seen<'_>, finding: &Finding) -> Hold {
    let missing = u64::try_from(finding.limit.saturating_sub(finding.observed)).unwrap_or(0);
    let Rates { span_ms, compared, v2_requests } = seen.rates;
    let at = |count: u64| missing.saturating_mul(span_ms).checked_div(count);
    let name = seen.name;
    let (expected_ms, moves) = match finding.rule.as_str() {
        "soak" | "kept-soak" => {
            (Some(missing), format!("time; `cutover advance {name} --reason TEXT` does not wait for it"))
        }
        "compared" if compared == 0 => (
            None,
            format!(
                "reads; none was compared in the last minute: `cutover comparisons {name}` says what became of them"
            ),
        ),
        "compared" => (at(compared), "reads".into()),
        "v2-requests" if v2_requests == 0 => (None, "calls; V2 had none in the last minute".into()),
        "v2-requests" => (at(v2_requests), "calls".into()),
        "different" => (
            None,
            format!(
                "as many pairs that are the same; `cutover comparisons {name}` shows the differences, and `cutover compare \
                 accept {name} OPERATION --reason TEXT` disposes of those that are known and right"
            ),
        ),
        "incomparable" | "coverage" => (None, format!("`cutover comparisons {name}` says which and why")),
        "rail-soak" => (Some(missing), "time".into()),
        rule if rule.starts_with("rail-") => (
            None,
            format!("`cutover advance {name} --reason TEXT`, which rails do not hold; or `[migrations.{name}.rails]`"),
        ),
        "open-ended" => (None, format!("`cutover advance {name} --reason TEXT`")),
        _ => (None, String::new()),
    };
    Hold { what: finding.rule.clone(), why: finding.note.clone(), expected_ms, moves }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use cutover_model::clock::UnixMs;
    use cutover_store::state::table::{Row, Table};

    fn finding(rule: &str, observed: i64, limit: i64) -> Finding {
        Finding { rule: rule.into(), observed, limit, unit: "count".into(), note: format!("{observed} of {limit}") }
    }

    fn ramping(percent: u32) -> State {
        let row = |percent: u32| Row { share: Ppm::new(percent * 10_000), soak: Some(Duration::from_hours(1)) };
        let table = Table { policy: "stages@1".into(), stages: [5, 10, 50, 100].map(row).to_vec() };
        let share = Ppm::new(percent * 10_000);
        State { phase: Phase::Ramping, share, table: Some(table), ..State::new(UnixMs(0)) }
    }

    fn seen<'a>(state: &'a State, waiting_for: &'a [Finding]) -> Seen<'a> {
        Seen {
            name: "shop",
            state,
            waiting_for,
            verdict: None,
            off: &[],
            held: &[],
            not_starting: &[],
            unrecorded: None,
            stale_plan: None,
            rates: Rates { span_ms: 60_000, compared: 30, v2_requests: 6 },
        }
    }

    #[test]
    fn it_says_the_stage_the_next_share_and_when_it_comes_at_this_traffic() {
        let (state, waits) = (ramping(10), [finding("soak", 600_000, 3_600_000), finding("v2-requests", 20, 50)]);
        let ahead = outlook(&seen(&state, &waits));
        assert_eq!((ahead.stage, ahead.stages, ahead.next), (Some(2), 4, Some(Ppm::new(500_000))));
        assert_eq!(ahead.holds.iter().map(|h| h.expected_ms).collect::<Vec<_>>(), [Some(3_000_000), Some(300_000)]);
        assert_eq!(ahead.expected_ms, Some(3_000_000));
        assert_eq!(outlook(&seen(&state, &[])).holds[0].what, "check", "nobody was asked yet");
        let between = ramping(30);
        assert_eq!(outlook(&seen(&between, &[])).stage, None, "a share that is none of the table's");
        let last = ramping(100);
        assert_eq!(outlook(&seen(&last, &[])).next, None);
    }

    #[test]
    fn what_is_there_holds_nothing() {
        let state = ramping(10);
        let met = [finding("soak", 29_000, 0), finding("compared", 176, 100), finding("coverage", 80, 50)];
        let told = [met.as_slice(), &[finding("verdict", 0, 0), finding("incomparable", 0, 1)]].concat();
        let off = [Off { flag: "auto_advance", meaning: "a person advances".into() }];
        let shown = |state| outlook(&Seen { off: &off, verdict: Some((Verdict::Healthy, &[])), ..seen(state, &told) });
        let named = |ahead: Outlook| ahead.holds.into_iter().map(|hold| hold.what).collect::<Vec<_>>();
        assert_eq!(named(shown(&state)), ["auto_advance"]);
        let whole = State { share: Ppm::ALL, ..state.clone() };
        assert_eq!(named(shown(&whole)), ["check"], "nothing is left to raise");
    }

    #[test]
    fn without_traffic_nothing_is_promised_and_what_helps_is_said() {
        let (state, waits) = (ramping(10), [finding("v2-requests", 20, 50), finding("different", 3, 0)]);
        let quiet = Seen { rates: Rates { span_ms: 60_000, ..Rates::default() }, ..seen(&state, &waits) };
        let ahead = outlook(&quiet);
        assert_eq!(ahead.expected_ms, None);
        assert!(ahead.holds[0].moves.contains("had none"), "{ahead:?}");
        assert!(ahead.holds[1].moves.contains("cutover compare accept shop"), "{ahead:?}");
    }

    #[test]
    fn whatever_else_holds_it_is_named_with_the_command_that_helps_and_nothing_is_promised() {
        let (state, waits) = (ramping(10), [finding("soak", 1, 2)]);
        let off = [Off { flag: "auto_rollback", meaning: "nobody goes back".into() }];
        let warned = [finding("v2-errors", 9, 3)];
        let ahead = outlook(&Seen { off: &off, verdict: Some((Verdict::Warn, &warned)), ..seen(&state, &waits) });
        let named: Vec<_> = ahead.holds.iter().map(|h| h.what.as_str()).collect();
        assert_eq!(named, ["auto_rollback", "verdict warn", "soak"]);
        assert!(ahead.holds[0].moves.contains("cutover flags set shop auto_rollback true"), "{ahead:?}");
        assert_eq!(ahead.expected_ms, None);
        let paused =
            State { phase: Phase::Paused, paused_in: Some(Phase::Ramping), because: Some("lunch".into()), ..state };
        let ahead = outlook(&seen(&paused, &[]));
        assert_eq!((ahead.stage, ahead.holds[0].why.as_str()), (Some(2), "lunch"));
        assert!(ahead.holds[0].moves.contains("cutover resume shop"), "{ahead:?}");
    }
}
