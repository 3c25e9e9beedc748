//! Mends what would otherwise stay wrong: times that lie in the future, and policies that cannot read what they
//! remember.

use std::time::Duration;

use serde_json::json;

use super::controller::Controller;
use crate::notify::{Notice, Notifier};
use cutover_model::{
    causes::chain,
    clock::{
        self, UnixMs,
        timeline::{Clock, Mended},
    },
    facts::Finding,
    port::{Check, Kind},
};
use cutover_policy_host::slot::Slots;
use cutover_store::{Store, records::Decision, state::State};
use cutover_traffic::observe::marks::Marks;

/// How long a policy that began afresh must have gone without needing it again.
const AFRESH_APART: Duration = Duration::from_hours(1);

/// A migration whose time was mended when the host started.
#[derive(Debug)]
pub struct Mending<'a> {
    /// The name of the migration.
    pub migration: &'a str,
    /// Where it stands, with the mended time.
    pub state: &'a State,
    /// When its phase or stage had begun.
    pub before: UnixMs,
    /// By how much its time was wrong, and in which direction.
    pub mended: Mended,
    /// The clock that its decisions rest on.
    pub clock: &'a Clock,
}

impl Mending<'_> {
    /// Puts it on record and tells people. Whoever remembers times from the future begins afresh. A store that does not
    /// take it does not keep the host from starting: then it is mended again the next time.
    pub async fn record(self, slots: &Slots, store: &Store, notifier: &Notifier) {
        let Self { migration, state, before, mended, clock } = self;
        let now = clock.now();
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let lasted = humantime::format_duration(Duration::from_secs(now.since(state.since).as_secs()));
        let (rule, observed, limit, why) = match mended {
            Mended::Future(by) => ("clock-future", ms(by), ms(clock::timeline::AHEAD), "lies in the future"),
            Mended::Past(by) => ("clock-past", ms(by), ms(clock::timeline::BEHIND), "is long past"),
        };
        let note = format!(
            "what was recorded last {why} by the wall clock; the stage goes on from now with the {lasted} that it has lasted"
        );
        let findings = vec![Finding { rule: rule.into(), observed, limit, unit: "ms".into(), note: note.clone() }];
        let reason = format!("{note}; it had begun at {}", before.rfc3339());
        let decision = Decision {
            id: 0,
            migration: migration.into(),
            at: clock.wall(),
            kind: "mend-clock".into(),
            actor: "host".into(),
            reason: reason.clone(),
            from_phase: state.phase,
            to_phase: state.phase,
            from_share: state.share,
            to_share: state.share,
            policy: None,
            digest: None,
            findings: findings.clone(),
            inputs: None,
        };
        if matches!(mended, Mended::Future(_)) {
            forget(slots, now);
        }
        // A check without anything in it says how long the stage has lasted.
        let check = Check {
            now_ms: now,
            phase: state.in_force(),
            stage: state.stage,
            share: state.share,
            stage_started_ms: state.since,
            batches: Vec::new(),
        };
        let recorded = async {
            store.decide(&decision, state, None).await?;
            store.record_check(migration, &check, None, &(0, Marks::default())).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(migration, "a mended clock is not on record: {}", chain(&error));
        }
        let (at, event) = (clock.wall(), "mend-clock".into());
        notifier.notify(Notice {
            at,
            migration: migration.into(),
            event,
            severity: "warning",
            message: reason,
            findings,
        });
    }
}

/// What policies remember of checks is of another time; they begin afresh.
fn forget(slots: &Slots, now: UnixMs) {
    for kind in [Kind::Rollback, Kind::Stages] {
        let slot = slots.get(kind);
        slot.forget();
        if let Some(candidate) = slot.candidate() {
            *candidate.memory.lock() = (Vec::new(), now);
        }
    }
}

impl Controller {
    /// Time goes on from where the stage begins that was just decided on.
    pub(super) fn begin_time(&mut self) {
        let Some(anchor) = self.course.beginning.take() else { return };
        let by_ms = self.parts.clock.go_on(anchor);
        let recorder = &self.parts.split.recorder;
        if let Ok(by_ms) = u64::try_from(by_ms) {
            return recorder.shift(by_ms);
        }
        let now = self.parts.clock.now();
        recorder.begin(now);
        self.questions.last_check = UnixMs(0);
        self.questions.recent.clear();
        forget(&self.parts.slots, now);
        let message =
            format!("the time that policies are told was {} ms ahead of the wall clock, and is mended", -by_ms);
        self.notice("mend-clock", "warning", message, Vec::new());
    }

    /// Lets a policy that failed too often begin afresh, once, before it is put out of charge: it may be its memory that it
    /// cannot read, and it would lose that anyhow. False if it remembers nothing, or did so lately.
    pub(super) async fn begin_afresh(&mut self, kind: Kind, why: &str) -> bool {
        let now = self.parts.clock.mono();
        let lately = self.trust.afresh.get(&kind).is_some_and(|at| now.since(*at) < AFRESH_APART);
        if lately || !matches!(kind, Kind::Rollback | Kind::Stages) || !self.parts.slots.get(kind).forget() {
            return false;
        }
        self.trust.afresh.insert(kind, now);
        self.trust.failing.remove(&kind);
        let audited = self.audited("host", "policy-afresh", json!({ "kind": kind, "reason": why }));
        let audit = self.parts.store.audit(&audited).await;
        if let Err(error) = audit {
            tracing::error!(
                migration = self.parts.name,
                "a policy that begins afresh is not audited: {}",
                chain(&error)
            );
        }
        let message = format!(
            "the {kind} policy keeps failing, so it begins afresh, without what it remembered: {why}; if it fails on, it \
             is put out of charge"
        );
        self.notice("policy-afresh", "critical", message, Vec::new());
        true
    }
}
