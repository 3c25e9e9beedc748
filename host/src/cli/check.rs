//! `cutover check`: reads a configuration and admits every policy that it names, without starting anything.

use std::path::Path;

use serde_json::json;

use super::{Failed, output};
use crate::{
    app,
    causes::chain,
    config::Config,
    policy::{PolicyError, engine::Engine},
};

pub(super) fn run(file: &Path, as_json: bool) -> Result<(), Failed> {
    let config = Config::load(file).map_err(|e| Failed::usage(chain(&e)))?;
    let engine = Engine::new(config.limits).map_err(|e| Failed::new(chain(&e)))?;
    let (mut shown, mut problems) = (Vec::new(), Vec::new());
    for migration in &config.migrations {
        for (kind, bundle) in &migration.policies {
            let folder = bundle.folder.display();
            let screened = config.trust.screen(&bundle.claimed(), bundle.envelope.as_ref());
            let admitted = screened
                .map_err(|refused| PolicyError::Untrusted { refused })
                .and_then(|()| app::admit_bundle(&engine, bundle));
            match admitted {
                Ok(policy) => shown.push(json!({
                    "migration": migration.name,
                    "kind": kind,
                    "name": policy.description.name,
                    "version": policy.description.version,
                    "digest": &**policy.digest(),
                })),
                Err(error) => problems
                    .push(format!("`migrations.{}.policies.{kind}`: the policy of `{folder}` {error}", migration.name)),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Failed::usage(problems.join("\n")));
    }
    if as_json {
        output::json(&json!({ "ok": true, "policies": shown }));
    } else {
        let migrations = config.migrations.len();
        let policies = shown.len();
        output::line(&format!("ok: {migrations} migration(s), {policies} policies admitted"));
    }
    Ok(())
}
