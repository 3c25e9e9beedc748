//! Prometheus text, made when it is asked for from the counts that policies see.

mod pools;

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    app::Host,
    migration::failsafe::Thing,
    policy::{
        engine::Compilations,
        facts::{Calls, Members},
        port::Phase,
    },
};

/// The media type of the text (`OpenMetrics` 1.0, which Prometheus reads).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Quantiles that are shown, in parts per million and as labels.
const QUANTILES: [(u32, &str); 4] = [(500_000, "0.5"), (950_000, "0.95"), (990_000, "0.99"), (999_000, "0.999")];

/// One sample's labels and value.
type Sample<T> = (Vec<(&'static str, String)>, T);

/// Everything that one scrape shows.
#[derive(Debug, Default)]
struct Scrape {
    counters: Vec<(&'static str, &'static str, Vec<Sample<u64>>)>,
    gauges: Vec<(&'static str, &'static str, Vec<Sample<f64>>)>,
}

/// Renders all migrations of a host.
///
/// # Errors
/// Never in practice: writing to memory does not fail.
pub fn render(host: &Host) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape::of(host)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Scrape {
    fn of(host: &Host) -> Self {
        let mut scrape = Self::default();
        scrape.compilations(host.engine.compilations());
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

    /// Gauges, though they count: they are about whoever stands by now, and begin again with the next one.
    fn candidates(&mut self, name: &str, migration: &crate::app::Migration) {
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

    fn calls(&mut self, name: &str, migration: &crate::app::Migration) {
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
        for (ppm, quantile) in QUANTILES {
            let Some(us) = calls.latency.quantile_us(ppm) else { continue };
            let mut labels = labels.to_vec();
            labels.push(("quantile", quantile.to_owned()));
            let help = "Latency since the host began, queueing included";
            self.gauge("cutover_latency_seconds", help, labels, seconds(us));
        }
    }

    fn state(&mut self, name: &str, migration: &crate::app::Migration) {
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

    fn counter(&mut self, name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: u64) {
        push(&mut self.counters, name, help, (labels, value));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: f64) {
        push(&mut self.gauges, name, help, (labels, value));
    }
}

fn push<T>(
    families: &mut Vec<(&'static str, &'static str, Vec<Sample<T>>)>,
    name: &'static str,
    help: &'static str,
    sample: Sample<T>,
) {
    match families.iter_mut().find(|(known, _, _)| *known == name) {
        Some((_, _, samples)) => samples.push(sample),
        None => families.push((name, help, vec![sample])),
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, samples) in &self.counters {
            let counter = ConstCounter::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            if let [(labels, value)] = samples.as_slice()
                && labels.is_empty()
            {
                ConstCounter::new(*value).encode(family)?;
                continue;
            }
            for (labels, value) in samples {
                ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, samples) in &self.gauges {
            let gauge = ConstGauge::new(0.0_f64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            if let [(labels, value)] = samples.as_slice()
                && labels.is_empty()
            {
                ConstGauge::new(*value).encode(family)?;
                continue;
            }
            for (labels, value) in samples {
                ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
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
