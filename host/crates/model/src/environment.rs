//! What the environment says.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// How flags begin in the environment.
const FLAG: &str = "CUTOVER_FLAG_";

/// All variables that set flags: the rest of their name, and their value.
pub fn flags() -> Vec<(String, String)> {
    std::env::vars().filter_map(|(name, value)| Some((name.strip_prefix(FLAG)?.to_owned(), value))).collect()
}

/// The flags of one migration among all: `<MIGRATION>_<FLAG>`, in upper case, with `_` for `-`. A flag belongs to the one
/// of `migrations` with the longest name that fits. Values are JSON, or text where they are not.
pub fn flags_of(migration: &str, migrations: &[&str], all: &[(String, String)]) -> Vec<(String, Value)> {
    let prefix = |name: &str| format!("{}_", name.to_uppercase().replace('-', "_"));
    let own = prefix(migration);
    let mine = |name: &str| {
        let longest = migrations.iter().map(|m| prefix(m)).filter(|p| name.starts_with(p)).max_by_key(String::len);
        longest.as_ref() == Some(&own)
    };
    let read = |value: &str| serde_json::from_str(value).unwrap_or_else(|_text| Value::from(value));
    let flags = all.iter().filter(|(name, _)| mine(name));
    flags.filter_map(|(name, value)| Some((name.strip_prefix(&own)?.to_lowercase(), read(value)))).collect()
}

/// The variable that says where the components of guests are.
pub const COMPONENTS: &str = "CUTOVER_COMPONENTS";

/// Where the components of guests are, if nobody says so: the folder that `CUTOVER_COMPONENTS` names; else the first that
/// there is of `components` in `near` (the folder of the configuration, or the current one), `components` beside the
/// host's binary or one folder above it, and `target/components` in `near`, where a checkout builds them.
pub fn components(near: &Path) -> PathBuf {
    if let Some(said) = variable(COMPONENTS).filter(|said| !said.is_empty()) {
        return said.into();
    }
    let binary = std::env::current_exe().unwrap_or_default();
    let beside = binary.ancestors().skip(1).take(2).map(|folder| folder.join("components"));
    let mut places = [near.join("components")].into_iter().chain(beside).chain([near.join("target/components")]);
    places.find(|place| place.is_dir()).unwrap_or_else(|| near.join("components"))
}

/// What the log is to have: a filter, in the notation of `tracing-subscriber`.
pub fn log() -> Option<String> {
    variable("CUTOVER_LOG")?.into_string().ok().filter(|said| !said.trim().is_empty())
}

/// The variable that says from which process a host takes over.
pub const HAND_OVER: &str = "CUTOVER_HAND_OVER";

/// From which process this host is to take over.
pub fn hands_over() -> Option<u32> {
    variable(HAND_OVER)?.to_str()?.parse().ok()
}

/// The variable that says which limit of open files the first of a line of hosts was started with.
pub const DESCRIPTORS: &str = "CUTOVER_DESCRIPTORS";

/// The limit of open files that a host was started with whose successor this one is.
pub fn descriptors() -> Option<u64> {
    variable(DESCRIPTORS)?.to_str()?.parse().ok()
}

/// How this program was called: as a path that names a program that took this one's place, too.
pub fn program() -> PathBuf {
    let called = std::env::args_os().next().map(PathBuf::from).filter(|called| called.components().count() > 1);
    let called = called.and_then(|called| std::path::absolute(called).ok());
    called.or_else(|| std::env::current_exe().ok()).unwrap_or_default()
}

/// Where a person's tools may keep what they can make again: `cutover` in `XDG_CACHE_HOME`, or in `.cache` of the home
/// folder. None for whoever has no home.
pub fn cache() -> Option<PathBuf> {
    let said = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = said("XDG_CACHE_HOME").or_else(|| said("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("cutover"))
}

/// Where cargo keeps the sources of dependencies: `CARGO_HOME`, or `.cargo` in the home folder.
pub fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    variable("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// A variable as it is, if it is set.
pub fn variable(wanted: &str) -> Option<OsString> {
    std::env::vars_os().find(|(name, _)| name == wanted).map(|(_, value)| value)
}

/// The operator's name, for the audit: `USER` or `LOGNAME` as the shell sets them; where it sets neither (jobs of cron and
/// CI), the name that `/etc/passwd` has for the effective user, or `uid-N`.
pub fn user() -> String {
    let said = ["USER", "LOGNAME"].into_iter().filter_map(variable).filter_map(|name| name.into_string().ok());
    said.into_iter().find(|name| !name.trim().is_empty()).unwrap_or_else(|| {
        let id = rustix::process::geteuid().as_raw();
        named(&std::fs::read_to_string("/etc/passwd").unwrap_or_default(), id).unwrap_or_else(|| format!("uid-{id}"))
    })
}

/// The name of a user in the form of passwd(5).
fn named(passwd: &str, id: u32) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .into_iter()
        .find(|fields| fields.get(2).and_then(|of| of.parse().ok()) == Some(id))?
        .first()
        .map(|name| (*name).into())
}

/// Whether a program can be found: as a path from `directory`, or by name on the `PATH`.
pub fn finds_program(program: &str, directory: &std::path::Path) -> bool {
    if program.contains('/') {
        return directory.join(program).is_file();
    }
    let path = std::env::vars_os().find(|(name, _)| name == "PATH").map(|(_, path)| path).unwrap_or_default();
    std::env::split_paths(&path).any(|folder: PathBuf| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_by_the_first_line_with_the_id() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\nanna:x:1000:1000::/home/anna:\nalso:x:1000::::\n";
        assert_eq!((named(passwd, 0).as_deref(), named(passwd, 1000).as_deref()), (Some("root"), Some("anna")));
        assert_eq!((named(passwd, 1), named("", 0)), (None, None));
    }
}
