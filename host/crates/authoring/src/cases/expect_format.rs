//! Expectations as people write them.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::{
    format::given,
    notation::{Amount, Share, Span},
};
use cutover_model::port::{Target, Verdict};

/// What an answer must be. Fields that are left out are not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Expect {
    #[serde(deserialize_with = "one_or_short")]
    pub(super) error: Option<ExpectError>,
    pub(super) verdict: Option<Verdict>,
    pub(super) evidence: Option<Bounds>,
    #[serde(deserialize_with = "list_or_short")]
    pub(super) findings: Option<Vec<ExpectFinding>>,
    #[serde(deserialize_with = "list_or_short")]
    pub(super) findings_include: Option<Vec<ExpectFinding>>,
    pub(super) action: Option<ActionName>,
    pub(super) to: Option<ExpectStage>,
    pub(super) otherwise: Option<Target>,
    pub(super) share: Option<Share>,
    pub(super) shadow_share: Option<Share>,
    pub(super) shadow_operations: Option<Vec<String>>,
    pub(super) sticky: Option<String>,
    pub(super) salt: Option<String>,
    #[serde(deserialize_with = "list_or_short")]
    pub(super) rules: Option<Vec<ExpectRule>>,
    pub(super) outcome: Option<OutcomeName>,
    #[serde(deserialize_with = "list_or_short")]
    pub(super) differences: Option<Vec<ExpectDifference>>,
    pub(super) why: Option<String>,
    #[serde(deserialize_with = "list_or_short")]
    pub(super) outcomes: Option<Vec<ExpectOutcome>>,
    pub(super) operation: Option<String>,
    #[serde(deserialize_with = "list_or_short")]
    pub(super) notices: Option<Vec<ExpectNotice>>,
    pub(super) success: Option<bool>,
    #[serde(deserialize_with = "given")]
    pub(super) json: Option<Value>,
}

/// That a policy is not admitted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ExpectRefusal {
    #[serde(deserialize_with = "list_or_short")]
    pub(super) problems: Option<Vec<ExpectProblem>>,
    #[serde(deserialize_with = "one_or_short")]
    pub(super) error: Option<ExpectError>,
}

/// A problem with the settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectProblem {
    pub(super) path: String,
    pub(super) message: Option<String>,
}

/// That there is no answer: the policy fails with this cause.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectError {
    pub(super) cause: String,
    pub(super) message: Option<String>,
}

/// A finding that the answer must have. Fields that are left out are not looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectFinding {
    pub(super) rule: String,
    pub(super) observed: Option<Bounds>,
    pub(super) limit: Option<Bounds>,
    pub(super) unit: Option<String>,
    pub(super) note: Option<String>,
}

/// A value, or what it lies between.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    pub(super) min: Option<Amount>,
    pub(super) max: Option<Amount>,
    /// Whether both were written as one value.
    pub(super) exact: bool,
}

/// The names of stage actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ActionName {
    Hold,
    Advance,
    Retreat,
    Complete,
    Pause,
}

/// The stage to go to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ExpectStage {
    pub(super) stage: Option<u32>,
    pub(super) share: Option<Share>,
    pub(super) soak: Option<Soak>,
}

/// How long a stage is meant to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Soak(pub(super) Option<Span>);

/// A rule of a plan.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectRule {
    pub(super) name: String,
    pub(super) target: Option<Target>,
    pub(super) attributes: Option<Vec<String>>,
}

/// The names of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OutcomeName {
    Same,
    Ignored,
    Different,
    Incomparable,
}

/// What is said of one of several pairs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectOutcome {
    pub(super) outcome: OutcomeName,
    #[serde(default, deserialize_with = "list_or_short")]
    pub(super) differences: Option<Vec<ExpectDifference>>,
    pub(super) why: Option<String>,
}

/// A place in which a pair differs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectDifference {
    pub(super) path: String,
    pub(super) kind: Option<String>,
    pub(super) category: Option<String>,
    pub(super) v1: Option<String>,
    pub(super) v2: Option<String>,
}

/// Something that callers ought to know.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectNotice {
    pub(super) kind: String,
    pub(super) message: Option<String>,
}

/// What can be written as its main field alone: `"v2-error-rate"` for `{ rule = "v2-error-rate" }`.
pub(super) trait Short {
    /// The field that a text stands for.
    const FIELD: &'static str;
}

macro_rules! short {
    ($($type:ident: $field:literal),* $(,)?) => {
        $(impl Short for $type {
            const FIELD: &'static str = $field;
        })*
    };
}

short!(ExpectProblem: "path", ExpectError: "cause", ExpectFinding: "rule", ExpectRule: "name");
short!(ExpectOutcome: "outcome", ExpectDifference: "path", ExpectNotice: "kind");

/// Through JSON and not an untagged enum, whose errors say nothing but that no variant fits.
fn long<T: Short + DeserializeOwned, E: serde::de::Error>(value: Value) -> Result<T, E> {
    let value = if value.is_string() { Value::from_iter([(T::FIELD, value)]) } else { value };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner();
        E::custom(if path == "." { message.to_string() } else { format!("`{path}`: {message}") })
    })
}

fn one_or_short<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Short + DeserializeOwned,
    D: Deserializer<'de>,
{
    long(Value::deserialize(deserializer)?).map(Some)
}

fn list_or_short<'de, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Short + DeserializeOwned,
    D: Deserializer<'de>,
{
    let all = Vec::<Value>::deserialize(deserializer)?;
    all.into_iter().map(long).collect::<Result<_, _>>().map(Some)
}

impl<'de> Deserialize<'de> for Bounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Between {
            min: Option<Amount>,
            max: Option<Amount>,
        }
        let custom = |e: serde_json::Error| serde::de::Error::custom(e);
        let value = Value::deserialize(deserializer)?;
        if !value.is_object() {
            let amount: Amount = serde_json::from_value(value).map_err(custom)?;
            return Ok(Self { min: Some(amount.clone()), max: Some(amount), exact: true });
        }
        let Between { min, max } = serde_json::from_value(value).map_err(custom)?;
        if min.is_none() && max.is_none() {
            return Err(serde::de::Error::custom("says neither `min` nor `max`"));
        }
        Ok(Self { min, max, exact: false })
    }
}

impl<'de> Deserialize<'de> for Soak {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value == "none" {
            return Ok(Self(None));
        }
        serde_json::from_value(value).map(|span| Self(Some(span))).map_err(serde::de::Error::custom)
    }
}
