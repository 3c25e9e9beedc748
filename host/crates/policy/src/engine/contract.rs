//! Versions of the contract: which ones this host speaks, and which one a component was built against.
//!
//! Versions are compatible as semantic versioning has it, also before 1.0: all of `0.1.z` are one contract, and so will
//! all of `1.y.z` be. Interfaces are frozen once released, so within one contract an older and a newer guest have the
//! same types under the names that they share, and wasmtime finds either under the other's patch version.

/// The contract's version that this host was built with.
pub const CONTRACT: &str = "0.1.0";

/// The package that all interfaces of the contract are in.
const PACKAGE: &str = "cutover:policy/";

/// What a component exports under the name of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// In a version that this host speaks.
    Known(String),
    /// Only in a version that it does not speak.
    Unknown(String),
    /// The component does not export the interface.
    Nothing,
}

/// The whole name of an interface, in the host's version.
pub(super) fn name(interface: &str) -> String {
    format!("{PACKAGE}{interface}@{CONTRACT}")
}

/// Looks for an interface among the exports of a component.
pub(super) fn find(exports: &[String], interface: &str) -> Found {
    let version = |export: &String| {
        let rest = export.strip_prefix(PACKAGE)?.strip_prefix(interface)?;
        match rest.strip_prefix('@') {
            Some(version) => Some(version.to_owned()),
            None if rest.is_empty() => Some(String::new()),
            None => None,
        }
    };
    let mut unknown = None;
    for version in exports.iter().filter_map(version) {
        if track(&version) == track(CONTRACT) {
            return Found::Known(version);
        }
        unknown = Some(version);
    }
    unknown.map_or(Found::Nothing, Found::Unknown)
}

/// The versions of the contract that are named by a component's exports or imports, without repetition.
pub(super) fn versions<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut versions: Vec<_> = names
        .filter_map(|name| Some(name.strip_prefix(PACKAGE)?.split_once('@').map_or("", |(_, version)| version)))
        .map(str::to_owned)
        .collect();
    versions.sort();
    versions.dedup();
    versions
}

/// Whether this host speaks a version.
pub(super) fn speaks(version: &str) -> bool {
    track(version) == track(CONTRACT)
}

/// What all compatible versions have in common: the major version, or the minor one while that is 0, or the patch while
/// both are. A pre-release is compatible with itself alone. None for what is not a version.
fn track(version: &str) -> Option<(u64, u64, u64, &str)> {
    let version = version.split_once('+').map_or(version, |(version, _build)| version);
    let (numbers, pre) = version.split_once('-').unwrap_or((version, ""));
    let mut numbers = numbers.split('.').map(|n| n.parse::<u64>().ok());
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() {
        return None;
    }
    Some(match (major, minor) {
        _ if !pre.is_empty() => (major, minor, patch, pre),
        (0, 0) => (0, 0, patch, ""),
        (0, _) => (0, minor, 0, ""),
        _ => (major, 0, 0, ""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_of_the_wit_files() {
        let wit = include_str!("../../../../../wit/policy.wit");
        assert!(wit.contains(&format!("package cutover:policy@{CONTRACT};")));
    }

    #[test]
    fn versions_are_compatible_as_semantic_versioning_has_it() {
        let same = |a, b| track(a).is_some() && track(a) == track(b);
        assert!(same("0.1.0", "0.1.7") && same("1.0.0", "1.9.3") && same("0.1.0+x", "0.1.1"));
        assert!(!same("0.1.0", "0.2.0") && !same("0.1.0", "1.1.0") && !same("0.0.1", "0.0.2"));
        assert!(!same("1.0.0", "1.0.0-rc.1") && same("1.0.0-rc.1", "1.0.0-rc.1"));
        for none in ["", "1", "1.0", "1.0.0.0", "one.two.three", "-1.0.0"] {
            assert_eq!(track(none), None, "{none}");
        }
    }

    #[test]
    fn an_interface_is_found_in_a_known_version_before_an_unknown_one() {
        let exports = ["cutover:policy/rollback@0.2.0", "cutover:policy/rollback@0.1.4", "cutover:policy/stages@1.0.0"];
        let exports = exports.map(str::to_owned);
        assert_eq!(find(&exports, "rollback"), Found::Known("0.1.4".into()));
        assert_eq!(find(&exports, "stages"), Found::Unknown("1.0.0".into()));
        assert_eq!(find(&exports, "roll"), Found::Nothing);
        assert_eq!(versions(exports.iter()), ["0.1.4", "0.2.0", "1.0.0"]);
    }
}
