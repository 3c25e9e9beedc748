//! `cutover check`: reads a configuration and admits every policy that it names, without starting anything.

use std::path::Path;

use serde_json::json;

use super::{Failed, output};
use crate::{
    app,
    config::{Config, Problem, advice::advice},
    host::Change,
};
use cutover_model::causes::chain;
use cutover_policy_host::{PolicyError, engine::Engine};
use cutover_store::{Examined, Store};

pub(super) fn run(file: &Path, against_store: bool, as_json: bool) -> Result<(), Failed> {
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
    let without_v1 = config.migrations.iter().filter(|migration| migration.plane.is_v1_absent());
    let notes = without_v1.map(|migration| {
        let name = &migration.name;
        format!("`migrations.{name}.v1` is left out: a host whose store knows {name} starts only if it is complete, because V1 has to serve before")
    });
    let notes: Vec<_> = notes.collect();
    let mut warnings = advice(&config);
    match runs(async { Store::examine(&config.store).await })? {
        Examined::Fine => {}
        Examined::InUse(owner) => warnings.push(Problem {
            path: "host.store".into(),
            message: format!(
                "is in use by {owner}: another host with it would be refused, unless it takes over from that one"
            ),
        }),
        Examined::Unusable(why) => problems.push(format!("`host.store`: {why}")),
    }
    if !problems.is_empty() {
        return Err(Failed::usage(problems.join("\n")));
    }
    let changes = if against_store { Some(changes(&config)?) } else { None };
    if as_json {
        output::json(&match changes {
            Some(changes) => {
                json!({ "ok": true, "policies": shown, "notes": notes, "warnings": warnings, "changes": changes })
            }
            None => json!({ "ok": true, "policies": shown, "notes": notes, "warnings": warnings }),
        });
    } else {
        let migrations = config.migrations.len();
        let policies = shown.len();
        for note in &notes {
            output::line(note);
        }
        for warning in &warnings {
            output::line(&format!("warning: {warning}"));
        }
        output::line(&format!("ok: {migrations} migration(s), {policies} policies admitted"));
        if let Some(changes) = changes {
            show(&changes);
        }
    }
    Ok(())
}

/// What a restart with the configuration changes for what its store has.
fn changes(config: &Config) -> Result<Vec<Change>, Failed> {
    runs(async {
        let wrong = |error| Failed::new(chain(&error));
        let store = Store::open_to_read(&config.store).await.map_err(wrong)?;
        let changes = app::changes::changes(&config.migrations, &store).await.map_err(wrong);
        store.close().await;
        changes
    })?
}

fn runs<T>(work: impl Future<Output = T>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
    Ok(runtime.block_on(work))
}

fn show(changes: &[Change]) {
    if changes.is_empty() {
        output::line("a restart with it changes nothing for the migrations in the store");
        return;
    }
    output::line("a restart with it changes:");
    for Change { migration, moves_callers, message, .. } in changes {
        let mark = if *moves_callers { "callers notice: " } else { "" };
        output::line(&format!("  {migration}: {mark}{message}"));
    }
}
