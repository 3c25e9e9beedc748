//! Reports as text: what failed, where, and how what was answered differs from what was expected.

use std::fmt;

use super::{
    coverage::Coverage,
    expect::Mismatch,
    report::{BundleReport, Failure, What},
};

/// Longer values are cut in the text; JSON has them whole.
const SHOWN: usize = 600;

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
