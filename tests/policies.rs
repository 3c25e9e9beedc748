//! The cases of the shipped policies, and the harness that runs them: what it reports, refuses and writes.

mod command;
mod report;
mod wrong;

use std::{fs, path::Path, time::Duration};

use cutover_policy_host::engine::Limits;
use cutover_policy_test::{Bundle, BundleReport};
use tempfile::TempDir;

use crate::harness::{components, root};

#[test]
fn every_shipped_policy_passes_its_cases_and_they_cover_it() {
    let mut bundles: Vec<_> = fs::read_dir(root().join("policies")).unwrap().map(|e| e.unwrap().path()).collect();
    bundles.sort();
    assert!(bundles.len() >= 6, "{bundles:?}");
    // Time is a limit of its own test; here the machine may be as slow as it likes.
    let mut limits = Limits::default();
    for kind in
        [&mut limits.routing, &mut limits.stages, &mut limits.rollback, &mut limits.comparison, &mut limits.adapter]
    {
        (kind.time, kind.decide_time) = (Duration::from_secs(30), Duration::from_secs(30));
    }
    let mut failed = Vec::new();
    for bundle in bundles {
        match Bundle::open(&bundle).components(components()).limits(limits).run() {
            Ok(report) if report.passed() && report.covered() => {}
            Ok(report) => failed.push(report.to_string()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// A bundle of the guest `hostile`, which does what its settings say. Its only finding is `told-to`.
fn hostile(kind: &str, cases: &str) -> TempDir {
    bundle("hostile", kind, "findings = ['told-to']", cases)
}

/// A bundle with one case file, `cases/all.toml`.
fn bundle(guest: &str, kind: &str, manifest: &str, cases: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let manifest = format!("name = '{guest}'\nversion = '1.0.0'\nkind = '{kind}'\nguest = '{guest}'\n{manifest}\n");
    fs::write(folder.path().join("policy.toml"), manifest).unwrap();
    write_cases(folder.path(), "all.toml", cases);
    folder
}

fn write_cases(bundle: &Path, file: &str, text: &str) {
    fs::create_dir_all(bundle.join("cases")).unwrap();
    fs::write(bundle.join("cases").join(file), text).unwrap();
}

fn run(bundle: &TempDir) -> BundleReport {
    Bundle::open(bundle.path()).components(components()).run().unwrap_or_else(|e| panic!("{e}"))
}

/// As text, with the folder and what it costs left out.
fn shown(bundle: &TempDir, text: &str) -> String {
    text.replace(&bundle.path().display().to_string(), "BUNDLE")
}
