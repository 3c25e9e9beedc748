//! Run the test cases of a policy's bundle from `cargo test`: the same cases, sandbox and limits as
//! `cutover policy test`, so that what passes here passes in CI and on a host.
//!
//! In the crate of a policy, with the crate as a dev-dependency and the component built (`cargo xtask guests`):
//!
//! ```
//! // Becomes a test of the name `cases`, which fails with what differs, field by field.
//! cutover_policy_test::bundle!(cases, "../../policies/thresholds");
//! ```
//!
//! A path is relative to the package, which is where `cargo test` runs. What a policy answers can be looked at, too,
//! for example with `insta`:
//!
//! ```
//! use cutover_policy_test::Bundle;
//!
//! let report = Bundle::open("../../policies/thresholds").filter("no calls").run()?;
//! assert!(report.passed(), "{report}");
//!
//! let answers = cutover_policy_test::answers(&report, "no calls are not healthy").unwrap();
//! insta::assert_json_snapshot!(answers[0]["answer"]["verdict"], @r#""hold""#);
//! # Ok::<(), cutover_policy_test::TestError>(())
//! ```
//!
//! The format of case files is in `docs/testing-policies.md`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cutover_authoring::cases::{self, CasesError, Options};
use cutover_model::environment;
use cutover_policy_host::engine::{Engine, EngineError};
use serde_json::Value;

pub use cutover_authoring::cases::{BundleReport, CaseReport, Coverage, Failure, Mismatch, What};
pub use cutover_policy_host::engine::Limits;

/// A bundle whose cases are to be run.
#[derive(Debug, Clone)]
pub struct Bundle {
    folder: PathBuf,
    components: Option<PathBuf>,
    limits: Limits,
    options: Options,
}

/// Why cases could not be run.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The sandbox did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The bundle or its cases are wrong.
    #[error(transparent)]
    Cases(#[from] CasesError),
}

impl Bundle {
    /// The bundle in a folder, under a host's default limits.
    pub fn open(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), components: None, limits: Limits::default(), options: Options::default() }
    }

    /// Where the component is found that the bundle names as its `guest`. By default `target/components` of the first
    /// folder above the bundle that has it, and else where the host looks: the folder of `CUTOVER_COMPONENTS`, ...
    #[must_use]
    pub fn components(mut self, folder: impl Into<PathBuf>) -> Self {
        self.components = Some(folder.into());
        self
    }

    /// Other limits than a host's defaults.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Only cases with `text` in their name; coverage is left out then.
    #[must_use]
    pub fn filter(mut self, text: impl Into<String>) -> Self {
        self.options.filter = Some(text.into());
        self
    }

    /// Writes snapshots rather than holding answers against them.
    #[must_use]
    pub fn update(mut self) -> Self {
        self.options.update = true;
        self
    }

    /// Runs the cases.
    ///
    /// # Errors
    /// Why they cannot be run. A case that fails is not an error but in the report.
    pub fn run(&self) -> Result<BundleReport, TestError> {
        let components = self.components.clone().unwrap_or_else(|| beside(&self.folder));
        let engine = engine(&self.limits)?;
        Ok(cases::run(&engine, &self.folder, &components, &self.options)?)
    }

    /// Runs the cases, all of which must pass and make the policy say everything that it may say.
    ///
    /// # Panics
    /// With the report, if a case fails, a finding or an answer was never given, or the cases cannot be run.
    #[expect(clippy::panic, reason = "a failed case is a failed test")]
    #[track_caller]
    pub fn check(&self) {
        match self.run() {
            Ok(report) if report.passed() && report.covered() => {}
            Ok(report) => panic!("{report}"),
            Err(error) => match std::error::Error::source(&error) {
                None => panic!("{error}"),
                Some(cause) => panic!("{error}: {cause}"),
            },
        }
    }
}

/// One engine for all bundles with the same limits, one after the other: it keeps what it compiled, and an interpreter
/// takes seconds.
fn engine(limits: &Limits) -> Result<Arc<Engine>, EngineError> {
    static LAST: Mutex<Option<(Limits, Arc<Engine>)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, engine)) = last.as_ref().filter(|(of, _)| of == limits) {
        return Ok(Arc::clone(engine));
    }
    let engine = Engine::new(*limits)?;
    *last = Some((*limits, Arc::clone(&engine)));
    Ok(engine)
}

/// What the policy answered in a case, question by question: `{ step, times, answer }`, as serialisable values.
pub fn answers<'a>(report: &'a BundleReport, case: &str) -> Option<&'a [Value]> {
    report.cases.iter().find(|c| c.name == case).map(|c| c.answers.as_slice())
}

/// A test that runs all cases of a bundle and requires that they cover it: `bundle!(name, "path/of/the/bundle")`.
#[macro_export]
macro_rules! bundle {
    ($name:ident, $folder:expr) => {
        #[test]
        fn $name() {
            $crate::Bundle::open($folder).check();
        }
    };
}

/// `target/components` of the first folder above that has it, or where the host looks.
fn beside(bundle: &Path) -> PathBuf {
    let absolute = bundle.canonicalize().unwrap_or_else(|_gone| bundle.to_owned());
    let mut above = absolute.ancestors().map(|folder| folder.join("target/components"));
    above.find(|folder| folder.is_dir()).unwrap_or_else(|| environment::components(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    bundle!(cases_of_a_shipped_policy_pass, "../../policies/exact-compare");

    #[test]
    #[should_panic(expected = "has no cases with `no such case` in their name")]
    fn a_filter_that_fits_nothing_fails() {
        Bundle::open("../../policies/exact-compare").filter("no such case").check();
    }

    #[test]
    fn answers_are_found_by_the_name_of_their_case() {
        let report = Bundle::open("../../policies/exact-compare").run().unwrap();
        let said = answers(&report, "a blank more is different").unwrap();
        assert_eq!(said[0]["answer"]["outcomes"][0]["outcome"], "different");
        assert!(answers(&report, "nobody").is_none());
    }
}
