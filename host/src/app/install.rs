//! Takes policies to their seats: reads and admits them off every hot path, then asks the migration's controller.

use std::{path::Path, sync::Arc};

use super::{Host, Migration, policies::admit_with};
use crate::{
    causes::chain,
    config::bundle::Bundle,
    migration::{Install, Ordered, Verb, handle::Newcomer},
    policy::{
        candidate::Rule,
        port::Kind,
        registry::{Offer, release::Manifest},
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
    /// Laid over its settings.
    pub settings: &'a toml::Table,
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
    settings: String,
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
    ) -> Result<Ordered, String> {
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
    ) -> Result<Ordered, String> {
        let found = self.find(migration)?;
        let newcomer = self.newcomer(found, kind, choice, order).await?;
        self.install(found, Install::Candidate(newcomer, rule), order).await
    }

    /// Puts the candidate in charge, sends it away, or goes back to the previous policy.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn reseat(&self, migration: &str, what: Install, order: Order<'_>) -> Result<Ordered, String> {
        self.install(self.find(migration)?, what, order).await
    }

    async fn install(&self, found: &Migration, what: Install, order: Order<'_>) -> Result<Ordered, String> {
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
            Source::Bundle(folder) => self.bundle(folder, choice.settings, order).await?,
            Source::Release(reference) => self.release(reference, choice.settings).await?,
        };
        let Found { shown, kind, title, component, settings, wasi_stub } = found;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != kind) {
            return Err(format!("{shown} is a {kind} policy, not {wanted}"));
        }
        let engine = Arc::clone(&self.engine);
        let admit = move || (admit_with(&engine, kind, &component, &settings, wasi_stub), component);
        let (policy, component) = tokio::task::spawn_blocking(admit).await.map_err(|e| e.to_string())?;
        let policy = Arc::new(policy.map_err(|e| format!("the policy of {shown} {e}"))?);
        let configured = of.configured.get(&kind).cloned().unwrap_or_default();
        Ok(Newcomer { seat: Seat { policy, title, wasi_stub }, component, configured })
    }

    async fn bundle(&self, folder: &Path, settings: &toml::Table, order: Order<'_>) -> Result<Found, String> {
        let bundle = Bundle::read(folder, &self.components, settings).map_err(|e| format!("the request {e}"))?;
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
            settings: bundle.settings,
            wasi_stub: bundle.wasi_stub,
        })
    }

    async fn release(&self, reference: &str, settings: &toml::Table) -> Result<Found, String> {
        let (release, component) = self.registry.find(reference).await.map_err(|e| chain(&e))?;
        let shown = format!("the release `{}`", release.manifest.label());
        // The keys may have changed since it was pushed.
        self.registry.trust.verify(&release).map_err(|e| format!("{shown} {e}"))?;
        let Ok(serde_json::Value::Object(overrides)) = serde_json::to_value(settings) else {
            return Err("the settings cannot be said in JSON".into());
        };
        let settings = release.manifest.settings().with(overrides).json(release.manifest.kind);
        let Manifest { name, version, kind, wasi_stub, .. } = release.manifest;
        Ok(Found { shown, kind, title: Title { name, version }, component, settings, wasi_stub })
    }
}
