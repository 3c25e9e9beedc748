//! Asks a recorded question again and holds the answer, the memory and the fuel against the record, byte for byte.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{
    PolicyError,
    ask::Asked,
    engine::{Engine, Imports, Policy},
    record::{self, Call, Memory, Question},
};

/// What became of asking again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Whether everything is the same.
    pub same: bool,
    /// Calls whose answer differs from the recorded one.
    pub differences: Vec<Difference>,
    /// How long it took this time, in microseconds.
    pub took_us: u64,
}

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `answer`, `memory` or `fuel`.
    pub what: &'static str,
    /// As it was recorded.
    pub recorded: Value,
    /// As it is now.
    pub replayed: Value,
}

/// Asks again. `component` must be the one that was asked.
///
/// # Errors
/// Why the component is not admitted now; an answer that is an error is an answer.
pub fn replay(engine: &Arc<Engine>, component: &[u8], call: &Call) -> Result<Replayed, PolicyError> {
    let compiled = engine.compile_with(component, Imports::of(call.wasi_stub))?;
    if *compiled.digest != *call.digest {
        let message = format!("its digest is {}, and {} was asked", compiled.digest, call.digest);
        return Err(PolicyError::nonsense(message));
    }
    let policy = Policy::admit(engine, compiled, call.question.kind(), &call.settings)?;
    let Memory(memory) = &call.memory;
    Ok(match &call.question {
        Question::Rollback(check) => compare(call, policy.judge(check, memory)),
        Question::Stages(progress) => compare(call, policy.next(progress, memory)),
        Question::Routing(situation) => compare(call, policy.make_plan(situation, memory)),
        Question::Decide(frame) => compare(call, policy.decide_fresh(&frame.0)),
    })
}

fn compare<T: Serialize>(call: &Call, asked: Asked<T>) -> Replayed {
    let mut differences = Vec::new();
    let mut differ = |what, recorded: Value, replayed: Value| {
        if recorded != replayed {
            differences.push(Difference { what, recorded, replayed });
        }
    };
    differ("answer", call.answer.clone(), record::answer(&asked));
    let bytes = |memory: &Memory| serde_json::to_value(memory).unwrap_or_default();
    differ("memory", bytes(&call.memory_after), bytes(&Memory(asked.memory)));
    differ("fuel", call.fuel.into(), asked.fuel.into());
    Replayed { same: differences.is_empty(), differences, took_us: micros(asked.took) }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
