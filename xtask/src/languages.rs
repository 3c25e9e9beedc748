//! Policies in other languages: built by their languages' own tools into components beside the guests in Rust.
//!
//! A tool that this machine lacks is named and its language skipped. What tools download and install stays in the target
//! folder, and is done again only when the files that pin it change; so are the components when their sources do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{process, workspace::Workspace};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    JavaScript,
    Python,
}

/// A component, and what it is made from.
#[derive(Debug)]
struct Guest {
    name: &'static str,
    language: Language,
    /// The world of the contract that it is built for.
    world: &'static str,
    /// A file in the language's folder, or a Python module.
    source: &'static str,
    /// Whether imports of WASI are left in, for the tests of the host's stand-in.
    wasi: bool,
}

const GUESTS: [Guest; 3] = [
    Guest {
        name: "javascript-burn-rate",
        language: Language::JavaScript,
        world: "rollback-policy",
        source: "burn-rate/policy.js",
        wasi: false,
    },
    Guest {
        name: "javascript-burn-rate-wasi",
        language: Language::JavaScript,
        world: "rollback-policy",
        source: "burn-rate/policy.js",
        wasi: true,
    },
    Guest {
        name: "python-similar-text",
        language: Language::Python,
        world: "comparison-policy",
        source: "similar_text.component",
        wasi: false,
    },
];

/// Builds the components of every language whose tools are here.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    for language in available(workspace) {
        let tool = language.install(workspace)?;
        for guest in GUESTS.iter().filter(|guest| guest.language == language) {
            guest.build(workspace, &tool)?;
        }
    }
    Ok(())
}

/// Runs the unit tests that each language has of its own; they need nothing that is installed.
pub(crate) fn test(workspace: &Workspace) -> Result<()> {
    for language in available(workspace) {
        process::run(&mut language.tests(workspace))?;
    }
    Ok(())
}

/// What the tests of the host are told: which languages' components must be there.
pub(crate) fn names(workspace: &Workspace) -> String {
    let names: Vec<_> = available(workspace).into_iter().map(Language::folder).collect();
    names.join(",")
}

fn available(workspace: &Workspace) -> Vec<Language> {
    [Language::JavaScript, Language::Python].into_iter().filter(|language| language.is_here(workspace)).collect()
}

impl Language {
    const fn folder(self) -> &'static str {
        match self {
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    fn sources(self, workspace: &Workspace) -> PathBuf {
        workspace.root.join("guests").join(self.folder())
    }

    /// Where its tools are installed.
    fn home(self, workspace: &Workspace) -> PathBuf {
        workspace.target.join("languages").join(self.folder())
    }

    /// The files that pin its tools.
    const fn pins(self) -> &'static [&'static str] {
        match self {
            Self::JavaScript => &["package.json", "package-lock.json"],
            Self::Python => &["requirements.txt"],
        }
    }

    /// Whether its tools can be installed here; says what is missing.
    fn is_here(self, workspace: &Workspace) -> bool {
        let needs: &[&[&str]] = match self {
            Self::JavaScript => &[&["node", "--version"], &["npm", "--version"]],
            Self::Python => &[&["python3", "-c", "import venv, ensurepip"]],
        };
        let missing = needs.iter().find(|words| !process::succeeds(&mut command(workspace, words)));
        if let Some(words) = missing {
            eprintln!("    skipped {}: `{}` does not work here", self.folder(), words.join(" "));
        }
        missing.is_none()
    }

    /// Installs what builds its components, and returns that tool.
    fn install(self, workspace: &Workspace) -> Result<PathBuf> {
        let (home, sources) = (self.home(workspace), self.sources(workspace));
        let tool = home.join(match self {
            Self::JavaScript => "node_modules/.bin/componentize-qjs",
            Self::Python => "bin/componentize-py",
        });
        let pins: Vec<_> = self.pins().iter().map(|pin| sources.join(pin)).collect();
        let (digest, stamp) = (digest_of(&pins, "")?, home.join("installed.sha256"));
        if tool.exists() && is_stamped(&stamp, &digest) {
            return Ok(tool);
        }
        drop(fs::remove_file(&stamp));
        fs::create_dir_all(&home).with_context(|| format!("could not create `{}`", home.display()))?;
        let cache = workspace.target.join("languages/cache");
        match self {
            Self::JavaScript => {
                for pin in self.pins() {
                    fs::copy(sources.join(pin), home.join(pin)).with_context(|| format!("could not copy `{pin}`"))?;
                }
                // Not `npm ci`, which refuses a lock file without the optional binaries of every platform, and some are not
                // published. The versions and digests are those of the lock file all the same.
                let words = ["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"];
                let mut npm = command(workspace, &words);
                process::run(npm.arg("--cache").arg(cache.join("npm")).current_dir(&home))?;
            }
            Self::Python => {
                process::run(command(workspace, &["python3", "-m", "venv"]).arg(&home))?;
                let mut pip = workspace.command(home.join("bin/python"));
                pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--cache-dir"]);
                process::run(pip.arg(cache.join("pip")).arg("--requirement").arg(sources.join("requirements.txt")))?;
            }
        }
        fs::write(&stamp, digest).with_context(|| format!("could not write `{}`", stamp.display()))?;
        Ok(tool)
    }

    fn tests(self, workspace: &Workspace) -> Command {
        let words: &[&str] = match self {
            Self::JavaScript => &["npm", "test", "--silent"],
            Self::Python => &["python3", "-B", "-m", "unittest", "discover", "-s", "tests", "-t", "."],
        };
        let mut command = command(workspace, words);
        command.current_dir(self.sources(workspace));
        command
    }
}

impl Guest {
    /// Builds the component, unless it was built from the same sources in the same way.
    fn build(&self, workspace: &Workspace, tool: &Path) -> Result<()> {
        let component = workspace.components().join(self.name).with_extension("wasm");
        let stamp = component.with_extension("sources-sha256");
        let mut sources = Vec::new();
        for folder in [self.language.sources(workspace), workspace.root.join("wit")] {
            files(&folder, &mut sources)?;
        }
        sources.sort();
        let draft = component.with_extension("draft");
        let mut command = self.command(workspace, tool, &draft);
        let digest = digest_of(&sources, &format!("{:?}", command.get_args()))?;
        if component.exists() && is_stamped(&stamp, &digest) {
            return report(self.name, &component, "unchanged");
        }
        fs::create_dir_all(workspace.components()).context("could not create the folder of components")?;
        process::run(&mut command)?;
        fs::rename(&draft, &component).with_context(|| format!("could not write `{}`", component.display()))?;
        fs::write(&stamp, digest).with_context(|| format!("could not write `{}`", stamp.display()))?;
        report(self.name, &component, "new")
    }

    fn command(&self, workspace: &Workspace, tool: &Path, output: &Path) -> Command {
        let (sources, wit) = (self.language.sources(workspace), workspace.root.join("wit"));
        let mut command = workspace.command(tool);
        match self.language {
            Language::JavaScript => {
                // Not `--opt-size`: that build of the interpreter has tail calls, which the host's engine does not allow.
                command.args(["--sync", "--world", self.world, "--wit"]).arg(wit);
                command.arg("--js").arg(sources.join(self.source)).arg("--module-root").arg(sources);
            }
            Language::Python => {
                // Only what is installed for us is looked at, whatever the caller has installed.
                command.env("VIRTUAL_ENV", self.language.home(workspace));
                command.args(["--quiet", "--world", self.world, "--wit-path"]).arg(wit);
                command.args(["componentize", self.source, "--python-path"]).arg(sources);
            }
        }
        if !self.wasi {
            command.arg("--stub-wasi");
        }
        command.arg("--output").arg(output);
        command
    }
}

/// A command in the root of the repository.
fn command(workspace: &Workspace, words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().unwrap_or((&"", &[]));
    let mut command = workspace.command(program);
    command.args(arguments);
    command
}

/// All files under a folder, but for what tools leave there.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not list `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if ["__pycache__", "node_modules", "tests"].iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() { files(&entry.path(), found)? } else { found.push(entry.path()) }
    }
    Ok(())
}

fn digest_of(files: &[PathBuf], more: &str) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(more);
    for file in files {
        let content = fs::read(file).with_context(|| format!("could not read `{}`", file.display()))?;
        digest.update(Sha256::digest(file.as_os_str().as_encoded_bytes()));
        digest.update(Sha256::digest(content));
    }
    Ok(hex::encode(digest.finalize()))
}

fn is_stamped(stamp: &Path, digest: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|known| known == digest)
}

fn report(name: &str, component: &Path, freshness: &str) -> Result<()> {
    let bytes = fs::metadata(component).with_context(|| format!("`{name}` was not built"))?.len();
    if bytes == 0 {
        bail!("`{name}` was built empty");
    }
    eprintln!("languages: {name} {} KiB ({freshness})", bytes.div_ceil(1024));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(guest: &Guest) -> String {
        let workspace = Workspace::at("/repo".into(), "/target".into());
        let command = guest.command(&workspace, Path::new("/tool"), Path::new("/out.wasm"));
        command.get_args().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn wasi_is_stubbed_but_where_the_stand_in_is_tested() {
        for guest in &GUESTS {
            assert_eq!(words(guest).contains("--stub-wasi"), !guest.wasi, "{}", guest.name);
            assert!(guest.name.starts_with(guest.language.folder()), "{}", guest.name);
            assert_eq!(guest.name.ends_with("-wasi"), guest.wasi, "{}", guest.name);
        }
    }

    #[test]
    fn components_are_made_again_when_a_source_changes_and_not_for_a_test() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let digest = || {
            let mut found = Vec::new();
            files(folder.path(), &mut found).unwrap();
            found.sort();
            digest_of(&found, "").unwrap()
        };
        write("a/policy.js", "one");
        let before = digest();
        write("tests/a.js", "test");
        write("a/__pycache__/x.pyc", "bytes");
        write("node_modules/x/index.js", "text");
        assert_eq!(digest(), before);
        write("a/policy.js", "two");
        assert_ne!(digest(), before);
    }

    #[test]
    fn a_lock_file_names_no_registry() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for file in ["guests/javascript/package-lock.json", "guests/python/requirements.txt"] {
            let text = fs::read_to_string(root.join(file)).unwrap();
            assert!(!text.contains("://"), "{file}: strip what says where packages come from");
        }
    }
}
