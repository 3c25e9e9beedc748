//! `cutover policy test`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    super::output,
    Failed,
    sandbox::{Opened, Sandbox},
};
use cutover_authoring::cases::{self, BundleReport, CasesError, Options};
use cutover_model::causes::chain;

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Folders with a `policy.toml`.
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    /// Only cases with this in their name; coverage is not reported then.
    #[arg(long, value_name = "TEXT", conflicts_with = "require_coverage")]
    filter: Option<String>,
    /// Write snapshots, and remove those that no case has any more.
    #[arg(long)]
    update: bool,
    /// Fail if the cases leave out a finding that the bundle declares or an answer of its kind.
    #[arg(long)]
    require_coverage: bool,
    /// Write a report as `JUnit` XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    sandbox: Sandbox,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Test) -> Result<(), Failed> {
    let Opened { components, engine } = args.sandbox.open_patiently()?;
    let options = Options { filter: args.filter.clone(), update: args.update };
    let (mut reports, mut wrong, mut unfit) = (Vec::new(), Vec::new(), 0);
    for bundle in &args.bundles {
        match cases::run(&engine, bundle, &components, &options) {
            Ok(report) => reports.push(report),
            // With several bundles a filter means those that have such a case.
            Err(CasesError::None { .. }) if args.filter.is_some() && args.bundles.len() > 1 => unfit += 1,
            Err(error) => wrong.push(chain(&error)),
        }
    }
    if let Some(file) = &args.junit {
        write_junit(&reports, args.require_coverage, file)?;
    }
    if args.json {
        let passed = wrong.is_empty() && failures(&reports, args.require_coverage).is_none();
        output::json(&json!({ "passed": passed, "bundles": reports, "errors": wrong }));
    } else {
        for report in &reports {
            output::block(&report.to_string());
        }
    }
    if !wrong.is_empty() {
        return Err(Failed::usage(wrong.join("\n")));
    }
    if unfit == args.bundles.len() {
        let part = args.filter.as_deref().unwrap_or_default();
        return Err(Failed::usage(format!("no bundle has a case with `{part}` in its name")));
    }
    failures(&reports, args.require_coverage).map_or(Ok(()), |message| Err(Failed::new(message)))
}

/// What makes the exit code 1.
fn failures(reports: &[BundleReport], require_coverage: bool) -> Option<String> {
    let failed = reports.iter().flat_map(|r| &r.cases).filter(|case| !case.passed()).count();
    let gaps = reports.iter().filter(|report| require_coverage && !report.covered()).count();
    match (failed, gaps) {
        (0, 0) => None,
        (0, gaps) => Some(format!("{gaps} bundle(s) may say what no case makes them say; see `never said` above")),
        (failed, 0) => Some(format!("{failed} case(s) failed")),
        (failed, gaps) => Some(format!("{failed} case(s) failed, and {gaps} bundle(s) have gaps in their coverage")),
    }
}

fn write_junit(reports: &[BundleReport], require_coverage: bool, file: &Path) -> Result<(), Failed> {
    let xml = cases::junit(reports, require_coverage).map_err(|e| Failed::new(chain(&e)))?;
    std::fs::write(file, xml).map_err(|e| Failed::usage(format!("cannot write `{}`: {e}", file.display())))
}
