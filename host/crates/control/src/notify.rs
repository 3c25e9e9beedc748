//! Tells people what happened: in the log, and by webhooks that get each notice as one JSON object.
//!
//! Notices wait in a bounded queue and are tried three times; what cannot be delivered is logged. Nothing here can hold
//! up a decision.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::{Request, Uri, body::Bytes, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use cutover_model::{clock::UnixMs, escape, facts::Finding};

/// The most bytes of a message, and of each part of a finding, before it is escaped.
const MAX_MESSAGE: usize = 4 << 10;
const MAX_PART: usize = 1 << 10;

/// The most findings that are sent.
const MAX_FINDINGS: usize = 100;

/// Notices that may wait for a slow webhook.
const QUEUE: usize = 256;

/// How often a delivery is tried before the notice counts as undelivered.
const TRIES: u32 = 3;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that people ought to know.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    /// When it happened, by the wall clock.
    pub at: UnixMs,
    /// The name of the migration that it is about.
    pub migration: String,
    /// What happened, such as `rollback` or `advance`.
    pub event: String,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// One sentence for people, at most 4 KiB.
    pub message: String,
    /// The facts that a decision rests on, at most 100; empty if the notice is about something else.
    pub findings: Vec<Finding>,
}

/// The handle by which notices are handed in.
#[derive(Debug, Clone)]
pub struct Notifier {
    queue: mpsc::Sender<Notice>,
    counters: Arc<Counters>,
}

/// Counts notices by severity, and deliveries that failed, since the host began.
#[derive(Debug, Default)]
pub struct Counters {
    info: AtomicU64,
    warning: AtomicU64,
    critical: AtomicU64,
    undelivered: AtomicU64,
}

/// What became of notices since the host began.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// So many were handed in, by severity.
    pub by_severity: [(&'static str, u64); 3],
    /// Deliveries to webhooks that failed for good, and notices that there was no room for.
    pub undelivered: u64,
}

/// Makes a notifier and the task that delivers, to be spawned by its owner; it ends with the last notifier.
pub fn notifier(webhooks: Arc<ArcSwap<Vec<Uri>>>) -> (Notifier, impl Future<Output = ()> + Send) {
    let (queue, notices) = mpsc::channel(QUEUE);
    let counters = Arc::<Counters>::default();
    (Notifier { queue, counters: Arc::clone(&counters) }, deliver_all(notices, webhooks, counters))
}

impl Counters {
    /// How many were handed in since the host began, by severity, and how many of all were not delivered.
    pub fn read(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Self { info, warning, critical, undelivered } = self;
        Counts {
            by_severity: [("info", read(info)), ("warning", read(warning)), ("critical", read(critical))],
            undelivered: read(undelivered),
        }
    }
}

impl Notifier {
    /// Logs a notice and queues it for the webhooks.
    pub fn notify(&self, notice: Notice) {
        let notice = notice.shown();
        let Notice { migration, event, message, .. } = &notice;
        match notice.severity {
            "critical" => tracing::error!(migration, event, "{message}"),
            "warning" => tracing::warn!(migration, event, "{message}"),
            _ => tracing::info!(migration, event, "{message}"),
        }
        self.queue(notice);
    }

    /// The same for what a person has ordered: however much others have to know of it, nothing is wrong with the host.
    pub fn notify_of_order(&self, notice: Notice) {
        let notice = notice.shown();
        let Notice { migration, event, message, .. } = &notice;
        tracing::info!(migration, event, "{message}");
        self.queue(notice);
    }

    /// What counts its notices; it keeps no delivery going.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    fn queue(&self, notice: Notice) {
        let count = match notice.severity {
            "critical" => &self.counters.critical,
            "warning" => &self.counters.warning,
            _ => &self.counters.info,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.queue.try_send(notice) {
            self.counters.undelivered.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "a notice was dropped because the webhooks are too slow");
        }
    }
}

/// A URL as it may be shown: who is asked, and nothing that could be a secret. Passwords are in front of the name, and
/// tokens in paths and queries.
pub fn masked(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(_, host)| ("***@", host));
    let path = if path.len() > 1 { "/***" } else { path };
    let colon = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{colon}{user}{host}{path}")
}

impl Notice {
    /// The notice as it is told: escaped and bounded, so that a chat shows what was said and nothing else.
    fn shown(self) -> Self {
        let Self { at, migration, event, severity, message, mut findings } = self;
        let left_out = findings.len().saturating_sub(MAX_FINDINGS);
        findings.truncate(MAX_FINDINGS);
        for finding in &mut findings {
            for part in [&mut finding.rule, &mut finding.unit, &mut finding.note] {
                *part = escape::line_of(part, MAX_PART);
            }
        }
        let mut message = escape::line_of(&message, MAX_MESSAGE);
        if left_out > 0 {
            message = format!("{message} (and {left_out} more findings)");
        }
        Self {
            at,
            migration: escape::line_of(&migration, MAX_PART),
            event: escape::line_of(&event, MAX_PART),
            severity,
            message,
            findings,
        }
    }
}

async fn deliver_all(mut notices: mpsc::Receiver<Notice>, webhooks: Arc<ArcSwap<Vec<Uri>>>, counters: Arc<Counters>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    while let Some(notice) = notices.recv().await {
        let Ok(body) = serde_json::to_vec(&notice) else { continue };
        let body = Bytes::from(body);
        for webhook in webhooks.load_full().iter() {
            if !deliver(&client, webhook, &body).await {
                counters.undelivered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn deliver(client: &Client<HttpConnector, Full<Bytes>>, webhook: &Uri, body: &Bytes) -> bool {
    let mut why = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
        }
        let request = Request::post(webhook).header(CONTENT_TYPE, "application/json").body(Full::new(body.clone()));
        let Ok(request) = request else { return false };
        why = match timeout(PATIENCE, client.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => return true,
            Ok(Ok(response)) => format!("it answered {}", response.status()),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer within {PATIENCE:?}"),
        };
    }
    let webhook = masked(&webhook.to_string());
    tracing::error!(webhook, "a notice could not be delivered: {why}");
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any text, and often what does something.
    fn hostile() -> impl Strategy<Value = String> {
        let harmful = proptest::sample::select(&escape::HARMFUL[..]);
        proptest::collection::vec(prop_oneof![any::<char>(), harmful], 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn a_notice_is_sent_as_text_and_within_its_bounds(text in hostile(), n in 0..300_usize, long in 0..3_usize) {
            let text = text.repeat(1 + long * 500);
            let [rule, note, unit] = [(); 3].map(|()| text.clone());
            let finding = Finding { rule, note, unit, observed: 1, limit: 2 };
            let notice = Notice {
                at: UnixMs(1),
                migration: text.clone(),
                event: text.clone(),
                severity: "info",
                message: text,
                findings: vec![finding; n],
            };
            let shown = notice.shown();
            let said = [&shown.message, &shown.event, &shown.migration];
            let parts = shown.findings.iter().flat_map(|f| [&f.rule, &f.note, &f.unit]);
            prop_assert!(said.into_iter().chain(parts).all(|part| !part.contains(escape::is_harmful)));
            // Escaped, a character takes ten bytes at the most.
            prop_assert!(shown.findings.len() <= MAX_FINDINGS && shown.message.len() < 10 * MAX_MESSAGE + 100);
            prop_assert_eq!(shown.message.contains("more findings"), n > MAX_FINDINGS);
        }
    }

    #[test]
    fn a_url_is_shown_without_what_could_be_a_secret() {
        for (url, shown) in [
            ("http://ops:secret@hooks.example:8080/T0/token?key=1", "http://***@hooks.example:8080/***"),
            ("http://hooks.example", "http://hooks.example"),
            ("http://hooks.example/", "http://hooks.example/"),
            ("http://hooks.example?token=1", "http://hooks.example/***"),
            ("ftp://me@x/", "ftp://***@x/"),
            ("two words", "two words"),
        ] {
            assert_eq!(masked(url), shown);
        }
    }
}
