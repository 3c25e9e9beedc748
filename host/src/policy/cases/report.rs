//! What came of a bundle's cases, as data and as text.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{coverage::Coverage, expect::Mismatch};
use crate::policy::{PolicyError, port::Kind};

/// The cases of one bundle.
#[derive(Debug, Clone, Serialize)]
pub struct BundleReport {
    /// The bundle's folder.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its kind.
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

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The name of its file.
    pub file: String,
    /// Its name.
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
    /// The snapshot that was written.
    pub written: Option<PathBuf>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The step and its repetition, from 1; none if it concerns the whole case.
    pub place: Option<(usize, u32)>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What is wrong.
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
        /// Why.
        cause: String,
        /// Why, as a sentence.
        message: String,
    },
    /// The step cannot be asked.
    Step {
        /// Why.
        message: String,
    },
    /// Findings that `policy.toml` does not list.
    Undeclared {
        /// Their rules.
        rules: Vec<String>,
    },
    /// An answer that the case files say it never gives.
    Never {
        /// The answer.
        answer: String,
    },
    /// The same question had two answers.
    Impure {
        /// What differs.
        what: String,
        /// On the first run.
        first: String,
        /// On the second.
        second: String,
    },
    /// There is no snapshot to hold the answers against.
    SnapshotMissing {
        /// Where it belongs.
        path: PathBuf,
    },
    /// The answers are not those of the snapshot.
    SnapshotDiffers {
        /// Where it is.
        path: PathBuf,
        /// Line by line: `-` is stored, `+` is answered.
        diff: String,
    },
}

/// Longer values are cut in the text; JSON has them whole.
const SHOWN: usize = 600;

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
    /// Whether it passed.
    pub const fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl What {
    pub(super) fn refused(error: &PolicyError) -> Self {
        Self::Refused { cause: error.cause().into(), message: error.to_string() }
    }
}

impl fmt::Display for BundleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.cases.iter().filter(|case| !case.passed()) {
            writeln!(f, "FAILED {}: {}", self.folder.join("cases").join(&case.file).display(), case.name)?;
            for failure in &case.failures {
                write!(f, "{}", indented(&failure.to_string(), "  "))?;
            }
        }
        for case in &self.cases {
            if let Some(path) = &case.written {
                writeln!(f, "written {}", path.display())?;
            }
        }
        for path in &self.obsolete {
            writeln!(f, "obsolete {}: no case has this snapshot; `--update` removes it", path.display())?;
        }
        let failed = self.cases.iter().filter(|case| !case.passed()).count();
        let asked: u64 = self.cases.iter().map(|case| case.asked).sum();
        write!(
            f,
            "{} ({}): {} passed, {failed} failed; {asked} questions",
            self.name,
            self.kind,
            self.cases.len() - failed
        )?;
        if let Some(coverage) = &self.coverage {
            write!(f, "; {coverage}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_full() {
            return f.write_str("everything that it may say was said");
        }
        let listed = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        f.write_str("never said: ")?;
        if !self.missed_answers.is_empty() {
            write!(f, "{}", listed(&self.missed_answers))?;
        }
        if !self.missed_findings.is_empty() {
            let and = if self.missed_answers.is_empty() { "" } else { "; " };
            write!(f, "{and}the findings {}", listed(&self.missed_findings))?;
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            None => {}
            Some((step, 1)) => writeln!(f, "step {step}:")?,
            Some((step, repetition)) => writeln!(f, "step {step}, repetition {repetition}:")?,
        }
        let inset = if self.place.is_some() { "  " } else { "" };
        f.write_str(&indented(&self.what.to_string(), inset))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expectation(all) => all.iter().try_for_each(|mismatch| writeln!(f, "{mismatch}")),
            Self::NeverBecame(all) => {
                writeln!(f, "it never became what `until` says; the last answer:")?;
                all.iter().try_for_each(|mismatch| writeln!(f, "{mismatch}"))
            }
            Self::Admitted => writeln!(f, "the policy accepts these settings, and the case expects that it does not"),
            Self::Refused { message, .. } => writeln!(f, "the policy {message}"),
            Self::Step { message } => writeln!(f, "{message}"),
            Self::Undeclared { rules } => {
                let rules = rules.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>().join(", ");
                writeln!(f, "it gave findings that `policy.toml` does not list; add {rules} to its `findings`")
            }
            Self::Never { answer } => {
                writeln!(f, "it answered `{answer}`, which `never` in the case files says it does not")
            }
            Self::Impure { what, first, second } => {
                writeln!(f, "the same question gave another {what} when it was asked again; a policy keeps nothing")?;
                writeln!(f, "but its memory, and iterates over nothing in an order that changes")?;
                writeln!(f, "- {}", cut(first))?;
                writeln!(f, "+ {}", cut(second))
            }
            Self::SnapshotMissing { path } => {
                writeln!(f, "has no snapshot `{}`; `--update` writes it, then commit it", path.display())
            }
            Self::SnapshotDiffers { path, diff } => {
                writeln!(f, "answers differ from `{}` (`--update` accepts them):", path.display())?;
                writeln!(f, "{diff}")
            }
        }
    }
}

impl fmt::Display for Mismatch {
    /// The field, then what was expected after `-` and what was answered after `+`, lines in common after blanks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        let diff = similar::TextDiff::from_lines(&self.expected, &self.actual);
        for change in diff.iter_all_changes() {
            let line = change.value().trim_end_matches('\n');
            write!(f, "\n  {} {}", change.tag(), cut(line))?;
        }
        Ok(())
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    let more = if end < text.len() { " .." } else { "" };
    format!("{}{more}", text.get(..end).unwrap_or_default())
}

fn indented(text: &str, inset: &str) -> String {
    text.lines().map(|line| [inset, line, "\n"].concat()).collect()
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
