//! Takes policies to their seats: reads and admits them off every hot path, then asks the migration's controller.

use std::{path::Path, sync::Arc};

use super::{Host, Migration, policies::admit_with};
use crate::{
    config::bundle::Bundle,
    migration::{Install, Ordered, Verb, handle::Newcomer},
    policy::{
        candidate::Rule,
        port::Kind,
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
    /// The bundle's folder, on this machine.
    pub bundle: &'a Path,
    /// Laid over its settings.
    pub settings: &'a toml::Table,
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
        let newcomer = self.newcomer(found, kind, choice).await?;
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
        let newcomer = self.newcomer(found, kind, choice).await?;
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

    /// Reads and admits a policy on a blocking thread.
    async fn newcomer(&self, found: &Migration, wanted: Option<Kind>, choice: Choice<'_>) -> Result<Newcomer, String> {
        let bundle = Bundle::read(choice.bundle, &self.components, choice.settings);
        let bundle = bundle.map_err(|e| format!("the request {e}"))?;
        let kind = bundle.kind;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != kind) {
            return Err(format!("the bundle `{}` is a {kind} policy, not {wanted}", bundle.folder.display()));
        }
        let (shown, title) =
            (bundle.folder.display().to_string(), Title { name: bundle.name, version: bundle.version });
        let (engine, wasi_stub) = (Arc::clone(&self.engine), bundle.wasi_stub);
        let (component, settings) = (bundle.component, bundle.settings);
        let admit = move || (admit_with(&engine, kind, &component, &settings, wasi_stub), component);
        let (policy, component) = tokio::task::spawn_blocking(admit).await.map_err(|e| e.to_string())?;
        let policy = Arc::new(policy.map_err(|e| format!("the policy of `{shown}` {e}"))?);
        let configured = found.configured.get(&kind).cloned().unwrap_or_default();
        Ok(Newcomer { seat: Seat { policy, title, wasi_stub }, component, configured })
    }
}
