//! Reports as `JUnit` XML, which every CI system shows: a suite for each bundle, a test for each case.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::report::{self, BundleReport, CaseReport, What};

/// The report cannot be written as XML.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report as JUnit XML")]
pub struct JunitError(#[from] quick_junit::SerializeError);

/// The XML of all bundles. With `require_coverage` a gap is a failed test of its own.
///
/// # Errors
/// What the writer says; nothing in a report makes it fail.
pub fn junit(reports: &[BundleReport], require_coverage: bool) -> Result<String, JunitError> {
    let mut all = Report::new("cutover policy test");
    for report in reports {
        let mut suite = TestSuite::new(report.name.as_str());
        suite.add_property(("kind", report.kind.name()));
        suite.add_property(("version", report.version.as_str()));
        suite.add_property(("digest", report.digest.as_str()));
        suite.add_test_cases(report.cases.iter().map(|case| test(report, case)));
        if let (true, Some(coverage)) = (require_coverage, &report.coverage) {
            let mut status = TestCaseStatus::success();
            if !coverage.is_full() {
                status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_type("coverage").set_message(coverage.to_string());
            }
            let mut test = TestCase::new("coverage", status);
            test.set_classname(report.name.as_str());
            suite.add_test_case(test);
        }
        suite.set_time(report.cases.iter().map(|case| case.took).sum());
        all.add_test_suite(suite);
    }
    Ok(all.to_string()?)
}

fn test(report: &BundleReport, case: &CaseReport) -> TestCase {
    let status = match case.failures.first() {
        None => TestCaseStatus::success(),
        Some(first) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let text: String = case.failures.iter().map(ToString::to_string).collect();
            status.set_type(kind(&first.what)).set_message(summary(&text)).set_description(text);
            status
        }
    };
    let mut test = TestCase::new(case.name.as_str(), status);
    test.set_classname(format!("{}.{}", report.name, case.file)).set_time(case.took);
    test.extra.insert("file".into(), report::file(report, case).display().to_string().into());
    test
}

const fn kind(what: &What) -> &'static str {
    match what {
        What::Expectation(_) => "expectation",
        What::NeverBecame(_) => "never-became",
        What::Admitted => "admitted",
        What::Refused { .. } => "refused",
        What::Step { .. } => "step",
        What::Undeclared { .. } => "undeclared",
        What::Never { .. } => "never",
        What::Impure { .. } => "impure",
        What::SnapshotMissing { .. } => "snapshot-missing",
        What::SnapshotDiffers { .. } => "snapshot-differs",
    }
}

/// The first lines in one, for lists.
fn summary(text: &str) -> String {
    text.lines().map(str::trim).take(4).collect::<Vec<_>>().join(" ")
}
