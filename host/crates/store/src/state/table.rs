//! The stage table that a ramp goes by, as far as the host can read it in the settings of the stages policy.
//!
//! The host goes by what the policy says, never by the table: it is kept with the state so that people can be told what
//! another one changes, and so that the stage that began under one table keeps its soak under the next. Settings that list
//! no stages are no table to the host, and say nothing.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::state::State;
use cutover_model::{port::Phase, request::Ppm};

/// The stages that a migration has, as the settings of its stages policy list them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The stages policy that brought it: its name and version.
    pub policy: String,
    /// Its stages in their order; none if the settings list none that the host can read.
    pub stages: Vec<Row>,
}

/// A stage of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// V2's share in this stage.
    pub share: Ppm,
    /// How long it lasts at least; none for open-ended.
    pub soak: Option<Duration>,
}

/// A stage as settings say it.
#[derive(Deserialize)]
struct Said {
    #[serde(deserialize_with = "share")]
    share: Ppm,
    #[serde(default, deserialize_with = "span")]
    soak: Option<Duration>,
}

impl Table {
    /// The table of a policy with these settings, a JSON object.
    pub fn of(policy: String, settings: &str) -> Self {
        let settings = serde_json::from_str::<BTreeMap<String, Value>>(settings).unwrap_or_default();
        // A script's own settings are among those of its interpreter.
        let own = settings.get("stages").or_else(|| settings.get("settings")?.get("stages"));
        let stages = own.cloned().unwrap_or_default();
        let said = serde_json::from_value::<Vec<Said>>(stages).unwrap_or_default();
        Self { policy, stages: said.into_iter().map(|Said { share, soak }| Row { share, soak }).collect() }
    }

    /// The stage of just this share; none if the table has no such stage.
    pub fn row(&self, share: Ppm) -> Option<&Row> {
        self.stages.iter().find(|row| row.share == share)
    }

    /// The stage that comes after a share: that of the next higher one; none at the end.
    pub fn next(&self, share: Ppm) -> Option<&Row> {
        self.stages.iter().filter(|row| row.share > share).min_by_key(|row| row.share)
    }

    /// How long a stage of any share lasts: as that of the highest stage that is not above it; the lowest, below all.
    pub fn soak_at(&self, share: Ppm) -> Option<Duration> {
        let below = self.stages.iter().filter(|row| row.share <= share).max_by_key(|row| row.share);
        below.or_else(|| self.stages.iter().min_by_key(|row| row.share)).and_then(|row| row.soak)
    }

    /// Whether the stage that is under way is none of this table's, so that the soak that it began with counts.
    pub fn lacks(&self, share: Ppm) -> bool {
        !self.stages.is_empty() && self.row(share).is_none()
    }

    /// How long a stage lasts that began under another table: as long as it was to, unless this table has that very share.
    pub fn soak(&self, state: &State) -> Option<Duration> {
        match self.row(state.share) {
            Some(row) if state.in_force() == Phase::Ramping => row.soak,
            _ => state.soak,
        }
    }

    /// What it changes for a migration in this state, as a sentence.
    pub fn change(&self, state: &State) -> String {
        let before = state.table.as_ref();
        let whose = match before {
            Some(before) if before.policy != self.policy => {
                format!("the stages policy is {} and was {}", self.policy, before.policy)
            }
            _ => format!("the stages policy is {}", self.policy),
        };
        let (old, new) = (before.map_or_else(String::new, Self::text), self.text());
        let table = match before {
            Some(before) if !before.stages.is_empty() => format!("; its stages are {new} and were {old}"),
            _ => format!("; its stages are {new}"),
        };
        format!("{whose}{table}{}", self.outlook(state))
    }

    /// What happens next under this table, as the end of a sentence for people.
    fn outlook(&self, state: &State) -> String {
        if state.in_force() != Phase::Ramping || self.stages.is_empty() {
            return "; nothing moves by itself".into();
        }
        let share = state.share;
        let soak = match (self.row(share), self.soak(state)) {
            (Some(_), Some(soak)) => format!("lasts {} from when it began", spelled(soak)),
            (None, Some(soak)) => format!("is not among them and keeps its soak of {}", spelled(soak)),
            (Some(_), None) => "is open-ended".into(),
            (None, None) => "is not among them and is open-ended".into(),
        };
        let next = match self.next(share) {
            Some(row) => format!("{} comes next", row.share),
            None => "the end comes next".into(),
        };
        format!("; V2 keeps {share}, a stage that {soak}; {next}, and nothing moves by itself")
    }

    fn text(&self) -> String {
        let row = |row: &Row| match row.soak {
            Some(soak) => format!("{} for {}", row.share, spelled(soak)),
            None => row.share.to_string(),
        };
        match self.stages.len() {
            0 => "not to be read by the host".into(),
            _ => self.stages.iter().map(row).collect::<Vec<_>>().join(", "),
        }
    }
}

fn spelled(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

/// As policies read shares: `"5%"`, `"2.5%"`, or parts per million.
fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ppm, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = || value.as_u64().and_then(|ppm| u32::try_from(ppm).ok());
    let ppm = value.as_str().map_or_else(number, percent);
    ppm.map(Ppm::new).ok_or_else(|| serde::de::Error::custom("it is no share"))
}

fn percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?.trim();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let decimals = Some(decimals).filter(|d| d.len() <= 4)?;
    let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(decimals)
}

/// As policies read spans of time: `"30s"`, or milliseconds.
fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let number = || value.as_u64().map(Duration::from_millis);
    let span = value.as_str().map_or_else(number, |text| humantime::parse_duration(text).ok());
    span.map(Some).ok_or_else(|| serde::de::Error::custom("it is no span of time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::clock::UnixMs;

    fn table(json: &str) -> Table {
        Table::of("standard-stages@0.1.0".into(), &format!("{{\"stages\":{json}}}"))
    }

    fn ramping(percent: u32, soak: Option<u64>, table: Table) -> State {
        let (share, soak) = (Ppm::new(percent * 10_000), soak.map(Duration::from_secs));
        State { phase: Phase::Ramping, stage: 1, share, soak, table: Some(table), ..State::new(UnixMs(5)) }
    }

    #[test]
    fn tables_are_read_as_policies_read_them() {
        let read = table(r#"[{"share":"2.5%","soak":"1h"},{"share":500000,"soak":250},{"share":"100%"}]"#);
        let row = |ppm, soak| Row { share: Ppm::new(ppm), soak };
        let hour = Some(Duration::from_hours(1));
        assert_eq!(
            read.stages,
            [row(25_000, hour), row(500_000, Some(Duration::from_millis(250))), row(1_000_000, None)]
        );
        let script = Table::of("x@1".into(), r#"{"script":"..","settings":{"stages":[{"share":"100%"}]}}"#);
        assert_eq!(script.stages, [row(1_000_000, None)]);
        for other in ["{}", "[1]", r#"[{"share":"much"}]"#, "[]", r#"[{"share":"5%","soak":[]}]"#] {
            assert_eq!(table(other).stages, [], "{other}");
        }
    }

    #[test]
    fn an_edited_table_says_what_stays_and_what_comes_next() {
        let old = table(r#"[{"share":"10%","soak":"1s"},{"share":"50%","soak":"6s"},{"share":"100%"}]"#);
        let finer = table(r#"[{"share":"1%","soak":"1s"},{"share":"20%","soak":"1s"},{"share":"100%"}]"#);
        let state = ramping(50, Some(6), old);
        assert!(finer.lacks(state.share));
        assert_eq!(finer.soak(&state), Some(Duration::from_secs(6)), "the stage keeps what it began with");
        assert_eq!(
            finer.change(&state),
            "the stages policy is standard-stages@0.1.0; its stages are 1% for 1s, 20% for 1s, 100% and were 10% for 1s, \
             50% for 6s, 100%; V2 keeps 50%, a stage that is not among them and keeps its soak of 6s; 100% comes next, and \
             nothing moves by itself"
        );
        let longer = table(r#"[{"share":"50%","soak":"9s"},{"share":"75%","soak":"1s"},{"share":"100%"}]"#);
        assert_eq!(longer.soak(&state), Some(Duration::from_secs(9)), "this table has that very share");
        assert!(longer.change(&state).contains("50%, a stage that lasts 9s from when it began; 75% comes next"));
        let shadow = State { phase: Phase::Shadow, share: Ppm::ZERO, soak: None, ..state.clone() };
        assert_eq!(finer.soak(&shadow), None);
        let other = Table { policy: "own@1".into(), stages: Vec::new() };
        let said = other.change(&state);
        assert!(said.contains("is own@1 and was standard-stages@0.1.0; its stages are not to be read"), "{said}");
        assert!(!other.lacks(state.share) && other.soak(&state) == state.soak);
    }
}
