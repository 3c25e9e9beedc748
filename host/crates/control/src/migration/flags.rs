//! What operators can switch for a migration while the host runs.
//!
//! A flag has the value that the environment gives it (`CUTOVER_FLAG_<MIGRATION>_<FLAG>`, read once at start), else the
//! one that was set and stored, else its default.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::migration::step::Switches;
use cutover_model::request::Ppm;

/// The names of all flags, with what they mean.
pub const ALL: [(&str, &str); 7] = [
    ("pool_v2_enabled", "whether V2 may serve at all; `false` sends everything to V1 without stopping V2"),
    ("gradual_rollout_percentage", "the most that V2 may serve, in percent, whatever the stage"),
    ("shadow", "whether reads are mirrored to V2"),
    ("auto_advance", "whether the stages policy may raise the share by itself"),
    ("auto_rollback", "whether the rollback policy may roll back by itself"),
    ("circuit_breaker", "whether a pool refuses operations that keep failing, for a while"),
    ("pool_optimizer", "whether pools change their size by themselves"),
];

/// The flags of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// Values that the environment sets; these cannot be changed while the host runs.
    environment: BTreeMap<String, Value>,
    /// Values that operators set, as the store has them.
    stored: BTreeMap<String, Value>,
}

/// A flag as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The name of the flag.
    pub flag: &'static str,
    /// The value that counts.
    pub value: Value,
    /// Where the value comes from: `default`, `stored` or `environment`.
    pub source: &'static str,
    /// What the flag is for, as part of a sentence.
    pub meaning: &'static str,
}

/// A flag that holds something back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Off {
    /// The name of the flag.
    pub flag: &'static str,
    /// What follows from its value, as part of a sentence.
    pub meaning: String,
}

impl Off {
    /// Whether callers are less safe by it.
    pub fn weakens(&self) -> bool {
        matches!(self.flag, "auto_rollback" | "circuit_breaker" | "shadow")
    }
}

/// Why a flag cannot be read or set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// There is no such flag.
    #[error("there is no flag `{0}`; the flags are {names}", names = ALL.map(|flag| flag.0).join(", "))]
    Unknown(String),
    /// The value has the wrong type.
    #[error("`{flag}` takes {wanted}, not `{value}`")]
    Value {
        /// The name of the flag.
        flag: String,
        /// The values that it takes, in words.
        wanted: &'static str,
        /// The value that was given.
        value: Value,
    },
    /// The environment sets the flag, and operators cannot change it.
    #[error("`{0}` is set by the environment; change it there and restart the host")]
    Environment(String),
}

impl Flags {
    /// Flags as the environment and the store have them. Stored flags of older versions that do not exist any more are
    /// left out.
    ///
    /// # Errors
    /// A value in the environment that its flag does not take.
    pub fn new(environment: BTreeMap<String, Value>, stored: BTreeMap<String, Value>) -> Result<Self, FlagError> {
        environment.iter().try_for_each(|(flag, value)| check(flag, value))?;
        let stored = stored.into_iter().filter(|(flag, value)| check(flag, value).is_ok()).collect();
        Ok(Self { environment, stored })
    }

    /// Sets a flag.
    ///
    /// # Errors
    /// Why it cannot be set.
    pub fn set(&mut self, flag: &str, value: Value) -> Result<(), FlagError> {
        check(flag, &value)?;
        if self.environment.contains_key(flag) {
            return Err(FlagError::Environment(flag.into()));
        }
        self.stored.insert(flag.into(), value);
        Ok(())
    }

    /// All flags as they are shown.
    pub fn shown(&self) -> Vec<Shown> {
        let show = |(flag, meaning)| {
            let (value, source) = match (self.environment.get(flag), self.stored.get(flag)) {
                (Some(value), _) => (value.clone(), "environment"),
                (None, Some(value)) => (value.clone(), "stored"),
                (None, None) => (default(flag), "default"),
            };
            Shown { flag, value, source, meaning }
        };
        ALL.into_iter().map(show).collect()
    }

    /// What protects callers and is switched off, with what that means.
    pub fn off(&self) -> Vec<Off> {
        let means = |flag: &str| {
            Some(match flag {
                "auto_rollback" => {
                    "nobody goes back to V1 by itself, however bad V2 is: neither the rollback policy nor the host"
                }
                "circuit_breaker" => "operations that keep failing are not refused",
                "shadow" => "reads are not mirrored, so nothing is compared and `shadow` does not end by itself",
                "auto_advance" => "the share rises only when a person advances",
                "pool_v2_enabled" => "V2 gets nobody, whatever its share",
                _ => return None,
            })
        };
        let off = ALL.into_iter().filter(|(flag, _)| !self.is_on(flag));
        let mut off: Vec<_> = off.filter_map(|(flag, _)| Some(Off { flag, meaning: means(flag)?.into() })).collect();
        if self.max_share() < Ppm::ALL {
            let meaning = format!("V2 gets {} at most", self.max_share());
            off.push(Off { flag: "gradual_rollout_percentage", meaning });
        }
        off
    }

    /// What the controller has to know.
    pub fn switches(&self) -> Switches {
        Switches { auto_rollback: self.is_on("auto_rollback"), auto_advance: self.is_on("auto_advance") }
    }

    /// Whether V2 may serve at all.
    pub fn v2_enabled(&self) -> bool {
        self.is_on("pool_v2_enabled")
    }

    /// Whether reads are mirrored.
    pub fn shadow(&self) -> bool {
        self.is_on("shadow")
    }

    /// Whether operations that keep failing are refused.
    pub fn circuit_breaker(&self) -> bool {
        self.is_on("circuit_breaker")
    }

    /// Whether pools change their size by themselves.
    pub fn pool_optimizer(&self) -> bool {
        self.is_on("pool_optimizer")
    }

    /// The most that V2 may serve.
    pub fn max_share(&self) -> Ppm {
        let percent = self.get("gradual_rollout_percentage").as_u64().unwrap_or(100);
        Ppm::new(u32::try_from(percent * 10_000).unwrap_or(u32::MAX))
    }

    /// The most that V2 gets by what operators have switched.
    pub fn max_for_v2(&self) -> Ppm {
        if self.v2_enabled() { self.max_share() } else { Ppm::ZERO }
    }

    fn is_on(&self, flag: &str) -> bool {
        self.get(flag).as_bool().unwrap_or(false)
    }

    fn get(&self, flag: &str) -> Value {
        let set = self.environment.get(flag).or_else(|| self.stored.get(flag));
        set.cloned().unwrap_or_else(|| default(flag))
    }
}

fn default(flag: &str) -> Value {
    if flag == "gradual_rollout_percentage" { Value::from(100) } else { Value::from(true) }
}

fn check(flag: &str, value: &Value) -> Result<(), FlagError> {
    if !ALL.iter().any(|(name, _)| *name == flag) {
        return Err(FlagError::Unknown(flag.into()));
    }
    let (fits, wanted) = match flag {
        "gradual_rollout_percentage" => {
            (value.as_u64().is_some_and(|percent| percent <= 100), "a whole number from 0 to 100")
        }
        _ => (value.is_boolean(), "`true` or `false`"),
    };
    if fits { Ok(()) } else { Err(FlagError::Value { flag: flag.into(), wanted, value: value.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(environment: &[(&str, Value)], stored: &[(&str, Value)]) -> Result<Flags, FlagError> {
        let map = |all: &[(&str, Value)]| all.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Flags::new(map(environment), map(stored))
    }

    #[test]
    fn the_environment_beats_the_store_which_beats_the_default() {
        let mut flags =
            flags(&[("shadow", false.into())], &[("auto_advance", false.into()), ("gone", 1.into())]).unwrap();
        let sources: Vec<_> = flags.shown().iter().map(|s| (s.flag, s.source)).collect();
        assert!(sources.contains(&("shadow", "environment")) && sources.contains(&("auto_advance", "stored")));
        assert!(!flags.shadow() && !flags.switches().auto_advance && flags.v2_enabled());
        assert_eq!(flags.set("shadow", true.into()), Err(FlagError::Environment("shadow".into())));
        flags.set("gradual_rollout_percentage", 25.into()).unwrap();
        assert_eq!(flags.max_share(), Ppm::new(250_000));
    }

    #[test]
    fn wrong_flags_and_values_are_named() {
        let mut none = flags(&[], &[]).unwrap();
        assert!(none.set("shadows", true.into()).unwrap_err().to_string().contains("auto_rollback"));
        let error = none.set("gradual_rollout_percentage", 101.into()).unwrap_err().to_string();
        assert_eq!(error, "`gradual_rollout_percentage` takes a whole number from 0 to 100, not `101`");
        assert!(flags(&[("shadow", "yes".into())], &[]).is_err());
    }
}
