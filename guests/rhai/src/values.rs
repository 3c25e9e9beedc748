//! What scripts are shown: native values with fields, made once per question and shared, not copied into maps. A check
//! after a swap has thousands of batches, and a script looks at few of them.

pub(crate) mod calls;
pub(crate) mod check;
mod joined;
pub(crate) mod latency;
pub(crate) mod pair;
pub(crate) mod request;
pub(crate) mod window;

use cutover_policy::{OperationClass, Phase, Situation, Verdict};
use rhai::{Array, Engine, Map};

pub(crate) use crate::json::int;

pub(crate) fn register(engine: &mut Engine) {
    calls::register(engine);
    check::register(engine);
    latency::register(engine);
    pair::register(engine);
    request::register(engine);
    window::register(engine);
}

/// A phase, as it is written everywhere.
pub(crate) const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Shadow => "shadow",
        Phase::Ramping => "ramping",
        Phase::Complete => "complete",
        Phase::Decommissioned => "decommissioned",
        Phase::Paused => "paused",
        Phase::RolledBack => "rolled-back",
    }
}

pub(crate) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Healthy => "healthy",
        Verdict::Hold => "hold",
        Verdict::Warn => "warn",
        Verdict::RollBack => "roll-back",
    }
}

pub(crate) const fn class(class: OperationClass) -> &'static str {
    match class {
        OperationClass::Read => "read",
        OperationClass::Replicate => "replicate",
        OperationClass::Exclusive => "exclusive",
    }
}

/// What `make_plan` is shown: a map.
pub(crate) fn situation(situation: &Situation) -> Map {
    let operations: Array = situation
        .operations
        .iter()
        .map(|operation| {
            let name = ("name".into(), operation.name.clone().into());
            Map::from([name, ("class".into(), class(operation.class).into())]).into()
        })
        .collect();
    Map::from([
        ("now_ms".into(), int(situation.now_ms).into()),
        ("migration".into(), situation.migration.clone().into()),
        ("phase".into(), phase(situation.phase).into()),
        ("stage".into(), int(situation.stage.into()).into()),
        ("share".into(), int(situation.share.into()).into()),
        ("salt".into(), situation.salt.clone().into()),
        ("operations".into(), operations.into()),
    ])
}
