//! Directives that do not pass, each with what it fails with and why that is right here.

/// Directives of one script that fail for one reason.
#[derive(Debug)]
pub(super) struct Exception {
    /// The script, by its name in the suites.
    pub(super) script: &'static str,
    /// The lines on which they begin.
    pub(super) lines: &'static [usize],
    /// What each fails with, in part.
    pub(super) says: &'static str,
    /// Why that is right.
    pub(super) because: &'static str,
}

pub(super) const EXCEPTIONS: &[Exception] = &[];
