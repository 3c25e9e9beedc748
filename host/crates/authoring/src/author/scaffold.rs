//! A bundle to begin with: a small real policy of each kind, its settings, and cases that cover what it can say.
//!
//! The templates in `templates/policy` are files that work as they are, but for a few placeholders. All languages
//! share the settings and cases of a kind, so that they are the same policy.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use cutover_model::port::Kind;
use cutover_policy_host::release::check_name;

mod templates;

/// What a policy is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust: the bundle is a crate.
    Rust,
    /// Rhai: the bundle has a script, for the guest `rhai`; no toolchain is needed.
    Rhai,
    /// JavaScript: the bundle is a package with a module.
    JavaScript,
}

/// Where a crate finds the SDK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sdk {
    /// In this folder, `guests/sdk` of a checkout.
    Folder(PathBuf),
    /// On the registry of crates, in this host's version.
    Registry,
}

/// The bundle that is to be begun.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The bundle's name, and that of its folder.
    pub name: &'a str,
    /// The kind of policy.
    pub kind: Kind,
    /// What it is written in.
    pub language: Language,
}

/// Why there is no new bundle.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// The name is not one.
    #[error(
        "`{0}` is not a name for a policy: it has 1 to 64 characters of `a-z 0-9 -`, begins with a letter and does not \
         end with `-`"
    )]
    Name(String),
    /// There is no template for this kind and language.
    #[error(
        "there is no {kind} policy in {} to begin with; begin one in rust or rhai, or look at docs/languages.md",
        .language.name()
    )]
    NoTemplate {
        /// The kind that was asked for.
        kind: Kind,
        /// The language that was asked for.
        language: Language,
    },
    /// The folder of the SDK is not one.
    #[error("`{}` is not the crate `cutover-policy`: {what}; give the folder `guests/sdk` of a checkout", .folder.display())]
    NoSdk {
        /// The folder that was named as the SDK.
        folder: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Something is where the bundle would be.
    #[error("`{}` exists; nothing was written. Choose another name or another folder", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The path of the file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Language {
    /// All languages that there are templates for, in the order in which people are told them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Rhai, Self::JavaScript];

    /// As the command line writes it, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Rhai => "rhai",
            Self::JavaScript => "javascript",
        }
    }
}

impl std::str::FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|language| language.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is not a language to begin a policy in; they are {names}")
        })
    }
}

impl Sdk {
    /// The one that is asked for, or the nearest `guests/sdk` at or above one of the folders `near`, or the registry's.
    ///
    /// # Errors
    /// If the one that is asked for is not one.
    pub fn find(asked: Option<&Path>, near: &[&Path]) -> Result<Self, ScaffoldError> {
        if let Some(folder) = asked {
            return match sdk_at(folder) {
                Ok(folder) => Ok(Self::Folder(folder)),
                Err(what) => Err(ScaffoldError::NoSdk { folder: folder.to_owned(), what }),
            };
        }
        let absolute = near.iter().filter_map(|folder| fs::canonicalize(folder).ok());
        let mut above =
            absolute.flat_map(|folder| folder.ancestors().map(|a| a.join("guests/sdk")).collect::<Vec<_>>());
        Ok(above.find_map(|folder| sdk_at(&folder).ok()).map_or(Self::Registry, Self::Folder))
    }

    /// The dependency, as `Cargo.toml` writes it, of a crate in this folder.
    fn dependency(&self, crate_folder: &Path) -> String {
        match self {
            Self::Folder(folder) => {
                let path = relative(crate_folder, folder).unwrap_or_else(|| folder.clone());
                format!("{{ path = {} }}", toml::Value::String(path.display().to_string()))
            }
            Self::Registry => format!("\"{}\"", env!("CARGO_PKG_VERSION")),
        }
    }
}

impl Plan<'_> {
    /// Writes the bundle into a new folder of its name in `parent`, and returns that. All of it or nothing.
    ///
    /// # Errors
    /// Why there is none.
    pub fn write(&self, parent: &Path, sdk: &Sdk) -> Result<PathBuf, ScaffoldError> {
        self.check()?;
        let folder = parent.join(self.name);
        if folder.symlink_metadata().is_ok() {
            return Err(ScaffoldError::Exists(folder));
        }
        let failed = |path: &Path, source| ScaffoldError::Write { path: path.to_owned(), source };
        fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        let parent = fs::canonicalize(parent).map_err(|e| failed(parent, e))?;
        let files = self.files(&parent.join(self.name), sdk)?;
        let draft = parent.join(format!(".{}.draft-{}", self.name, std::process::id()));
        let written = files.iter().try_for_each(|(path, text)| write(&draft.join(path), text));
        let moved = written.and_then(|()| fs::rename(&draft, &folder).map_err(|e| failed(&folder, e)));
        if moved.is_err() {
            // What was written is of no use; whoever reads the error need not clear it away.
            drop(fs::remove_dir_all(&draft));
        }
        moved.map(|()| folder)
    }

    fn check(&self) -> Result<(), ScaffoldError> {
        // It also becomes the name of a crate.
        let name = self.name;
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
        if check_name(name).is_ok() && begins { Ok(()) } else { Err(ScaffoldError::Name(name.to_owned())) }
    }

    /// Paths within the folder, and what they contain.
    fn files(&self, folder: &Path, sdk: &Sdk) -> Result<Vec<(&'static str, String)>, ScaffoldError> {
        let (kind, language) = (self.kind, self.language);
        let templates = templates::of(kind, language).ok_or(ScaffoldError::NoTemplate { kind, language })?;
        // What a script is told of its settings is one level further down.
        let at = if language == Language::Rhai { "settings." } else { "" };
        let words = [
            ("{{NAME}}", self.name),
            ("{{KIND}}", kind.name()),
            ("{{SOURCE}}", templates::source(language)),
            ("{{AT}}", at),
            ("{{SDK}}", &sdk.dependency(folder)),
            ("{{DEPENDENCIES}}\n", templates::dependencies(kind)),
        ];
        let fill = |text: &str| words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        Ok(templates.into_iter().map(|(path, text)| (path, fill(text))).collect())
    }
}

fn write(path: &Path, text: &str) -> Result<(), ScaffoldError> {
    let folder = path.parent().unwrap_or(path);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, text));
    written.map_err(|source| ScaffoldError::Write { path: path.to_owned(), source })
}

/// The absolute folder of the SDK, if it is one.
fn sdk_at(folder: &Path) -> Result<PathBuf, String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).map_err(|e| format!("its Cargo.toml: {e}"))?;
    if !manifest.contains("name = \"cutover-policy\"") {
        return Err("its Cargo.toml is that of another crate".into());
    }
    fs::canonicalize(folder).map_err(|e| e.to_string())
}

/// The way from one absolute folder to another; none if they have nothing in common but the root.
fn relative(from: &Path, to: &Path) -> Option<PathBuf> {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if !from.components().take(common).any(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    Some(up.chain(to.components().skip(common)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str) -> Plan<'_> {
        Plan { name, kind: Kind::Rollback, language: Language::Rust }
    }

    fn sdk() -> PathBuf {
        fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../guests/sdk")).unwrap()
    }

    #[test]
    fn names_are_those_that_a_policy_and_a_crate_may_have() {
        for name in ["a", "strict-2", "x1"] {
            assert!(plan(name).check().is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "2a", "A", "a_b", "a/b", "..", "ä", &"a".repeat(65)] {
            assert!(matches!(plan(name).check(), Err(ScaffoldError::Name(_))), "{name}");
        }
    }

    #[test]
    fn every_template_is_complete_and_has_no_placeholder_left() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, language) in Kind::ALL.into_iter().flat_map(|kind| Language::ALL.map(|language| (kind, language))) {
            let name = format!("{kind}-{}", language.name());
            let plan = Plan { name: &name, kind, language };
            let written = plan.write(folder.path(), &Sdk::Registry);
            if language == Language::JavaScript && matches!(kind, Kind::Routing | Kind::Adapter) {
                assert!(matches!(written, Err(ScaffoldError::NoTemplate { .. })), "{name}");
                continue;
            }
            let bundle = written.unwrap();
            let manifest = cutover_policy_host::bundle::Manifest::read(&bundle).unwrap();
            assert_eq!((manifest.name.as_str(), manifest.kind(&bundle)), (name.as_str(), Ok(kind)));
            for file in walk(&bundle) {
                let text = fs::read_to_string(&file).unwrap();
                assert!(!text.contains("{{") || file.ends_with("lib.rs"), "{}: {text}", file.display());
            }
            for file in ["README.md", "cases/policy.toml"] {
                assert!(bundle.join(file).exists(), "{name}: {file}");
            }
            let cases: toml::Table = fs::read_to_string(bundle.join("cases/policy.toml")).unwrap().parse().unwrap();
            assert!(cases["cases"].as_array().is_some_and(|cases| cases.len() > 2), "{name}");
        }
    }

    #[test]
    fn what_exists_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "text").unwrap();
        let refused = plan("mine").write(folder.path(), &Sdk::Registry);
        assert!(matches!(refused, Err(ScaffoldError::Exists(_))));
        assert_eq!(fs::read_to_string(folder.path().join("mine")).unwrap(), "text");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn the_sdk_is_the_one_asked_for_or_the_nearest_or_the_registrys() {
        let elsewhere = tempfile::tempdir().unwrap();
        let deep = sdk().join("src");
        assert_eq!(Sdk::find(None, &[elsewhere.path(), &deep]).unwrap(), Sdk::Folder(sdk()));
        assert_eq!(Sdk::find(None, &[elsewhere.path()]).unwrap(), Sdk::Registry);
        assert_eq!(Sdk::find(Some(&sdk()), &[elsewhere.path()]).unwrap(), Sdk::Folder(sdk()));
        let other = sdk().parent().unwrap().join("thresholds");
        for (wrong, why) in [(elsewhere.path(), "No such file"), (other.as_path(), "another crate")] {
            let error = Sdk::find(Some(wrong), &[]).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("guests/sdk"), "{error}");
        }
    }

    #[test]
    fn the_sdk_is_named_from_the_crate_where_they_have_a_folder_in_common() {
        let at = |sdk: &str| Sdk::Folder(sdk.into()).dependency(Path::new("/home/ann/policies/mine"));
        assert_eq!(at("/home/ann/cutover/guests/sdk"), r#"{ path = "../../cutover/guests/sdk" }"#);
        assert_eq!(at("/srv/cutover/guests/sdk"), r#"{ path = "/srv/cutover/guests/sdk" }"#);
        assert_eq!(Sdk::Registry.dependency(Path::new("/x")), format!("\"{}\"", env!("CARGO_PKG_VERSION")));
    }

    fn walk(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }
}
