//! The rules of the guests, compiled into this process: no sandbox, and memory that is never written or read. What is
//! shown to them is converted as it is for guests, but for what crosses into the sandbox.

use cutover_authoring::backtest::side::Side;
use cutover_model::{
    clock, facts,
    port::{self, Judgement, Phase},
    request::Class,
};
use cutover_policy::{self as sdk, Rollback};
use cutover_policy_host::ask::Asked;

pub(crate) fn thresholds() -> Side {
    side::<thresholds::Thresholds>()
}

pub(crate) fn sequential() -> Side {
    side::<sequential::Sequential>()
}

fn side<R: Rollback + Send>() -> Side
where
    R::Memory: Send,
{
    let settings = serde_json::from_str("{}").unwrap();
    let rule = R::configure(settings).ok().unwrap();
    let mut remembered = R::Memory::default();
    let mut side = Side::default();
    side.judge(Box::new(move |question, _| {
        let started = clock::mono();
        let said = rule.judge(&check(question), &mut remembered).unwrap();
        let answer = Ok(Judgement { verdict: verdict(said.verdict), findings: Vec::new(), evidence: said.evidence });
        Asked { answer, memory: Vec::new(), fuel: 0, took: clock::mono().since(started), memory_peak: 0 }
    }));
    side
}

fn verdict(of: sdk::Verdict) -> port::Verdict {
    match of {
        sdk::Verdict::Healthy => port::Verdict::Healthy,
        sdk::Verdict::Hold => port::Verdict::Hold,
        sdk::Verdict::Warn => port::Verdict::Warn,
        sdk::Verdict::RollBack => port::Verdict::RollBack,
    }
}

fn check(of: &port::Check) -> sdk::Check {
    sdk::Check {
        now_ms: of.now_ms.0,
        phase: phase(of.phase),
        stage: of.stage,
        share: of.share.get(),
        stage_started_ms: of.stage_started_ms.0,
        batches: of.batches.iter().map(batch).collect(),
    }
}

fn batch(of: &facts::Batch) -> sdk::Batch {
    let facts::Comparisons { same, ignored, different, incomparable } = of.comparisons;
    sdk::Batch {
        start_ms: of.start_ms.0,
        duration_ms: of.duration_ms,
        share: of.share.get(),
        operations: of.operations.iter().map(operation).collect(),
        v1: members(of.v1),
        v2: members(of.v2),
        comparisons: sdk::Comparisons { same, ignored, different, incomparable },
        gauges: of.gauges.iter().map(|g| sdk::Gauge { name: g.name.clone(), value: g.value }).collect(),
    }
}

fn operation(of: &facts::OperationCalls) -> sdk::OperationCalls {
    sdk::OperationCalls {
        operation: of.operation.clone(),
        class: match of.class {
            Class::Read => sdk::OperationClass::Read,
            Class::Replicate => sdk::OperationClass::Replicate,
            Class::Exclusive => sdk::OperationClass::Exclusive,
        },
        v1: calls(&of.v1),
        v2: calls(&of.v2),
        shadow: calls(&of.shadow),
    }
}

fn calls(of: &facts::Calls) -> sdk::Calls {
    let bucket = |&(index, count): &(u32, u64)| sdk::LatencyBucket { index, count };
    sdk::Calls {
        requests: of.requests,
        errors: of.errors,
        timeouts: of.timeouts,
        failed_over: of.failed_over,
        units: of.units,
        unit_errors: of.unit_errors,
        latency: of.latency.buckets().iter().map(bucket).collect(),
    }
}

fn members(of: facts::Members) -> sdk::Members {
    let facts::Members { wanted, ready, failures, queued, rss_bytes } = of;
    sdk::Members { wanted, ready, failures, queued, rss_bytes }
}

fn phase(of: Phase) -> sdk::Phase {
    match of {
        Phase::Preparing => sdk::Phase::Preparing,
        Phase::Shadow => sdk::Phase::Shadow,
        Phase::Ramping => sdk::Phase::Ramping,
        Phase::Complete => sdk::Phase::Complete,
        Phase::Decommissioned => sdk::Phase::Decommissioned,
        Phase::Paused => sdk::Phase::Paused,
        Phase::RolledBack => sdk::Phase::RolledBack,
    }
}
