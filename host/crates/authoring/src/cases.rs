//! Test cases of policies: what `cutover policy test` runs, and what authors run from `cargo test`.
//!
//! A case is a sequence of questions to a compiled policy, in the host's sandbox and under its limits, with what the
//! policy remembers handed from each to the next, and what must come of them. `docs/testing-policies.md` is the format.
//! Each sequence is asked again, on fresh instances and on one that is kept, because a policy that then answers something
//! else can neither be replayed nor back-tested.
//!
//! It looks at policies from outside, as the command line does, and no stage uses it. It refuses to write a snapshot
//! without being asked to, and to guess at a field that it does not know.

mod answer;
mod ask;
mod coverage;
mod deal;
mod expect;
mod expect_format;
mod expect_pairs;
mod expect_plan;
mod format;
mod junit;
mod latency;
mod meaning;
mod notation;
mod purity;
mod questions;
mod read;
mod report;
mod run;
mod scene;
mod snapshot;
mod text;
mod traffic;
mod workers;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use self::{coverage::Seen, run::Runner};
use cutover_model::port::Kind;
use cutover_policy_host::{
    PolicyError,
    bundle::Bundle,
    engine::{Engine, Imports},
};

pub use self::{
    coverage::Coverage,
    expect::Mismatch,
    junit::{JunitError, junit},
    questions::questions,
    report::{BundleReport, CaseReport, Failure, What},
};

/// How cases are run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only cases with this in their name; coverage is left out then.
    pub filter: Option<String>,
    /// Write snapshots rather than hold answers against them.
    pub update: bool,
}

/// Why the cases of a bundle cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// The bundle is wrong.
    #[error("the path {0}")]
    Bundle(String),
    /// The component is not one that a host would admit.
    #[error("the component of the bundle `{bundle}` {error}")]
    Component {
        /// The path of the bundle's folder.
        bundle: String,
        /// Why a host would not admit it.
        error: PolicyError,
    },
    /// There are no cases, or none that fit the filter.
    #[error("the bundle `{bundle}` has no cases{filtered}; write them in `cases/*.toml` or `cases/*.yaml`")]
    None {
        /// The path of the bundle's folder.
        bundle: String,
        /// What they were filtered by, as words.
        filtered: String,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The path of the file.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The path of the file.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Case files are wrong.
    #[error("{}", .problems.join("\n"))]
    Format {
        /// Each problem, with file, case, step and field.
        problems: Vec<String>,
    },
}

/// Runs the cases of a bundle. `components` is where guests that bundles name are found.
///
/// # Errors
/// Why they cannot be run. A case that fails is not an error but in the report.
pub fn run(
    engine: &Arc<Engine>,
    folder: &Path,
    components: &Path,
    options: &Options,
) -> Result<BundleReport, CasesError> {
    let bundle = Bundle::read(folder, components, &toml::Table::new()).map_err(CasesError::Bundle)?;
    let shown = || folder.display().to_string();
    let cases = read::cases(folder, bundle.kind)?;
    let wanted = |name: &str| options.filter.as_deref().is_none_or(|part| name.contains(part));
    if !cases.all.iter().any(|case| wanted(&case.name)) {
        let filtered = match &options.filter {
            Some(part) if !cases.all.is_empty() => format!(" with `{part}` in their name"),
            _ => String::new(),
        };
        return Err(CasesError::None { bundle: shown(), filtered });
    }
    let compiled = engine
        .compile_with(&bundle.component, Imports::of(bundle.wasi_stub))
        .map_err(|error| CasesError::Component { bundle: shown(), error })?;
    let decides = compiled.decides && bundle.kind == Kind::Routing;
    let digest = compiled.digest.to_string();
    let mut runner = Runner {
        engine,
        compiled,
        bundle: &bundle,
        components,
        never: &cases.never,
        update: options.update,
        seen: Seen::default(),
    };
    let (mut reports, mut snapshots) = (Vec::new(), BTreeSet::new());
    for case in &cases.all {
        if run::has_snapshot(case) {
            snapshots.insert(snapshot::path(folder, &case.file, &case.name));
        }
        if wanted(&case.name) {
            reports.push(runner.run(case)?);
        }
    }
    let seen = std::mem::take(&mut runner.seen);
    let whole = options.filter.is_none();
    let coverage = whole.then(|| seen.coverage(bundle.kind, &bundle.findings, &cases.never, decides));
    let obsolete = if whole { snapshot::obsolete(folder, &snapshots, options.update)? } else { Vec::new() };
    let (name, version, kind) = (bundle.name.clone(), bundle.version.clone(), bundle.kind);
    Ok(BundleReport { folder: folder.to_owned(), name, version, kind, digest, cases: reports, coverage, obsolete })
}

/// The path of the first field of `written` that is not in `read`, which was read from it and written again.
fn unknown(written: &serde_json::Value, read: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let within = |name: String, path: String| {
        if path.is_empty() {
            name
        } else if path.starts_with('[') {
            format!("{name}{path}")
        } else {
            format!("{name}.{path}")
        }
    };
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, value)| match read.get(key) {
            None => Some(key.clone()),
            Some(read) => unknown(value, read).map(|path| within(key.clone(), path)),
        }),
        (Value::Array(written), Value::Array(read)) => {
            let mut pairs = written.iter().zip(read).enumerate();
            pairs.find_map(|(n, (value, read))| unknown(value, read).map(|path| within(format!("[{n}]"), path)))
        }
        _ => None,
    }
}
