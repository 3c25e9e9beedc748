//! What the host does by itself when nobody would notice a bad V2, and what a wall clock that is set does not do.

use std::sync::Arc;

use cutover_control::migration::CommandKind;
use cutover_model::{
    clock::{self, UnixMs},
    port::{Kind, Phase},
};
use cutover_store::{calls::Wanted, records::Decision};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Host, Setup, bundle, eventually};

const HOUR: i64 = 3_600_000;

/// A policy for the judge's slot whose bundle is written here.
fn judge(folder: &TempDir, manifest: &str, script: Option<&str>) -> String {
    let folder = folder.path().join("judge");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = format!("name = 'judge'\nversion = '1.0.0'\nkind = 'rollback'\n{manifest}\n");
    std::fs::write(folder.join("policy.toml"), manifest).unwrap();
    if let Some(script) = script {
        std::fs::write(folder.join("policy.rhai"), script).unwrap();
    }
    format!("'{}'", folder.display())
}

async fn ramping(host: &Host, stages: usize) {
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    for _ in 0..stages {
        host.ask(CommandKind::Advance).await.unwrap();
    }
}

async fn last_decision(host: &Host) -> Decision {
    host.app.host.store.decisions("programs", 1).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_traps_leaves_v2_without_callers_by_a_decision_of_the_host() {
    let folder = Arc::new(TempDir::new().unwrap());
    let bad = judge(&folder, "guest = 'hostile'\n[settings]\ndo = 'trap'\nin = 'rollback'", None);
    let setup = Setup { failsafe: "no_verdict = '1s'\naction = 'retreat'", ..Setup::default() }.with("rollback", bad);
    let host = setup.start_in(folder).await;
    ramping(&host, 2).await;
    let lost = host.until("a lost judge", |s| !s.failsafe.is_empty()).await;
    assert!(lost.failsafe[0].why.starts_with("the rollback policy trapped"), "{:?}", lost.failsafe);
    let back = host.until("a rollback", |s| s.state.phase == Phase::RolledBack).await;
    assert!(back.state.because.as_ref().unwrap().starts_with("nobody judges V2 for"), "{:?}", back.state);
    let decisions = host.app.host.store.decisions("programs", 2).await.unwrap();
    let kinds: Vec<_> = decisions.iter().rev().map(|d| (&*d.kind, &*d.actor, &*d.findings[0].rule)).collect();
    assert_eq!(kinds, [("retreat", "host", "judge-lost"), ("rollback", "host", "judge-lost")]);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_that_answers_nothing_is_rolled_back_by_the_host_whatever_the_judge_says() {
    let calm = "min_requests = 1000000000, outage_requests = 0";
    let host = Setup::default().with("rollback", bundle("thresholds", calm)).start().await;
    ramping(&host, 4).await;
    for n in 0..40 {
        host.http.create(&format!("s{n}")).await;
    }
    host.break_v2(&json!({ "error_share": 1.0 }));
    eventually("a rollback", async || {
        for n in 0..40 {
            host.http.greet(&format!("s{n}"), &[]).await;
        }
        (host.migration().handle.snapshot().state.phase == Phase::RolledBack).then_some(())
    })
    .await;
    let decision = last_decision(&host).await;
    assert_eq!((&*decision.actor, &*decision.findings[0].rule), ("host", "v2-outage"));
    assert!(decision.reason.contains("V2 failed all of"), "{}", decision.reason);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_set_back_delays_no_verdict_and_is_told() {
    let host = Setup::default().start().await;
    ramping(&host, 4).await;
    let before = host.until("a verdict", |s| s.verdict.is_some()).await;
    host.wall.step(-HOUR);
    let stepped = host.until("the step", |s| s.clock.steps > 0).await;
    let by_ms = stepped.clock.last_step.unwrap().by_ms;
    assert!((-HOUR - 10_000..=-HOUR + 10_000).contains(&by_ms), "{by_ms}");
    assert!(stepped.clock.ahead_ms > HOUR - 10_000, "policies are told what they would have been told");
    // Well beyond the step, and on the same timeline.
    let later = UnixMs(before.verdict.as_ref().unwrap().at.0 + 1);
    let judged = host.until("a later verdict", |s| s.verdict.as_ref().is_some_and(|v| v.at > later)).await;
    assert!(judged.verdict.as_ref().unwrap().at.since(before.clock.now).as_secs() < 60);
    assert_eq!(judged.state.since, before.state.since);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_in_the_future_is_mended_at_the_start_and_judged() {
    let folder = Arc::new(TempDir::new().unwrap());
    let setup = Setup::default();
    let host = setup.start_at(Arc::clone(&folder), 24 * HOUR).await;
    ramping(&host, 2).await;
    host.until("a verdict", |s| s.verdict.is_some()).await;
    host.app.shut_down().await;

    let host = setup.start_in(folder).await;
    let now = clock::unix_ms();
    let mended = host.until("a verdict", |s| s.verdict.is_some()).await;
    assert!(mended.state.since <= now && mended.verdict.as_ref().unwrap().at.since(now).as_secs() < 60);
    let decision = last_decision(&host).await;
    assert_eq!((&*decision.kind, &*decision.findings[0].rule), ("mend-clock", "clock-future"));
    assert_eq!((decision.from_share, decision.to_share), (mended.state.share, mended.state.share));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_read_its_memory_begins_afresh_before_it_is_put_out() {
    let folder = Arc::new(TempDir::new().unwrap());
    let script = "fn judge(check, memory) {\n    if memory.get(\"n\") != () { throw \"cannot read its memory\"; }\n    memory.n = 1;\n    healthy()\n}\n";
    let forgetful = judge(&folder, "guest = 'rhai'\nscript = 'policy.rhai'", Some(script));
    let setup = Setup { failures: "count = 3", ..Setup::default() }.with("rollback", forgetful);
    let host = setup.start_in(folder).await;
    let held = host.until("a slot that is held", |s| !s.held.is_empty()).await;
    assert!(held.held[0].why.contains("cannot read its memory"), "{}", held.held[0].why);
    let wanted =
        Wanted { migration: Some("programs".into()), kind: Some(Kind::Rollback), most: 100, ..Wanted::default() };
    let calls = eventually("the log", async || {
        let calls = host.app.host.store.calls(&wanted).await.unwrap().calls;
        (calls.len() >= 8).then_some(calls)
    })
    .await;
    let answered: Vec<_> = calls.iter().rev().map(|logged| logged.call.answer.get("ok").is_some()).collect();
    assert_eq!(answered, [true, false, false, false, true, false, false, false]);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_fails_whenever_there_is_something_to_see_is_lost_and_nothing_goes_up() {
    let folder = Arc::new(TempDir::new().unwrap());
    // It says that all is well, unless there is an error: then it throws.
    let script = "fn judge(check, memory) {\n    for batch in check.batches {\n        for o in batch.operations {\n            if o.v2.errors > 0 { throw \"cannot bear errors\"; }\n        }\n    }\n    healthy()\n}\n";
    let blind = judge(&folder, "guest = 'rhai'\nscript = 'policy.rhai'", Some(script));
    let stages = "stages = [{ share = '25%', soak = '0s' }, { share = '100%' }], min_requests = 1, shadow = { min_compared = 1000000000 }";
    let setup = Setup { failsafe: "no_verdict = '4s'\noutage = { action = 'none' }", ..Setup::default() }
        .with("rollback", blind)
        .with("stages", bundle("standard-stages", stages));
    let host = setup.start_in(folder).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    for n in 0..40 {
        host.http.create(&format!("s{n}")).await;
    }
    host.break_v2(&json!({ "error_share": 0.5 }));
    host.ask(CommandKind::Advance).await.unwrap();
    eventually("a failed question", async || {
        for n in 0..40 {
            host.http.greet(&format!("s{n}"), &[]).await;
        }
        (!host.migration().handle.snapshot().policy_failures.is_empty()).then_some(())
    })
    .await;
    // From now on there is nothing to see, and every second is quiet.
    host.break_v2(&json!({ "error_share": 0.0 }));
    let back = host.until("a rollback", |s| s.state.phase == Phase::RolledBack).await;
    let because = back.state.because.as_ref().unwrap();
    assert!(because.contains("nobody judges V2") && because.contains("cannot bear errors"), "{because}");
    let shares: Vec<_> = host.app.host.store.decisions("programs", 100).await.unwrap();
    assert!(shares.iter().all(|d| d.to_share.get() <= 250_000), "{shares:#?}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_judge_failed_to_answer_once_is_shown_to_it_again_and_recorded_once() {
    let folder = Arc::new(TempDir::new().unwrap());
    // It fails for some seconds of the stage, and says how many batches it has seen since that began.
    let script = "fn judge(check, memory) {\n    if check.elapsed_ms > 2000 && check.elapsed_ms < 5000 { throw \"not now\"; }\n    memory.seen = (memory.get(\"seen\") ?? 0) + check.batches.len();\n    hold([finding(\"seen\", memory.seen, check.elapsed_ms, \"count\", \"\")])\n}\n";
    let forgetful = judge(&folder, "guest = 'rhai'\nscript = 'policy.rhai'", Some(script));
    let host = Setup::default().with("rollback", forgetful).start_in(folder).await;
    let now = host
        .until("an answer after the failures", |s| {
            let shown = s.verdict.as_ref().and_then(|v| v.findings.first());
            shown.is_some_and(|f| f.rule == "seen" && f.limit > 8_000)
        })
        .await;
    let verdict = now.verdict.as_ref().unwrap();
    let checks = eventually("the record", async || {
        let all = host.app.host.store.checks("programs", UnixMs(0), UnixMs(verdict.at.0 + 1), 0, 1_000).await.unwrap();
        let all: Vec<_> = all.into_iter().map(|check| check.read().unwrap()).collect();
        all.last().is_some_and(|last| last.check.now_ms == verdict.at).then_some(all)
    })
    .await;
    assert!(checks.iter().filter(|recorded| recorded.verdict.is_none()).count() > 5);
    let shown: Vec<_> = checks.iter().flat_map(|recorded| &recorded.check.batches).map(|b| b.start_ms).collect();
    let distinct: std::collections::BTreeSet<_> = shown.iter().copied().collect();
    assert!(shown.len() > distinct.len(), "some were shown again");
    assert_eq!(verdict.findings[0].observed, i64::try_from(distinct.len()).unwrap(), "and each was seen once");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_below_the_stage_holds_the_ramp_and_says_why() {
    let stages = "stages = [{ share = '5%', soak = '0s' }, { share = '100%' }], min_requests = 1, shadow = { min_compared = 0, soak = '0s' }";
    let host = Setup::default().with("stages", bundle("standard-stages", stages)).start().await;
    let set = |percent: u64| CommandKind::SetFlag("gradual_rollout_percentage".into(), percent.into());
    host.ask(set(3)).await.unwrap();
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let refused = host.ask(CommandKind::Advance).await.unwrap_err();
    assert!(refused.contains("leaves V2 no more than 3%, so it cannot go to 5%"), "{refused}");
    let held = host.until("a step that is held", |s| s.waiting_for.iter().any(|f| f.rule == "flag-limit")).await;
    assert_eq!(held.state.phase, Phase::Shadow);
    host.ask(set(100)).await.unwrap();
    host.ask(CommandKind::Advance).await.unwrap();
    host.ask(set(3)).await.unwrap();
    let refused = host.ask(CommandKind::Advance).await.unwrap_err();
    assert!(refused.contains("so it cannot go to 100%"), "{refused}");
    assert_eq!(host.migration().handle.snapshot().state.share.get(), 50_000);
    host.app.shut_down().await;
}
