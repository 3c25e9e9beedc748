//! What must be installed: checked before it is needed, so that the message names the cause.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{process, workspace::Workspace};

pub(crate) const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// What the worker in `examples/programs` is written for.
const PYTHON_AT_LEAST: (u32, u32) = (3, 9);

/// Installs the target that guests are built for, if the toolchain lacks it.
pub(crate) fn wasm_target(workspace: &Workspace) -> Result<()> {
    let sysroot = process::stdout(rustc(workspace).args(["--print", "sysroot"]))?;
    if Path::new(&sysroot).join("lib/rustlib").join(WASM_TARGET).is_dir() {
        return Ok(());
    }
    if !process::succeeds(Command::new("rustup").arg("--version")) {
        bail!(
            "the Rust target {WASM_TARGET} is missing and there is no rustup to add it; install it with your toolchain"
        );
    }
    process::run(workspace.command("rustup").args(["target", "add", WASM_TARGET]))
        .with_context(|| format!("the Rust target {WASM_TARGET} is missing and could not be added"))
}

/// Installs LLVM's tools of the toolchain's own version, if it lacks them.
pub(crate) fn llvm_tools(workspace: &Workspace) -> Result<()> {
    if llvm_tool(workspace, "llvm-profdata")?.exists() {
        return Ok(());
    }
    process::run(workspace.command("rustup").args(["component", "add", "llvm-tools"]))
        .context("the toolchain's component llvm-tools is missing and could not be added")
}

/// Where one of them is.
pub(crate) fn llvm_tool(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let libraries = process::stdout(rustc(workspace).args(["--print", "target-libdir"]))?;
    let host = Path::new(&libraries).parent().context("rustc does not say where its libraries are")?;
    Ok(host.join("bin").join(name))
}

fn rustc(workspace: &Workspace) -> Command {
    workspace.command(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// Refuses a missing or old python3.
pub(crate) fn python(workspace: &Workspace) -> Result<()> {
    let (major, minor) = PYTHON_AT_LEAST;
    let wanted = format!("install Python {major}.{minor} or later as `python3`");
    let version = process::stdout(workspace.command("python3").arg("--version")).with_context(|| wanted.clone())?;
    if !is_recent(&version) {
        bail!("`python3` is {version}: {wanted}");
    }
    Ok(())
}

/// `version` as `python3 --version` says it: `Python 3.11.7`.
fn is_recent(version: &str) -> bool {
    let mut numbers = version.trim_start_matches("Python ").split('.').map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version: (u32, u32)| version >= PYTHON_AT_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, recent) in [("3.9.0", true), ("3.10.1", true), ("4.0", true), ("3.8.18", false), ("2.7", false)] {
            assert_eq!(is_recent(&format!("Python {version}")), recent, "{version}");
        }
        assert!(!is_recent("three"));
    }
}
