//! A back-test's report as text for people.

use std::time::Duration;

use cutover_authoring::backtest::{
    report::{Change, CostShown, Differences, Fault, History, Noticed, Report, SideReport},
    runs::Stand,
};
use cutover_model::{
    clock::UnixMs,
    port::{Action, Step},
};

/// How the two sides are called, as on the command line.
const SIDES: [&str; 2] = ["policy", "against"];

/// What has to be said with every report.
const CAVEAT: &str = "After a roll-back the recorded traffic goes on as it was, at the recorded shares: the first roll-back is \
what would have happened, what comes after it is not.";

/// The report; lists have at most `show` entries.
pub(super) fn lines(report: &Report, took: Duration, show: usize) -> Vec<String> {
    let mut lines = history(&report.history, show);
    if !report.recorded.is_empty() {
        lines.push(format!("recorded   {}", counts(&report.recorded)));
    }
    for (name, one) in SIDES.iter().zip(&report.sides) {
        side(&mut lines, name, one, show);
    }
    for one in &report.faults {
        fault(&mut lines, one);
    }
    for one in &report.differences {
        differences(&mut lines, one, show);
    }
    let rate = u128::from(report.history.checks) * 1_000 / took.as_millis().max(1);
    lines.push(format!("took       {} ({rate} checks/s)", span(millis(took))));
    lines.push(CAVEAT.into());
    lines
}

fn history(history: &History, show: usize) -> Vec<String> {
    let History { checks, batches, from, to, .. } = history;
    let mut lines =
        vec![format!("history    {checks} checks, {batches} batches, {} to {}", from.rfc3339(), to.rfc3339())];
    if history.begins_within_stage_ms > 0 {
        let began = span(history.begins_within_stage_ms);
        lines.push(format!("           begins {began} after the stage did; policies have not seen what was before"));
    }
    list(&mut lines, &history.gaps, show, history.more_gaps, |gap| {
        let long = span(gap.to.0.saturating_sub(gap.from.0));
        format!("           no history from {} to {} ({long})", gap.from.rfc3339(), gap.to.rfc3339())
    });
    list(&mut lines, &history.marks, show, 0, |mark| {
        format!("           mark `{}` at {}: {}", mark.kind, mark.at.rfc3339(), mark.note)
    });
    if history.unknown_lines > 0 {
        lines.push(format!("           {} lines of types that this program does not know", history.unknown_lines));
    }
    lines
}

fn side(lines: &mut Vec<String>, name: &str, side: &SideReport, show: usize) {
    for reported in &side.policies {
        let digest = reported.digest.get(..12).unwrap_or(&reported.digest);
        lines.push(format!("{name:10} {} {} ({}, {digest})", reported.name, reported.version, reported.kind));
    }
    for (label, all) in [("verdicts", &side.verdicts), ("actions", &side.actions)] {
        if !all.is_empty() {
            lines.push(format!("  {label:8} {}", counts(all)));
        }
    }
    for (label, at) in [("warn", side.first_warn), ("roll-back", side.first_roll_back)] {
        if side.rollback.is_some() {
            let first = at.map_or_else(|| "never".into(), UnixMs::rfc3339);
            lines.push(format!("  first {label}: {first}"));
        }
    }
    for error in &side.errors {
        let (cause, count, first) = (error.cause, error.count, error.first.rfc3339());
        lines.push(format!("  failed   {count} x {cause}, first at {first}: the policy {}", error.message));
    }
    for (kind, cost) in [("rollback", &side.rollback), ("stages", &side.stages)] {
        if let Some(cost) = cost.as_ref().filter(|cost| cost.questions > 0) {
            lines.push(format!("  {kind:8} {}", shown(cost)));
        }
    }
    lines.push(format!("  changes  {}", side.changes.len() as u64 + side.more_changes));
    list(lines, &side.changes, show, side.more_changes, change);
}

fn change(change: &Change) -> String {
    let Change { at, phase, stage, share, .. } = change;
    let stand = said(Stand { verdict: change.verdict, action: change.action });
    let why = match (change.failed.first(), change.findings.first()) {
        (Some(error), _) => format!("the policy {error}"),
        (None, Some(finding)) => format!("{}: {}", finding.rule, finding.note),
        (None, None) => String::new(),
    };
    let line = format!("    {} {phase} {stage} at {share}: {stand}  {why}", at.rfc3339());
    line.trim_end().to_owned()
}

fn fault(lines: &mut Vec<String>, fault: &Fault) {
    lines.push(format!("fault      at {}", fault.at.rfc3339()));
    for (name, noticed) in SIDES.iter().zip(&fault.noticed) {
        let Some(Noticed { warn_after_ms, roll_back_after_ms, false_roll_backs }) = noticed else { continue };
        let after = |ms: &Option<u64>| match ms {
            None => "never".to_owned(),
            Some(0) => "already".to_owned(),
            Some(ms) => format!("after {}", span(*ms)),
        };
        let (warned, rolled_back) = (after(warn_after_ms), after(roll_back_after_ms));
        let before = match false_roll_backs {
            0 => String::new(),
            times => format!("; rolled back {times} times before it"),
        };
        lines.push(format!("  {name:8} warns {warned}, rolls back {rolled_back}{before}"));
    }
}

fn differences(lines: &mut Vec<String>, differences: &Differences, show: usize) {
    let Differences { left, right, compared, differing, spans, more_spans } = differences;
    lines.push(format!("{left} and {right} differ on {differing} of {compared} checks"));
    list(lines, spans, show, *more_spans, |one| {
        let (mine, theirs) = (said(one.left), said(one.right));
        format!("    {} to {} ({} checks): {mine}, not {theirs}", one.from.rfc3339(), one.to.rfc3339(), one.checks)
    });
}

/// Entries, and how many are not shown.
fn list<T>(lines: &mut Vec<String>, all: &[T], show: usize, more: u64, line: impl Fn(&T) -> String) {
    lines.extend(all.iter().take(show).map(line));
    let hidden = all.len().saturating_sub(show) as u64 + more;
    if hidden > 0 {
        lines.push(format!("    and {hidden} more (--show, --json)"));
    }
}

fn said(stand: Stand) -> String {
    let verdict = stand.verdict.map(|verdict| verdict.to_string());
    let to = |step: Step| format!(" to stage {} at {}", step.stage, step.share);
    let action = stand.action.map(|action| match action {
        Action::Advance(step) | Action::Retreat(step) => format!("{}{}", action.name(), to(step)),
        Action::Hold if verdict.is_some() => "stay".to_owned(),
        Action::Hold | Action::Complete | Action::Pause => action.name().to_owned(),
    });
    [verdict, action].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn counts(counts: &std::collections::BTreeMap<&'static str, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn shown(cost: &CostShown) -> String {
    let CostShown { questions, fuel, max_fuel, p50_ns, p99_ns, max_memory, .. } = cost;
    let mean = fuel / questions.max(&1);
    format!(
        "{questions} questions, p50 {} us, p99 {} us, fuel {mean} each and {max_fuel} at the most, memory up to {max_memory} bytes",
        p50_ns / 1_000,
        p99_ns / 1_000
    )
}

fn span(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
