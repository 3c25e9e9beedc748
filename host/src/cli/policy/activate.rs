//! `cutover policy activate`.

use std::path::Path;

use clap::Args;

use super::{
    super::{HostAddress, client::Client, control::done},
    Failed,
};
use crate::admin::slots;
use cutover_model::environment;
use cutover_policy_host::candidate::Rule;

#[derive(Debug, Args)]
pub(crate) struct Activate {
    /// The migration.
    migration: String,
    #[command(flatten)]
    choice: Choice,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    host: HostAddress,
}

/// Which policy, with which settings.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// A release of the host's registry (`NAME@VERSION`, `NAME` for its latest version, or a digest), or the folder of a
    /// bundle on the host's machine (`./FOLDER`).
    pub(super) policy: String,
    /// Settings as a JSON object, laid over those in force if the policy in charge has the same name, and over the policy's
    /// own otherwise. What changes is shown.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(super) settings: String,
    /// Lay `--settings` over the policy's own settings, whatever is in force.
    #[arg(long)]
    pub(super) from_defaults: bool,
}

pub(super) fn run(args: &Activate) -> Result<(), Failed> {
    let body = args.choice.body(&args.reason, None)?;
    let path = format!("/api/v1/migrations/{}/policies", args.migration);
    done(&Client::slow(&args.host.admin).put(&path, &body)?, args.host.format.json);
    Ok(())
}

impl Choice {
    /// What the host is told.
    pub(super) fn body(&self, reason: &str, rule: Option<Rule>) -> Result<slots::Activate, Failed> {
        let settings = serde_json::from_str(&self.settings)
            .map_err(|e| Failed::usage(format!("`--settings` is not a JSON object of settings: {e}")))?;
        // A name has no `/`, so whoever means a folder of this one writes `./FOLDER`.
        let folder = self.policy.contains('/').then(|| Path::new(&self.policy));
        let bundle = folder.map(|f| std::path::absolute(f).unwrap_or_else(|_unknown| f.to_owned()));
        let policy = bundle.is_none().then(|| self.policy.clone());
        let (from_defaults, reason, actor) = (self.from_defaults, reason.into(), environment::user());
        Ok(slots::Activate { bundle, policy, settings, from_defaults, rule, reason, actor })
    }
}
