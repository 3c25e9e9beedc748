//! What came of a bundle's cases, as data; `text` shows it to people.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{coverage::Coverage, expect::Mismatch};
use cutover_model::port::Kind;
use cutover_policy_host::PolicyError;

/// The cases of one bundle.
#[derive(Debug, Clone, Serialize)]
pub struct BundleReport {
    /// The folder of the bundle that was tested.
    pub folder: PathBuf,
    /// The name in its `policy.toml`.
    pub name: String,
    /// The version in its `policy.toml`.
    pub version: String,
    /// The kind of policy that it was tested as.
    pub kind: Kind,
    /// SHA-256 of its component, lower-case hex.
    pub digest: String,
    /// Its cases, in their order.
    pub cases: Vec<CaseReport>,
    /// What they made the policy say; none if they were filtered.
    pub coverage: Option<Coverage>,
    /// Snapshots that no case has any more; removed on an update.
    pub obsolete: Vec<PathBuf>,
}

/// What came of one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The name of the file that has the case.
    pub file: String,
    /// The name of the case in that file.
    pub name: String,
    /// Questions that were asked.
    pub asked: u64,
    /// Units of fuel that their answers cost.
    pub fuel: u64,
    /// Wall-clock time that they took, in milliseconds in JSON.
    #[serde(serialize_with = "millis", rename = "took_ms")]
    pub took: Duration,
    /// What is wrong; empty if it passed.
    pub failures: Vec<Failure>,
    /// `{ step, times, answer }`, in their order; equal answers of one step that follow each other are one.
    pub answers: Vec<Value>,
    /// The snapshot that was written; none if nothing was.
    pub written: Option<PathBuf>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The step and its repetition, from 1; none if it concerns the whole case.
    pub place: Option<(usize, u32)>,
    /// What is wrong there.
    #[serde(flatten)]
    pub what: What,
}

/// The ways in which a case can fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "kebab-case")]
pub enum What {
    /// An answer is not what the case expects.
    Expectation(Vec<Mismatch>),
    /// No repetition gave the answer that `until` waits for; how the last one differs.
    NeverBecame(Vec<Mismatch>),
    /// The policy was admitted, and the case expects that it is not.
    Admitted,
    /// The policy was not admitted.
    Refused {
        /// The name of the cause, as [`PolicyError::cause`](cutover_policy_host::PolicyError::cause) has it.
        cause: String,
        /// Why it was not admitted, as a sentence.
        message: String,
    },
    /// The step cannot be asked.
    Step {
        /// Why it cannot be asked, as a sentence.
        message: String,
    },
    /// Findings that `policy.toml` does not list.
    Undeclared {
        /// The names of the rules of these findings.
        rules: Vec<String>,
    },
    /// An answer that the case files say it never gives.
    Never {
        /// The name of the answer, as coverage counts it.
        answer: String,
    },
    /// The same question had two answers.
    Impure {
        /// What differs between the two runs: the answer, the memory or the fuel.
        what: String,
        /// The value on the first run.
        first: String,
        /// The value on the second run.
        second: String,
    },
    /// There is no snapshot to hold the answers against.
    SnapshotMissing {
        /// The path where it belongs.
        path: PathBuf,
    },
    /// The answers are not those of the snapshot.
    SnapshotDiffers {
        /// The path of the snapshot.
        path: PathBuf,
        /// Line by line: `-` is stored, `+` is answered.
        diff: String,
    },
}

impl BundleReport {
    /// Whether every case passed.
    pub fn passed(&self) -> bool {
        self.cases.iter().all(|case| case.failures.is_empty())
    }

    /// Whether every case passed and nothing that the policy may say was left out. A filtered run has no gaps.
    pub fn covered(&self) -> bool {
        self.coverage.as_ref().is_none_or(Coverage::is_full)
    }
}

impl CaseReport {
    /// Whether nothing was wrong with the case.
    pub const fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl What {
    pub(super) fn refused(error: &PolicyError) -> Self {
        Self::Refused { cause: error.cause().into(), message: error.to_string() }
    }
}

fn millis<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // To the microsecond.
    #[expect(clippy::cast_precision_loss, reason = "a case of three hundred years is not foreseen")]
    serializer.serialize_f64(took.as_micros() as f64 / 1_000.0)
}

/// Where the file of a case is.
pub(super) fn file(report: &BundleReport, case: &CaseReport) -> PathBuf {
    Path::new(&report.folder).join("cases").join(&case.file)
}
