//! The house rule on size: no file has over 500 lines before its tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const MOST_LINES: usize = 500;

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut long = Vec::new();
    for path in sources(&workspace.root)? {
        let source = fs::read_to_string(&path).with_context(|| format!("could not read `{}`", path.display()))?;
        let lines = lines_before_tests(&source);
        if lines > MOST_LINES {
            let path = path.strip_prefix(&workspace.root).unwrap_or(&path);
            long.push(format!("{} ({lines})", path.display()));
        }
    }
    if !long.is_empty() {
        bail!("over {MOST_LINES} lines before tests, so split by reason to change: {}", long.join(", "));
    }
    Ok(())
}

fn lines_before_tests(source: &str) -> usize {
    source.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

/// All `.rs` files under `folder`, sorted; neither hidden folders nor what was built.
pub(crate) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("could not list `{}`", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_tests_begin_do_not_count() {
        assert_eq!(lines_before_tests(""), 0);
        assert_eq!(lines_before_tests("a\n\nb"), 3);
        assert_eq!(lines_before_tests("a\n    #[cfg(test)]\nb\n#[cfg(test)]\nmod tests {}\n"), 3);
    }

    #[test]
    fn a_long_file_is_named_with_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for hidden in ["target/debug", ".git"] {
            fs::create_dir_all(root.join(hidden)).unwrap();
            fs::write(root.join(hidden).join("long.rs"), "\n".repeat(501)).unwrap();
        }
        fs::create_dir_all(root.join("host/src")).unwrap();
        fs::write(root.join("host/src/lib.rs"), "\n".repeat(500) + "#[cfg(test)]\n\n").unwrap();
        let workspace = Workspace::at(root.into(), root.join("target"));
        check(&workspace).unwrap();

        fs::write(root.join("host/src/long.rs"), "\n".repeat(501)).unwrap();
        assert!(check(&workspace).unwrap_err().to_string().ends_with(": host/src/long.rs (501)"));
    }
}
