//! The controller with policies of a few lines and clocks that stand still.

mod world;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::world::{Fake, OPERATION, SHARE, World, admitted, named};
use super::*;
use crate::migration::handle::CommandKind;
use cutover_model::{
    clock::Mono,
    port::Verdict,
    request::{FailureKind, Ppm},
};

#[tokio::test]
async fn a_verdict_is_acted_on_and_on_record() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    assert_eq!(world.stands(), (Phase::Ramping, SHARE));
    assert_eq!(world.controller.shows.verdict.as_ref().unwrap().verdict, Verdict::Healthy);
    judge.say(Ok(Verdict::RollBack));
    world.check().await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO));
    assert_eq!(world.decisions().await, named(&[("rollback", "policy")]));
    assert_eq!(world.controller.parts.split.router.share(), Ppm::ZERO);
}

#[tokio::test]
async fn an_order_in_the_middle_of_a_check_is_done_at_once_and_the_answer_changes_nothing() {
    let judge = Fake::judge(Ok(Verdict::RollBack));
    let mut world = World::new(&judge).await;
    world.pass(5).await;
    let (open, _hears) = judge.gated();
    world.ask().await;
    world.order(CommandKind::Pause).await.await.unwrap().unwrap();
    assert_eq!(world.stands(), (Phase::Paused, SHARE), "nobody waits for the judge");
    open.send(()).unwrap();
    world.take().await;
    // It is about a state that is gone; the next answer is about this one.
    assert_eq!((world.stands(), world.controller.shows.verdict.is_none()), ((Phase::Paused, SHARE), true));
    assert_eq!(world.decisions().await, named(&[("pause", "anna")]));
    assert_eq!(world.remembers(), world.made(), "but the judge has seen the check");
    open.send(()).unwrap();
    world.check().await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO));
}

#[tokio::test]
async fn a_judge_that_does_not_come_back_is_as_good_as_none_after_the_time_that_is_configured() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    let (open, _hears) = judge.gated();
    world.pass(5).await;
    world.ask().await;
    let limit = world.controller.parts.failsafe.no_verdict.as_secs();
    // It was heard five seconds ago.
    world.pass(limit - 6).await;
    assert_eq!(world.stands(), (Phase::Ramping, SHARE));
    world.pass(1).await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO));
    assert_eq!(world.decisions().await, named(&[("rollback", "host")]));
    open.send(()).unwrap();
    world.take().await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO), "a late answer is about a state that is gone");
}

#[tokio::test]
async fn a_host_that_was_stopped_blames_nobody_for_it() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    let since = world.controller.parts.clock.now();
    world.clocks.advance(Duration::from_hours(1));
    world.controller.tick().await;
    assert_eq!(world.stands(), (Phase::Ramping, SHARE));
    let counted = world.controller.parts.clock.now().since(since);
    assert!(counted <= cutover_model::clock::timeline::MOST, "{counted:?} count as soak");
    assert_eq!(world.controller.clock_shown().gaps, 1);
}

#[tokio::test]
async fn a_newcomer_has_seen_every_check_of_the_stage_once_when_it_takes_charge() {
    let before = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&before).await;
    for _ in 0..3 {
        world.check().await;
    }
    let newcomer = Fake::new(Kind::Rollback, "newcomer", Ok(Verdict::Healthy));
    // A check is under way when it comes.
    world.pass(5).await;
    let (open, _hears) = before.gated();
    world.ask().await;
    let answer = world.order(CommandKind::Install(Box::new(admitted(&newcomer)))).await;
    open.send(()).unwrap();
    // The records of the checks before are written by then, because they are read behind them.
    world.take().await;
    let reply = world.hear(answer).await.unwrap();
    assert!(reply.message.contains("newcomer"), "{}", reply.message);
    assert_eq!((world.made().len(), world.remembers()), (4, world.made()));
    world.check().await;
    assert_eq!((world.made().len(), world.remembers()), (5, world.made()), "and goes on from there");
}

#[tokio::test]
async fn a_newcomer_that_fails_what_it_is_shown_does_not_take_charge() {
    let before = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&before).await;
    for _ in 0..3 {
        world.check().await;
    }
    let newcomer = Fake::new(Kind::Rollback, "newcomer", Err(PolicyError::nonsense("it cannot count")));
    let answer = world.order(CommandKind::Install(Box::new(admitted(&newcomer)))).await;
    let refused = world.hear(answer).await.unwrap_err();
    assert!(matches!(refused.code, Code::Policy(_)) && refused.message.contains("it cannot count"), "{refused:?}");
    let in_charge = world.controller.parts.slots.get(Kind::Rollback).installed().unwrap();
    assert_eq!((in_charge.title.name.as_str(), world.remembers()), ("judge", world.made()));
}

#[tokio::test]
async fn a_policy_that_keeps_failing_begins_afresh_and_is_then_put_out_of_charge() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    judge.say(Err(PolicyError::nonsense("it cannot read what it remembers")));
    for _ in 0..5 {
        assert!(!world.remembers().is_empty());
        world.check().await;
    }
    assert!(world.remembers().is_empty(), "it has lost its memory, and is still in charge");
    for _ in 0..5 {
        assert!(world.controller.parts.slots.get(Kind::Rollback).installed().is_some());
        world.check().await;
    }
    let slot = world.controller.parts.slots.get(Kind::Rollback);
    assert!(slot.installed().is_none(), "there is none before it to go back to");
    assert!(slot.held().unwrap().contains("it cannot read what it remembers"));
    assert_eq!(world.stands(), (Phase::Ramping, SHARE), "the share stays as long as the host's patience lasts");
}

#[tokio::test]
async fn a_policy_that_keeps_failing_makes_way_for_the_one_before_which_sees_what_it_missed() {
    let before = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&before).await;
    world.check().await;
    let newcomer = Fake::new(Kind::Rollback, "newcomer", Ok(Verdict::Healthy));
    let answer = world.order(CommandKind::Install(Box::new(admitted(&newcomer)))).await;
    world.hear(answer).await.unwrap();
    newcomer.say(Err(PolicyError::nonsense("it lost its way")));
    for _ in 0..10 {
        world.check().await;
    }
    while world.controller.parts.slots.get(Kind::Rollback).installed().unwrap().title.name != "judge" {
        world.settle().await;
    }
    // Checks that nobody answered are shown again, so that the batches of each are seen once.
    world.check().await;
    assert_eq!(world.remembers().last(), world.made().last());
    assert_eq!(world.controller.shows.verdict.as_ref().unwrap().verdict, Verdict::Healthy);
}

#[tokio::test]
async fn the_task_takes_orders_while_the_judge_is_asked_and_ends_when_it_is_told_to() {
    let judge = Fake::judge(Ok(Verdict::RollBack));
    let (open, mut hears) = judge.gated();
    let World { mut controller, _folder, _members, .. } = World::new(&judge).await;
    controller.parts.check_interval = Duration::from_millis(1);
    let (commands, inbox) = mpsc::channel(COMMANDS);
    controller.inbox.urgently = inbox;
    let stop = CancellationToken::new();
    let mut shown = controller.shown.subscribe();
    let tasks = TaskTracker::new();
    let running = tasks.spawn(controller.run(stop.clone()));
    hears.recv().await.unwrap();
    let (reply, answer) = oneshot::channel();
    let (verb, at) = (CommandKind::Pause, Mono::from_nanos(2));
    commands.send(Command { verb, actor: "anna".into(), reason: "a test".into(), at, reply }).await.unwrap();
    answer.await.unwrap().unwrap();
    assert_eq!(shown.borrow_and_update().state.phase, Phase::Paused);
    // Every question from now on is answered.
    drop(open);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn whatever_is_taken_from_v2_says_what_it_failed_with() {
    let judge = Fake::judge(Ok(Verdict::RollBack));
    let mut world = World::new(&judge).await;
    world.fail(FailureKind::Worker, 503);
    world.fail(FailureKind::Worker, 503);
    world.fail(FailureKind::Timeout, 0);
    world.check().await;
    let decision = world.controller.parts.store.decisions("shop", 1).await.unwrap().remove(0);
    let causes = "in the last minute V2 failed with 503 (2 of `get-order`), timeout (1 of `get-order`)";
    assert_eq!(decision.reason, format!("as it was told; {causes}"));
    assert_eq!(decision.findings.iter().map(|finding| finding.observed).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(world.controller.state.because, Some(decision.reason));
}

#[tokio::test]
async fn differences_from_before_the_host_started_can_be_accepted() {
    let mut world = World::new(&Fake::judge(Ok(Verdict::Healthy))).await;
    let unknown = world.order(CommandKind::Accept("get".into())).await.await.unwrap().unwrap_err();
    assert_eq!((unknown.code, unknown.message.contains("there are `get-order`")), (Code::NotFound, true));
    world.order(CommandKind::Accept(OPERATION.into())).await.await.unwrap().unwrap();
    world.pass(1).await;
    let batch = world.controller.questions.pending.last().unwrap();
    assert!(batch.gauges.iter().any(|gauge| gauge.name == "pairs.accepted{get-order}" && gauge.value == 1));
}
