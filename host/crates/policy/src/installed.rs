//! A policy that has a place, and what people call it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ask::PolicyPort;
use cutover_model::port::Description;

/// The name and version that people know a policy by: those of its release or bundle. An interpreter's own name says
/// nothing about the script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Title {
    /// The name of the release or bundle.
    pub name: String,
    /// The version of the release or bundle; as the policy gives it, so not always a semantic version.
    pub version: String,
}

/// A policy that sits in a slot.
#[derive(Debug, Clone)]
pub struct InstalledPolicy {
    /// The compiled policy with its settings.
    pub policy: Arc<dyn PolicyPort>,
    /// The name and version that people know it by.
    pub title: Title,
    /// Whether its component may import the stand-in for WASI.
    pub wasi_stub: bool,
}

impl From<&Description> for Title {
    /// What it calls itself.
    fn from(said: &Description) -> Self {
        Self { name: said.name.clone(), version: said.version.clone() }
    }
}

impl InstalledPolicy {
    /// A policy that nobody gave a name: it goes by what it says itself.
    pub fn of(policy: Arc<dyn PolicyPort>) -> Self {
        let title = Title::from(&**policy.description());
        Self { policy, title, wasi_stub: false }
    }

    /// Its name and version in one word: `thresholds@0.1.0`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.title.name, self.title.version)
    }
}
