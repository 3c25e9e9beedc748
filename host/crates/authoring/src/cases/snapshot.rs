//! Stored answers: `cases/snapshots/FILE--CASE.json`, one document for each case.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use similar::TextDiff;

use super::CasesError;
use cutover_policy_host::bundle::files::{FileError, Folder};

/// The most bytes of a snapshot: far more than the answers of a case have.
const MAX_SNAPSHOT: usize = 64 << 20;

/// Lines around a difference.
const CONTEXT: usize = 3;

/// What holding answers against a snapshot came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Held {
    Same,
    Written,
    Missing(PathBuf),
    Differs(PathBuf, String),
}

/// A name as part of a file's name: what is not a letter or digit becomes one dash.
pub(super) fn slug(name: &str) -> String {
    let letters = name.to_lowercase();
    let words = letters.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// Where the snapshot of a case is.
pub(super) fn path(folder: &Path, file: &str, name: &str) -> PathBuf {
    // The extension stays, so that `a.toml` and `a.yaml` do not share a snapshot.
    folder.join("cases/snapshots").join(format!("{}--{}.json", slug(file), slug(name)))
}

/// Holds answers against a snapshot, or writes it.
///
/// # Errors
/// What the system says of the file.
pub(super) fn hold(path: &Path, answers: &[Value], update: bool) -> Result<Held, CasesError> {
    let wrong = |source| CasesError::Write { path: path.display().to_string(), source };
    let mut actual = serde_json::to_string_pretty(answers).map_err(|e| wrong(e.into()))?;
    actual.push('\n');
    let stored = match stored(path) {
        Ok(text) => Some(text),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(CasesError::Read { path: path.display().to_string(), source: error.into() }),
    };
    // A checkout may turn line ends into those of another system.
    let stored = stored.map(|text| text.replace("\r\n", "\n"));
    match stored {
        Some(stored) if stored == actual => Ok(Held::Same),
        _ if update => {
            let parent = path.parent().unwrap_or(path);
            fs::create_dir_all(parent).map_err(wrong)?;
            // Into its place, not through whatever is there.
            let draft = parent.join(format!(".{}.draft", std::process::id()));
            fs::write(&draft, actual).and_then(|()| fs::rename(&draft, path)).map_err(wrong)?;
            Ok(Held::Written)
        }
        None => Ok(Held::Missing(path.to_owned())),
        Some(stored) => Ok(Held::Differs(path.to_owned(), diff(&stored, &actual))),
    }
}

/// A snapshot below `cases/snapshots` of its bundle.
fn stored(path: &Path) -> Result<String, FileError> {
    let mut up = path.ancestors();
    let bundle = up.nth(3).unwrap_or(path);
    let below = path.strip_prefix(bundle).unwrap_or(path);
    Folder::open(bundle)?.text(below, MAX_SNAPSHOT)
}

/// Snapshots that no case has any more; with `update` they are removed.
///
/// # Errors
/// What the system says of the files.
pub(super) fn obsolete(folder: &Path, used: &BTreeSet<PathBuf>, update: bool) -> Result<Vec<PathBuf>, CasesError> {
    let folder = folder.join("cases/snapshots");
    let wrong = |source| CasesError::Read { path: folder.display().to_string(), source };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(wrong)?,
    };
    let paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let is_json = |path: &PathBuf| path.extension().is_some_and(|e| e == "json");
    let mut unused: Vec<_> = paths.into_iter().filter(|path| is_json(path) && !used.contains(path)).collect();
    unused.sort();
    if update {
        for path in &unused {
            fs::remove_file(path).map_err(|source| CasesError::Write { path: path.display().to_string(), source })?;
        }
    }
    Ok(unused)
}

/// A unified diff without heads: `-` is stored, `+` is answered now.
fn diff(stored: &str, actual: &str) -> String {
    let diff = TextDiff::from_lines(stored, actual);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT).missing_newline_hint(false).to_string().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_become_file_names() {
        assert_eq!(slug("V2's p99 > 2x V1's: goes back!"), "v2-s-p99-2x-v1-s-goes-back");
        let path = path(Path::new("/b"), "errors.toml", "../../x");
        assert_eq!(path, Path::new("/b/cases/snapshots/errors-toml--x.json"));
    }

    #[test]
    fn a_snapshot_is_written_only_on_demand_and_then_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), "f", "c");
        let (one, two) = (vec![json!({ "verdict": "hold" })], vec![json!({ "verdict": "warn" })]);
        assert_eq!(hold(&path, &one, false).unwrap(), Held::Missing(path.clone()));
        assert_eq!(hold(&path, &one, true).unwrap(), Held::Written);
        assert_eq!(hold(&path, &one, false).unwrap(), Held::Same);
        let Held::Differs(_, diff) = hold(&path, &two, false).unwrap() else { panic!("not noticed") };
        insta::assert_snapshot!(diff, @r#"
        @@ -1,5 +1,5 @@
         [
           {
        -    "verdict": "hold"
        +    "verdict": "warn"
           }
         ]
        "#);
        fs::write(&path, fs::read_to_string(&path).unwrap().replace('\n', "\r\n")).unwrap();
        assert_eq!(hold(&path, &one, true).unwrap(), Held::Same);
        assert_eq!(obsolete(folder.path(), &BTreeSet::from([path.clone()]), true).unwrap(), [""; 0].map(PathBuf::from));
        assert_eq!(obsolete(folder.path(), &BTreeSet::new(), true).unwrap(), std::slice::from_ref(&path));
        assert!(!path.exists());
    }
}
