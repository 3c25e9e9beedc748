//! What the environment says.

use std::path::PathBuf;

use serde_json::Value;

/// How flags begin in the environment.
const FLAG: &str = "CUTOVER_FLAG_";

/// All variables that set flags: the rest of their name, and their value.
pub fn flags() -> Vec<(String, String)> {
    std::env::vars().filter_map(|(name, value)| Some((name.strip_prefix(FLAG)?.to_owned(), value))).collect()
}

/// The flags of one migration among all: `<MIGRATION>_<FLAG>`, in upper case, with `_` for `-`. Values are JSON, or text
/// where they are not.
pub fn flags_of<'a>(migration: &str, all: &'a [(String, String)]) -> impl Iterator<Item = (String, Value)> + use<'a> {
    let prefix = format!("{}_", migration.to_uppercase().replace('-', "_"));
    all.iter().filter_map(move |(name, value)| {
        let flag = name.strip_prefix(&prefix)?.to_lowercase();
        Some((flag, serde_json::from_str(value).unwrap_or_else(|_text| Value::from(value.as_str()))))
    })
}

/// The operator's name, for the audit: `USER`, as the shell sets it.
pub fn user() -> String {
    std::env::vars().find(|(name, _)| name == "USER").map_or_else(|| "unknown".into(), |(_, user)| user)
}

/// Whether a program can be found: as a path from `directory`, or by name on the `PATH`.
pub fn finds_program(program: &str, directory: &std::path::Path) -> bool {
    if program.contains('/') {
        return directory.join(program).is_file();
    }
    let path = std::env::vars_os().find(|(name, _)| name == "PATH").map(|(_, path)| path).unwrap_or_default();
    std::env::split_paths(&path).any(|folder: PathBuf| folder.join(program).is_file())
}
