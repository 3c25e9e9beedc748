//! The pools as the controller needs them: it opens them, hears what comes of that, stops V2, and looks whether V1 is
//! there.

use std::{sync::Arc, time::Duration};

use super::{
    controller::{Controller, V2Calls},
    effects::{BackgroundEvent, Cause},
    flags::Off,
    presence::News,
    snapshot::RollbackReport,
    step::{Facts, preparing},
    withhold::{RULE, V1, Withheld},
};
use crate::migration::event::Event;
use cutover_model::{
    clock::{self, UnixMs},
    facts::Finding,
    port::{Phase, Verdict},
    request::Ppm,
};
use cutover_store::{plans::LastPlan, records::Decision};
use cutover_traffic::pool::Pool;

/// How long workers may take to start before people are told; they go on starting.
const START_PATIENCE: Duration = Duration::from_secs(30);

impl Controller {
    /// Before anything is served: puts the plan in force that was in force when the host was here last, so that sessions stay
    /// where they are; then the one that the routing policy makes now. If that fails, the other one stays.
    pub async fn begin(&mut self, last: Option<LastPlan>) {
        self.switch_pools();
        self.say_what_is_off();
        self.try_to_catch_up().await;
        self.find_rollback().await;
        self.keep_marker();
        self.admit_table(Cause::host()).await;
        self.distrust().await;
        let split = Arc::clone(&self.parts.split);
        // Without a store V2 gets nobody, and what it would be told goes nowhere.
        if self.state.v2_runs() && !self.only_v1() {
            split.v2.open();
            self.restore(last);
        }
        self.route().await;
        self.look_at_v1();
    }

    /// Flags stay when the person who set them has gone: a host that starts says which make callers less safe.
    fn say_what_is_off(&self) {
        for off in self.parts.flags.off().into_iter().filter(Off::weakens) {
            let message = format!("the flag `{}` is off: {}", off.flag, off.meaning);
            self.notice("flag-off", "warning", message, Vec::new());
        }
    }

    /// Tells the pools what operators have switched.
    pub(super) fn switch_pools(&self) {
        let (split, flags) = (&self.parts.split, &self.parts.flags);
        for pool in [&split.v1, &split.v2].into_iter().filter_map(Pool::workers) {
            pool.switch_breakers(flags.circuit_breaker());
            pool.switch_optimizer(flags.pool_optimizer());
        }
    }

    /// Opens the pools that the state needs and reports when they are up. A drain that is still going on ends first.
    pub(super) fn open_pools(&self) {
        // Without a store V2 gets nobody, and what it would be told goes nowhere.
        let only_v1 = self.only_v1();
        let (needs_v1, needs_v2) = (only_v1 || self.state.needs_v1(), !only_v1 && self.state.needs_v2());
        let (split, settled) = (Arc::clone(&self.parts.split), self.settled.clone());
        split.v1.open();
        self.parts.tasks.spawn(async move {
            let _turn = split.v2_turn.lock().await;
            if needs_v2 {
                split.v2.open();
            }
            loop {
                let deadline = clock::mono() + START_PATIENCE;
                let ready = async |needed: bool, pool: &Pool| {
                    if needed { pool.ready_by(deadline).await.err().map(|failure| failure.message) } else { None }
                };
                let report = match tokio::join!(ready(needs_v1, &split.v1), ready(needs_v2, &split.v2)) {
                    (None, None) => BackgroundEvent::Ready,
                    (v1, v2) => BackgroundEvent::StillStarting { v1, v2 },
                };
                let done = matches!(report, BackgroundEvent::Ready);
                let closed = needs_v2 && !split.v2.is_open();
                if settled.send(report).await.is_err() || done || closed {
                    return;
                }
            }
        });
    }

    /// V1 has everybody already; waits for V2's calls in flight, starts workers anew, and reports when they are ready.
    /// Upstreams are replaced by somebody else, who says when that is done.
    pub(super) fn restart_v2(&self) {
        let (split, settled) = (Arc::clone(&self.parts.split), self.settled.clone());
        // Turned away at once, so that the drain has an end.
        split.v2.close();
        self.parts.tasks.spawn(async move {
            let turn = split.v2_turn.lock().await;
            let left = split.v2.drain().await;
            if split.v2.workers().is_some() {
                split.v2.stop(false).await;
            }
            drop(turn);
            // The controller is gone when the host stops.
            drop(settled.send(BackgroundEvent::Idle(left)).await);
        });
    }

    /// Waits until V2 is ready again after it was replaced, and reports it.
    pub(super) fn await_v2(&self) {
        let (split, settled) = (Arc::clone(&self.parts.split), self.settled.clone());
        // What it was before it was replaced says nothing of what it is now.
        split.v2.forget();
        split.v2.open();
        self.parts.tasks.spawn(async move {
            loop {
                let report = match split.v2.reached_by(clock::mono() + START_PATIENCE).await {
                    Ok(()) => BackgroundEvent::Returned,
                    Err(failure) => BackgroundEvent::StillStarting { v1: None, v2: Some(failure.message) },
                };
                let done = matches!(report, BackgroundEvent::Returned);
                // A rollback closes it.
                if !split.v2.is_open() || settled.send(report).await.is_err() || done {
                    return;
                }
            }
        });
    }

    /// V2 is closed already; waits for its calls in flight and stops its workers, off the controller's path.
    pub(super) fn stop_v2(&self, decision: Option<&Decision>, cause: &Cause, kill: bool) {
        let report = RollbackReport {
            decision: decision.map_or(0, |d| d.id),
            at: decision.map_or(UnixMs(0), |d| d.at),
            reason: decision.map_or_else(String::new, |d| d.reason.clone()),
            policy: cause.policy.clone(),
            digest: cause.digest.clone(),
            findings: decision.map_or_else(Vec::new, |d| d.findings.clone()),
            last_v2_request_us: 0,
            undrained: 0,
        };
        let (split, settled, at) = (Arc::clone(&self.parts.split), self.settled.clone(), cause.at);
        self.parts.tasks.spawn(async move {
            let _turn = split.v2_turn.lock().await;
            let undrained = if kill { 0 } else { split.v2.drain().await };
            split.v2.stop(kill).await;
            let last = split.v2.last_dispatch().since(at);
            let last_v2_request_us = u64::try_from(last.as_micros()).unwrap_or(u64::MAX);
            let report = RollbackReport { last_v2_request_us, undrained, ..report };
            // The controller is gone when the host stops.
            drop(settled.send(BackgroundEvent::Drained { report }).await);
        });
    }

    /// Takes note of what pools report.
    pub(super) async fn settle(&mut self, settled: BackgroundEvent) {
        match settled {
            BackgroundEvent::Ready => {
                self.apply(Event::PoolsReady, Cause::host()).await;
            }
            BackgroundEvent::Idle(left) if self.state.redeploys => {
                if left > 0 {
                    tracing::warn!(
                        migration = self.parts.name,
                        left,
                        "calls of V2 did not end in time and were given up"
                    );
                }
                if self.parts.split.v2.workers().is_some() {
                    self.await_v2();
                } else {
                    let name = &self.parts.name;
                    let message = format!(
                        "V2 has no call any more: replace it, and then say so with `cutover redeploy {name} --done --reason TEXT`"
                    );
                    self.notice("redeploy-idle", "info", message, Vec::new());
                    self.pools.v2_calls = V2Calls::Ended;
                }
            }
            BackgroundEvent::Returned if self.state.redeploys => {
                self.apply(Event::Returned, Cause::host()).await;
            }
            BackgroundEvent::StillStarting { v2: Some(why), .. } if self.state.needs_v2() => {
                let serves = if self.parts.split.is_v1_gone() { "and V1 is down" } else { "V1 keeps serving" };
                let message = format!("workers do not start; {serves}: {why}");
                self.notice("pools-not-ready", "critical", message, Vec::new());
            }
            // A rollback came between. That V1 is not there is noticed elsewhere.
            BackgroundEvent::Idle(_) | BackgroundEvent::Returned | BackgroundEvent::StillStarting { .. } => {}
            BackgroundEvent::Drained { report } => self.shows.last_rollback = Some(report),
            BackgroundEvent::PendingCatchUp(pending) => self.catch_up(*pending).await,
        }
    }

    /// Whether V1 serves everybody, because there is no store that says otherwise. If it is left out of the configuration
    /// nobody but V2 can.
    pub(super) fn only_v1(&self) -> bool {
        self.parts.store.refuses().is_some() && !self.parts.split.v1.is_absent()
    }

    /// The most that V2 gets by what operators have switched; where V1 is left out there is nobody else who could get it.
    pub(super) fn max_for_v2(&self) -> Ppm {
        if self.parts.split.v1.is_absent() { Ppm::ALL } else { self.parts.flags.max_for_v2() }
    }

    /// What a step has to know of everything around the migration.
    pub(super) fn facts(&self) -> Facts<'_> {
        let split = &self.parts.split;
        let v1 = match (split.v1.is_absent(), split.v1.can_serve()) {
            (true, _) => V1::Absent,
            (false, true) => V1::Serves,
            (false, false) => V1::Down,
        };
        Facts {
            switches: self.parts.flags.switches(),
            migration: &self.parts.name,
            v1,
            v2_serves: split.v2.can_serve(),
            raises_without_v1: self.parts.raise_without_v1,
            v2_is_own: split.v2.workers().is_some(),
            most: self.max_for_v2(),
        }
    }

    /// Looks whether V1 is there, tells calls and V2 if it is not, and people if it has to be.
    pub(super) fn look_at_v1(&mut self) {
        let split = Arc::clone(&self.parts.split);
        let news = self.pools.presence.look(self.has_to_serve_v1(), split.v1.can_serve(), self.parts.clock.mono());
        split.set_v1_gone(self.pools.presence.is_gone());
        if !self.pools.presence.is_gone() {
            self.pools.withheld = false;
        }
        match news {
            None => {}
            Some(News::Gone) => {
                let why = split.v1.why_not_whole().unwrap_or_else(|| "nobody is there".into());
                let finding = self.absence();
                let note = finding.as_ref().map(|finding| finding.note.clone()).unwrap_or_default();
                tracing::error!(migration = self.parts.name, "V1 is down and has to serve: {why}; {note}");
                let message = format!("V1 is down and has to serve: {why}; {note}");
                self.notice(RULE, "critical", message, finding.into_iter().collect());
            }
            Some(News::Back) => {
                tracing::info!(migration = self.parts.name, "V1 is there again");
                self.notice("v1-back", "info", "V1 is there again".into(), Vec::new());
            }
        }
    }

    /// What people are shown while V1 is gone and has to serve.
    pub(super) fn absence(&self) -> Option<Finding> {
        let starts = self.state.phase == Phase::Preparing && !self.parts.split.v1.can_serve();
        if !(starts || self.pools.presence.is_gone()) || !self.has_to_serve_v1() {
            return None;
        }
        let finding = Withheld::GoingUp.finding(&self.parts.name, self.state.share);
        Some(match self.state.phase {
            Phase::Preparing => Finding { note: preparing(self.facts()), ..finding },
            Phase::RolledBack => Finding { note: "V1 is down, and everything is on it".into(), ..finding },
            Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Decommissioned | Phase::Paused => finding,
        })
    }

    /// Nothing was done because V1 is down: people are told once, and shown as long as it is so.
    pub(super) fn withhold(&mut self, withheld: Withheld, mut findings: Vec<Finding>) {
        if withheld == Withheld::GoingUp {
            return;
        }
        let finding = withheld.finding(&self.parts.name, self.state.share);
        match &mut self.shows.verdict {
            Some(judged) if judged.verdict == Verdict::RollBack => judged.findings.push(finding.clone()),
            Some(_) | None => self.shows.waiting_for.push(finding.clone()),
        }
        if !self.pools.withheld {
            self.pools.withheld = true;
            tracing::error!(migration = self.parts.name, "{}", finding.note);
            let message = finding.note.clone();
            findings.push(finding);
            self.notice("rollback-withheld", "critical", message, findings);
        }
    }

    /// Whether callers depend on V1 under the plan in force.
    fn has_to_serve_v1(&self) -> bool {
        self.state.in_force() != Phase::Decommissioned && self.parts.split.router.share() < Ppm::ALL
    }
}
