//! `cutover policy new`: a bundle to begin with, which passes its own tests.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    super::{Format, output},
    Failed,
};
use cutover_authoring::author::scaffold::{Language, Plan, ScaffoldError, Sdk};
use cutover_model::{causes::chain, port::Kind};

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The name of the policy, and of its folder: `a-z 0-9 -`.
    name: String,
    /// What it decides: routing, adapter, comparison, rollback or stages.
    #[arg(long, value_name = "KIND")]
    kind: Kind,
    /// What it is written in: rust, rhai (no toolchain needed) or javascript.
    #[arg(long, value_name = "LANGUAGE")]
    language: Language,
    /// The folder that its folder is made in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where a crate finds the SDK: `guests/sdk` of a checkout. The nearest one, unless it is said, or the registry's.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &New) -> Result<(), Failed> {
    if args.sdk.is_some() && args.language != Language::Rust {
        return Err(Failed::usage("`--sdk` is for policies in rust; leave it out"));
    }
    let sdk = Sdk::find(args.sdk.as_deref(), &[&args.dir, Path::new(".")]).map_err(|e| failed(&e))?;
    let plan = Plan { name: &args.name, kind: args.kind, language: args.language };
    let folder = plan.write(&args.dir, &sdk).map_err(|e| failed(&e))?;
    let shown = folder.display().to_string();
    if args.format.json {
        let (kind, language) = (args.kind, args.language.name());
        output::json(&json!({ "bundle": shown, "name": args.name, "kind": kind, "language": language }));
        return Ok(());
    }
    output::line(&format!("wrote a {} policy in {} to {shown}", args.kind, args.language.name()));
    if args.language == Language::Rust && sdk == Sdk::Registry {
        output::line(
            "its Cargo.toml takes `cutover-policy` from the registry of crates; --sdk names a checkout instead",
        );
    }
    output::line(&format!("next: cutover policy build {shown} && cutover policy test {shown}"));
    Ok(())
}

fn failed(error: &ScaffoldError) -> Failed {
    match error {
        ScaffoldError::Write { .. } => Failed::new(chain(error)),
        ScaffoldError::Name(_)
        | ScaffoldError::NoTemplate { .. }
        | ScaffoldError::NoSdk { .. }
        | ScaffoldError::Exists(_) => Failed::usage(chain(error)),
    }
}
