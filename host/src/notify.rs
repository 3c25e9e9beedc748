//! Tells people: the log, and webhooks that get each notice as one JSON object.
//!
//! Notices wait in a bounded queue and are tried three times; what cannot be delivered is logged. Nothing here can hold
//! up a decision.

use std::time::Duration;

use http_body_util::Full;
use hyper::{Request, Uri, body::Bytes, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use crate::{clock::UnixMs, policy::facts::Finding};

/// Notices that may wait for a slow webhook.
const QUEUE: usize = 256;

/// How often a delivery is tried.
const TRIES: u32 = 3;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something that people ought to know.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    /// When.
    pub at: UnixMs,
    /// The migration.
    pub migration: String,
    /// Such as `rollback` or `advance`.
    pub event: String,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// One sentence.
    pub message: String,
    /// What it rests on.
    pub findings: Vec<Finding>,
}

/// Where notices are handed in.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<Notice>);

/// Makes a notifier and the task that delivers, to be spawned by its owner; it ends with the last notifier.
pub fn notifier(webhooks: Vec<Uri>) -> (Notifier, impl Future<Output = ()> + Send) {
    let (queue, notices) = mpsc::channel(QUEUE);
    (Notifier(queue), deliver_all(notices, webhooks))
}

impl Notifier {
    /// Logs a notice and queues it for the webhooks.
    pub fn notify(&self, notice: Notice) {
        let Notice { migration, event, message, .. } = &notice;
        match notice.severity {
            "critical" => tracing::error!(migration, event, "{message}"),
            "warning" => tracing::warn!(migration, event, "{message}"),
            _ => tracing::info!(migration, event, "{message}"),
        }
        if let Err(error) = self.0.try_send(notice) {
            tracing::error!(%error, "a notice was dropped because the webhooks are too slow");
        }
    }
}

async fn deliver_all(mut notices: mpsc::Receiver<Notice>, webhooks: Vec<Uri>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    while let Some(notice) = notices.recv().await {
        let Ok(body) = serde_json::to_vec(&notice) else { continue };
        let body = Bytes::from(body);
        for webhook in &webhooks {
            deliver(&client, webhook, &body).await;
        }
    }
}

async fn deliver(client: &Client<HttpConnector, Full<Bytes>>, webhook: &Uri, body: &Bytes) {
    let mut why = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
        }
        let request = Request::post(webhook).header(CONTENT_TYPE, "application/json").body(Full::new(body.clone()));
        let Ok(request) = request else { return };
        why = match timeout(PATIENCE, client.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => return,
            Ok(Ok(response)) => format!("it answered {}", response.status()),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer within {PATIENCE:?}"),
        };
    }
    tracing::error!(%webhook, "a notice could not be delivered: {why}");
}
