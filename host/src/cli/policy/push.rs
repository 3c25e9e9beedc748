//! `cutover policy push`: makes a policy known to a host or, with `--to`, publishes it to an OCI registry.
//!
//! What an OCI registry has is pulled here, on the machine of whoever pushes, and checked against its digests; the host
//! gets the component, the digest that the tag was pinned by, and the signatures.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use serde_json::{Value, json};

use super::super::{HostAddress, client::Client, output};
use super::{
    Failed,
    source::{self, Because, Source},
};
use crate::{
    admin::policies as admin,
    oci::{self, Address, Artefact},
};
use cutover_control::registry::Offer;
use cutover_model::{clock, environment};

/// How long a host may take to compile a policy, and to finish what others have pushed before.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug, Args)]
pub(crate) struct Push {
    #[command(flatten)]
    source: Source,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT", required_unless_present = "to")]
    reason: Option<String>,
    /// Who wrote it; the artefact's author or you, unless it is said.
    #[arg(long)]
    author: Option<String>,
    /// Sign it with a private key: ed25519, PEM. May be given more than once.
    #[arg(long, value_name = "KEY.pem")]
    sign_with: Vec<PathBuf>,
    /// Publish it to this OCI registry instead of a host; the version is the tag unless one is said.
    #[arg(long, value_name = "oci://HOST/REPOSITORY[:TAG]")]
    to: Option<String>,
    /// Speak plain HTTP to a registry that is not on this machine.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    host: HostAddress,
}

pub(super) fn run(args: &Push) -> Result<(), Failed> {
    let because = Because { author: args.author.clone(), reason: args.reason.clone().unwrap_or_default() };
    let mut offer = args.source.read(args.insecure, because)?;
    if let Some(to) = &args.to {
        return publish(to, offer, args);
    }
    if !args.sign_with.is_empty() {
        let inspected = source::inspect(&offer)?;
        source::add_signatures(&mut offer, &inspected, &args.sign_with)?;
    }
    push(offer, &args.host)
}

fn push(offer: Offer, host: &HostAddress) -> Result<(), Failed> {
    let body = body(offer);
    let answer = Client::patient(&host.admin, PATIENCE).post("/api/v1/policies", &body)?;
    if host.format.json {
        output::json(&answer);
        return Ok(());
    }
    let text = |path: &str| answer.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let signatures = answer.pointer("/policy/signatures").and_then(Value::as_u64).unwrap_or(0);
    let digest = text("/policy/component_sha256");
    output::line(&format!(
        "{}: {} policy, sha256:{digest}, {signatures} signature(s)",
        text("/message"),
        text("/policy/kind")
    ));
    Ok(())
}

/// What a host is told of a policy.
pub(super) fn body(offer: Offer) -> admin::Push {
    admin::Push {
        name: offer.name,
        version: offer.version,
        kind: offer.kind,
        component: BASE64_STANDARD.encode(&offer.component),
        settings: offer.settings.values,
        script: offer.settings.script,
        wasi_stub: offer.wasi_stub,
        author: offer.author,
        reason: offer.reason,
        actor: environment::user(),
        provenance: offer.provenance,
        envelope: offer.envelope,
    }
}

fn publish(to: &str, mut offer: Offer, args: &Push) -> Result<(), Failed> {
    let usage = |e: oci::OciError| Failed::usage(cutover_model::causes::chain(&e));
    let mut address = Address::parse(to).map_err(usage)?;
    if Address::is_bare(to) {
        address = address.tagged(&offer.version);
    }
    if address.is_pinned() {
        return Err(Failed::usage(format!("`{to}` has a digest; publish to a tag, and the registry says its digest")));
    }
    let inspected = source::inspect(&offer)?;
    source::add_signatures(&mut offer, &inspected, &args.sign_with)?;
    let artefact = Artefact {
        manifest: &inspected.manifest,
        exports: &inspected.exports,
        summary: &inspected.description.summary,
        author: &offer.author,
        envelope: offer.envelope.as_ref(),
        component: &offer.component,
    };
    let access = source::access(&address, args.insecure)?;
    let published = source::block_on(oci::publish(&address, &access, &artefact, clock::unix_ms()))?;
    let label = inspected.manifest.label();
    if args.host.format.json {
        output::json(&json!({ "policy": inspected.manifest, "reference": published.reference,
            "manifest": published.digest }));
    } else {
        output::line(&format!("published `{label}` as {}, {}", published.reference, published.digest));
    }
    Ok(())
}
