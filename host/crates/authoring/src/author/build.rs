//! The component of a bundle, built from its source by the tools of its language.
//!
//! What is in a bundle's folder says what it is made from: a `Cargo.toml`, a `package.json`, or a script that its
//! `policy.toml` names, which needs no building. The component is replaced all at once, and only if it changes.

mod javascript;
mod process;
mod rust;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::component::{self, Freshness};
use cutover_model::port::Kind;

/// What a bundle's component is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A crate: the folder has a `Cargo.toml`.
    Rust,
    /// A package with a module: the folder has a `package.json`.
    #[serde(rename = "javascript")]
    JavaScript,
    /// Nothing of its own: `policy.toml` names a guest, and perhaps a script for it.
    Guest,
    /// Sources that are not in the folder: the component was built somewhere else.
    Elsewhere,
}

/// A component that is up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The bytes of the component.
    pub component: Vec<u8>,
    /// Whether the file had to be written.
    pub freshness: Freshness,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A tool is not installed, or cannot be started.
    #[error("cannot start `{line}`; {mend}")]
    Start {
        /// The command, as one would type it.
        line: String,
        /// How to get the program.
        mend: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A tool failed; it has said why on standard error.
    #[error("`{line}` ended with {status}; what it says is above")]
    Failed {
        /// The command, as one would type it.
        line: String,
        /// How the tool ended: its exit status or signal.
        status: String,
    },
    /// The target that guests are built for is missing.
    #[error(
        "the Rust target `{target}` is missing, and there is no rustup to add it; install it as your toolchain was, \
         such as Debian's `libstd-rust-dev-wasm32`"
    )]
    NoTarget {
        /// The name of the target, as rustup knows it.
        target: &'static str,
    },
    /// What a tool says cannot be understood.
    #[error("`{line}` says something unexpected: {what}")]
    Unexpected {
        /// The command, as one would type it.
        line: String,
        /// What in its output is missing or unexpected.
        what: String,
    },
    /// The crate is no policy.
    #[error("`{}` builds no `cdylib`; add `crate-type = [\"cdylib\", \"rlib\"]` to its `[lib]`", .0.display())]
    NoCdylib(PathBuf),
    /// The module cannot become a component.
    #[error(
        "what was built cannot become a component: {what}; is there a `cutover_policy::export!(..)`, and does nothing \
         import WASI?"
    )]
    Encode {
        /// Why not, in the words of the encoder.
        what: String,
    },
    /// The module of a package is missing.
    #[error("the package has no `{}`, which is its policy; name another file as `main` in its package.json", .0.display())]
    NoModule(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot use `{}`", .path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Source {
    /// What a bundle is made from, by the files in its folder and whether its `policy.toml` names a guest.
    pub fn of(folder: &Path, names_guest: bool) -> Self {
        match () {
            () if names_guest => Self::Guest,
            () if folder.join("Cargo.toml").is_file() => Self::Rust,
            () if folder.join("package.json").is_file() => Self::JavaScript,
            () => Self::Elsewhere,
        }
    }
}

/// Builds the crate in a folder, and writes its component to `to`. `note` is told what is done.
///
/// # Errors
/// Why there is no component.
pub fn rust(folder: &Path, to: &Path, cargo_home: Option<&Path>, note: &dyn Fn(&str)) -> Result<Built, BuildError> {
    let module = rust::core_module(folder, cargo_home, note)?;
    let bytes = fs::read(&module).map_err(|e| file(&module, e))?;
    let component = component::encode(&bytes).map_err(|what| BuildError::Encode { what })?;
    put(component, to)
}

/// Builds the package in a folder with the tool that it pins, and writes its component to `to`.
///
/// # Errors
/// Why there is no component.
pub fn javascript(folder: &Path, kind: Kind, to: &Path, note: &dyn Fn(&str)) -> Result<Built, BuildError> {
    let draft = javascript::component(folder, kind, note)?;
    let component = fs::read(&draft).map_err(|e| file(&draft, e))?;
    put(component, to)
}

fn put(component: Vec<u8>, to: &Path) -> Result<Built, BuildError> {
    let freshness = component::replace(to, &component).map_err(|e| file(to, e))?;
    Ok(Built { component, freshness })
}

fn file(path: &Path, source: io::Error) -> BuildError {
    BuildError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_folder_says_what_a_bundle_is_made_from() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Source::of(folder.path(), false), Source::Elsewhere);
        fs::write(folder.path().join("package.json"), "{}").unwrap();
        assert_eq!(Source::of(folder.path(), false), Source::JavaScript);
        fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(Source::of(folder.path(), false), Source::Rust);
        assert_eq!(Source::of(folder.path(), true), Source::Guest);
    }
}
