//! What `judge` and `next` are shown: a check, its batches, and their operations.

use std::sync::Arc;

use cutover_policy::{Comparisons, Members, Phase, Progress, Verdict};
use rhai::{Array, Dynamic, Engine, EvalAltResult, INT, ImmutableString, Map};

use super::{
    calls::{Calls, Tally},
    int,
};

/// A check, or the progress of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) now_ms: u64,
    pub(crate) phase: Phase,
    pub(crate) stage: u32,
    pub(crate) share: u32,
    pub(crate) stage_started_ms: u64,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) batches: Arc<[Batch]>,
}

/// One span of time.
#[derive(Debug, Clone)]
pub(crate) struct Batch(Arc<Span>);

#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) start_ms: u64,
    pub(crate) duration_ms: u32,
    pub(crate) share: u32,
    pub(crate) operations: Vec<Operation>,
    pub(crate) v1: Members,
    pub(crate) v2: Members,
    pub(crate) comparisons: Comparisons,
    pub(crate) gauges: Vec<(ImmutableString, INT)>,
}

/// One operation of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) name: ImmutableString,
    pub(crate) class: &'static str,
    pub(crate) v1: Calls,
    pub(crate) v2: Calls,
    pub(crate) shadow: Calls,
}

impl From<&cutover_policy::Check> for Check {
    fn from(check: &cutover_policy::Check) -> Self {
        Self {
            now_ms: check.now_ms,
            phase: check.phase,
            stage: check.stage,
            share: check.share,
            stage_started_ms: check.stage_started_ms,
            verdict: None,
            batches: check.batches.iter().map(Batch::from).collect(),
        }
    }
}

impl From<&Progress> for Check {
    fn from(progress: &Progress) -> Self {
        Self {
            now_ms: progress.now_ms,
            phase: progress.phase,
            stage: progress.stage,
            share: progress.share,
            stage_started_ms: progress.stage_started_ms,
            verdict: Some(progress.verdict),
            batches: progress.batches.iter().map(Batch::from).collect(),
        }
    }
}

impl From<&cutover_policy::Batch> for Batch {
    fn from(batch: &cutover_policy::Batch) -> Self {
        let operation = |o: &cutover_policy::OperationCalls| Operation {
            name: o.operation.as_str().into(),
            class: super::class(o.class),
            v1: (&o.v1).into(),
            v2: (&o.v2).into(),
            shadow: (&o.shadow).into(),
        };
        Self(Arc::new(Span {
            start_ms: batch.start_ms,
            duration_ms: batch.duration_ms,
            share: batch.share,
            operations: batch.operations.iter().map(operation).collect(),
            v1: batch.v1,
            v2: batch.v2,
            comparisons: batch.comparisons,
            gauges: batch.gauges.iter().map(|g| (g.name.as_str().into(), g.value)).collect(),
        }))
    }
}

impl Batch {
    pub(crate) const fn new(span: Arc<Span>) -> Self {
        Self(span)
    }

    pub(crate) fn span(&self) -> &Span {
        &self.0
    }

    /// A gauge that is a count: 0 where there is none.
    pub(crate) fn count(&self, name: &str) -> INT {
        gauge(&self.0, name).unwrap_or(0).max(0)
    }

    /// Whether the host counts distinct sessions; those of old history did not.
    pub(crate) fn counts_sessions(&self) -> bool {
        gauge(&self.0, "v2.sessions").is_some()
    }
}

impl Check {
    pub(crate) const fn mirrors(&self) -> bool {
        matches!(self.phase, Phase::Shadow)
    }

    /// Whether a batch is of this stage, if that matters: those from before it mix shares. A stage that begins in the future
    /// began before a clock was set back, and says nothing.
    pub(crate) fn covers(&self, batch: &Batch, by_stage: bool) -> bool {
        let began = if self.stage_started_ms > self.now_ms { 0 } else { self.stage_started_ms };
        !by_stage || batch.span().start_ms >= began
    }

    fn verdict(&mut self) -> Result<ImmutableString, Box<EvalAltResult>> {
        let verdict = self.verdict.ok_or("`judge` gives the verdict, and is not told one; `next` is")?;
        Ok(super::verdict(verdict).into())
    }

    /// The latest value of a gauge.
    fn gauge(&mut self, name: &str) -> Dynamic {
        let latest = self.batches.iter().rev().find_map(|batch| gauge(batch.span(), name));
        latest.map_or(Dynamic::UNIT, Dynamic::from)
    }

    /// The sum over all batches of a gauge that is a count.
    fn count(&mut self, name: &str) -> INT {
        self.batches.iter().fold(0, |sum: INT, batch| sum.saturating_add(batch.count(name)))
    }

    /// The same check as if only these operations had been called.
    fn only(&mut self, operations: Array) -> Self {
        let names: Vec<ImmutableString> = operations.into_iter().filter_map(Dynamic::try_cast).collect();
        let narrow = |batch: &Batch| {
            let span = batch.span();
            let operations = span.operations.iter().filter(|o| names.contains(&o.name)).cloned().collect();
            Batch(Arc::new(Span { operations, gauges: span.gauges.clone(), ..*span }))
        };
        Self { batches: self.batches.iter().map(narrow).collect(), ..self.clone() }
    }

    fn total(&self, of: fn(&Operation) -> &Calls) -> Calls {
        let mut total = Tally::default();
        let operations = self.batches.iter().flat_map(|batch| &batch.span().operations);
        operations.for_each(|operation| total.add(of(operation).tally()));
        total.into()
    }
}

/// A gauge; they ascend by name.
pub(crate) fn gauge(span: &Span, name: &str) -> Option<INT> {
    let place = span.gauges.binary_search_by(|(gauge, _)| gauge.as_str().cmp(name)).ok()?;
    span.gauges.get(place).map(|&(_, value)| value)
}

/// The name of a gauge that is about one operation.
fn of(name: &str, operation: &str) -> String {
    format!("{name}{{{operation}}}")
}

fn members(members: Members) -> Map {
    Map::from([
        ("wanted".into(), int(members.wanted.into()).into()),
        ("ready".into(), int(members.ready.into()).into()),
        ("failures".into(), int(members.failures.into()).into()),
        ("queued".into(), int(members.queued.into()).into()),
        ("rss_bytes".into(), int(members.rss_bytes).into()),
    ])
}

/// The counts of the contract, and `compared`: the pairs that could be.
pub(crate) fn comparisons(counts: Comparisons) -> Map {
    let compared = [counts.same, counts.ignored, counts.different].into_iter().fold(0, u64::saturating_add);
    Map::from([
        ("same".into(), int(counts.same).into()),
        ("ignored".into(), int(counts.ignored).into()),
        ("different".into(), int(counts.different).into()),
        ("incomparable".into(), int(counts.incomparable).into()),
        ("compared".into(), int(compared).into()),
    ])
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Check>("Check")
        .register_get("now_ms", |c: &mut Check| int(c.now_ms))
        .register_get("phase", |c: &mut Check| ImmutableString::from(super::phase(c.phase)))
        .register_get("stage", |c: &mut Check| int(c.stage.into()))
        .register_get("share", |c: &mut Check| int(c.share.into()))
        .register_get("stage_started_ms", |c: &mut Check| int(c.stage_started_ms))
        .register_get("elapsed_ms", |c: &mut Check| int(c.now_ms.saturating_sub(c.stage_started_ms)))
        .register_get("verdict", Check::verdict)
        .register_get("batches", |c: &mut Check| c.batches.iter().cloned().map(Dynamic::from).collect::<Array>())
        .register_get("v1", |c: &mut Check| c.total(|o| &o.v1))
        .register_get("v2", |c: &mut Check| c.total(|o| &o.v2))
        .register_get("shadow", |c: &mut Check| c.total(|o| &o.shadow))
        .register_fn("gauge", Check::gauge)
        .register_fn("gauge_of", |c: &mut Check, name: &str, operation: &str| c.gauge(&of(name, operation)))
        .register_fn("count", Check::count)
        .register_fn("count_of", |c: &mut Check, name: &str, operation: &str| c.count(&of(name, operation)))
        .register_fn("only", Check::only);
    engine
        .register_type_with_name::<Batch>("Batch")
        .register_get("start_ms", |b: &mut Batch| int(b.0.start_ms))
        .register_get("duration_ms", |b: &mut Batch| int(b.0.duration_ms.into()))
        .register_get("share", |b: &mut Batch| int(b.0.share.into()))
        .register_get("operations", |b: &mut Batch| {
            b.0.operations.iter().cloned().map(Dynamic::from).collect::<Array>()
        })
        .register_get("v1", |b: &mut Batch| members(b.0.v1))
        .register_get("v2", |b: &mut Batch| members(b.0.v2))
        .register_get("comparisons", |b: &mut Batch| comparisons(b.0.comparisons))
        .register_get("gauges", |b: &mut Batch| {
            b.0.gauges.iter().map(|(name, value)| (name.as_str().into(), (*value).into())).collect::<Map>()
        })
        .register_fn("gauge", |b: &mut Batch, name: &str| gauge(&b.0, name).map_or(Dynamic::UNIT, Dynamic::from))
        .register_fn("gauge_of", |b: &mut Batch, name: &str, operation: &str| {
            gauge(&b.0, &of(name, operation)).map_or(Dynamic::UNIT, Dynamic::from)
        })
        .register_fn("count", |b: &mut Batch, name: &str| b.count(name))
        .register_fn("count_of", |b: &mut Batch, name: &str, operation: &str| b.count(&of(name, operation)));
    engine.register_fn("joined", super::joined::joined).register_fn("widest", super::joined::widest);
    engine
        .register_type_with_name::<Operation>("Operation")
        .register_get("operation", |o: &mut Operation| o.name.clone())
        .register_get("class", |o: &mut Operation| ImmutableString::from(o.class))
        .register_get("v1", |o: &mut Operation| o.v1.clone())
        .register_get("v2", |o: &mut Operation| o.v2.clone())
        .register_get("shadow", |o: &mut Operation| o.shadow.clone());
}
