//! The functions that a script may have, by the names that the host asks for.

use schemars::JsonSchema;
use serde::Deserialize;

/// What a script is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Configure,
    MakePlan,
    Decide,
    Next,
    Judge,
    Compare,
    AdaptCall,
    AdaptReply,
}

/// A kind of policy, as configuration writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Needs `make_plan`, and `decide` if its plans ask for it.
    Routing,
    /// Needs `next`.
    Stages,
    /// Needs `judge`.
    Rollback,
    /// Needs `compare`.
    Comparison,
    /// Needs `adapt_call` and `adapt_reply`.
    Adapter,
}

impl Function {
    pub(crate) const ALL: [Self; 8] = [
        Self::Configure,
        Self::MakePlan,
        Self::Decide,
        Self::Next,
        Self::Judge,
        Self::Compare,
        Self::AdaptCall,
        Self::AdaptReply,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::MakePlan => "make_plan",
            Self::Decide => "decide",
            Self::Next => "next",
            Self::Judge => "judge",
            Self::Compare => "compare",
            Self::AdaptCall => "adapt_call",
            Self::AdaptReply => "adapt_reply",
        }
    }

    /// What it is called with.
    pub(crate) const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Configure => &["settings"],
            Self::MakePlan => &["situation", "memory"],
            Self::Decide | Self::AdaptCall => &["request"],
            Self::Next => &["progress", "forced", "memory"],
            Self::Judge => &["check", "memory"],
            Self::Compare => &["pair"],
            Self::AdaptReply => &["request", "reply"],
        }
    }

    /// How many of its parameters a script may not leave out. Those at the end that it does not need it may.
    pub(crate) const fn needed(self) -> usize {
        match self {
            Self::AdaptReply => 2,
            _ => 1,
        }
    }

    /// `judge(check, memory)`.
    pub(crate) fn signature(self) -> String {
        format!("{}({})", self.name(), self.parameters().join(", "))
    }
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Routing, Self::Stages, Self::Rollback, Self::Comparison, Self::Adapter];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Stages => "stages",
            Self::Rollback => "rollback",
            Self::Comparison => "comparison",
            Self::Adapter => "adapter",
        }
    }

    /// What a script of this kind must have.
    pub(crate) const fn functions(self) -> &'static [Function] {
        match self {
            Self::Routing => &[Function::MakePlan],
            Self::Stages => &[Function::Next],
            Self::Rollback => &[Function::Judge],
            Self::Comparison => &[Function::Compare],
            Self::Adapter => &[Function::AdaptCall, Function::AdaptReply],
        }
    }
}
