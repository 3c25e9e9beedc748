//! The host as it is shipped: built for what it does under load.
//!
//! Profile-guided optimization: it is built with counters, is shown load, and is built again with what they say
//! (<https://doc.rust-lang.org/rustc/profile-guided-optimization.html>). All of that is in `target/pgo`, because other flags
//! mean other dependencies; the result is `target/dist/cutover`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{process, toolchain, train, workspace::Workspace};

/// Builds it with counters.
pub(crate) fn build_counting(workspace: &Workspace) -> Result<()> {
    // What runs only to build it counts, too, and would leave its counters beside whatever it reads.
    process::run(build(workspace, "release", "-Cprofile-generate").env("LLVM_PROFILE_FILE", "/dev/null"))
}

/// Shows it load: HTTP, and the demo for workers and policies.
pub(crate) fn show_load(workspace: &Workspace) -> Result<()> {
    let profiles = profiles(workspace);
    if profiles.exists() {
        fs::remove_dir_all(&profiles)?;
    }
    let program = target(workspace).join("release/cutover");
    // The process that compiles policies may write no file, and would die of trying to write its counters.
    let counting = || {
        let mut command = workspace.command("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(&program);
        command.env("LLVM_PROFILE_FILE", profiles.join("%p-%m.profraw"));
        command
    };
    train::run(workspace, counting())?;
    // It is slow with counters: what the demo thinks of that does not matter here.
    if !process::succeeds(counting().args(["demo", "--fast", "--json"])) {
        eprintln!("    the demo kept not every promise, with counters; what was counted is used all the same");
    }
    let mut merge = workspace.command(toolchain::llvm_tool(workspace, "llvm-profdata")?);
    process::run(merge.arg("merge").arg("-o").arg(merged(workspace)).arg(&profiles))
}

/// Builds it for the load that was shown.
pub(crate) fn build_dist(workspace: &Workspace) -> Result<()> {
    let merged = fs::read(merged(workspace)).context("there is no profile")?;
    ensure!(!merged.is_empty(), "the profile is empty");
    // Cargo does not look into files that flags name: another profile has to have another name.
    let digest = hex::encode(Sha256::digest(&merged));
    let named = target(workspace).join(format!("{}.profdata", digest.get(..16).unwrap_or(&digest)));
    fs::write(&named, merged)?;
    let flags = format!("-Cprofile-use={} -Cllvm-args=-pgo-warn-missing-function=false", named.display());
    process::run(&mut build(workspace, "dist", &flags))?;
    let shipped = workspace.target.join("dist");
    fs::create_dir_all(&shipped)?;
    fs::copy(target(workspace).join("dist/cutover"), shipped.join("cutover"))?;
    eprintln!("    {}", shipped.join("cutover").display());
    Ok(())
}

fn build(workspace: &Workspace, profile: &str, flags: &str) -> Command {
    let given = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    let given = given.to_string_lossy();
    let mut cargo = workspace.cargo(["build", "--profile", profile, "--package", "cutover"]);
    cargo.env("RUSTFLAGS", format!("{given} {flags}").trim()).env("CARGO_TARGET_DIR", target(workspace));
    cargo
}

fn target(workspace: &Workspace) -> PathBuf {
    workspace.target.join("pgo")
}

fn profiles(workspace: &Workspace) -> PathBuf {
    target(workspace).join("profiles")
}

fn merged(workspace: &Workspace) -> PathBuf {
    target(workspace).join("merged.profdata")
}
