//! Reads a configuration again while the host runs, and puts a part of it in force at once.
//!
//! What callers or decisions rest on does not change under them: for that, a successor is started (SIGUSR2), which
//! takes over without a dropped connection. The part that changes at once is: certificates, webhooks, the names of the
//! admin plane, and how long things are kept.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::Uri;

use super::{App, Keep};
use crate::config::{Config, differences::differences};
use cutover_model::causes::chain;

/// What is put in force at once, as paths of fields.
const AT_ONCE: [&str; 6] = [
    "host.webhooks",
    "host.admin_hosts",
    "host.keep_metrics",
    "host.keep_history",
    "host.keep_policy_log",
    "host.store_bytes",
];

/// What a reload may change while the host runs.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// The webhooks that get notices.
    pub(super) webhooks: Arc<ArcSwap<Vec<Uri>>>,
    /// The names by which the admin plane may be asked.
    pub(super) admin_hosts: Arc<ArcSwap<Vec<String>>>,
    /// How long things are kept.
    pub(super) keep: Arc<ArcSwap<Keep>>,
}

impl Live {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            webhooks: Arc::new(ArcSwap::from_pointee(config.webhooks.clone())),
            admin_hosts: Arc::new(ArcSwap::from_pointee(config.admin_hosts.clone())),
            keep: Arc::new(ArcSwap::from_pointee(Keep::of(config))),
        }
    }
}

impl App {
    /// Puts in force what can be of a configuration that was read again. The log says what was, and what was not.
    pub async fn reload(&self, before: &Config, now: &Config) {
        if let Some(tls) = &self.tls {
            match tls.look_again().await {
                Ok(true) => tracing::info!("the certificate was read again"),
                Ok(false) => tracing::info!("the certificate in use is still the one in its file"),
                Err(error) => {
                    tracing::error!("the certificate cannot be used, and the last one stays: {}", chain(&error));
                }
            }
        }
        self.live.webhooks.store(now.webhooks.clone().into());
        self.live.admin_hosts.store(now.admin_hosts.clone().into());
        self.live.keep.store(Keep::of(now).into());
        let changed = differences(&before.source, &now.source);
        let (done, left): (Vec<_>, Vec<_>) = changed.into_iter().partition(|path| is_at_once(path));
        if !done.is_empty() {
            tracing::info!("read again and in force: {}", done.join(", "));
        }
        if left.is_empty() {
            tracing::info!("the configuration was read again; nothing else of it has changed since the host began");
        } else {
            tracing::warn!(
                "changed, and in force once a successor takes over (`kill -USR2 {}`, which drops no connection): {}",
                std::process::id(),
                left.join(", ")
            );
        }
    }
}

fn is_at_once(path: &str) -> bool {
    // A list is changed at one of its places.
    AT_ONCE.iter().any(|known| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
