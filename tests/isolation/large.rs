//! What is larger than a policy may be asked at once is asked in several questions, and nothing of it is lost.

use std::{fs, sync::Arc};

use cutover_control::migration::{judge, stage};
use cutover_model::{
    clock::UnixMs,
    port::{Check, Kind, Pair, Phase, Progress, Side},
};
use cutover_policy_host::{
    engine::{Engine, Limits},
    evaluation::EvaluationQueue,
    installed::InstalledPolicy,
    record::Question,
    slot::Slots,
};
use cutover_store::calls::Wanted;
use cutover_traffic::{compare, observe::Recorder};
use tempfile::TempDir;

use super::{admit, check};
use crate::harness::{Setup, bundle, eventually};

#[test]
fn a_check_after_a_stall_is_made_in_several_that_each_fit() {
    let mut limits = Limits::default();
    (limits.rollback.input_bytes, limits.rollback.remember_bytes) = (256 << 10, 32 << 10);
    limits.stages.input_bytes = 512 << 10;
    let engine = Engine::new(limits).unwrap();
    let slots = Slots::default();
    let installed = |name, kind| {
        slots.get(kind).activate(InstalledPolicy::of(Arc::new(admit(&engine, name, kind, "{}"))), Vec::new());
    };
    installed("sequential", Kind::Rollback);
    installed("standard-stages", Kind::Stages);
    // An hour.
    let mut pending: Vec<_> = (0..720).flat_map(|n| check(n, 0).batches).collect();
    let all = pending.clone();
    let whole = Check { batches: all.clone(), ..check(720, 0) };
    let too_large = judge::judge(&slots, &whole).unwrap().asked.answer.unwrap_err();
    assert_eq!(too_large.cause(), "input-too-large");

    let (mut seen, mut checks) = (Vec::new(), 0);
    while !pending.is_empty() {
        let rest = judge::set_aside("programs", &slots, &mut pending);
        let question = Check { batches: std::mem::replace(&mut pending, rest), ..check(720, 0) };
        let answered = judge::judge(&slots, &question).unwrap();
        let judgement = answered.asked.answer.unwrap_or_else(|error| panic!("check {checks}: {error}"));
        let progress = Progress { check: question, verdict: judgement.verdict, forced: false };
        assert!(stage::next(&slots, &progress).unwrap().asked.answer.is_ok());
        seen.extend(progress.check.batches);
        checks += 1;
    }
    assert_eq!(seen, all, "every batch is seen, once, in order");
    assert!((10..=100).contains(&checks), "{checks}");
    // It remembers all of them: it says the same as one that was shown them second by second.
    let memory = slots.get(Kind::Rollback).question().unwrap().1;
    let judge = admit(&engine, "sequential", Kind::Rollback, "{}");
    let mut warm = judge.warm();
    let shown = all.iter().fold(Vec::new(), |memory, batch| {
        let question = Check { batches: vec![batch.clone()], ..check(720, 0) };
        warm.judge(&question, &memory).memory
    });
    let next = |memory: &[u8]| judge.judge(&check(720, 0), memory).answer.unwrap();
    assert_eq!(next(&memory).evidence, next(&shown).evidence);
}

#[test]
fn a_batch_that_is_too_large_on_its_own_is_asked_alone_and_the_others_are_not_lost() {
    let mut limits = Limits::default();
    limits.rollback.input_bytes = 16 << 10;
    limits.rollback.remember_bytes = 1 << 10;
    let policy = admit(&Engine::new(limits).unwrap(), "hostile", Kind::Rollback, "{}");
    let mut batches = check(0, 0).batches;
    batches[0].operations[0].operation = "o".repeat(20 << 10);
    assert_eq!(policy.batches_at_once(&batches), 1);
    assert_eq!(policy.batches_at_once(&batches[1..]), 4);
    assert_eq!(policy.batches_at_once(&[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_behind_checks_what_is_left_at_once_and_goes_up_only_when_all_was_seen() {
    let folder = Arc::new(TempDir::new().unwrap());
    let manifest = "name = 'small'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'hostile'\n";
    fs::create_dir(folder.path().join("small")).unwrap();
    fs::write(folder.path().join("small/policy.toml"), manifest).unwrap();
    // A batch without a call fits, two may not: what a policy may remember needs room, too.
    let setup = Setup {
        check_interval: "5s",
        limits: "rollback = { input_bytes = 1024, remember_bytes = 1024 }",
        ..Setup::default()
    };
    let setup = setup
        .with("rollback", "{ bundle = 'small' }".into())
        .with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"));
    let host = setup.start_in(folder).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let (judged, staged) = eventually("a check of several seconds", async || {
        let wanted = Wanted { migration: Some("programs".into()), most: 1_000, ..Wanted::default() };
        let calls = host.app.host.store.calls(&wanted).await.unwrap().calls;
        let (mut judged, mut staged) = (Vec::new(), Vec::new());
        for logged in calls.into_iter().rev() {
            match logged.call.question {
                Question::Rollback(check) => judged.push((check, logged.call.answer)),
                Question::Stages(progress) => staged.push(progress.check.now_ms),
                Question::Routing(_) | Question::Decide(_) => {}
            }
        }
        (!staged.is_empty() && judged.len() >= 4).then_some((judged, staged))
    })
    .await;
    let last = judged.iter().position(|(check, _)| check.now_ms == staged[0]).unwrap();
    assert!(last >= 2, "stages are not decided before all is seen: {last} of {}", judged.len());
    let round = &judged[..=last];
    assert!(round.iter().all(|(check, answer)| check.batches.len() == 1 && answer["ok"].is_object()), "{round:#?}");
    let seconds: Vec<_> = round.iter().map(|(check, _)| &check.batches[0]).collect();
    let follows = |pair: &[&_]| {
        let [a, b]: [&cutover_model::facts::Batch; 2] = pair.try_into().unwrap();
        a.start_ms.0 + u64::from(a.duration_ms) == b.start_ms.0
    };
    assert!(seconds.windows(2).all(follows), "{seconds:#?}");
    let took = round[last].0.now_ms.since(round[0].0.now_ms);
    assert!(took.as_secs() < 5, "{took:?}: the rest does not wait for the next check");
    assert!(host.migration().handle.snapshot().policy_failures.is_empty());
    host.app.shut_down().await;
}

/// A pair with bodies of so many bytes.
fn pair(bytes: [usize; 2]) -> Pair {
    let side = |n: usize| {
        let body = format!("\"{}\"", "x".repeat(n)).into_bytes();
        Side { success: true, status: 200, media_type: "application/json".into(), body }
    };
    Pair { operation: "read".into(), v1: side(bytes[0]), v2: side(bytes[1]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_that_are_too_large_together_are_compared_in_several_questions_and_one_alone_is_too_large() {
    let mut limits = Limits::default();
    limits.comparison.input_bytes = 64 << 10;
    let engine = Engine::new(limits).unwrap();
    let slots = Arc::new(Slots::default());
    let policy = admit(&engine, "json-compare", Kind::Comparison, "{}");
    slots.get(Kind::Comparison).activate(InstalledPolicy::of(Arc::new(policy)), Vec::new());
    let (trials, mut queues) = EvaluationQueue::new(slots);
    let recorder = Arc::new(Recorder::new(UnixMs(0)));
    let (comparer, work) = compare::comparer(trials, Arc::clone(recorder.pairs()));
    let read = Arc::<str>::from("read");
    let submit = |pair| comparer.submit(pair, recorder.pairs().ask(&read));
    // Six fit a question.
    for n in 0..50 {
        submit(pair(if n == 20 { [40 << 10, 40 << 10] } else { [5_000, 5_000] }));
    }
    submit(pair([5_000, 4_999]));
    let working = tokio::spawn(work);
    let counted = eventually("all pairs", async || {
        let report = comparer.report();
        let lines = report.lines.iter().map(|line| line.count).sum::<u64>();
        (lines >= 2).then_some(report)
    })
    .await;
    drop(comparer);
    working.await.unwrap();
    assert!(counted.failures.is_empty() && counted.dropped == 0, "{counted:?}");
    let too_large = counted.lines.iter().find(|line| line.kind == "too-large").unwrap();
    assert_eq!(too_large.count, 1);
    assert!(too_large.v1.contains("too large to compare") && too_large.v1.contains("65536"), "{too_large:?}");
    let fates = counted.pairs["read"];
    assert_eq!((fates.asked, fates.compared, fates.different, fates.too_large), (51, 50, 1, 1));
    let counts = recorder.cut(UnixMs(1), cutover_traffic::observe::recorder::Measured::default()).comparisons;
    assert_eq!((counts.same, counts.different, counts.incomparable), (49, 1, 1));
    assert!(queues.failures.try_recv().is_err(), "no policy failed");
}
