//! Builds one migration in two parts: first what needs no store, then what needs it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    Common, Shared, StartError,
    changes::{self, Configured},
    planes::{self, Made},
    policies::{self, Filled},
};
use crate::{
    config::{MigrationConfig, PlaneConfig},
    host::{Migration, Plane},
};
use cutover_control::migration::{
    Controller, controller, evaluation::CandidateEvaluator, failsafe, flags::Flags, mend::Mending, rails::Rails,
};
use cutover_model::{
    clock::{
        self, UnixMs, Wall,
        timeline::{Clock, Known, Mended, Resumed, Timeline},
    },
    port::{Kind, Phase},
    request::Ppm,
};
use cutover_policy_host::{
    bundle::Bundle,
    evaluation::{EvaluationQueue, Queues},
    route::Control,
    slot::Slots,
};
use cutover_store::{
    Store, StoreError,
    in_force::InForce,
    markers::{self, Marker},
    plans::LastPlan,
    records::{Decision, PoolConfiguration},
    state::State,
};
use cutover_traffic::{
    compare::{self, Comparer},
    observe::{History, Recorder},
    pool::Pool,
    split::Split,
};

/// A migration whose pools are made and closed.
#[derive(Debug)]
pub(super) struct Begun {
    name: String,
    salt: String,
    check_interval: Duration,
    control: Control,
    wall: Wall,
    raise_without_v1: bool,
    deadline: Duration,
    failsafe: failsafe::Settings,
    rails: Rails,
    policies: BTreeMap<Kind, Bundle>,
    unreadable: BTreeMap<Kind, String>,
    flags: BTreeMap<String, Value>,
    slots: Arc<Slots>,
    evaluations: EvaluationQueue,
    queues: Queues,
    comparer: Comparer,
    made: Made,
}

impl Begun {
    pub(super) fn new(config: MigrationConfig, common: &Common) -> Self {
        let slots = Arc::<Slots>::default();
        let (evaluations, queues) = EvaluationQueue::new(Arc::clone(&slots));
        let recorder = Arc::new(Recorder::new(clock::unix_ms()));
        let (comparer, compare) = compare::comparer(evaluations.clone(), Arc::clone(recorder.pairs()));
        common.background.spawn(compare);
        let given = planes::Given {
            evaluations: evaluations.clone(),
            callers: config.callers,
            recorder,
            comparer: comparer.clone(),
            deadline: config.deadline,
            failover_reserve_percent: config.failover_reserve_percent,
            shadow_budget: config.shadow_budget,
            shadow_timeout: config.shadow_timeout,
        };
        let made = match config.plane {
            PlaneConfig::Operations(operations) => planes::operations(*operations, given, common),
            PlaneConfig::Http(http) => planes::http(*http, given, common),
        };
        let MigrationConfig {
            name,
            salt,
            check_interval,
            control,
            raise_without_v1,
            deadline,
            failsafe,
            rails,
            policies,
            unreadable,
            flags,
            ..
        } = config;
        let wall = common.wall.clone();
        Self {
            name,
            salt,
            check_interval,
            control,
            wall,
            raise_without_v1,
            deadline,
            failsafe,
            rails,
            policies,
            unreadable,
            flags,
            slots,
            evaluations,
            queues,
            comparer,
            made,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What [`changes`](super::changes) compares with the store.
    pub(super) fn configured(&self) -> Configured<'_> {
        let operations = self.made.split.operations.iter().map(|(name, class)| (name.to_string(), *class)).collect();
        let in_force = InForce { salt: self.salt.clone(), operations };
        Configured {
            name: &self.name,
            in_force,
            policies: &self.policies,
            pools: self.made.pools.clone(),
            is_v1_absent: self.made.split.v1.is_absent(),
            flags: &self.flags,
        }
    }

    pub(super) fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.policies.values()
    }

    pub(super) fn pools(&self) -> [&Pool; 2] {
        [&self.made.split.v1, &self.made.split.v2]
    }

    /// Reads what the store has of it, fills its slots, and starts its controller.
    pub(super) async fn start(self, shared: &Shared) -> Result<Migration, StartError> {
        let in_force = self.configured().in_force;
        let Self { name, queues, evaluations, slots, made: Made { split, plane, pools, keeper }, .. } = self;
        let store = &shared.store;
        let flags = Flags::new(self.flags, store.flags(&name).await?)?;
        let pools = pools.iter().filter(|pool| pool.version != 1 || !split.v1.is_absent());
        put_in_force(&name, pools, &in_force, (store, self.wall.read().wall)).await?;
        if let (Plane::Operations(dispatch), Some(keeper)) = (&plane, keeper) {
            dispatch.journal.fill(store.journal(&name).await?);
            shared.background.spawn(store.clone().keep_journal(name.clone(), keeper));
        }
        let Filled { configured, refused, compares_otherwise } =
            policies::fill_slots(&name, (self.policies, self.unreadable), &slots, shared).await?;
        if compares_otherwise {
            split.recorder.pairs().changed_before();
        }
        // Time goes on when the policies are there, which may take a while.
        let found = found(&name, &self.wall, &split.v1, shared).await?;
        found.can_do_with(&name, &split.v1)?;
        let last_plan = readable(&name, store.last_plan(&name).await);
        found.go_on(&name, &split.recorder, &slots, shared).await?;
        let Found { state, unrecorded, last_check, clock, .. } = found;
        let last_decision = store.last_decision(&name).await?.unwrap_or_default().0;
        let history = Arc::<History>::default();
        // Requests may come in before the controller does.
        split.v1.open();
        stop_unneeded(&split, &state, store).await;
        let (mut controller, handle) = Controller::new(controller::Parts {
            name: name.clone(),
            salt: self.salt,
            check_interval: self.check_interval,
            control: self.control,
            state,
            flags,
            split: Arc::clone(&split),
            slots: Arc::clone(&slots),
            history: Arc::clone(&history),
            store: store.clone(),
            markers: shared.markers.clone(),
            last_decision,
            unrecorded,
            notifier: shared.notifier.clone(),
            machine: Arc::clone(&shared.machine),
            tasks: shared.working.clone(),
            records: shared.recording.clone(),
            refused,
            raise_without_v1: self.raise_without_v1,
            patience: shared.patience,
            failsafe: self.failsafe,
            rails: self.rails,
            clock: clock.clone(),
            last_check,
            evaluations: evaluations.clone(),
            failed: queues.failures,
        });
        // Sessions are where they were before any request comes in.
        controller.begin(last_plan).await;
        let trial = CandidateEvaluator {
            migration: name,
            slots: Arc::clone(&slots),
            store: store.clone(),
            handle: handle.clone(),
            evaluations,
            control: self.control,
            clock: clock.clone(),
        };
        shared.deciding.spawn(trial.run(queues.jobs, shared.background_stop.clone()));
        shared.deciding.spawn(controller.run(shared.background_stop.clone()));
        let (comparer, deadline) = (self.comparer, self.deadline);
        Ok(Migration { handle, split, plane, history, comparer, slots, configured, deadline, clock })
    }
}

/// Stops a V2 that was opened ahead and that the migration has no use for.
async fn stop_unneeded(split: &Split, state: &State, store: &Store) {
    let has_store = store.refuses().is_none() || split.v1.is_absent();
    if split.v2.is_open() && !(state.needs_v2() && has_store) {
        split.v2.close();
        split.v2.stop(true).await;
    }
}

/// Keeps what the migration runs by from now on, if the store takes it.
async fn put_in_force<'a>(
    name: &str,
    pools: impl Iterator<Item = &'a PoolConfiguration>,
    in_force: &InForce,
    (store, now): (&Store, UnixMs),
) -> Result<(), StoreError> {
    if store.refuses().is_some() {
        return Ok(());
    }
    for pool in pools {
        store.configure_pool(pool).await?;
    }
    store.put_in_force(name, in_force, now).await
}

/// What the store knows of a migration, with its time.
struct Found {
    state: State,
    /// A rollback that led to it and that the store does not know of.
    unrecorded: Option<Decision>,
    /// When the store says that its phase or stage began.
    before: UnixMs,
    /// The last check, unless that lies in the future.
    last_check: UnixMs,
    mended: Option<Mended>,
    clock: Clock,
}

async fn found(name: &str, wall: &Wall, v1: &Pool, shared: &Shared) -> Result<Found, StartError> {
    let (store, reading) = (&shared.store, wall.read());
    let state = store.state(name).await?;
    let known = markers::Known { store: store.id(), last: store.last_decision(name).await?, state: state.as_ref() };
    let news = shared.markers.news(name, known, reading.wall);
    let (state, unrecorded) = match (news, state) {
        (Some(Marker { state, decision, .. }), _) => {
            tracing::warn!(migration = name, "it was rolled back, which the store does not know: {}", decision.reason);
            (state, Some(decision))
        }
        (None, Some(state)) => (state, None),
        (None, None) if v1.is_absent() => {
            let (state, decision) = assumed_complete(name, reading.wall);
            (state, Some(decision))
        }
        (None, None) => (State::new(reading.wall), None),
    };
    let last_check = store.last_check(name).await?;
    let before = state.since;
    let known = Known { since: before, is_judged: state.is_judged(), last_check };
    let Resumed { timeline, since, mended } = Timeline::resume(known, reading);
    let last_check = last_check.map_or(UnixMs(0), |(at, _)| at).min(timeline.now(reading.mono));
    let clock = Clock::new(wall.clone(), timeline);
    Ok(Found { state: State { since, ..state }, unrecorded, before, last_check, mended, clock })
}

/// Where a migration stands of which no store knows, and whose V1 is left out: who left it out had everybody on V2, and
/// there is nobody else to serve.
fn assumed_complete(name: &str, now: UnixMs) -> (State, Decision) {
    let from = State::new(now);
    let state = State { phase: Phase::Complete, share: Ppm::ALL, ..from.clone() };
    let decision = Decision {
        id: 0,
        migration: name.into(),
        at: now,
        kind: "complete".into(),
        actor: "host".into(),
        reason: changes::assumes(name),
        from_phase: from.phase,
        to_phase: state.phase,
        from_share: from.share,
        to_share: state.share,
        policy: None,
        digest: None,
        findings: Vec::new(),
        inputs: None,
    };
    (state, decision)
}

impl Found {
    /// A configuration without V1 is for migrations that are done with it.
    fn can_do_with(&self, name: &str, v1: &Pool) -> Result<(), StartError> {
        let refused = changes::needs(name, &self.state).filter(|_| v1.is_absent());
        refused.map_or(Ok(()), Err)
    }

    /// The time of what is there goes on, mended where it has to be.
    async fn go_on(&self, name: &str, recorder: &Recorder, slots: &Slots, shared: &Shared) -> Result<(), StoreError> {
        let Self { state, before, mended, clock, .. } = self;
        if let Some(mended) = *mended {
            let mending = Mending { migration: name, state, before: *before, mended, clock };
            mending.record(slots, &shared.store, &shared.notifier).await;
        }
        for candidate in slots.iter().filter_map(|(_, slot)| slot.candidate()) {
            // It has seen what the one in charge has.
            candidate.memory.lock().1 = clock.now();
        }
        match shared.store.sessions(name).await {
            Ok(known) => recorder.go_on(&known),
            Err(error) if shared.store.refuses().is_some() => {
                tracing::warn!(migration = name, %error, "sessions are counted anew");
            }
            Err(error) => return Err(error),
        }
        recorder.begin(clock.now());
        Ok(())
    }
}

/// A last plan that cannot be read is none: the routing policy makes another.
fn readable(migration: &str, last: Result<Option<LastPlan>, StoreError>) -> Option<LastPlan> {
    last.unwrap_or_else(|error| {
        tracing::error!(migration, "the last plan cannot be read: {}", cutover_model::causes::chain(&error));
        None
    })
}
