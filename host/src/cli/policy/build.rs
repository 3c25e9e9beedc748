//! `cutover policy build`: the component of a bundle, by the tools of its language, and whether a host would admit it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::{Format, output};
use super::{
    Failed,
    sandbox::{self, Sandbox},
};
use crate::app;
use cutover_authoring::author::{
    build::{self, Built, Source},
    component::{self, Freshness},
    inspect,
};
use cutover_model::{causes::chain, environment};
use cutover_policy_host::bundle::Manifest;

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// The bundle's folder.
    #[arg(default_value = ".")]
    bundle: PathBuf,
    #[command(flatten)]
    sandbox: Sandbox,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &Build) -> Result<(), Failed> {
    let folder = args.bundle.as_path();
    let manifest = sandbox::manifest(folder)?;
    let source = Source::of(folder, manifest.guest.is_some());
    let built = build(folder, &manifest, source)?;
    let opened = args.sandbox.open()?;
    let bundle = opened.bundle(folder)?;
    let policy = app::admit_bundle(&opened.engine, &bundle)
        .map_err(|error| Failed::new(format!("`{}`: {}", folder.display(), inspect::problem(&error))))?;
    let file = bundle.file.display();
    if args.format.json {
        output::json(&json!({
            "bundle": folder,
            "made_from": source,
            "component": bundle.file,
            "bytes": bundle.component.len(),
            "digest": &**policy.digest(),
            "written": built.as_ref().map(|built| built.freshness),
            "kind": bundle.kind,
        }));
        return Ok(());
    }
    let size = bundle.component.len().div_ceil(1024);
    output::line(&match built.map(|built| built.freshness) {
        Some(Freshness::New) => format!("built {file}: {size} KiB"),
        Some(Freshness::Unchanged) => format!("{file} is up to date: {size} KiB"),
        None => {
            format!("nothing to build: {} is the guest {file}", manifest.guest.as_deref().unwrap_or("its component"))
        }
    });
    output::line(&format!("sha256 {}", component::digest(&bundle.component)));
    output::line(&format!("admitted as a {} policy with the settings of its policy.toml", bundle.kind));
    Ok(())
}

/// The component, if it is made from something that is here.
fn build(folder: &Path, manifest: &Manifest, source: Source) -> Result<Option<Built>, Failed> {
    let kind = manifest.kind(folder).map_err(|e| sandbox::said(&e))?;
    let built = match (source, &manifest.component) {
        (Source::Rust, Some(file)) => {
            build::rust(folder, &folder.join(file), environment::cargo_home().as_deref(), &output::note)
        }
        (Source::JavaScript, Some(file)) => build::javascript(folder, kind, &folder.join(file), &output::note),
        (Source::Elsewhere, Some(file)) if !folder.join(file).exists() => {
            return Err(Failed::usage(format!(
                "`{}` has nothing to build `{}` from: there is no Cargo.toml and no package.json in it; put the \
                 component there that you have built otherwise",
                folder.display(),
                file.display()
            )));
        }
        _ => return Ok(None),
    };
    built.map(Some).map_err(|e| Failed::new(chain(&e)))
}
