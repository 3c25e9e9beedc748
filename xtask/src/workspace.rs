//! Where things are, as cargo itself sees it: honours `CARGO_TARGET_DIR` and works from any folder of the repository.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The repository and the folder that cargo builds in, both absolute.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    /// `packages` of `cargo metadata`.
    pub(crate) packages: Vec<Value>,
}

impl Workspace {
    /// The workspace of the current folder.
    pub(crate) fn load() -> Result<Self> {
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Value = serde_json::from_str(&process::stdout(&mut command)?)?;
        let path = |key: &str| {
            let text = metadata.get(key).and_then(Value::as_str);
            text.map(PathBuf::from).with_context(|| format!("cargo metadata has no `{key}`"))
        };
        let mut workspace = Self::at(path("workspace_root")?, path("target_directory")?);
        workspace.packages = metadata.get("packages").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(workspace)
    }

    pub(crate) fn at(root: PathBuf, target: PathBuf) -> Self {
        Self { root, target, packages: Vec::new() }
    }

    /// Components are always here, so that the host, its tests and the documents can name one place.
    pub(crate) fn components(&self) -> PathBuf {
        self.root.join("target/components")
    }

    /// Guests are built apart from the host: their flags differ, and neither build waits for the other's lock.
    pub(crate) fn guests_target(&self) -> PathBuf {
        self.target.join("guests")
    }

    pub(crate) fn cargo<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = self.command(cargo());
        command.args(args);
        command
    }

    /// A command in the root of the repository; a relative `CARGO_TARGET_DIR` still means the folder it meant to us.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        if env::var_os("CARGO_TARGET_DIR").is_some() {
            command.env("CARGO_TARGET_DIR", &self.target);
        }
        command
    }
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// The cargo that runs us, so that all steps use one toolchain.
fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
