//! The record of one question to a policy: everything that is needed to ask it again, what it said, and what it cost.
//!
//! Policies are pure, so the same component, settings, question and memory give the same answer, memory and fuel, on any
//! machine; [`replay`](super::replay) holds them to it. Times are recorded, too, but vary.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Value, json};

use super::ask::Asked;
use crate::installed::InstalledPolicy;
use cutover_model::{
    clock::UnixMs,
    port::{Check, Kind, Progress, Situation},
};

/// One question to a policy and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When it was asked.
    pub at: UnixMs,
    /// Whether the answer counted.
    pub role: Role,
    /// Who was asked, as people know it: `thresholds@0.1.0`.
    pub policy: String,
    /// SHA-256 of its component, lower-case hex.
    pub digest: String,
    /// Whether its component may import the stand-in for WASI.
    #[serde(default)]
    pub wasi_stub: bool,
    /// Its settings, the JSON text that it was configured with, byte for byte.
    pub settings: String,
    /// What it was asked.
    #[serde(flatten)]
    pub question: Question,
    /// What it remembered before the question; empty the first time.
    pub memory: Memory,
    /// What it said: `{"ok": ..}` or `{"error": ..}`.
    pub answer: Value,
    /// What it wanted to remember after the answer.
    pub memory_after: Memory,
    /// Units of fuel that it used, configuration included.
    pub fuel: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// Whether an answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The policy was in charge, and the host acted on its answer.
    Active,
    /// The policy was a candidate: its answer was compared with that of the policy in charge.
    Candidate,
}

/// What a policy was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "asked", content = "question", rename_all = "kebab-case")]
pub enum Question {
    /// Is V2 worse than V1?
    Rollback(Check),
    /// When does the share move?
    Stages(Progress),
    /// Which plan is to be in force?
    Routing(Situation),
    /// Where does one request go? The frame that the policy saw, as `wit/routing.wit` describes it.
    Decide(Memory),
}

/// Bytes that are text as a rule: written as a string if they are UTF-8, and as `{"hex": ".."}` if they are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory(pub Vec<u8>);

impl Role {
    /// As it is written in the store and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Candidate => "candidate",
        }
    }
}

impl Question {
    /// The kind of policy that answers it.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Rollback(_) => Kind::Rollback,
            Self::Stages(_) => Kind::Stages,
            Self::Routing(_) | Self::Decide(_) => Kind::Routing,
        }
    }

    /// When it was asked, as the policy was told; none for one request.
    pub const fn now(&self) -> Option<UnixMs> {
        match self {
            Self::Rollback(check) => Some(check.now_ms),
            Self::Stages(progress) => Some(progress.check.now_ms),
            Self::Routing(situation) => Some(situation.now_ms),
            Self::Decide(_) => None,
        }
    }
}

impl Call {
    /// The record of a question that was just answered.
    pub fn of<T: Serialize>(
        at: UnixMs,
        role: Role,
        installed: &InstalledPolicy,
        question: Question,
        memory: Vec<u8>,
        asked: &Asked<T>,
    ) -> Self {
        Self {
            at,
            role,
            policy: installed.label(),
            digest: installed.policy.digest().to_string(),
            wasi_stub: installed.wasi_stub,
            settings: installed.policy.settings().to_string(),
            question,
            memory: Memory(memory),
            answer: answer(asked),
            memory_after: Memory(asked.memory.clone()),
            fuel: asked.fuel,
            took_us: u64::try_from(asked.took.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// How long it took.
    pub const fn took(&self) -> Duration {
        Duration::from_micros(self.took_us)
    }
}

/// An answer as it is recorded and compared.
pub fn answer<T: Serialize>(asked: &Asked<T>) -> Value {
    match &asked.answer {
        Ok(answer) => json!({ "ok": answer }),
        Err(error) => json!({ "error": error }),
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_binary) => json!({ "hex": hex::encode(&self.0) }).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text.into_bytes())),
            Value::Object(map) => {
                let hex = map.get("hex").and_then(Value::as_str).ok_or_else(|| D::Error::missing_field("hex"))?;
                hex::decode(hex).map(Self).map_err(D::Error::custom)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Err(D::Error::custom("bytes are a string or `{\"hex\": \"..\"}`"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn memory_survives_json(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let written = serde_json::to_string(&Memory(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Memory>(&written).unwrap().0, bytes);
        }
    }
}
