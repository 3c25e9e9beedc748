//! What Prometheus scrapes, made when it is asked for from the counts that policies see.

mod host;
mod pools;
mod text;

use std::{fmt, time::Duration};

use cutover_contract::histogram::{Histogram, lower_bound, upper_bound};

pub use self::text::Format;
use self::text::{BOUNDS_US, Family, Labels, Value};
use crate::host::Host;
use cutover_control::migration::{failsafe::Thing, snapshot::Snapshot};
use cutover_model::{
    facts::{Calls, Members},
    port::{Phase, Verdict},
};
use cutover_policy_host::engine::Compilations;
use cutover_store::{Store, room::Removed};

/// Everything that one scrape shows.
#[derive(Debug, Default)]
struct Scrape {
    families: Vec<Family>,
}

/// Renders all migrations of a host.
///
/// # Errors
/// Never in practice: writing to memory does not fail.
pub fn render(host: &Host, format: Format) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for family in Scrape::of(host).families {
        family.write(&mut out, format)?;
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    Ok(out)
}

impl Scrape {
    fn of(host: &Host) -> Self {
        let mut scrape = Self::default();
        scrape.host(host);
        scrape.compilations(host.engine.compilations());
        scrape.store(&host.store);
        for (name, migration) in &host.migrations {
            scrape.calls(name, migration);
            scrape.state(name, migration);
            scrape.candidates(name, migration);
        }
        scrape
    }

    fn compilations(&mut self, made: Compilations) {
        let counts = [
            ("cutover_policy_compilations", "Policies that were compiled", made.compiled),
            ("cutover_policy_cache_hits", "Policies whose machine code was loaded from disk", made.from_disk),
            ("cutover_policy_cache_rejected", "Files of machine code that were not trusted", made.rejected),
        ];
        for (name, help, count) in counts {
            self.counter(name, help, Vec::new(), count);
        }
        let in_use = f64::from(u8::from(made.kept_on_disk));
        self.gauge("cutover_policy_cache_in_use", "1 if machine code is kept on disk", Vec::new(), in_use);
    }

    fn store(&mut self, store: &Store) {
        let (bytes, too_large) = store.last_bytes();
        self.gauge("cutover_store_bytes", "Bytes of the store that are in use", Vec::new(), float(bytes));
        let too_large = f64::from(u8::from(too_large));
        self.gauge("cutover_store_too_large", "1 if no room can be made in the store", Vec::new(), too_large);
        for what in Removed::ALL {
            let labels = vec![("records", what.name().to_owned())];
            let help = "Records that were removed because they were old, or to make room";
            self.counter("cutover_store_removed", help, labels, store.removed(what));
        }
    }

    /// Gauges, though they count: they are about whoever stands by now, and begin again with the next one.
    fn candidates(&mut self, name: &str, migration: &crate::host::Migration) {
        for (kind, candidate) in migration.slots.iter().filter_map(|(kind, slot)| Some((kind, slot.candidate()?))) {
            let evidence = candidate.evidence.lock();
            let values = [
                ("cutover_candidate_asked", "Questions that the candidate was asked", evidence.asked),
                ("cutover_candidate_disagreed", "Answers of the candidate that differ", evidence.disagreed),
                ("cutover_candidate_failed", "Questions that the candidate failed", evidence.failed),
                ("cutover_candidate_left_out", "Questions that did not reach the candidate", evidence.left_out),
            ];
            for (metric, help, value) in values {
                let labels = vec![("migration", name.to_owned()), ("kind", kind.name().to_owned())];
                self.gauge(metric, help, labels, float(value));
            }
        }
    }

    fn calls(&mut self, name: &str, migration: &crate::host::Migration) {
        let totals = migration.history.totals();
        let label = |operation: &str, pool: &str| {
            vec![("migration", name.to_owned()), ("operation", operation.to_owned()), ("pool", pool.to_owned())]
        };
        for ((operation, pool), counts) in migration.split.recorder.apart().totals() {
            let (all, failed) = ("Calls whose callers chose the pool", "Those of them that failed");
            self.counter("cutover_apart_calls", all, label(&operation, pool.name()), counts.calls);
            self.counter("cutover_apart_failed_calls", failed, label(&operation, pool.name()), counts.failed);
        }
        for (operation, [v1, v2, shadow]) in &totals.operations {
            for (pool, calls) in [("v1", v1), ("v2", v2), ("shadow", shadow)] {
                self.pool_calls(&label(operation, pool), calls);
            }
        }
        for ((what, operation), count) in &totals.answers {
            let Some((pool, what)) = what.split_once('.') else { continue };
            let mut labels = label(operation, pool);
            if what == "unread" {
                self.counter("cutover_unread", "Answers that could not be read for failures", labels, *count);
            } else {
                labels.push(("class", what.to_owned()));
                self.counter("cutover_answers", "Calls that did not fail, by class of status", labels, *count);
            }
        }
        let c = totals.comparisons;
        let outcomes =
            [("same", c.same), ("ignored", c.ignored), ("different", c.different), ("incomparable", c.incomparable)];
        for (outcome, count) in outcomes {
            let labels = vec![("migration", name.to_owned()), ("outcome", outcome.to_owned())];
            self.counter("cutover_comparisons", "Mirrored pairs that were compared", labels, count);
        }
        for (operation, fates) in migration.split.recorder.pairs().totals() {
            for (fate, count) in fates.named() {
                let labels = [("migration", name), ("operation", &operation), ("fate", fate)];
                let labels = labels.map(|(label, value)| (label, value.to_owned())).to_vec();
                let help = "Pairs that were to be compared, and what became of them; `different` is part of `compared`";
                self.counter("cutover_pairs", help, labels, count);
            }
        }
        for (operation, count) in migration.plane.rate_limited() {
            let labels = vec![("migration", name.to_owned()), ("operation", operation.to_owned())];
            self.counter("cutover_rate_limited", "Requests of callers who sent too many", labels, count);
        }
        for (pool, failures) in ["v1", "v2"].into_iter().zip(totals.failures) {
            let labels = vec![("migration", name.to_owned()), ("pool", pool.to_owned())];
            self.counter("cutover_worker_failures", "Workers that died or were replaced", labels, failures);
        }
    }

    fn pool_calls(&mut self, labels: &[(&'static str, String)], calls: &Calls) {
        let counts = [
            ("cutover_requests", "Calls that a pool answered, successfully or not", calls.requests),
            ("cutover_errors", "Calls that failed because of the pool", calls.errors),
            ("cutover_timeouts", "Failed calls that ran out of time", calls.timeouts),
            ("cutover_failed_over", "Failed calls that the other pool answered", calls.failed_over),
        ];
        for (name, help, count) in counts {
            self.counter(name, help, labels.to_vec(), count);
        }
        let help = "Latency of calls since the host began, queueing included; the sum is within 2 percent";
        self.histogram("cutover_latency_seconds", help, labels.to_vec(), &calls.latency);
    }

    fn state(&mut self, name: &str, migration: &crate::host::Migration) {
        let snapshot = migration.handle.snapshot();
        let here = || vec![("migration", name.to_owned())];
        let share = f64::from(migration.split.router.share().get()) / 1e6;
        self.gauge("cutover_v2_share", "Share of sessions that V2 serves", here(), share);
        self.gauge("cutover_stage", "Stage of the ramp", here(), f64::from(snapshot.state.stage));
        let phases = [
            Phase::Preparing,
            Phase::Shadow,
            Phase::Ramping,
            Phase::Complete,
            Phase::Decommissioned,
            Phase::Paused,
            Phase::RolledBack,
        ];
        for phase in phases {
            let mut labels = here();
            labels.push(("phase", phase.name().to_owned()));
            let now = f64::from(u8::from(phase == snapshot.state.phase));
            self.gauge("cutover_phase", "1 for the phase that the migration is in", labels, now);
        }
        let lost = |thing| snapshot.failsafe.iter().find(|shown| shown.lost == thing);
        for thing in [Thing::Judge, Thing::Store, Thing::Stages, Thing::V2] {
            let mut labels = here();
            labels.push(("lost", thing.name().to_owned()));
            let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
            let for_s = lost(thing).map_or(0.0, |shown| seconds(shown.for_ms));
            let help = "For how long something has been lost while V2 has callers; 0 if it is not";
            self.gauge("cutover_lost_seconds", help, labels.clone(), for_s);
            if let Some(acts_in_ms) = lost(thing).and_then(|shown| shown.acts_in_ms) {
                let help = "In how long the host acts by itself; 0 if it would and is held back";
                self.gauge("cutover_lost_acts_in_seconds", help, labels, seconds(acts_in_ms));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a clock that is off by 2^53 ms is off")]
        let ahead = snapshot.clock.ahead_ms as f64 / 1e3;
        let help = "How far the time that policies are told is ahead of the wall clock";
        self.gauge("cutover_clock_ahead_seconds", help, here(), ahead);
        self.counter(
            "cutover_clock_steps",
            "Steps of the wall clock since the host began",
            here(),
            snapshot.clock.steps,
        );
        self.counter("cutover_decisions", "Decisions since the host began", here(), snapshot.decisions);
        for failing in &snapshot.policy_failures {
            let mut labels = here();
            labels.extend([("kind", failing.kind.name().to_owned()), ("cause", failing.cause.to_owned())]);
            self.counter("cutover_policy_failures", "Questions that a policy did not answer", labels, failing.count);
        }
        self.judged(name, &snapshot);
        let split = &migration.split;
        let left_out = migration.plane.left_out();
        self.counter("cutover_shadow_left_out", "Mirrored calls that the budget had no room for", here(), left_out);
        for pool in [&split.v1, &split.v2] {
            let mut labels = here();
            labels.push(("pool", pool.id().name().to_owned()));
            self.members(&labels, pool.members_now());
            if let Some(workers) = pool.workers() {
                self.pool(&labels, &workers.view());
            }
            if let Some(upstreams) = pool.upstreams() {
                self.upstreams(&labels, &upstreams.view());
            }
        }
    }

    fn members(&mut self, labels: &[(&'static str, String)], members: Members) {
        let values = [
            ("cutover_workers_wanted", "Workers that the pool is meant to have", f64::from(members.wanted)),
            ("cutover_workers_ready", "Workers that can take calls", f64::from(members.ready)),
            ("cutover_queue", "Calls that wait for a worker", f64::from(members.queued)),
            ("cutover_workers_rss_bytes", "Resident memory of the pool's workers", float(members.rss_bytes)),
        ];
        for (name, help, value) in values {
            self.gauge(name, help, labels.to_vec(), value);
        }
    }

    /// What the judge says, and what people have switched.
    fn judged(&mut self, name: &str, snapshot: &Snapshot) {
        let here = |label, value: &str| vec![("migration", name.to_owned()), (label, value.to_owned())];
        let said = snapshot.verdict.as_ref();
        for verdict in [Verdict::Healthy, Verdict::Hold, Verdict::Warn, Verdict::RollBack] {
            let now = f64::from(u8::from(said.is_some_and(|judged| judged.verdict == verdict)));
            let help = "1 for what the rollback policy said last; all are 0 before it has said anything";
            self.gauge("cutover_verdict", help, here("verdict", verdict.name()), now);
        }
        if let Some(judged) = said {
            let help = "Base-10 logarithm of the evidence against V2 that the rollback policy has";
            #[expect(clippy::cast_precision_loss, reason = "evidence beyond 2^53 millionths is beyond doubt")]
            let evidence = judged.evidence as f64 / 1e6;
            self.gauge("cutover_evidence", help, vec![("migration", name.to_owned())], evidence);
        }
        for flag in &snapshot.flags {
            let value = flag.value.as_bool().map(|on| f64::from(u8::from(on))).or_else(|| flag.value.as_f64());
            let help = "The flag: 1 if it is on and 0 if it is off, or its number";
            self.gauge("cutover_flag", help, here("flag", flag.flag), value.unwrap_or(0.0));
        }
        let waits = f64::from(u32::try_from(snapshot.unrecorded).unwrap_or(u32::MAX));
        let help = "Decisions that were acted on and are not on record yet";
        self.gauge("cutover_unrecorded_decisions", help, vec![("migration", name.to_owned())], waits);
        let moves = f64::from(u8::from(snapshot.state.redeploys));
        let help = "1 while V2 is being replaced and V1 has its callers";
        self.gauge("cutover_redeploys", help, vec![("migration", name.to_owned())], moves);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        self.push(name, help, labels, Value::Counter(value));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: Labels, value: f64) {
        self.push(name, help, labels, Value::Gauge(value));
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, labels: Labels, calls: &Histogram) {
        let mut at_most = [0; BOUNDS_US.len()];
        let mut sum_us = 0_u64;
        for &(index, count) in calls.buckets() {
            let middle = u64::midpoint(lower_bound(index), upper_bound(index));
            sum_us = sum_us.saturating_add(middle.saturating_mul(count));
            for (_, n) in BOUNDS_US.iter().zip(&mut at_most).filter(|(bound, _)| middle <= **bound) {
                *n += count;
            }
        }
        self.push(name, help, labels, Value::Histogram(at_most, calls.total(), seconds(sum_us)));
    }

    fn push(&mut self, name: &'static str, help: &'static str, labels: Labels, value: Value) {
        match self.families.iter_mut().find(|family| family.name == name) {
            Some(family) => family.samples.push((labels, value)),
            None => self.families.push(Family { name, help, samples: vec![(labels, value)] }),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 microseconds are 285 years")]
const fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, exact up to 2^53: 9 petabytes")]
const fn float(value: u64) -> f64 {
    value as f64
}
