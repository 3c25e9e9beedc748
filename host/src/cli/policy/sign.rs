//! `cutover policy sign`: signs a bundle. The signatures are kept in `policy.sig.json` beside its `policy.toml`, so that
//! one person after the other can sign, and a host that reads the bundle finds them.

use std::{fs, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    super::{Format, output},
    Failed,
    source::{self, Because, Components, Source},
};
use cutover_policy_host::bundle::SIGNATURES;

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// The bundle's folder.
    bundle: PathBuf,
    /// A private key: ed25519, PEM, as `openssl genpkey -algorithm ed25519` makes it. May be given more than once.
    #[arg(long = "key", value_name = "KEY.pem", required = true)]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    components: Components,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &Sign) -> Result<(), Failed> {
    let mut offer = Source::bundle(&args.bundle, &args.components, Because { author: None, reason: String::new() })?;
    let inspected = source::inspect(&offer)?;
    source::add_signatures(&mut offer, &inspected, &args.keys)?;
    let Some(envelope) = offer.envelope else { return Err(Failed::usage("no key was given; say --key KEY.pem")) };
    let file = args.bundle.join(SIGNATURES);
    let new = args.bundle.join(format!("{SIGNATURES}.new"));
    let failed = |e: std::io::Error| Failed::new(format!("cannot write `{}`: {e}", file.display()));
    let text = serde_json::to_string_pretty(&envelope).map_err(|e| Failed::new(e.to_string()))?;
    // Whoever reads the bundle meanwhile finds the old signatures or the new ones.
    fs::write(&new, text + "\n").and_then(|()| fs::rename(&new, &file)).map_err(failed)?;
    let label = inspected.manifest.label();
    if args.format.json {
        let keys: Vec<_> = envelope.signatures.iter().map(|s| &s.keyid).collect();
        output::json(&json!({ "file": file, "signed": inspected.manifest, "keys": keys }));
    } else {
        let count = envelope.signatures.len();
        output::line(&format!("signed `{label}`: `{}` has {count} signature(s)", file.display()));
    }
    Ok(())
}
