//! Takes policies to their seats: reads and admits them off every hot path, then asks the migration's controller.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::{Host, Migration, policies::admit_with};
use crate::{
    causes::chain,
    config::bundle::Bundle,
    migration::{
        Declined, Install, Ordered, Verb,
        handle::{Changed, Newcomer},
    },
    policy::{
        candidate::Rule,
        port::Kind,
        registry::{
            Offer,
            release::{Manifest, Settings},
        },
        slot::{Seat, Title},
    },
};

/// Who wants it, and why.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Who.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// Which policy, with which settings.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Where it is.
    pub source: Source<'a>,
    /// Laid over the settings in force, if the policy in charge has the same name.
    pub settings: &'a toml::Table,
    /// Laid over the policy's own in any case.
    pub from_defaults: bool,
}

/// Where a policy is.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In the folder of a bundle, on this machine.
    Bundle(&'a Path),
    /// In the registry: `NAME@VERSION`, `NAME` or a digest.
    Release(&'a str),
}

/// A policy that was found and that the host trusts.
struct Found {
    shown: String,
    kind: Kind,
    title: Title,
    component: Vec<u8>,
    /// Its own settings.
    own: Settings,
    wasi_stub: bool,
}

impl Host {
    /// Puts a policy in charge of its kind, which must be `kind` if that is given. The hot path does not notice.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn activate(
        &self,
        migration: &str,
        kind: Option<Kind>,
        choice: Choice<'_>,
        order: Order<'_>,
    ) -> Result<Ordered, Declined> {
        let found = self.find(migration)?;
        let newcomer = self.newcomer(found, kind, choice, order).await?;
        self.install(found, Install::Activate(newcomer), order).await
    }

    /// Lets a policy run beside the one in charge.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn stand_by(
        &self,
        migration: &str,
        kind: Option<Kind>,
        choice: Choice<'_>,
        rule: Rule,
        order: Order<'_>,
    ) -> Result<Ordered, Declined> {
        let found = self.find(migration)?;
        let newcomer = self.newcomer(found, kind, choice, order).await?;
        self.install(found, Install::Candidate(newcomer, rule), order).await
    }

    /// Puts the candidate in charge, sends it away, or goes back to the previous policy.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn reseat(&self, migration: &str, what: Install, order: Order<'_>) -> Result<Ordered, Declined> {
        self.install(self.find(migration)?, what, order).await
    }

    async fn install(&self, found: &Migration, what: Install, order: Order<'_>) -> Result<Ordered, Declined> {
        found.handle.ask(Verb::Install(Box::new(what)), order.actor, order.reason).await
    }

    fn find(&self, migration: &str) -> Result<&Migration, String> {
        self.migrations.get(migration).ok_or_else(|| format!("there is no migration `{migration}`"))
    }

    /// Finds a policy and admits it on a blocking thread.
    async fn newcomer(
        &self,
        of: &Migration,
        wanted: Option<Kind>,
        choice: Choice<'_>,
        order: Order<'_>,
    ) -> Result<Newcomer, String> {
        let found = match choice.source {
            Source::Bundle(folder) => self.bundle(folder, order).await?,
            Source::Release(reference) => self.release(reference).await?,
        };
        let Found { shown, kind, title, component, own, wasi_stub } = found;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != kind) {
            return Err(format!("{shown} is a {kind} policy, not {wanted}"));
        }
        let Ok(Value::Object(overrides)) = serde_json::to_value(choice.settings) else {
            return Err("the settings cannot be said in JSON".into());
        };
        let in_force = of.slots.get(kind).seat().filter(|seat| seat.title.name == title.name);
        let in_force = in_force.map(|seat| values(&seat.policy.settings, own.script.is_some()));
        // Whoever changes one setting means the others to stay as they are.
        let base = in_force.clone().filter(|_| !overrides.is_empty() && !choice.from_defaults);
        let settings = own.with(base.unwrap_or_default()).with(overrides);
        let changed = in_force.map_or_else(Vec::new, |before| differences(&before, &settings.values));
        let settings = settings.json(kind);
        let engine = Arc::clone(&self.engine);
        let admit = move || (admit_with(&engine, kind, &component, &settings, wasi_stub), component);
        let (policy, component) = tokio::task::spawn_blocking(admit).await.map_err(|e| e.to_string())?;
        let policy = Arc::new(policy.map_err(|e| format!("the policy of {shown} {e}"))?);
        let configured = of.configured.get(&kind).cloned().unwrap_or_default();
        Ok(Newcomer { seat: Seat { policy, title, wasi_stub }, component, configured, changed })
    }

    async fn bundle(&self, folder: &Path, order: Order<'_>) -> Result<Found, String> {
        let bundle =
            Bundle::read(folder, &self.components, &toml::Table::new()).map_err(|e| format!("the request {e}"))?;
        let shown = format!("the bundle `{}`", bundle.folder.display());
        if self.registry.trust.is_required() {
            // What is vouched for is known from then on, so that it may run again after a restart.
            let offer = Offer::bundled(bundle.clone(), order.actor, order.reason);
            self.registry.push(offer, order.actor).await.map_err(|e| format!("{shown}: {}", chain(&e)))?;
        }
        Ok(Found {
            shown,
            kind: bundle.kind,
            title: Title { name: bundle.name, version: bundle.version },
            component: bundle.component,
            own: bundle.own,
            wasi_stub: bundle.wasi_stub,
        })
    }

    async fn release(&self, reference: &str) -> Result<Found, String> {
        let (release, component) = self.registry.find(reference).await.map_err(|e| chain(&e))?;
        let shown = format!("the release `{}`", release.manifest.label());
        // The keys may have changed since it was pushed.
        self.registry.trust.verify(&release).map_err(|e| format!("{shown} {e}"))?;
        let own = release.manifest.settings();
        let Manifest { name, version, kind, wasi_stub, .. } = release.manifest;
        Ok(Found { shown, kind, title: Title { name, version }, component, own, wasi_stub })
    }
}

/// The settings of a policy in charge, as people write them: a script's own are among those of its interpreter.
fn values(settings: &str, is_script: bool) -> Map<String, Value> {
    let mut all = serde_json::from_str::<Map<String, Value>>(settings).unwrap_or_default();
    match all.remove("settings") {
        Some(Value::Object(own)) if is_script => own,
        Some(other) => {
            all.insert("settings".into(), other);
            all
        }
        None => all,
    }
}

/// What some settings have otherwise than others, by path.
fn differences(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<Changed> {
    let mut all = Vec::new();
    compare("", before, now, &mut all);
    all
}

fn compare(path: &str, before: &Map<String, Value>, now: &Map<String, Value>, all: &mut Vec<Changed>) {
    let mut names: Vec<_> = before.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let setting = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (before.get(name), now.get(name)) {
            (Some(Value::Object(before)), Some(Value::Object(now))) => compare(&setting, before, now, all),
            (from, to) if from == to => {}
            (from, to) => all.push(Changed {
                setting,
                from: from.cloned().unwrap_or_default(),
                to: to.cloned().unwrap_or_default(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_that_differ_are_named_by_their_path() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let before = map(json!({ "a": 1, "shadow": { "soak": "1m", "min": 2 }, "gone": true }));
        let now = map(json!({ "a": 1, "shadow": { "soak": "2m", "min": 2 }, "new": [1] }));
        let changed: Vec<_> = differences(&before, &now).into_iter().map(|c| (c.setting, c.from, c.to)).collect();
        let expected = [
            ("gone".to_owned(), json!(true), json!(null)),
            ("new".into(), json!(null), json!([1])),
            ("shadow.soak".into(), json!("1m"), json!("2m")),
        ];
        assert_eq!(changed, expected);
    }

    #[test]
    fn the_settings_of_a_script_are_its_own() {
        let script = r#"{"script":"..","kind":"stages","settings":{"a":1}}"#;
        assert_eq!(Value::from(values(script, true)), json!({ "a": 1 }));
        assert_eq!(
            Value::from(values(r#"{"settings":{"a":1},"b":2}"#, false)),
            json!({ "settings": { "a": 1 }, "b": 2 })
        );
    }
}
