//! Directives that do not pass, each with what it fails with and why that is right here.
//!
//! Three reasons: the host turns the feature off, or leaves it out when it is built; the rule is newer than the engine;
//! or something that the directive needs is excused already.

use std::ops::RangeInclusive;

/// Directives of one script that fail for one reason.
#[derive(Debug)]
pub(super) struct Exception {
    /// The script, by its name in the suites.
    pub(super) script: &'static str,
    /// The lines on which they begin; every directive that begins there is meant.
    pub(super) lines: &'static [RangeInclusive<usize>],
    /// What each fails with, in part.
    pub(super) says: &'static str,
    /// Why that is right.
    pub(super) because: &'static str,
}

const ASYNC: &str = "policies are functions that return: futures, streams, tasks and threads are left out of the build";
const NEEDS_ASYNC: &str = "about a component that is excused, because it needs futures, streams or tasks";
const IMPLEMENTS: &str = "names of interfaces on imports and exports are a proposal that the engine has off";
const LENGTHS: &str = "lists of fixed length are a proposal that the engine has off";
const MAPS: &str = "maps are a proposal that the engine has off";
const THREADS: &str = "no shared memory: what a policy answers must not depend on time";
const GC: &str = "no garbage collector in the build: policies bring their own, if they need one";
const WORDS: &str = "refused, with other words: the reader of text is more exact than the script";
const NEWER: &str =
    "names are told apart more strictly since; the suites list the script as not yet implemented by engines";

pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception {
        script: "validation/attributes.wast",
        lines: &[2..=2, 30..=30, 98..=136, 144..=149, 157..=166, 174..=192, 202..=235],
        says: "the `cm-implements` feature is not active",
        because: IMPLEMENTS,
    },
    Exception { script: "validation/attributes.wast", lines: &[87..=91], says: "duplicate `", because: WORDS },
    Exception {
        script: "validation/indicies.wast",
        lines: &[236..=236, 267..=267],
        says: "requires the component model async feature",
        because: ASYNC,
    },
    Exception {
        script: "validation/indicies.wast",
        lines: &[251..=251],
        says: "requires the component model threading feature",
        because: ASYNC,
    },
    Exception {
        script: "validation/instantiation.wast",
        lines: &[389..=389],
        says: "gc types are disallowed",
        because: GC,
    },
    Exception {
        script: "validation/instantiation.wast",
        lines: &[421..=421],
        says: "threads must be enabled",
        because: THREADS,
    },
    Exception { script: "validation/kebab.wast", lines: &[149..=169], says: "it is accepted", because: NEWER },
    Exception {
        script: "validation/max-value-size.wast",
        lines: &[6..=6, 25..=48, 57..=63],
        says: "require the component model fixed-length lists feature",
        because: LENGTHS,
    },
    Exception {
        script: "values/concat.wast",
        lines: &[463..=463],
        says: "Maps require the component model map feature",
        because: MAPS,
    },
    Exception {
        script: "values/concat.wast",
        lines: &[722..=788],
        says: "no instance",
        because: "about the component of line 463, which has maps",
    },
    Exception {
        script: "values/post-return.wast",
        lines: &[4..=4, 276..=276, 350..=350],
        says: "requires the component model async feature",
        because: ASYNC,
    },
    Exception {
        script: "values/post-return.wast",
        lines: &[213..=272],
        // An instance that cannot be made of the component, and then a trap in it that does not come.
        says: "no ",
        because: NEEDS_ASYNC,
    },
    Exception {
        script: "values/post-return.wast",
        lines: &[308..=309, 374..=374],
        says: "no instance",
        because: NEEDS_ASYNC,
    },
    Exception {
        script: "values/variants.wast",
        lines: &[83..=83],
        says: "requires the component model async feature",
        because: ASYNC,
    },
    Exception { script: "values/variants.wast", lines: &[183..=186], says: "no instance", because: NEEDS_ASYNC },
];
